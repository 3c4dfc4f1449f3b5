"""Scales for the tensors that only the parser knows (by the real parser of TensorRT for RTX), pins and refusals."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import tiny_graphs

from trtasr.engine.build import rtx_version
from trtasr.engine.cache import format_cache, parse_cache
from trtasr.engine.implicit import covered, keep_floating, refuse_unscaled
from trtasr.errors import BuildError
from trtasr.graph.masks import mask_tensors

PARSE = """
import json, sys
import tensorrt_rtx as trt
from trtasr.engine.implicit import reshapes
builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
assert parser.parse(open(sys.argv[1], "rb").read())
layers = [network.get_layer(index) for index in range(network.num_layers)]
read = {layer.name: layer.get_input(0).name for layer in layers if layer.type == trt.LayerType.CONVOLUTION}
print(json.dumps([reshapes(network), read]))
"""


@pytest.fixture(scope="module")
def parsed(tmp_path_factory):
    """(input, output) of the reshapes, and what each convolution reads; in a process of its own."""
    if rtx_version() is None:
        pytest.skip("TensorRT for RTX is not installed")
    graph = tiny_graphs.fp32(tmp_path_factory.mktemp("implicit") / "tiny.onnx")
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    run = subprocess.run(
        [sys.executable, "-c", PARSE, str(graph)], capture_output=True, text=True, check=True, env=environment
    )
    pairs, read = json.loads(run.stdout)
    return [tuple(pair) for pair in pairs], read


def test_every_convolution_reads_a_tensor_the_cache_names(parsed):
    pairs, read = parsed
    scales = {name: np.float32(0.1 + i) for i, name in enumerate(("masked", "spread", "mixed", "active", "logits"))}
    assert set(read) >= {"dw", "pw", "head"}
    assert not set(read.values()) & set(scales)  # none by its ONNX name
    _, found = parse_cache(covered(format_cache(scales), pairs))
    assert [found[read[node]] for node in ("dw", "pw", "head")] == [scales[n] for n in ("masked", "spread", "active")]
    assert all(found[name] == scale for name, scale in scales.items())


def test_chains_are_covered_in_both_directions_and_strangers_left_alone():
    pairs = [("a", "b"), ("b", "c"), ("x", "y"), ("p", "q"), ("q", "r")]
    text = covered(format_cache({"a": np.float32(1), "r": np.float32(2)}), pairs)
    _, found = parse_cache(text)
    assert found == {"a": 1, "r": 2, "b": 1, "c": 1, "q": 2, "p": 2}


def test_no_cache_stays_none():
    assert covered("", [("a", "b")]) == ""


def test_a_masks_scale_reaches_what_the_parser_makes_of_it(parsed, tmp_path):
    pairs, _ = parsed
    ones = dict.fromkeys(mask_tensors(onnx.load(tiny_graphs.fp32(tmp_path / "tiny.onnx"))), np.float32(1 / 127))
    assert list(ones) == ["flat"]
    _, found = parse_cache(covered(format_cache({"masked": np.float32(0.1), **ones}), pairs))
    assert found["mask"] == np.float32(1 / 127)


class Layer:
    """A layer of a parsed network: its type and ONNX node, and the tensors that it reads and writes."""

    def __init__(self, kind, node, reads, writes):
        self.type, self.name = SimpleNamespace(name=kind), node
        self.metadata = f"[ONNX Layer: {node}]"
        self.num_inputs = self.num_outputs = 1
        self.tensors = SimpleNamespace(name=reads), SimpleNamespace(name=writes)
        self.precision = "unset"

    def get_input(self, index):
        return self.tensors[index]

    def get_output(self, index):
        return self.tensors[1 + index]


def network(*layers):
    return SimpleNamespace(num_layers=len(layers), get_layer=lambda index: layers[index])


def test_a_convolution_without_a_scale_is_refused_by_name():
    parsed = network(
        Layer("CONVOLUTION", "/a/Conv", "x", "a"),
        Layer("ACTIVATION", "/a/Relu", "a", "b"),  # may run in any type
        Layer("CONVOLUTION", "/b/Conv", "b", "c"),
    )
    scales = {name: np.float32(0.1) for name in ("x", "a", "c")}
    with pytest.raises(BuildError, match=r"no scale for /b/Conv \(b\): convolutions that would not be INT8") as caught:
        refuse_unscaled(parsed, format_cache(scales), ())
    assert "--recalibrate" in caught.value.repair
    refuse_unscaled(parsed, format_cache(scales), ("/b/Conv",))  # it stays in FP16
    refuse_unscaled(parsed, format_cache(scales | {"b": np.float32(0.1)}), ())
    refuse_unscaled(parsed, "", ())  # TensorRT takes its own ranges


def test_what_stays_floating_is_pinned_and_nothing_else():
    layers = [
        Layer("CONVOLUTION", "/dw/Conv", "x", "a"),
        Layer("SHUFFLE", "/dw/Conv", "a", "b"),  # a reshape of the same node keeps its type
        Layer("CONVOLUTION", "/pw/Conv", "b", "c"),
        Layer("MATRIX_MULTIPLY", "/head/MatMul", "c", "d"),
    ]
    flags = []
    trt = SimpleNamespace(
        BuilderFlag=SimpleNamespace(PREFER_PRECISION_CONSTRAINTS="prefer"), DataType=SimpleNamespace(HALF="half")
    )
    keep_floating(trt, network(*layers), SimpleNamespace(set_flag=flags.append), ("/dw/Conv", "/head/MatMul"))
    assert [layer.precision for layer in layers] == ["half", "unset", "unset", "half"]
    assert flags == ["prefer"]
