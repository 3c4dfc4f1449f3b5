"""How fast engines are, from one run."""

from collections.abc import Iterable
from dataclasses import dataclass

from trtasr.results.engine import Engine
from trtasr.results.speech import PairedDifference, WerResult

IDLE = 0x1  # reason for low clocks: nothing runs, which is no throttling


@dataclass(frozen=True)
class Latency:
    """Latency of one engine at one input shape.

    Attributes:
        p50_ms: median latency in milliseconds; p95_ms and p99_ms likewise.
        runs: timed runs (after warm-up).
        audio_seconds: seconds of audio in one run, over the whole batch.
        batch: utterances per run.
        threads: CPU threads; 0 on a GPU.
        device: CPU or GPU name; of a GPU with how plans were launched.
        encoder_ms: of an encoder-decoder, median time of the encoder alone; 0 elsewhere.
        tokens: that its decoder generated in one run; 0 elsewhere.
        plain_launches: of what is launched by CUDA graphs, the same launched layer by layer; None elsewhere.
    """

    p50_ms: float
    p95_ms: float
    p99_ms: float
    runs: int
    audio_seconds: float
    batch: int
    threads: int
    device: str
    encoder_ms: float = 0.0
    tokens: int = 0
    plain_launches: "Latency | None" = None

    @property
    def token_ms(self) -> float:
        """Median time per generated token in milliseconds, the encoder left out; 0 without a decoder."""
        return (self.p50_ms - self.encoder_ms) / self.tokens if self.tokens else 0.0

    @property
    def shape(self) -> str:
        """``15 s``, or ``8 x 16.7 s`` for a batch."""
        each = f"{self.audio_seconds / self.batch:g} s"
        return each if self.batch == 1 else f"{self.batch} x {each}"

    @property
    def rtfx(self) -> float:
        """Seconds of audio per second of work, at the median latency."""
        return self.audio_seconds / (self.p50_ms / 1000.0)

    @property
    def condition(self) -> tuple[str, int, int, float]:
        """Device, threads, batch and seconds of audio: latencies of other conditions are not compared."""
        return self.device, self.threads, self.batch, self.audio_seconds


@dataclass(frozen=True)
class BenchResult:
    """Speed and WER of one engine, from the same run.

    Attributes:
        engine: row label, for instance ``int8 cpu``.
        target: which engine ran (``fp32``, ``t4-rtx``, ``cpu``).
        size_bytes: engine file size.
        latencies: one per benchmarked input shape; empty where the device is not here.
        wer: None when no manifest was given.
        note: shown at the end of the row, for instance what ran in place of a missing T4.
        precision: ``int8``; ``fp32`` or ``fp16`` of an engine that is there to compare with.
        absent: what is said in place of a device where nothing was timed.
        differences: to FP32: over all evaluation sets together, then over each where there are several; empty for FP32
            itself and where nothing was scored.
    """

    engine: str
    target: str
    size_bytes: int
    latencies: tuple[Latency, ...] = ()
    wer: WerResult | None = None
    note: str = ""
    precision: str = "int8"
    absent: str = "not timed"
    differences: tuple[PairedDifference, ...] = ()

    @property
    def timings(self) -> tuple[Latency, ...]:
        """All that was timed: each latency, and behind it that of plain launches where it is one by CUDA graphs."""
        pairs = ((item, item.plain_launches) for item in self.latencies)
        return tuple(item for pair in pairs for item in pair if item is not None)


def speedup(results: Iterable[BenchResult], latency: Latency, precision: str) -> float | None:
    """Median of the baseline over this median; None unless it was timed under the same condition.

    Args:
        results: all engines.
        latency: of the engine in question.
        precision: of the baseline, ``fp32`` or ``fp16``.
    """
    timed = (item for result in results if result.precision == precision for item in result.timings)
    same = next((item for item in timed if item.condition == latency.condition), None)
    return same.p50_ms / latency.p50_ms if same else None


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


@dataclass(frozen=True)
class Measured:
    """What was measured.

    Attributes:
        results: FP32 first, then the T4 host's baselines, then one per target.
        engines: what was built, the INT8 plan that runs on this machine's GPU with the time shares of its layers.
        gpu: clocks and power before the GPU benchmark, at its busiest, and after it; empty without a GPU.
    """

    results: tuple[BenchResult, ...]
    engines: tuple[Engine, ...] = ()
    gpu: tuple[GpuState, ...] = ()
