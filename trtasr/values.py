"""Value types that flow between stages (frozen; shapes and units beside each field).

Stages do not import each other; `compile.py` carries these values from one to the next. This module imports numpy
only, so that every stage, the report included, may name the types it receives.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class CalibrationSet:
    """Network inputs that activation ranges are taken from.

    Attributes:
        batches: features, each float32 [B, mel, T], normalized as the network expects them.
        lengths: valid frames per item, each int64 [B], one array per batch.
        method: ``synthetic`` (batch-norm matching), ``noise`` or ``audio``.
        seed: of the random start; the same seed gives the same batches on one machine.
        tokens: of an encoder-decoder, what its decoder reads (teacher forcing): the prompt and the text of every item
            over all batches, each int64 [L]; without them its tables cannot be made.
    """

    batches: tuple[FloatArray, ...]
    lengths: tuple[IntArray, ...]
    method: str
    seed: int = 0
    tokens: tuple[IntArray, ...] = ()


@dataclass(frozen=True)
class TensorScale:
    """Symmetric per-tensor scale of one activation.

    Attributes:
        amax: clipping magnitude in the tensor's own unit; positive and finite.
        method: observer that chose it (``max``, ``percentile``, ``mse``, ``entropy``).
        non_negative: True when no calibration value was below zero.
        sqnr_db: signal to quantization-noise ratio on the calibration data in dB; NaN when not measured.
    """

    amax: float
    method: str
    non_negative: bool = False
    sqnr_db: float = float("nan")

    @property
    def scale(self) -> np.float32:
        """Signed 8-bit scale, amax / 127, float32: the number in Q/DQ nodes and in the calibration cache."""
        return np.float32(self.amax) / np.float32(127)

    @property
    def unsigned_scale(self) -> np.float32:
        """Unsigned 8-bit scale, scale * 127 / 255: the same range on the codes 0..255 (zero point 0)."""
        return self.scale * np.float32(127) / np.float32(255)


@dataclass(frozen=True)
class WeightScale:
    """Symmetric per-channel scales of one weight.

    Attributes:
        scales: float32 [O], amax of each output channel / 127; positive and finite.
        axis: the output-channel axis of the weight as stored in the FP32 graph.
        sqnr_db: weight SQNR in dB.
        floored: indices of dead output channels whose scale was raised to the floor.
    """

    scales: FloatArray
    axis: int
    sqnr_db: float = float("nan")
    floored: tuple[int, ...] = ()


@dataclass(frozen=True)
class ScaleTable:
    """The single source of truth for every quantized number.

    Attributes:
        activations: ONNX tensor name of the FP32 graph -> scale.
        weights: ONNX initializer name of the FP32 graph -> per-channel scales.
        alphas: layer -> correction strength (empty: no error-propagation correction).
        offsets: output of a depthwise convolution -> float32 [C] subtracted behind it (centering); the FP32 graph of
            the bundle contains them.
        settings: the quantizer settings the table was made with (JSON types only).
        corrected: ONNX initializer name of the FP32 graph -> its corrected values, float32 as stored; weights lie on
            the grid of their scales. The FP32 graph of the bundle does not contain them.
    """

    activations: Mapping[str, TensorScale]
    weights: Mapping[str, WeightScale]
    alphas: Mapping[str, float] = field(default_factory=dict)
    offsets: Mapping[str, FloatArray] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    corrected: Mapping[str, FloatArray] = field(default_factory=dict)


@dataclass(frozen=True)
class Site:
    """A node with a constant weight: one that could read INT8 operands.

    Attributes:
        node: ONNX node name.
        op: ``Conv``, ``MatMul`` or ``Gemm``.
        weight_shape: as stored: (O, I / groups, *kernel) of a Conv, (I, O) of a MatMul, (O, I) of a Gemm with transB.
        in_channels: I, over all groups.
        out_channels: O.
        groups: channel groups of a Conv; 1 elsewhere.
        kernel: kernel size per spatial axis; empty for MatMul and Gemm.
        stride: likewise.
    """

    node: str
    op: str
    weight_shape: tuple[int, ...]
    in_channels: int
    out_channels: int
    groups: int = 1
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()


@dataclass(frozen=True)
class Decision:
    """Why a quantizable node was quantized or left alone.

    Attributes:
        node: ONNX node name.
        op: ONNX operator type.
        quantized: True when the node reads INT8 operands.
        rule: name of the rule that decided, for instance ``depthwise``; ``int8`` when quantized.
    """

    node: str
    op: str
    quantized: bool
    rule: str


@dataclass(frozen=True)
class LayerRow:
    """One layer of a built engine, after fusion.

    Attributes:
        name: engine layer name.
        kind: engine layer type (``gemm``, ``correlation``, ``kgen`` ...; an ONNX operator on `cpu`).
        operands: data types that decide the arithmetic: data inputs, then the constant weight.
        outputs: output data types.
        onnx_nodes: ONNX nodes the layer was made from.
        macs: multiply-accumulates per second of audio at batch 1; 0 for layers without weights.
        int8: True when data and weight operands are both 8-bit integers.
        tactic: kernel that the builder chose; empty where it does not tell.
        time_share: of the engine's time, 0..1; 0 where layers were not timed.
    """

    name: str
    kind: str
    operands: tuple[str, ...]
    outputs: tuple[str, ...]
    onnx_nodes: tuple[str, ...]
    macs: int = 0
    int8: bool = False
    tactic: str = ""
    time_share: float = 0.0


@dataclass(frozen=True)
class Engine:
    """A built engine on disk.

    Attributes:
        target: ``t4-rtx``, ``cpu`` or ``fp32`` (the reference).
        path: plan or ONNX file, relative to the bundle.
        size_bytes: of that file.
        layers: the layer table; empty where a target has none.
        details: builder facts (capability, memory, build seconds); JSON types only.
    """

    target: str
    path: str
    size_bytes: int
    layers: tuple[LayerRow, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


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
class Utterance:
    """One evaluated utterance, in NeMo's manifest vocabulary; duration in seconds.

    Attributes:
        text: reference transcript, pred_text: recognized transcript; both as given.
        reference: `text`, hypothesis: `pred_text`; both normalized: what is scored.
    """

    audio_filepath: str
    duration: float
    text: str
    pred_text: str
    reference: str
    hypothesis: str


@dataclass(frozen=True)
class WerResult:
    """Word and character error rate of one engine on one manifest.

    Attributes:
        wer: in percent.
        words: reference words; errors: substitutions + deletions + insertions; hits: words that are right.
        cer: in percent.
        characters: of the references, spaces between words counted where `spaced`; character_errors: likewise.
        spaced: the references have spaces between words, so that WER is what is judged; else CER is.
        utterances: per utterance, in manifest order.
        normalizer: name and version of the text normalizer applied to both sides.
        batch: utterances per run.
        work_seconds: wall time of the acoustic model alone, over the whole manifest.
    """

    wer: float
    words: int
    errors: int
    hits: int
    cer: float
    characters: int
    character_errors: int
    spaced: bool
    utterances: tuple[Utterance, ...]
    normalizer: str
    batch: int = 1
    work_seconds: float = 0.0

    @property
    def measure(self) -> str:
        """``WER``, or ``CER`` for languages without spaces between words: what gates and differences are about."""
        return "WER" if self.spaced else "CER"

    @property
    def rate(self) -> float:
        """That rate in percent."""
        return self.wer if self.spaced else self.cer


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


@dataclass(frozen=True)
class TensorComparison:
    """FP32 against quantized, one output tensor.

    Attributes:
        tensor: output name.
        sqnr_db: 10 log10(sum ref^2 / sum (ref - test)^2), over valid frames.
        cosine: cosine similarity over valid frames.
        max_abs: largest absolute difference.
    """

    tensor: str
    sqnr_db: float
    cosine: float
    max_abs: float


@dataclass(frozen=True)
class Comparison:
    """A Polygraphy comparison judged by SNR, cosine and tokens.

    Attributes:
        reference: label of the FP32 runner; candidate likewise.
        tensors: per compared tensor.
        token_agreement: share of valid frames with the same argmax, 0..1.
        frames: valid frames compared.
        features: ``audio`` or ``synthetic``: what was fed.
        command: the equivalent `polygraphy run` command line.
        results_file: Polygraphy RunResults JSON, relative to the bundle.
        unit: what `frames` counts: ``frames``, or ``tokens`` of an encoder-decoder.
    """

    reference: str
    candidate: str
    tensors: tuple[TensorComparison, ...]
    token_agreement: float
    frames: int
    features: str
    command: str
    results_file: str
    unit: str = "frames"
