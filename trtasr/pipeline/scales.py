"""The table stage: one scale table of all parts, from calibration features; part by part, layer by layer.

A part is observed behind the full-precision parts before it. Where weights depend on what earlier layers compute, it
is walked instead: the quantized stream of a part goes on into the next.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import onnx
import onnx.numpy_helper

from trtasr.engine.sessions import observe
from trtasr.graph.bias import corrected_biases, moments_of, watched
from trtasr.graph.center import center, centerable
from trtasr.graph.own_part import own_patterns
from trtasr.graph.products import product_layers, products_of
from trtasr.graph.tensors import activation_tensors, weight_tensors
from trtasr.network.network import Exported, Part, feeds
from trtasr.pipeline.correct import Corrected, Given, correct, group_ranks, vulnerabilities
from trtasr.quant.centering import centering, collect_channels
from trtasr.quant.ranges import collect
from trtasr.quant.scales import scale_table
from trtasr.recipe import Quantization
from trtasr.values import Array, CalibrationSet, Example, FloatArray, ScaleTable

logger = logging.getLogger(__name__)

FIELDS = ("activations", "weights", "alphas", "offsets", "corrected", "products")


@dataclass
class Centers:
    """What centering has decided for one part.

    Attributes:
        offsets: output of a depthwise convolution -> float32 [C] subtracted behind it.
        shifted: tensor that carries the shifted values -> the same offsets; fixed: -> its clipping magnitude.
    """

    offsets: dict[str, FloatArray] = field(default_factory=dict)
    shifted: dict[str, FloatArray] = field(default_factory=dict)
    fixed: dict[str, float] = field(default_factory=dict)


def make_table(
    exported: Exported, features: CalibrationSet, quantization: Quantization, settings: Mapping[str, Any]
) -> ScaleTable:
    """One table of all parts: center one-sided channels, then scale every observed range, part after part.

    Args:
        exported: the network, not centered.
        features: with tokens where a decoder reads them.
        quantization: the recipe's section; a pattern of `exclude` may match nodes of any part.
        settings: that the table notes.

    Raises:
        UsageError: an item without tokens, or FADE with fewer than two utterances. RecipeError: an exclude pattern that
            matches no node.
    """
    models, examples = [onnx.load(file) for file in exported.files], features.examples()
    patterns = own_patterns(quantization.exclude, models)
    sections = [replace(quantization, exclude=own) for own in patterns]
    made = walked_tables if quantization.walked else observed_tables
    whole: dict[str, dict[str, Any]] = {name: {} for name in FIELDS}
    for table in made(exported, models, sections, examples):
        for name in FIELDS:
            own = getattr(table, name)
            assert not whole[name].keys() & own.keys(), f"two graphs have {name} of the same name"
            whole[name] |= own
    return ScaleTable(**whole, settings=settings)


def observed_tables(
    exported: Exported, models: Sequence[onnx.ModelProto], sections: Sequence[Quantization], examples: list[Example]
) -> Iterator[ScaleTable]:
    """The table of every part from what full precision computes; one utterance's tensors are held at a time."""
    for index, (model, section) in enumerate(zip(models, sections, strict=True)):
        found = centers(exported, index, model, section, examples)
        centered = center(model, found.offsets)
        source = exported.files[index] if not found.offsets else centered.SerializeToString()
        inputs = feeds(exported.network, exported.files, examples, index)
        second = [node.input[0] for node in product_layers(centered)] if section.learns_products else []
        moments = moments_of(centered, second) if section.correction == "bias" else {}
        histograms = collect(watched(observe(source, activation_tensors(centered), inputs), moments))
        table = scale_table(histograms, weight_arrays(centered), section.ranges, section.headroom, found.fixed)
        biases = corrected_biases(centered, table.weights, moments, found.shifted) if moments else {}
        products = products_of(centered, moments, section.gptq_damping) if section.learns_products else {}
        yield replace(table, offsets=found.offsets, corrected=biases, products=products)


