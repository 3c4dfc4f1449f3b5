"""A network: one or more wired graphs, what runs them, and the trained module that they come from.

Everything about a model that is not a weight is said here, once, by its wiring (`trtasr.network.ctc`,
`trtasr.network.attention`): no stage asks which kind of model it has before it.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from trtasr.audio.frontend import Frontend
from trtasr.audio.waveform import SHORTEST, WaveformConfig
from trtasr.engine.profile import Profile, Shapes
from trtasr.engine.sessions import open_session
from trtasr.recipe import Calibration, EngineShapes
from trtasr.text.generate import Generation
from trtasr.text.tokens import Tokenizer
from trtasr.values import Array, CalibrationSet, Example, FloatArray, IntArray

Outputs = Mapping[str, Array]  # of the parts that have run, by name
Files = Sequence[
    Path
]  # one per part: graphs, or plans; behind the plan of a single part its plan without masks, if any
FP32 = "fp32.onnx"  # ends the names of the graphs that everything else is made from


@dataclass(frozen=True)
class Part:
    """One graph of a network.

    Attributes:
        name: begins its files: ``model``; ``encoder``, ``decoder``.
        judged: output whose error is noted.
        inputs: an example, and what the parts before gave -> the graph's inputs.
        rate: positions per second of audio, for its multiply-accumulates.
        steps: seconds of audio -> positions of one run, and how many runs they take: a decoder runs once per token.
        kept: outputs that later parts read; of all others but `judged` nothing is kept while layers are corrected.
        counts: output that says how many positions of `judged` are valid; empty: all of an utterance run alone.
    """

    name: str
    judged: str
    inputs: Callable[[Example, Outputs], dict[str, Array]]
    rate: float
    steps: Callable[[float], tuple[int, int]]
    kept: tuple[str, ...] | None = None
    counts: str = ""

    def valid(self, outputs: Outputs) -> Array:
        """The judged output of one utterance at its valid positions, [positions, ...]."""
        values: Array = outputs[self.judged][0]
        return values[: int(outputs[self.counts][0])] if self.counts else values


class WholeRun(Protocol):
    """One benchmarked run, from features to the last token."""

    @property
    def tokens(self) -> int:
        """Tokens generated in it, whatever they are; 0 where no token waits for the one before."""

    def __call__(self) -> float | None:
        """Run once; milliseconds on the device where it measures them itself."""

    def encoder_ms(self, runs: int, /) -> float:
        """Median time of the encoder alone over the last `runs` runs; 0 without tokens."""


class Recognizer(Protocol):
    """An engine that is ready to run: features -> text, whatever runs its graphs.

    Attributes:
        cut: of the last batch, which transcripts were stopped by their longest length.
    """

    cut: tuple[bool, ...]

    @property
    def captured(self) -> bool:
        """Whether the next run of the last shape is one launch of a CUDA graph."""

    def use_graphs(self, wanted: bool, /) -> None:
        """Launch plainly from now on, or by CUDA graphs again where they can be captured."""

    def run(self, features: FloatArray, lengths: IntArray) -> tuple[Array, IntArray]:
        """Features float32 [B, rows, T], lengths int64 [B] -> what `decode` reads, and how much of it is valid [B].

        Raises:
            AudioError: too long for the graph. QualityError: NaN or infinity. BundleError: the files cannot be run.
        """

    def decode(self, found: Array, counts: IntArray) -> list[str]:
        """Transcripts of what `run` gave."""

    def example(self, features: FloatArray, lengths: IntArray) -> Example:
        """One utterance, with the tokens that this engine says to it where a decoder reads tokens."""

    def doubt(self, seconds: float, /) -> str:
        """Why the last transcript, of so many seconds of audio, may lack something; empty for no doubt."""

    def whole_run(self, features: FloatArray, seconds: float, /) -> WholeRun:
        """A benchmarked run of features [B, rows, T] that stand for `seconds` of speech each."""


class Open(Protocol):
    """Opens an engine."""

    def __call__(self, files: Files, threads: int = 0, timed: bool = False) -> AbstractContextManager[Recognizer]:
        """Plans on the GPU, graphs by ONNX Runtime; ``threads`` and ``timed`` (`open_session`) are for the latter.

        Raises:
            MissingError: plans without their GPU, TensorRT or pycuda. BundleError: no such graphs.
        """


@dataclass(frozen=True)
class Described:
    """What a checkpoint and a bundle say alike about a network.

    Attributes:
        family: of models, a key of `trtasr.network.families.FAMILIES`.
        frontend: parameters.
        tokenizer: ids -> text.
        generation: rules of generation; None where no tokens are generated.
        most_frames: feature frames that the model has positions for; infinite where there is no end.
    """

    family: str
    frontend: Frontend
    tokenizer: Tokenizer
    generation: Generation | None = None
    most_frames: float = math.inf


@dataclass(frozen=True)
class Network:
    """Wired graphs and what runs them; a bundle has no more.

    Attributes:
        described: the model.
        parts: in the order in which they run.
        unit: what positions of the last part's judged output are: ``frames`` or ``tokens``.
        open: opens an engine.
    """

    described: Described
    parts: tuple[Part, ...]
    unit: str
    open: Open

    @property
    def frontend(self) -> Frontend:
        """Parameters of the front-end."""
        return self.described.frontend

    @property
    def last(self) -> Part:
        """The part whose output becomes text."""
        return self.parts[-1]

    def files(self, folder: Path, kind: str = FP32) -> tuple[Path, ...]:
        """The files of one kind in a folder, one per part."""
        return tuple(folder / f"{part.name}.{kind}" for part in self.parts)


@dataclass(frozen=True)
class Original:
    """The trained module behind a network.

    Attributes:
        export: folder -> FP32 graphs in it, named as `Network.files` says.
        reference: an example in a type of floating point -> what the module computes, by the graphs' names.
        trial: a batch of mixed lengths that parity is proved on.
        tolerance: how far the graphs may be off, and how far where float32 itself is off as much.
        shapes: the recipe's section -> input shapes that the plan of each part accepts.
        synthetic: calibration features without data; noise: those of a naive tool.
        spoken: FP32 graphs, and features -> the features with what a decoder reads along.
        unheard: what engines are compared on without speech: features and lengths.
        block: layer -> name of the block whose layers FADE ranks among themselves.
    """

    export: Callable[[Path], None]
    reference: Callable[[Example, torch.dtype], Outputs]
    trial: Example
    tolerance: tuple[float, float]
    shapes: Callable[[EngineShapes], tuple[Shapes, ...]]
    synthetic: Callable[[Calibration], CalibrationSet]
    noise: Callable[[Calibration], CalibrationSet]
    spoken: Callable[[Files, CalibrationSet], CalibrationSet]
    unheard: Callable[[Calibration, EngineShapes], tuple[FloatArray, IntArray]]
    block: Callable[[str], str] = lambda _layer: ""


@dataclass(frozen=True)
class Exported:
    """A network whose graphs are written.

    Attributes:
        network: wired graphs; original: the trained module behind them.
        files: graphs in FP32, one per part.
    """

    network: Network
    original: Original
    files: Files


def accepted(engine: EngineShapes, described: Described) -> Profile:
    """Feature shapes that a recipe's plans accept, as far as the model hears.

    Raises:
        UsageError: shapes that are not in order.
    """
    config, most = described.frontend, described.most_frames
    seconds = engine.min_seconds, engine.opt_seconds, engine.max_seconds
    if padded := getattr(config, "pad_seconds", 0):
        seconds = (padded,) * 3
    rate = config.frames_per_second
    low, usual, high = (min(max(item, shortest_frames(config) / rate), most / rate) for item in seconds)
    batches = engine.min_batch, engine.opt_batch, engine.max_batch
    return Profile(batches, (low, usual, high), rate, config.rows, most)


def shortest_frames(config: Frontend) -> int:
    """Feature frames that give one position."""
    return SHORTEST if isinstance(config, WaveformConfig) else 1


def dictated(network: Network, files: Files, utterances: Iterable[Example]) -> list[Example]:
    """Single utterances with the tokens that an engine says to them, where a decoder reads tokens."""
    with network.open(files) as recognizer:
        return [recognizer.example(item.features, item.lengths) for item in utterances]


def run(network: Network, files: Files, examples: Iterable[Example], count: int | None = None) -> Iterator[Outputs]:
    """What the first `count` parts (None: all) give to each example, by ONNX Runtime, one example at a time."""
    parts = network.parts[:count]
    sessions = [open_session(file) for file in files[: len(parts)]]
    for example in examples:
        seen: dict[str, Array] = {}
        for part, session in zip(parts, sessions, strict=True):
            seen |= run_part(session, part.inputs(example, seen))
        yield seen


def run_part(session: Any, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """All outputs of one session, by name."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def feeds(network: Network, files: Files, examples: Sequence[Example], index: int) -> Iterator[dict[str, Array]]:
    """Inputs of one part behind those before it; no more than one example's outputs are held."""
    before = run(network, files, examples, index) if index else iter([{}] * len(examples))
    for example, seen in zip(examples, before, strict=True):
        yield network.parts[index].inputs(example, seen)


def outputs(network: Network, files: Files, examples: Iterable[Example]) -> list[FloatArray]:
    """The last part's judged output of every utterance, [positions, tokens], by ONNX Runtime."""
    return [network.last.valid(seen) for seen in run(network, files, examples)]
