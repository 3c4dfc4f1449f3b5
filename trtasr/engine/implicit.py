"""Implicit quantization, which TensorRT 10 alone has: what a network needs before a calibrator's scales are used.

The builder takes INT8 where both tensors around a layer have a scale and INT8 is faster. It is told here which scales
the calibration cache does not name, and which layers are to stay in FP16 all the same.
"""

from collections.abc import Collection, Sequence
from typing import Any

from trtasr.engine.bindings import BuilderConfig, Layer, Network, OptimizationProfile, Trt
from trtasr.engine.cache import format_cache, parse_cache
from trtasr.engine.parsed import parsed_layer
from trtasr.errors import BuildError, first_few

RESHAPES = ("SHUFFLE", "SQUEEZE", "UNSQUEEZE")
WEIGHTED = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")
SHOWN = 3


def layers_of(network: Network) -> list[Layer]:
    """All layers, in the parser's order."""
    return [network.get_layer(index) for index in range(network.num_layers)]


def reshapes(network: Network) -> list[tuple[str, str]]:
    """(input, output) tensor names of the layers that only reshape: they compute nothing, so both share one scale.

    The parser wraps every one-dimensional convolution in them (``ONNXTRT_unsqueezeTensor_output``), under names that
    no ONNX graph holds; a calibration cache without those names keeps the convolution out of INT8.
    """
    layers = layers_of(network)
    return [(layer.get_input(0).name, layer.get_output(0).name) for layer in layers if layer.type.name in RESHAPES]


def covered(cache: str, pairs: Sequence[tuple[str, str]]) -> str:
    """A calibration cache in which both tensors of every pair have a scale as soon as one of them has.

    Args:
        cache: in TensorRT's text format; empty stays empty.
        pairs: (input, output) of layers that change no value.
    """
    if not cache:
        return cache
    header, scales = parse_cache(cache)
    known = dict(scales)
    for first, second in (*pairs, *reversed(pairs)):  # forward through chains of reshapes, then backward
        for name, other in ((first, second), (second, first)):
            if name not in known and other in known:
                known[name] = known[other]
    return format_cache(known, header)


def made_from(layer: Layer, nodes: Collection[str]) -> bool:
    """Whether a layer is one of these ONNX nodes, by its metadata or its name: the parser gives a node's layer both."""
    return parsed_layer(layer).node in nodes or layer.name in nodes


def refuse_unscaled(network: Network, cache: str, floating: Collection[str]) -> None:
    """Refuse a cache that would keep a convolution out of INT8 without a word.

    Args:
        network: as parsed.
        cache: `covered`; empty, where TensorRT takes its own ranges, is never refused.
        floating: ONNX nodes that stay out of INT8 anyway.

    Raises:
        BuildError: naming the convolutions, and the tensors that have no scale.
    """
    if not cache:
        return
    _, scales = parse_cache(cache)
    bare = [
        f"{layer.name} ({tensor.name})"
        for layer in layers_of(network)
        if layer.type.name == "CONVOLUTION" and not made_from(layer, floating)
        for tensor in (layer.get_input(0), layer.get_output(0))
        if tensor.name not in scales
    ]
    if bare:
        raise BuildError(
            f"the calibration cache has no scale for {first_few(bare, SHOWN)}: convolutions that would not be INT8",
            "make the scales anew with --recalibrate, or use --quantization explicit (the default)",
        )


def keep_floating(trt: Trt, network: Network, config: BuilderConfig, floating: Collection[str]) -> None:
    """Has the builder compute some nodes in FP16, wherever it has such a kernel.

    Left to itself it takes INT8 for whatever has scales and a kernel; depthwise convolutions on sm_75 have no good one,
    and in front of the scores INT8 costs most.

    Args:
        trt: the module tensorrt, version 10.
        network: as parsed; weakly typed.
        config: of this build.
        floating: ONNX nodes.
    """
    config.set_flag(trt.BuilderFlag.PREFER_PRECISION_CONSTRAINTS)
    for layer in layers_of(network):
        if layer.type.name in WEIGHTED and made_from(layer, floating):
            layer.precision = trt.DataType.HALF


def use_calibrator(trt: Trt, config: BuilderConfig, profile: OptimizationProfile, calibrator: Any) -> None:
    """Implicit quantization: INT8 by the calibrator's scales, FP16 where that is faster."""
    config.set_flag(trt.BuilderFlag.FP16)
    config.set_flag(trt.BuilderFlag.INT8)
    config.int8_calibrator = calibrator
    config.set_calibration_profile(profile)
