"""Scales for the tensors that only the parser knows, with the real parser of TensorRT for RTX."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_graphs

from trtasr.engine.build import rtx_version
from trtasr.engine.cache import format_cache, parse_cache
from trtasr.engine.calibrator import covered

PARSE = """
import json, sys
import tensorrt_rtx as trt
from trtasr.engine.calibrator import reshapes
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
