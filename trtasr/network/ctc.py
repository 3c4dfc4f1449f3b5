"""CTC: one graph, from features to log-probabilities per frame."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from trtasr.audio.frontend import Frontend, frames_of
from trtasr.engine.faults import REPAIR
from trtasr.engine.sessions import OrtRunner
from trtasr.engine.trt_run import TrtRunner, open_plan
from trtasr.errors import BundleError
from trtasr.graph.export import export_onnx, fold_batchnorm
from trtasr.network.network import Described, Files, Network, Original, Outputs, Part, accepted
from trtasr.quant.synthesize import SynthesisSettings, speech_shaped_noise, synthesize
from trtasr.recipe import Calibration, EngineShapes
from trtasr.text.ctc import greedy
from trtasr.text.tokens import Tokenizer
from trtasr.values import Array, CalibrationSet, Example, FloatArray, IntArray

PARITY = 1e-4, 1e-3  # of log-probabilities
TRIAL_FRAMES = 217, 96


def ctc(described: Described) -> Network:
    """The wiring: ``model``, whose ``log_probs`` [B, T', V + 1] are valid for ``output_lengths`` [B] frames."""
    config = described.frontend
    model = Part(
        "model",
        judged="log_probs",
        counts="output_lengths",
        inputs=lambda example, _: {"features": example.features, "lengths": example.lengths},
        rate=config.frames_per_second,
        steps=lambda seconds: (frames_of(seconds, config), 1),
    )

    @contextmanager
    def open_engine(files: Files, threads: int = 0, timed: bool = False) -> Iterator[CtcRecognizer]:
        if files[0].suffix == ".plan":
            with open_plan(*files) as runner:
                yield CtcRecognizer(runner, described.tokenizer)
        else:
            yield CtcRecognizer(OrtRunner(files[0], threads, timed), described.tokenizer)

    return Network(described, (model,), "frames", open_engine)


@dataclass
class CtcRecognizer:
    """Log-probabilities, read greedily.

    Attributes:
        runner: features and lengths -> log-probabilities [B, T', V + 1] and valid frames [B].
        tokenizer: ids -> text.
        cut: never.
    """

    runner: OrtRunner | TrtRunner
    tokenizer: Tokenizer
    cut: tuple[bool, ...] = ()

    @property
    def captured(self) -> bool:
        """True when a repeated shape is launched as a CUDA graph."""
        return isinstance(self.runner, TrtRunner) and self.runner.captured

    def use_graphs(self, wanted: bool) -> None:
        """Launch plainly from now on, or by CUDA graphs again."""
        if isinstance(self.runner, TrtRunner):
            self.runner.use_graphs(wanted)

    def run(self, features: FloatArray, lengths: IntArray) -> tuple[Array, IntArray]:
        """Features float32 [B, rows, T], lengths int64 [B] -> log-probabilities [B, T', V + 1], valid frames [B]."""
        return self.runner(features, lengths)

    def decode(self, found: Array, counts: IntArray) -> list[str]:
        """Best path of each utterance.

        Raises:
            BundleError: log-probabilities of another number of tokens than the vocabulary has.
        """
        blank = len(self.tokenizer.vocabulary)
        if found.shape[2] != blank + 1:
            raise BundleError(
                f"the model scores {found.shape[2]} tokens, but its vocabulary has {blank} and the blank", REPAIR
            )
        return [self.tokenizer.decode(ids) for ids in greedy(found, counts, blank)]

    def example(self, features: FloatArray, lengths: IntArray) -> Example:
        """The utterance as it is."""
        return Example(features, lengths)

    def doubt(self, _seconds: float) -> str:
        """None: every frame is read."""
        return ""

    def whole_run(self, features: FloatArray, _seconds: float) -> "CtcRun":
        """A benchmarked run of full lengths."""
        return CtcRun(self.runner, features, np.full(len(features), features.shape[2], np.int64))


@dataclass(frozen=True)
class CtcRun:
    """One run of a benchmark; see `trtasr.network.network.WholeRun`."""

    runner: OrtRunner | TrtRunner
    features: FloatArray
    lengths: IntArray
    tokens: int = 0

    def __call__(self) -> float | None:
        """Run once; a plan tells its milliseconds by CUDA events."""
        self.runner(self.features, self.lengths)
        return self.runner.device_ms if isinstance(self.runner, TrtRunner) else None

    def encoder_ms(self, _runs: int) -> float:
        """No decoder, no difference."""
        return 0.0


def ctc_original(model: nn.Module, network: Network) -> Original:
    """What a module (features, lengths) -> (log_probs, output_lengths) is to its network.

    The FP32 graph, batch norm folded and channels centered, may be off by 1e-4 in log-probability, or by up to 1e-3
    where float32 itself is.
    """
    described, config = network.described, network.frontend

    @torch.no_grad()
    def reference(example: Example, dtype: torch.dtype) -> Outputs:
        whole = model if dtype == torch.float32 else copy.deepcopy(model).to(dtype)
        found, frames = whole(torch.from_numpy(example.features).to(dtype), torch.from_numpy(example.lengths))
        return {"log_probs": found.numpy(), "output_lengths": frames.numpy()}

    def unheard(_calibration: Calibration, engine: EngineShapes) -> tuple[FloatArray, IntArray]:
        batch, rows, frames = accepted(engine, described).shapes()["features"][1]
        made = speech_shaped_noise((batch, rows, frames), torch.Generator().manual_seed(0)).numpy()
        return made, np.full(batch, frames, np.int64)

    return Original(
        export=lambda folder: export_onnx(fold_batchnorm(model), network.files(folder)[0], config.rows),
        reference=reference,
        trial=trial(config),
        tolerance=PARITY,
        shapes=lambda engine: (accepted(engine, described),),
        synthetic=lambda calibration: synthesize(model, config.rows, synthesis_settings(calibration, config)),
        noise=lambda calibration: gaussian(calibration, config),
        spoken=lambda _files, features: features,
        unheard=unheard,
    )


def trial(config: Frontend) -> Example:
    """Two utterances of noise, the second one shorter."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, config.rows, TRIAL_FRAMES[0], generator=generator).numpy()
    return Example(features, np.array(TRIAL_FRAMES, np.int64))


def synthesis_settings(calibration: Calibration, config: Frontend) -> SynthesisSettings:
    """The recipe's synthesis section with seconds turned into frames."""
    return SynthesisSettings(
        batches=calibration.batches,
        batch_size=calibration.batch_size,
        steps=calibration.steps,
        frames=frames_of(calibration.seconds, config),
        learning_rate=calibration.learning_rate,
        seed=calibration.seed,
        bfloat16=calibration.bfloat16,
    )


def gaussian(calibration: Calibration, config: Frontend) -> CalibrationSet:
    """Gaussian noise of mean 0 and standard deviation 1: what normalized features look like to a naive tool."""
    generator = np.random.default_rng(calibration.seed)
    shape = calibration.batch_size, config.rows, frames_of(calibration.seconds, config)
    batches = tuple(generator.standard_normal(shape, np.float32) for _ in range(calibration.batches))
    lengths = np.full(shape[0], shape[2], np.int64)
    return CalibrationSet(batches, (lengths,) * len(batches), "noise", calibration.seed)
