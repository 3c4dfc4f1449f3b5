"""Calibration controls: the same pipeline calibrated by noise, by synthetic features and by real audio."""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from trtasr.bench.wer import Prepared
from trtasr.checkpoint.nemo import Checkpoint
from trtasr.engine.compare import layer_sqnr
from trtasr.evaluate import feeds, word_error_rate
from trtasr.graph.center import center
from trtasr.graph.qdq import insert_qdq
from trtasr.targets import Target
from trtasr.values import ScaleTable

logger = logging.getLogger(__name__)

METHODS = ("noise", "synthetic", "audio")
LABELS = {"noise": "random noise", "synthetic": "synthetic (data-free)", "audio": "real audio"}
SQNR_UTTERANCES = 16


@dataclass(frozen=True)
class Control:
    """One calibration method's result through the same Q/DQ graph.

    Attributes:
        label: method in words.
        wer: in percent.
        sqnr_db: of the log-probabilities against FP32, in dB.
    """

    label: str
    wer: float
    sqnr_db: float


def run_controls(exported: Path, tables: Mapping[str, ScaleTable], target: Target, utterances: Sequence[Prepared],
                 checkpoint: Checkpoint) -> tuple[Control, ...]:  # fmt: skip
    """Quantize the FP32 graph with each table and measure WER and SQNR on the same utterances.

    Args:
        exported: FP32 graph, not centered.
        tables: calibration method -> scale table.
        target: whose placement rules are used.
        utterances: evaluation set.
        checkpoint: its vocabulary decodes the transcripts.
    """
    fp32 = onnx.load(exported)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for method in METHODS:
            graph = Path(scratch) / f"{method}.onnx"
            table = tables[method]
            onnx.save(insert_qdq(center(fp32, table.offsets), table, target.rules).model, graph)
            wer = word_error_rate(graph, list(utterances), checkpoint.vocabulary, 1).wer
            sqnr = layer_sqnr(exported, graph, ["log_probs"], feeds(utterances[:SQNR_UTTERANCES]))["log_probs"]
            logger.info("control %s: WER %.2f %%, SQNR %.1f dB", method, wer, sqnr)
            rows.append(Control(LABELS[method], wer, sqnr))
    return tuple(rows)
