"""Clocks, power and temperature of the GPU, from nvidia-smi: a throttled T4 measures itself, not the engine."""

import csv
import shutil
import subprocess
from dataclasses import dataclass

from trtasr.errors import MissingError

FIELDS = (
    "name",
    "driver_version",
    "pstate",
    "clocks.sm",
    "clocks.max.sm",
    "clocks.mem",
    "power.draw",
    "power.limit",
    "temperature.gpu",
    "clocks_throttle_reasons.active",
)
IDLE = 0x1  # the GPU clocks down because nothing runs: no throttling
ABSENT = ("[N/A]", "[Not Supported]", "N/A", "[Unknown Error]", "")


@dataclass(frozen=True)
class GpuState:
    """One GPU at one moment.

    Attributes:
        name: of the card; driver: version.
        pstate: performance state, ``P0`` (highest) to ``P12``.
        sm_mhz: current clock of the multiprocessors; max_sm_mhz: their highest; memory_mhz: current memory clock.
        power_w: power draw; limit_w: its limit.
        temperature_c: of the GPU.
        throttle: bit mask of reasons why clocks are low; 0 when there is none.
        NaN stands for a number the card does not report.
    """

    name: str
    driver: str
    pstate: str
    sm_mhz: float
    max_sm_mhz: float
    memory_mhz: float
    power_w: float
    limit_w: float
    temperature_c: float
    throttle: int

    @property
    def throttled(self) -> bool:
        """True when anything but idleness keeps the clocks down."""
        return bool(self.throttle & ~IDLE)


def gpu_state(card: str) -> GpuState:
    """Asks nvidia-smi about one GPU.

    Args:
        card: its PCI address, or its number in nvidia-smi's own order.

    Raises:
        MissingError: no nvidia-smi, or it fails.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        raise MissingError("nvidia-smi: program not found", "install the NVIDIA driver, or run docker with --gpus all")
    command = [program, f"--id={card}", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        problem = (answer.stdout + answer.stderr).strip().splitlines()[:1] or ["no message"]
        raise MissingError(f"nvidia-smi: {problem[0]}", "check the NVIDIA driver with `nvidia-smi`")
    return parse_state(answer.stdout)


def parse_state(text: str) -> GpuState:
    """One line of ``nvidia-smi --query-gpu=... --format=csv,noheader,nounits`` with the columns of `FIELDS`.

    Raises:
        MissingError: another number of columns, or a word where a number belongs.
    """
    values = [value.strip() for value in next(csv.reader(text.splitlines()[:1]), [])]
    if len(values) != len(FIELDS):
        raise MissingError(f"nvidia-smi: unexpected answer {text[:80]!r}", "update the NVIDIA driver (525 or newer)")
    name, driver, pstate, *numbers, reasons = values
    try:
        sm, max_sm, memory, power, limit, temperature = (_number(value) for value in numbers)
        throttle = 0 if reasons in ABSENT else int(reasons, 0)
    except ValueError as error:
        raise MissingError(f"nvidia-smi: unexpected answer {text[:80]!r}", "update the NVIDIA driver") from error
    return GpuState(name, driver, pstate, sm, max_sm, memory, power, limit, temperature, throttle)


def _number(text: str) -> float:
    return float("nan") if text in ABSENT else float(text)
