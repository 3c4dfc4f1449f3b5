"""The 8-bit codes that weighted layers read, in an integer-only graph against its Q/DQ twin, layer by layer."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from tqdm import tqdm

from trtasr.bench.agreement import Noise
from trtasr.engine.sessions import Observe, expose, folder_of, load_model, open_session, ort_observer
from trtasr.errors import BundleError, UsageError
from trtasr.results import LayerSteps
from trtasr.values import Array, Example, FloatArray, IntArray

CODES, GIVEN = "_quantized", "_quantized_given"  # behind the name of a tensor of the FP32 graph
REPAIR = "compile the bundle again: its graphs do not belong together"


def layer_steps(fp32: Path, twin: Path, integer: Path, utterances: Sequence[Example]) -> tuple[LayerSteps, ...]:
    """Compare what every weighted layer reads in three graphs, in ONNX Runtime.

    Codes are compared twice: each graph by itself, and the integer graph with the twin's codes in front of every
    weighted layer, so that a code differs only by what the stretch behind the layers before it does.

    Args:
        fp32: the FP32 graph.
        twin: the Q/DQ graph with every weighted layer in INT8; codes of tensor X are ``X_quantized``, made by a
            QuantizeLinear whose scale and zero point (uint8) are constants.
        integer: the integer-only graph; its ``X_quantized`` are codes of the same format.
        utterances: each alone at its valid length; no more than one utterance's tensors are held.

    Returns:
        one per tensor that both graphs quantize, in the twin's order.

    Raises:
        BundleError: such a tensor is missing in the FP32 graph, has no such codes, or there is none.
        UsageError: no utterance has a frame.
    """
    if not utterances:
        raise UsageError("nothing to compare: every utterance is empty", "give utterances with at least one frame")
    sums = {name: Sums(*found) for name, found in formats(twin, integer).items()}
    names, codes = list(sums), [f"{name}{CODES}" for name in sums]
    exact = exact_observer(fp32, names)
    quantized, counted = ort_observer(twin, codes), ort_observer(integer, codes)
    own = open_session(with_given(integer, names), folder=folder_of(integer))
    for item in tqdm(utterances, "layers", disable=None, unit="utt"):
        feed: dict[str, Array] = {"features": item.features, "lengths": item.lengths}
        real, given, free = exact(feed), quantized(feed), counted(feed)
        alone = own.run(codes, feed | {f"{name}{GIVEN}": given[f"{name}{CODES}"] for name in names})
        for name, code, stretch in zip(names, codes, alone, strict=True):
            sums[name].add(real[name], given[code], (free[code], stretch))
    return tuple(item.steps(name) for name, item in sums.items())


@dataclass
class Sums:
    """What is summed of one tensor over utterances; see `LayerSteps`.

    Attributes:
        scale: real value of one step; zero: code of 0.0.
        qdq: what its codes lack of the FP32 tensor; integer: likewise, those of the integer graph.
    """

    scale: float
    zero: int
    qdq: Noise = field(default_factory=Noise)
    integer: Noise = field(default_factory=Noise)
    codes: int = 0
    differing: int = 0
    largest: int = 0
    own_differing: int = 0
    own_largest: int = 0

    def add(self, exact: Array, twin: Array, found: tuple[Array, Array]) -> None:
        """Count one utterance in.

        Args:
            exact: FP32 tensor.
            twin: its codes, uint8.
            found: codes of the integer graph, by itself and with the codes of the layers before given.
        """
        given, free, alone = (item.astype(np.int16) - self.zero for item in (twin, *found))
        self.qdq.add(exact, given * self.scale)
        self.integer.add(exact, free * self.scale)
        self.codes += given.size
        self.differing += int(np.count_nonzero(free != given))
        self.largest = max(self.largest, int(np.abs(free - given).max(initial=0)))
        self.own_differing += int(np.count_nonzero(alone != given))
        self.own_largest = max(self.own_largest, int(np.abs(alone - given).max(initial=0)))

    def steps(self, name: str) -> LayerSteps:
        """The result of the tensor of that name."""
        return LayerSteps(
            name,
            self.qdq.sqnr_db,
            self.integer.sqnr_db,
            self.codes,
            self.differing,
            self.largest,
            self.own_differing,
            self.own_largest,
        )


def formats(twin: Path, integer: Path) -> dict[str, tuple[float, int]]:
    """FP32 tensor -> scale and zero point of its codes, of all that both graphs quantize, in the twin's order.

    Raises:
        BundleError: they are no constants of the twin, the codes are not uint8, or there is no such tensor.
    """
    graph = load_model(twin, weights=False).graph
    held = {item.name: item for item in graph.initializer}
    counted = set(outputs(integer))
    found = {}
    for node in graph.node:
        if node.op_type != "QuantizeLinear" or node.output[0] not in counted or not node.output[0].endswith(CODES):
            continue
        if any(name not in held for name in node.input[1:]) or held[node.input[2]].data_type != TensorProto.UINT8:
            raise BundleError(f"{twin}: {node.output[0]} are no uint8 codes of a constant scale", REPAIR)
        scale, zero = (numpy_helper.to_array(held[name]).item() for name in node.input[1:])
        found[node.output[0].removesuffix(CODES)] = (scale, zero)
    if not found:
        raise BundleError(f"{integer}: shares no codes with {twin}", REPAIR)
    return found


def outputs(model: Path) -> list[str]:
    """Names of all tensors that a graph computes."""
    return [name for node in load_model(model, weights=False).graph.node for name in node.output]


def exact_observer(fp32: Path, names: Sequence[str]) -> Observe:
    """Tensors of the FP32 graph, its own inputs among them.

    Raises:
        BundleError: it lacks one.
    """
    made, fed = set(outputs(fp32)), {item.name for item in load_model(fp32, weights=False).graph.input}
    for name in names:
        if name not in made | fed:
            raise BundleError(f"{fp32}: has no tensor {name}", REPAIR)
    computed = [name for name in names if name in made]
    observer = ort_observer(fp32, computed) if computed else None

    def observe(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        return {**inputs, **(observer(inputs) if observer else {})}

    return observe


def with_given(integer: Path, names: Iterable[str]) -> bytes:
    """The integer graph with the codes that layers read as further inputs, and those it makes itself as outputs."""
    proto = load_model(integer, weights=False)
    given = {f"{name}{CODES}": f"{name}{GIVEN}" for name in names}
    for node in proto.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = given.get(name, name)
    proto.graph.input.extend(helper.make_tensor_value_info(name, TensorProto.UINT8, None) for name in given.values())
    return expose(proto.SerializeToString(), list(given))


def log_softmax(logits: IntArray, scale: float) -> FloatArray:
    """Log-probabilities of integer logits: l - log(sum(exp(l))) with l = scale * (logits - their maximum).

    Args:
        logits: int32 [..., V + 1].
        scale: real value of one.

    Returns:
        float32 [..., V + 1]; computed in float64, stable for any logits.
    """
    reals = (logits - logits.max(axis=-1, keepdims=True).astype(np.int64)) * np.float64(scale)
    found: FloatArray = (reals - np.log(np.exp(reals).sum(axis=-1, keepdims=True))).astype(np.float32)
    return found
