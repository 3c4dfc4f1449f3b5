"""What the ablation quantizes: a CTC network as one graph, or an encoder-decoder as two."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import onnx
from torch import nn

from trtasr.checkpoint.checkpoint import Checkpoint
from trtasr.files.scratch import scratch
from trtasr.graph.export import export_onnx, fold_batchnorm
from trtasr.network.pair_run import texts_of
from trtasr.pipeline.calibrate import calibration_features, table_from_features
from trtasr.pipeline.calibrate_pair import PairGraphs, pair_table
from trtasr.pipeline.compile_pair import exported_pair
from trtasr.pipeline.controls import quantized_graph, quantized_pair
from trtasr.pipeline.evaluate import feeds, log_probs
from trtasr.pipeline.pair_features import pair_features
from trtasr.pipeline.pair_speech import Spoken, pair_logits, spoken_tokens
from trtasr.recipe import Quantization, Recipe
from trtasr.results import Prepared
from trtasr.values import CalibrationSet, FloatArray


class Subject(Protocol):
    """A network that is quantized again and again."""

    @property
    def fp32(self) -> Path:
        """The FP32 graph; of an encoder-decoder the encoder."""

    def features(self, method: str, recipe: Recipe) -> CalibrationSet:
        """Calibration features by method, with the recipe's seed."""

    def quantized(self, features: CalibrationSet, settings: Quantization, folder: Path) -> Path:
        """The graph quantized with these features and settings, as `fp32`."""

    def outputs(self, graph: Path) -> list[FloatArray]:
        """What a graph gives for every utterance, [T, tokens]: log-probabilities of frames, or logits of tokens."""


@dataclass(frozen=True)
class CtcSubject:
    """A network that is one graph."""

    fp32: Path
    checkpoint: Checkpoint
    model: nn.Module
    utterances: Sequence[Prepared]

    def features(self, method: str, recipe: Recipe) -> CalibrationSet:
        """Calibration features by method."""
        return calibration_features(method, recipe, self.checkpoint, self.model)

    def quantized(self, features: CalibrationSet, settings: Quantization, folder: Path) -> Path:
        """The Q/DQ graph of ``t4-rtx``."""
        table = table_from_features(self.fp32, features, settings, {})
        graph = folder / "model.qdq.onnx"
        onnx.save(quantized_graph(onnx.load(self.fp32), table, settings.exclude), graph)
        return graph

    def outputs(self, graph: Path) -> list[FloatArray]:
        """Log-probabilities."""
        return log_probs(graph, feeds(self.utterances))


@dataclass(frozen=True)
class PairSubject:
    """An encoder-decoder; its decoder is judged on the tokens that FP32 generates."""

    graphs: PairGraphs
    checkpoint: Checkpoint
    spoken: Spoken

    @property
    def fp32(self) -> Path:
        """The FP32 encoder."""
        return self.graphs.encoder

    def features(self, method: str, recipe: Recipe) -> CalibrationSet:
        """Calibration features by method, with tokens."""
        return pair_features(method, recipe, self.checkpoint, self.graphs)

    def quantized(self, features: CalibrationSet, settings: Quantization, folder: Path) -> Path:
        """Both Q/DQ graphs of ``t4-rtx``; the encoder's path."""
        table = pair_table(self.graphs, features, settings, {})
        return quantized_pair(self.graphs, table, settings.exclude, folder).encoder

    def outputs(self, graph: Path) -> list[FloatArray]:
        """Logits, each decoder behind its own encoder."""
        return pair_logits(graph, self.spoken)


@contextmanager
def subject_of(checkpoint: Checkpoint, model: nn.Module, utterances: Sequence[Prepared]) -> Iterator[Subject]:
    """The subject of a checkpoint; its graphs live as long as the block."""
    with scratch() as folder:
        if checkpoint.generation:
            graphs = exported_pair(model, checkpoint, folder)
            spoken = spoken_tokens(graphs.encoder, feeds(utterances), texts_of(checkpoint))
            yield PairSubject(graphs, checkpoint, spoken)
        else:
            exported = folder / "model.fp32.onnx"
            export_onnx(fold_batchnorm(model), exported, checkpoint.frontend.rows)
            yield CtcSubject(exported, checkpoint, model, utterances)
