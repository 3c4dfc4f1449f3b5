"""FP32 against an engine, layer by layer: where the error comes from."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import onnx

from trtasr.engine.build_tensorrt import TensorrtOptions, build_tensorrt, require_tensorrt
from trtasr.engine.compare import Feed, Observe, layer_sqnr, ort_observer, plan_observer, shared_tensors
from trtasr.engine.faults import model_errors
from trtasr.engine.sessions import load_model
from trtasr.errors import UsageError
from trtasr.files.scratch import scratch
from trtasr.graph.halve import halve
from trtasr.graph.tensors import layer_outputs
from trtasr.network.pair_run import Texts, decoder_of
from trtasr.pipeline.evaluate import feeds
from trtasr.pipeline.gpu import INT8
from trtasr.pipeline.lower import profile
from trtasr.pipeline.opened import Opened, compared_utterances, open_engine, usable_gpu
from trtasr.pipeline.pair_speech import decoder_observer, spoken_tokens

logger = logging.getLogger(__name__)


def compare_layers(path: Path, target: str, manifest: Path | None, limit: int) -> dict[str, float]:
    """SQNR in dB of every convolution's and matrix product's output, in graph order, FP32 as the reference.

    Behind a linear layer the sum with its bias counts as an output too: engines that add it inside have only that.

    The FP32 graph runs in ONNX Runtime. A `t4` engine runs on its GPU, as a plan built for this with those tensors as
    outputs (which keeps TensorRT from fusing across them: the numbers are of its kernels, not of its fusions); any
    other engine, a `t4` one without its GPU, and an encoder-decoder runs as its graph in ONNX Runtime.

    Args:
        path: bundle.
        target: engine of it.
        manifest: speech to compare on; None: the recipe's.
        limit: utterances at most.

    Raises:
        UsageError: no speech to compare on, or no such engine.
    """
    opened = open_engine(path)
    items = feeds(compared_utterances(opened, target, manifest, limit))
    with model_errors(f"{path}: {target} against fp32"):
        if opened.texts.generation:
            return compare_pair_layers(opened.graph("fp32"), opened.graph(target), items, opened.texts)
        return compare_ctc_layers(opened, target, items)


def compare_ctc_layers(opened: Opened, target: str, items: Sequence[Feed]) -> dict[str, float]:
    """The same for a CTC model.

    Args:
        opened: bundle.
        target: engine of it.
        items: features and lengths of single utterances.

    Raises:
        UsageError: FP32 and this engine share no tensor.
    """
    reference, candidate = opened.graph("fp32"), opened.graph(target)
    made = layer_outputs(load_model(reference))
    names = shared_tensors((reference, candidate), made)
    if not names:
        raise UsageError(
            f"{opened.bundle.path}: the {target} graph shares no inner tensor with the FP32 graph",
            "compare the layers of another engine with --target",
        )
    if len(names) < len(made):
        logger.info(
            "%d of %d layer outputs exist in the %s graph as well; the others are codes or fused there",
            len(names),
            len(made),
            target,
        )
    with ExitStack() as stack:
        if target == INT8 and usable_gpu():
            engine = marked_plan(opened, candidate, names, stack)
        else:
            engine = ort_observer(candidate, names)
        return layer_sqnr(ort_observer(reference, names), engine, names, items)


def compare_pair_layers(reference: Path, candidate: Path, items: Sequence[Feed], texts: Texts) -> dict[str, float]:
    """The same for both graphs of an encoder-decoder, each decoder behind its own encoder, on the tokens FP32 says.

    Args:
        reference: FP32 encoder graph; its decoder lies beside it.
        candidate: quantized encoder graph, likewise.
        items: features and lengths of single utterances.
        texts: rules of generation.
    """
    encoders, decoders = (reference, candidate), (decoder_of(reference), decoder_of(candidate))
    names = shared_tensors(encoders, layer_outputs(load_model(reference)))
    found = layer_sqnr(ort_observer(reference, names), ort_observer(candidate, names), names, items)
    tokens = [said for _, said in spoken_tokens(reference, items, texts)]
    names = shared_tensors(decoders, layer_outputs(load_model(decoders[0])))
    first, second = (decoder_observer(encoder, names, tokens) for encoder in encoders)
    return found | layer_sqnr(first, second, names, items)


def marked_plan(opened: Opened, qdq: Path, names: Sequence[str], stack: ExitStack) -> Observe:
    """The engine's graph built once more with inner tensors as outputs, ready to run until `stack` closes."""
    folder = stack.enter_context(scratch())
    model, graph = halve(load_model(qdq)), folder / "marked.onnx"
    inferred = {value.name: value for value in onnx.shape_inference.infer_shapes(model).graph.value_info}
    model.graph.output.extend(inferred[name] for name in names)
    onnx.save(model, graph)
    shapes = profile(opened.recipe.engine, opened.frontend.frames_per_second, opened.rows)
    logger.info("building the engine again with %d tensors as outputs", len(names))
    build_tensorrt(graph, folder / "t4" / "marked.plan", shapes, {}, TensorrtOptions(), require_tensorrt())
    return stack.enter_context(plan_observer(folder / "t4" / "marked.plan"))
