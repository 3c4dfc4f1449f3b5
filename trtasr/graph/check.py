"""Run a graph on the CPU and compare two graphs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from trtasr.errors import QualityError
from trtasr.files.cpus import FLOAT, SPINNING, multiplies_codes_exactly, threads
from trtasr.graph.edit import outline, write_model

Arrays = dict[str, npt.NDArray[Any]]

# Its int32 bias underflows where scales are FP16, and the result is wrong (ONNX Runtime 1.31).
DISABLED_OPTIMIZERS = ["WeightBiasQuantization"]


def run_graph(
    model: onnx.ModelProto | Path, feeds: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str] | None = None
) -> Arrays:
    """Run a graph once in ONNX Runtime on the CPU.

    Args:
        model: graph or ONNX file.
        feeds: input name -> array.
        outputs: output names; None: all.

    Returns:
        output name -> array.
    """
    session = graph_session(model)
    names = list(outputs) if outputs is not None else [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def graph_session(model: onnx.ModelProto | Path) -> ort.InferenceSession:
    """The session that `run_graph` runs.

    Args:
        model: graph or ONNX file.
    """
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads()
    options.add_session_config_entry(SPINNING, "0")
    options.add_session_config_entry(FLOAT, "0" if multiplies_codes_exactly() else "1")
    return ort.InferenceSession(
        source, options, providers=["CPUExecutionProvider"], disabled_optimizers=DISABLED_OPTIMIZERS, enable_fallback=0
    )


def assert_parity(
    reference: Mapping[str, npt.NDArray[Any]], test: Mapping[str, npt.NDArray[Any]], tolerance: float = 1e-4
) -> None:
    """Require every output to agree within an absolute tolerance.

    Raises:
        QualityError: naming the first output that does not, and by how much.
    """
    for name, value in reference.items():
        difference = largest_difference(value, test[name])
        if not difference <= tolerance:
            raise QualityError(
                f"output {name!r}: the graphs differ by {difference:.3g} (allowed {tolerance:.3g})",
                "report this with the checkpoint's config: an exported graph must compute what the model computes",
            )


def check_model(model: onnx.ModelProto) -> None:
    """Check a graph against the ONNX specification; of large weights, type and shape.

    Raises:
        onnx.checker.ValidationError: for a malformed graph (a bug of the pass that made it).
    """
    onnx.checker.check_model(outline(model), full_check=True)


def write_checked(model: onnx.ModelProto, path: Path) -> None:
    """Check a graph and write it."""
    check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_model(model, path)


def largest_difference(reference: npt.NDArray[Any], test: npt.NDArray[Any]) -> float:
    """Largest absolute difference; infinite where shapes differ or a value is NaN."""
    if reference.shape != test.shape:
        return float("inf")
    if reference.size == 0:
        return 0.0
    difference = np.abs(reference.astype(np.float64) - test.astype(np.float64)).max()
    return float("inf") if np.isnan(difference) else float(difference)
