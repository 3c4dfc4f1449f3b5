"""How fast engines are, from one run."""

from dataclasses import dataclass

from trtasr.results.speech import WerResult


@dataclass(frozen=True)
class Latency:
    """Latency of one engine at one input shape.

    Attributes:
        p50_ms: median latency in milliseconds; p95_ms and p99_ms likewise.
        runs: timed runs (after warm-up).
        audio_seconds: seconds of audio in one run, over the whole batch.
        batch: utterances per run.
        threads: CPU threads; 0 on a GPU.
        device: CPU or GPU name.
        encoder_ms: of an encoder-decoder, median time of the encoder alone; 0 elsewhere.
        tokens: that its decoder generated in one run; 0 elsewhere.
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
    """

    engine: str
    target: str
    size_bytes: int
    latencies: tuple[Latency, ...] = ()
    wer: WerResult | None = None
    note: str = ""
