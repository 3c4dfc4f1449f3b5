"""The integer-only graph of a bundle: written beside the engines, proved, and proved again for whoever asks."""

import logging
from pathlib import Path

import onnx

from trtasr.engine.faults import model_errors
from trtasr.engine.sessions import load_model
from trtasr.errors import QualityError, TrtasrError, UsageError
from trtasr.graph.check import save
from trtasr.graph.integer import LONGEST_FRAMES, integerize
from trtasr.graph.integer_proof import prove
from trtasr.network.network import Exported
from trtasr.pipeline.opened import open_engine
from trtasr.results import IntegerGraph, Proof
from trtasr.targets.integer import INTEGER
from trtasr.targets.place import place
from trtasr.values import ScaleTable

logger = logging.getLogger(__name__)

GRAPH = "model.integer.onnx"
REFERENCE = "model.integer.qdq.onnx"
FRAMES_PER_PRODUCT = 2**16  # of graphs without self-attention, which never sum over time


def write_integer(folder: Path, graphs: Exported, table: ScaleTable) -> IntegerGraph | None:
    """Write the integer-only graph of a network of one part, and its fake-quantized twin, into a bundle.

    Excluded layers are INT8 here too: a graph with a floating-point layer would not be integer-only.

    Args:
        folder: of the bundle.
        graphs: FP32, centered.
        table: scales, offsets and corrected weights.

    Returns:
        None for a network of several parts; with a warning, where an operator has no integer form or the proof fails.
    """
    if len(graphs.files) > 1:
        return None
    try:
        placed = place(onnx.load(graphs.files[0]), table, INTEGER, [])
        graph = integerize(placed.fp32, table)
        proof = prove(graph, longest_of(graph))
    except TrtasrError as error:  # the engines do not need it
        logger.warning("no integer-only graph: %s", error.problem)
        return None
    save(graph, folder / GRAPH)
    save(placed.model, folder / REFERENCE)
    return IntegerGraph(GRAPH, REFERENCE, (folder / GRAPH).stat().st_size, proof)


def longest_of(graph: onnx.ModelProto) -> int:
    """Longest dynamic axis of an integer-only graph: frames of self-attention where it has one.

    Raises:
        QualityError: the file gives no positive number.
    """
    facts = {item.key: item.value for item in graph.metadata_props}
    found = facts.get(LONGEST_FRAMES, str(FRAMES_PER_PRODUCT))
    if not found.isdecimal() or int(found) < 1:
        raise QualityError(f"metadata {LONGEST_FRAMES}: {found!r:.40} is no number of frames", "compile again")
    return int(found)


def prove_bundle(path: Path) -> Proof:
    """Prove a bundle's integer-only graph again, from the file.

    Raises:
        UsageError: the bundle has none. BundleError: no bundle there, or a changed file. QualityError: no proof.
    """
    file = integer_files(path)[0]
    graph = load_model(file)
    with model_errors(file):
        return prove(graph, longest_of(graph))


def integer_files(path: Path) -> tuple[Path, Path]:
    """The integer-only graph of a bundle and its Q/DQ reference, checked.

    Raises:
        UsageError: the bundle has none.
    """
    opened = open_engine(path)
    held = opened.bundle.sidecar.integer
    if not held:
        raise UsageError(
            f"{path}: has no integer-only graph",
            "it is made for CTC models (QuartzNet, Jasper, Conformer); compile again",
        )
    return opened.files(held.graph), opened.files(held.reference)
