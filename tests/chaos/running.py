"""One run in a child that is forked after the imports, and what must hold after it."""

import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch loads: OpenMP's threads do not live on in a process that is forked

from trtasr.bundle import open_bundle
from trtasr.cli import main
from trtasr.files.signals import interrupt_on_signals
from trtasr.files.workspace import sweep

FAST = ["--set", "calibration.batches=1", "--set", "calibration.steps=2", "--set", "evaluation.bench_seconds=[0.5]"]
NOTE = "written by a person"
LONGEST = 120.0  # seconds that a run may take on a busy machine


@dataclass
class Row:
    """One kind of fault: how often it came, what it left, how the runs ended, what was wrong."""

    name: str
    rounds: int = 0
    old: int = 0
    new: int = 0
    codes: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    skipped: str = ""


@dataclass(frozen=True)
class Place:
    """Where one series works: its folder for temporary files, the folder around the bundle, the model."""

    temporary: Path
    around: Path
    model: Path

    @property
    def out(self) -> Path:
        return self.around / "out"


class Run:
    """A verb in a child of its own, which is forked from this process and its imports."""

    def __init__(self, words: list[str], temporary: Path, prepare: Callable[[], None] = lambda: None) -> None:
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by `end`
        ready, tell = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self.child(words, temporary, tell, prepare)
        os.close(tell)
        os.read(ready, 1)
        os.close(ready)
        self.started = time.monotonic()

    def child(self, words: list[str], temporary: Path, tell: int, prepare: Callable[[], None]) -> None:
        code = 1
        try:
            os.dup2(self.said.fileno(), 1)
            os.dup2(self.said.fileno(), 2)
            tempfile.tempdir = str(temporary)
            interrupt_on_signals()
            prepare()
            fresh_streams()
            os.write(tell, b"x")
            code = main(words)
        except KeyboardInterrupt:
            code = 130
        except BaseException:
            traceback.print_exc(file=self.said)
        finally:
            with suppress(BaseException):
                self.said.flush()
                sys.stdout.flush()
            os._exit(code)

    def end(self) -> tuple[int, str]:
        """Exit code (negative: the signal that killed it), and what it said."""
        until = time.monotonic() + LONGEST
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > until:
                os.kill(self.pid, signal.SIGKILL)
                until += LONGEST
            time.sleep(0.005)
        self.said.seek(0)
        text = self.said.read()
        self.said.close()
        return os.waitstatus_to_exitcode(status), text


def fresh_streams() -> None:
    """Standard streams as a process has them that starts with the descriptors of this one."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        try:
            os.fstat(number)
        except OSError:  # closed
            setattr(sys, name, None)
        else:
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115


def compiling(place: Place, seed: int, out: Path | None = None) -> list[str]:
    """The words of a compile whose bundle differs from that of any other seed."""
    return [
        "compile",
        str(place.model),
        "-o",
        str(out or place.out),
        "--target",
        "cpu",
        "-q",
        *FAST,
        "--calib-dir",
        str(place.around / "calib"),
        "--set",
        f"calibration.seed={seed}",
    ]


def seal_of(out: Path) -> str:
    return (out / "bundle.json").read_text(encoding="utf-8")


def check_bundle(row: Row, out: Path, before: str, seeds: list[int]) -> str:
    """The bundle at `out` is whole, the old one or of one of the seeds, and has the user's note; which one it is."""
    try:
        bundle = open_bundle(out)
        for name in bundle.sidecar.files:
            bundle.file(name)
        if (out / "notes.txt").read_text(encoding="utf-8") != NOTE:
            row.wrong.append("the note has changed")
        if seal_of(out) == before:
            return "old"
        if json.loads(seal_of(out))["recipe"]["calibration"]["seed"] not in seeds:
            row.wrong.append("a bundle of no run")
    except Exception as error:  # whatever it is, it is a violation
        row.wrong.append(f"{type(error).__name__}: {error}")
    return "new"


def strays(place: Place) -> list[str]:
    """What lies where nothing may be left."""
    return [
        str(path)
        for path in [*place.temporary.iterdir(), *place.around.iterdir()]
        if path not in (place.out, place.around / "calib")
    ]


def check_strays(row: Row, place: Place, killed: bool) -> None:
    """Nothing is left: at once, or, by a killed run, after the next one has looked."""
    if killed:
        for folder in (place.temporary, place.around):
            sweep(folder)
    for stray in strays(place):
        row.wrong.append(f"left: {stray}")
        shutil.rmtree(stray, ignore_errors=True)


def judge(row: Row, place: Place, before: str, seed: int, ended: tuple[int, str], allowed: set[int]) -> None:
    """Count one run, and check what it left and said."""
    code, text = ended
    found = check_bundle(row, place.out, before, [seed])
    row.rounds += 1
    row.old, row.new = row.old + (found == "old"), row.new + (found == "new")
    row.codes[code] += 1
    if code not in allowed:
        row.wrong.append(f"exit code {code}: {text[-300:]}")
    if "Traceback" in text:
        row.wrong.append(f"a traceback: {text[-300:]}")
    if code == 0 and found == "old":
        row.wrong.append("exit code 0, and the old bundle")
    if code == 130 and ("nothing was written" in text) != (found == "old"):
        row.wrong.append(f"the {found} bundle, but said: {text[-200:]}")
    check_strays(row, place, killed=code < 0)