def walked_tables(
    exported: Exported, models: Sequence[onnx.ModelProto], sections: Sequence[Quantization], examples: list[Example]
) -> Iterator[ScaleTable]:
    """The table of every part whose layers are decided one after the other, each for what those before it did."""
    ranks = group_ranks(scores(models, sections), exported.original.block)
    full: list[dict[str, Array]] = [{} for _ in examples]
    quantized = full
    for index, (part, model, section) in enumerate(zip(exported.network.parts, models, sections, strict=True)):
        found = centers(exported, index, model, section, examples)
        graph = with_outputs(center(model, found.offsets), part)
        given = Given(graph, found.shifted, found.fixed, section, ranks, part.judged)
        last = part is exported.network.last
        behind = None if quantized is full else inputs_of(part, examples, quantized, last)
        done, streams = correct(given, inputs_of(part, examples, full, last), behind)
        yield replace(walked_table(given, done), offsets=found.offsets)
        if not last:
            quantized = [seen | own for seen, own in zip(quantized, streams.quantized, strict=True)]
            full = [seen | own for seen, own in zip(full, streams.full, strict=True)]
            del streams  # so that the last part lets go of them


def inputs_of(
    part: Part, examples: Sequence[Example], streams: list[dict[str, Array]], last: bool
) -> Iterator[dict[str, Array]]:
    """Inputs of a part behind a stream; the last part lets go of what those before it gave, example by example."""
    for index, example in enumerate(examples):
        yield part.inputs(example, streams[index])
        if last:
            streams[index] = {}


def centers(
    exported: Exported, index: int, model: onnx.ModelProto, section: Quantization, examples: list[Example]
) -> Centers:
    """Offsets of the one-sided channels of a part, as full precision has them."""
    found = Centers()
    if not section.center or section.weight_only:  # without ranges there is nothing to gain
        return found
    if carriers := centerable(model):
        inputs = feeds(exported.network, exported.files, examples, index)
        channels = collect_channels(observe(exported.files[index], tuple(carriers), inputs))
        for name, seen in channels.items():
            offset, amax = centering(seen, section.headroom)
            if offset.any():
                found.offsets[name] = offset
                found.shifted |= dict.fromkeys(carriers[name], offset)
                found.fixed |= dict.fromkeys(carriers[name], amax)
    return found


def with_outputs(graph: onnx.ModelProto, part: Part) -> onnx.ModelProto:
    """The graph without outputs that nobody reads: caches and choices of a decoder need not be kept."""
    if part.kept is not None:
        kept = [output for output in graph.graph.output if output.name in (part.judged, *part.kept)]
        del graph.graph.output[:]
        graph.graph.output.extend(kept)
    return graph


def scores(models: Sequence[onnx.ModelProto], sections: Sequence[Quantization]) -> dict[str, float]:
    """Vulnerability of every quantized layer of all parts for FADE; nothing for those who do not ask."""
    found: dict[str, float] = {}
    for model, section in zip(models, sections, strict=True):
        found |= vulnerabilities(model, section) if section.correction == "fade" else {}
    return found


def walked_table(given: Given, done: Corrected) -> ScaleTable:
    """The table of corrected layers: ranges of what the quantized network computes, weights on their grid."""
    section = given.quantization
    logger.info(
        "%s: %d layers, %s %.1f dB on the calibration features",
        section.correction,
        len(done.weights),
        given.output,
        done.sqnr_db,
    )
    chosen = set(activation_tensors(given.graph))
    histograms = {name: found for name, found in done.histograms.items() if name in chosen}
    table = scale_table(histograms, weight_arrays(given.graph), section.ranges, section.headroom, given.fixed)
    return replace(table, weights={**table.weights, **done.weights}, alphas=done.alphas, corrected=done.constants)


def weight_arrays(graph: onnx.ModelProto) -> dict[str, tuple[FloatArray, int]]:
    """Initializer name -> (float32 weight, output-channel axis) of every weighted node."""
    stored = {tensor.name: tensor for tensor in graph.graph.initializer}
    return {w.name: (onnx.numpy_helper.to_array(stored[w.name]), w.axis) for w in weight_tensors(graph)}
