"""The sections of a recipe: frozen dataclasses, and the words that their keys may have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trtasr.text.normalize import AUTO, NORMALIZERS

METHODS = ("synthetic", "noise", "audio")
LABELS = {"noise": "random noise", "synthetic": "synthetic (data-free)", "audio": "real audio"}  # in tables
CORRECTIONS = ("none", "bias", "qep", "fade")
ROUNDINGS = ("auto", "nearest", "gptq")
RANGES = ("max", "percentile", "mse", "entropy")
QUANTIZATIONS = ("explicit", "implicit")
CALIBRATORS = ("table", "entropy", "minmax")
ACTIVATION_SCALES = ("auto", "static", "dynamic")
CHAINS = ("off", "on", "auto")
CAPABILITIES = ("7.5", "8.6", "8.9", "12.0")
FIDELITIES = ("high", "max", "fast")
GATES = ("point", "interval")


@dataclass(frozen=True)
class Calibration:
    """Where the calibration features come from.

    Attributes:
        method: ``synthetic`` (no data), or the controls ``noise`` and ``audio``.
        seed: of the synthetic start and of the noise.
        batches: synthetic batches; batch_size: utterances each; seconds: length of each utterance.
        steps: most optimizer steps per batch.
        learning_rate: of Adam on the features.
        bfloat16: run the network in bfloat16 while optimizing, where the CPU has instructions for it.
        manifest: audio for method ``audio`` and for the audio control; empty: the audio of the evaluation manifests.
    """

    method: str = "synthetic"
    seed: int = 0
    batches: int = 6
    batch_size: int = 4
    seconds: float = 4.0
    steps: int = 30
    learning_rate: float = 0.05
    bfloat16: bool = True
    manifest: str = ""


@dataclass(frozen=True)
class Quantization:
    """How ranges become scales, and which nodes stay out.

    Attributes:
        ranges: observer of activation ranges: ``max``, ``percentile``, ``mse`` or ``entropy``.
        headroom: factor on the observed ranges; above 1 leaves room for what the calibration data lack.
        center: shift one-sided channels between depthwise and pointwise convolutions to halve their range.
        correction: ``none``; ``bias``: of what rounding a weight does to the mean of its layer's output; ``qep`` (one
            strength for all layers) or ``fade`` (a strength per layer): that, and of weights for the quantization error
            of earlier layers.
        alpha: strength of ``qep``, 0 to 1.
        damping: of ``qep`` and ``fade``: lambda over the mean power of a layer's input channels, at least 1e-6.
        rounding: of weights: ``nearest``, ``gptq`` (rounding errors are compensated by later columns), or ``auto``:
            with ``bias``, where activations have a scale per position, GPTQ, every layer for itself; else nearest.
        gptq_damping: of GPTQ: lambda over the mean power of a layer's inputs, at least 1e-6. What features without
            audio leave out must not look free: the authors' 0.01 does harm on them (docs/ablation.md).
        weight_bits: 8; fewer are simulated on INT8 codes, in the layers that are INT8 on the T4.
        weight_only: simulates weights of `weight_bits` beside activations that stay in floating point, as the papers on
            QEP and FADE have it; no engine is built so.
        weight_group: of `weight_only`: input columns that share a scale within an output channel, at least 2; 0: all of
            them. Where a layer's columns are no multiple, the last group is smaller.
        exclude: ONNX node name patterns that are never quantized, as in ``["/encoder/encoder.0/*"]``.
        fidelity: how near the engine stays to FP32 on probe signals: in ``high`` and ``max`` the most harmful layers go
            back to floating point until that holds; in ``fast`` none does. A miss is a missed gate (exit 3) in each.
    """

    ranges: str = "max"
    headroom: float = 1.0
    center: bool = True
    correction: str = "bias"
    alpha: float = 0.5
    damping: float = 0.1
    rounding: str = "auto"
    gptq_damping: float = 0.5
    weight_bits: int = 8
    weight_only: bool = False
    weight_group: int = 0
    exclude: tuple[str, ...] = ()
    fidelity: str = "high"

    @property
    def walked(self) -> bool:
        """True when weights depend on what earlier layers compute, so that the table is made layer by layer."""
        alone = self.correction in ("none", "bias") and self.rounding != "gptq"
        return not alone or self.weight_bits != 8 or self.weight_only

    @property
    def data_free(self) -> bool:
        """True when nothing is learnt from calibration features: weights alone, each rounded to nearest."""
        return self.weight_only and self.correction == "none" and self.rounding != "gptq"

    @property
    def learns_products(self) -> bool:
        """True when weights of layers with a scale per position are rounded for what full precision reads there."""
        return not self.walked and self.correction == "bias" and self.rounding == "auto"


@dataclass(frozen=True)
class EngineShapes:
    """What is built: target, accepted shapes in units of speech, and the builder's settings.

    Attributes:
        target: ``auto``, or the name of a place to run, as ``t4``, ``t4-rtx`` or ``cpu``.
        min_seconds: shortest, opt_seconds: most common, max_seconds: longest utterance.
        min_batch, opt_batch, max_batch: utterances per run.
        compute_capability: of the GPU that a `t4-rtx` plan is for: 7.5 (T4), 8.6, 8.9 or 12.0.
        quantize_depthwise: depthwise convolutions in INT8 too; sm_75 has no kernel for them.
        one_dimensional: of `t4`: convolutions over time stay as exported, over [B, C, T]; False: over [B, C, 1, T], of
            which TensorRT's parser makes fewer layers.
        unmasked_plan: of `t4`: beside every plan one without masks, in which one utterance alone runs at its own
            length; without it, it is padded to one of few lengths, which have CUDA graphs. For utterances that have few
            lengths anyway, as windows do. Off, because it doubles the builds, and what it gains is not measured.
        chains: of `t4`: ``on``: Q/DQ behind the ReLUs of INT8 layers too, so that these can write INT8; ``off``; or
            ``auto``: both are built, and the builder's counts decide.
        unfold_channels: of `t4-rtx`: convolutions of kernel k > 1 over time with at least so many output channels O run
            as INT8 products of k shifted copies of their input. For each input channel and output frame that saves
            k O / 65e12 s of arithmetic (130 TOPS in INT8, 65 TFLOPS in FP16) and moves k bytes twice (320 GB/s): even
            at O = 406 where all copies go through memory, at 203 where the product finds them in the cache.
            Estimated from the T4's peaks, not measured; INT8 also halves the weights.
        activation_scales: of INT8 layers: ``static`` (one per tensor, from calibration), ``dynamic`` (one per position,
            computed at run time, where a layer can have that), or ``auto``: as the target prefers, on the CPU as
            fidelity needs it.
        quantization: of `t4`: ``explicit`` (Q/DQ nodes) or ``implicit`` (calibrator, TensorRT 10 only).
        calibrator: implicit: ``table`` serves the scale table as a cache, ``entropy`` and ``minmax`` let TensorRT take
            its own ranges from the calibration features.
        workspace_mb: of `t4`: limit of the builder's scratch memory in MiB; 0: all of the GPU's.
        timing_cache: of `t4`: file; empty: one per GPU and TensorRT version in the user's cache folder.
    """

    target: str = "auto"
    min_seconds: float = 0.2
    opt_seconds: float = 5.0
    max_seconds: float = 20.0
    min_batch: int = 1
    opt_batch: int = 1
    max_batch: int = 8
    compute_capability: str = "7.5"
    quantize_depthwise: bool = False
    one_dimensional: bool = False
    unmasked_plan: bool = False
    chains: str = "off"
    unfold_channels: int = 256
    activation_scales: str = "auto"
    quantization: str = "explicit"
    calibrator: str = "table"
    workspace_mb: int = 0
    timing_cache: str = ""


@dataclass(frozen=True)
class Evaluation:
    """What is measured and what must hold.

    Attributes:
        manifest: evaluation sets: NeMo JSON lines or LibriSpeech-style folders; one may be written as a string. Empty:
            no WER.
        gate: what of WER (CER where that is judged) must hold over all sets together, else it is a missed gate (exit
            3): ``point``: the difference to FP32 is at most `max_wer_increase`; ``interval``: the upper end of its
            95 % interval is at most `max_wer_upper`. With both, no single of several sets may lose more than
            `max_wer_increase` where its interval shows a loss at all (lies above 0): small sets move by chance.
        max_wer_increase: absolute percentage points; max_wer_upper: likewise.
        normalizer: of references and transcripts before WER and CER: ``basic-en-v1``, ``unicode-v1``, ``none``, or
            ``auto``: ``basic-en-v1`` where all letters of the references are a-z, else ``unicode-v1``.
        batch: utterances per run when measuring WER.
        bench_seconds: seconds of audio per run benchmarked on the CPU, batch 1.
        threads: CPU threads of the latency benchmark; 0: all usable CPUs.
        gpu_seconds: seconds of audio per utterance benchmarked on a GPU; gpu_batches: utterances per run.
        min_sqnr: the worst layers stay in floating point until the log-probabilities on calibration features reach this
            SQNR in dB; 0: no such budget.
        mixed: the same until WER rises by at most `max_wer_increase`.
        allow_slower: True accepts an INT8 plan that is no faster than FP16 on the GPU; else that is a missed gate.
    """

    manifest: tuple[str, ...] = ()
    gate: str = "point"
    max_wer_increase: float = 0.3
    max_wer_upper: float = 0.6
    normalizer: str = "auto"
    batch: int = 1
    bench_seconds: tuple[float, ...] = (2.0, 7.0, 15.0)
    threads: int = 1
    gpu_seconds: tuple[float, ...] = (2.0, 7.0, 16.7)
    gpu_batches: tuple[int, ...] = (1, 8)
    min_sqnr: float = 0.0
    mixed: bool = False
    allow_slower: bool = False


@dataclass(frozen=True)
class Generating:
    """How an encoder-decoder writes.

    Attributes:
        tokens_per_second: at most so many tokens per second of audio; 0: as many as the checkpoint says.
    """

    tokens_per_second: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """One deployable engine.

    Attributes:
        name: bundle name; checkpoint: path of the archive, relative to the recipe file.
        calibration, quantization, engine, evaluation, generation: the sections above.
    """

    name: str
    checkpoint: str
    calibration: Calibration = field(default_factory=Calibration)
    quantization: Quantization = field(default_factory=Quantization)
    engine: EngineShapes = field(default_factory=EngineShapes)
    evaluation: Evaluation = field(default_factory=Evaluation)
    generation: Generating = field(default_factory=Generating)

    @property
    def audio_manifests(self) -> tuple[str, ...]:
        """Manifests of the audio control: the calibration section's, else the evaluation's."""
        return (self.calibration.manifest,) if self.calibration.manifest else self.evaluation.manifest

    def label(self, method: str) -> str:
        """A calibration method in words; says when real audio is the evaluation set itself."""
        if method == "audio" and not self.calibration.manifest:
            return f"{LABELS[method]} (the evaluation set itself)"
        return LABELS[method]


CHOICES: Mapping[tuple[type, str], Sequence[str]] = {
    (Calibration, "method"): METHODS,
    (Quantization, "ranges"): RANGES,
    (Quantization, "correction"): CORRECTIONS,
    (Quantization, "rounding"): ROUNDINGS,
    (EngineShapes, "activation_scales"): ACTIVATION_SCALES,
    (EngineShapes, "chains"): CHAINS,
    (Quantization, "fidelity"): FIDELITIES,
    (EngineShapes, "quantization"): QUANTIZATIONS,
    (EngineShapes, "calibrator"): CALIBRATORS,
    (EngineShapes, "compute_capability"): CAPABILITIES,
    (Evaluation, "normalizer"): (AUTO, *NORMALIZERS),
    (Evaluation, "gate"): GATES,
}
