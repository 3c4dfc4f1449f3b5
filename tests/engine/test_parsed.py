"""From the parser's own layers to ONNX nodes, on layers as the parser writes them and with a real parser."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_graphs
from parser_layers import one_dimensional, single

from trtasr.engine.build import rtx_version
from trtasr.engine.parsed import ParsedLayer, nodes_behind

LAYERS = (
    *single("/a/Mul", "features", "masked"),
    *one_dimensional(("", ""), "/a/dw/Conv", "masked", "spread"),
    *single("/a/dw/quantize", "spread", "codes"),
    *single("/a/dw/dequantize", "codes", "restored"),
    *one_dimensional(("_45", "_49"), "/a/pw/Conv", "restored", "mixed"),
    *single("/a/Relu", "mixed", "active"),
    *one_dimensional(("_613", "_615"), "/b/Conv", "active", "scores"),
)


@pytest.mark.parametrize(
    ("failed", "nodes"),
    [
        ("/a/pw/Conv", ("/a/pw/Conv",)),
        ("ONNXTRT_unsqueezeTensor_45", ("/a/pw/Conv",)),
        ("ONNXTRT_squeezeTensor_49", ("/a/pw/Conv",)),
        ("ONNXTRT_squeezeTensor", ("/a/dw/Conv",)),  # what it is behind, not the quantization in front of the next
        ("ONNXTRT_unsqueezeTensor_45 + /a/pw/Conv + ONNXTRT_squeezeTensor_49 + /a/Relu", ("/a/pw/Conv", "/a/Relu")),
        ("{ForeignNode[ONNXTRT_unsqueezeTensor_45...ONNXTRT_squeezeTensor_49]}", ("/a/pw/Conv",)),
        ("{ForeignNode[ONNXTRT_unsqueezeTensor_45.../a/Relu]}", ("/a/pw/Conv", "/a/Relu")),
        (
            "{ForeignNode[/a/dw/quantize...ONNXTRT_unsqueezeTensor_45]}",
            ("/a/dw/quantize", "/a/dw/dequantize", "/a/pw/Conv"),
        ),
        (
            "{ForeignNode[ONNXTRT_unsqueezeTensor...ONNXTRT_squeezeTensor_615]}",
            tuple(filter(None, (x.node for x in LAYERS[1:]))),
        ),
        ("{ForeignNode[elsewhere...nowhere]}", ()),
        ("elsewhere", ()),
    ],
)
def test_the_nodes_behind_what_a_builder_names(failed, nodes):
    assert nodes_behind(LAYERS, [failed]) == nodes


def test_a_node_behind_several_names_is_one():
    assert nodes_behind(LAYERS, ["ONNXTRT_unsqueezeTensor_45", "/a/pw/Conv", "/b/Conv"]) == ("/a/pw/Conv", "/b/Conv")
    assert nodes_behind((), ["/a/pw/Conv"]) == ()


def test_a_circle_of_own_layers_ends():
    circle = (ParsedLayer("ONNXTRT_a", "", ("y",), ("x",)), ParsedLayer("ONNXTRT_b", "", ("x",), ("y",)))
    assert nodes_behind(circle, ["ONNXTRT_a"]) == ()


PARSE = """
import json, sys
import tensorrt_rtx as trt
from trtasr.engine.parsed import nodes_behind, parsed_layers
logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = trt.OnnxParser(network, logger)
assert parser.parse(open(sys.argv[1], "rb").read())
layers = parsed_layers(network)
own = [layer.name for layer in layers if layer.name.startswith(("ONNXTRT_unsqueeze", "ONNXTRT_squeeze"))]
print(json.dumps({name: nodes_behind(layers, [name]) for name in [*own, f"{{ForeignNode[{own[0]}...{own[1]}]}}"]}))
"""


@pytest.mark.skipif(rtx_version() is None, reason="TensorRT for RTX is not installed")
def test_a_real_parsers_own_layers_lead_to_their_convolutions(tmp_path):
    graph = tiny_graphs.fp32(tmp_path / "tiny.onnx")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", PARSE, str(graph)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found = json.loads(run.stdout)
    assert list(found.values()) == [["dw"], ["dw"], ["pw"], ["pw"], ["head"], ["head"], ["dw"]]
    assert next(iter(found)) == "ONNXTRT_unsqueezeTensor"
