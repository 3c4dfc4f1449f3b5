"""The quantized graph of each target: INT8 layers have the table's weights, all others their own."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from exported import exported, initializers
from onnx import TensorProto
from stored_table import table_from_json
from tiny_archive import write_archive

from trtasr.engine.sessions import open_session
from trtasr.errors import UsageError
from trtasr.graph.center import center
from trtasr.graph.check import run_graph
from trtasr.graph.corrected import with_corrections
from trtasr.graph.own_part import own_part
from trtasr.pipeline.scales import make_table
from trtasr.quant.scales import quantize_weight
from trtasr.recipe import Quantization
from trtasr.targets import TARGETS
from trtasr.targets.place import lower, place
from trtasr.values import CalibrationSet, ScaleTable, TensorScale, WeightScale

LEFT = "/encoder/encoder.1/mconv.1/conv/Conv"


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Centered graph of a tiny QuartzNet and its table of four-bit FADE-corrected weights."""
    folder = tmp_path_factory.mktemp("place")
    network = exported(write_archive(folder / "tiny.nemo"), folder)
    batch = np.random.default_rng(0).normal(size=(4, 64, 80)).astype(np.float32)
    features = CalibrationSet((batch,), (np.full(4, 80),), "noise")
    table = make_table(network, features, Quantization(correction="fade", weight_bits=4), {})
    return center(onnx.load(network.files[0]), table.offsets), table, features


def weight_of(model, name):
    return next(node.input[1] for node in model.graph.node if node.name == name)


@pytest.mark.parametrize("target", ["t4", "t4-rtx", "cpu"])
def test_a_layer_left_in_float_keeps_its_weight_and_bias(parts, target):
    centered, table, _ = parts
    placed = place(centered, table, TARGETS[target], [LEFT])
    before, after = initializers(centered), initializers(placed.fp32)
    read = {node.name: node.input[1:3] for node in centered.graph.node if node.op_type == "Conv"}
    assert LEFT not in placed.int8
    for node, names in read.items():
        weight = names[0]
        if node in placed.int8 and weight in table.corrected:
            codes = quantize_weight(after[weight], table.weights[weight].scales, table.weights[weight].axis)
            assert np.abs(codes).max() <= 7
            np.testing.assert_array_equal(after[weight], table.corrected[weight])
        else:
            np.testing.assert_array_equal(after[weight], before[weight])
    assert not np.array_equal(table.corrected[read[LEFT][0]], before[read[LEFT][0]])  # it had one to be ignored
    np.testing.assert_array_equal(after[read[LEFT][1]], before[read[LEFT][1]])


@pytest.mark.parametrize("target", ["t4-rtx", "cpu"])
def test_with_every_layer_left_the_graph_is_the_fp32_graph(parts, target):
    centered, table, features = parts
    model = place(centered, table, TARGETS[target], ["*"]).model
    feed = {"features": features.batches[0], "lengths": features.lengths[0]}
    exact, found = (open_session(graph.SerializeToString()).run(["log_probs"], feed)[0] for graph in (centered, model))
    np.testing.assert_allclose(found, exact, atol=1e-5)


def test_corrections_of_another_graph_are_refused(parts):
    centered, _, _ = parts
    foreign = ScaleTable({}, {}, corrected={"nowhere": np.zeros(3, np.float32)})
    with pytest.raises(UsageError, match="nowhere"):
        with_corrections(centered, foreign, [LEFT])


def lowered(bundle, part, tmp_path):
    """The graph that the plan of a part is built from, and the table."""
    source = tmp_path / f"{part}.fp32.onnx"
    source.write_bytes((bundle / source.name).read_bytes())
    table = table_from_json(json.loads((bundle / "scales.json").read_text(encoding="utf-8")))
    return onnx.load(lower(source, own_part(table, onnx.load(source)), TARGETS["t4-rtx"], ()).graph), table


def test_the_fp16_graph_of_a_plan_carries_the_scales_of_the_table(ctc_bundle, tmp_path):
    model, table = lowered(ctc_bundle.bundle, "model", tmp_path)
    constants = initializers(model)
    expected = {float(entry.scale) for entry in table.activations.values()}
    found = [constants[node.input[1]] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert len(found) >= 5
    assert all(scale.dtype == np.float16 and float(scale) in expected for scale in found)
    weights = {entry.scales.tobytes() for entry in table.weights.values()}
    nodes = {node.name: node for node in model.graph.node}
    made_by = {name: node for node in model.graph.node for name in node.output}
    gains = {name.removesuffix("/gain"): node.input[1] for name, node in nodes.items() if name.endswith("/gain")}
    assert len(gains) == 6
    for name, gain in gains.items():  # one scale per product, a power of two, and a gain per channel
        scale = constants[made_by[nodes[name].input[1]].input[1]]
        assert scale.dtype == constants[gain].dtype == np.float16
        assert (scale.astype(np.float32) * constants[gain]).tobytes() in weights


def test_the_graph_of_a_decoders_plan_keeps_its_cache_in_half(pair_bundle, tmp_path):
    graph = lowered(pair_bundle.bundle, "decoder", tmp_path)[0].graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    halves = {name for name, kind in types.items() if kind == TensorProto.FLOAT16}
    kinds = (f"{kind}_{half}" for kind in ("cross", "past", "present") for half in ("key", "value"))
    assert halves == {f"{kind}.{layer}" for kind in kinds for layer in (0, 1)}
    assert types["logits"] == types["token_bias"] == TensorProto.FLOAT


def test_a_layer_without_an_int8_form_on_the_cpu_keeps_its_weight_there():
    """A convolution before GELU stays in floating point on the CPU alone: the correction is for other targets."""
    weight = np.full((2, 2, 3), 0.5, np.float32)
    model = onnx.parser.parse_model(f"""<ir_version: 9, opset_import: ["" : 20]>
        agraph (float[1,2,8] features) => (float[1,2,8] y) <float[2,2,3] w = {{{",".join(["0.5"] * 12)}}}> {{
            [conv] c = Conv <kernel_shape=[3], pads=[1,1]> (features, w)
            y = Gelu(c)
        }}""")
    scale, channels = TensorScale(2.0, "max"), WeightScale(np.full(2, 0.01, np.float32), 0)
    table = ScaleTable({"features": scale, "c": scale}, {"w": channels}, corrected={"w": 2 * weight})
    placed = place(model, table, TARGETS["cpu"], [])
    assert [item.rule for item in placed.decisions] == ["gelu"]
    np.testing.assert_array_equal(initializers(placed.fp32)["w"], weight)


def test_scales_of_run_time_read_channels_that_are_not_centered(parts):
    centered, table, features = parts

    def unquantized(model, _table, _int8):
        return model

    target = replace(TARGETS["t4-rtx"], quantize=unquantized, dynamic=unquantized)
    placed = place(centered, replace(table, corrected={}), target, [])
    inputs = {"features": features.batches[0], "lengths": features.lengths[0]}
    first, second = run_graph(centered, inputs), run_graph(placed.model, inputs)
    assert table.offsets
    np.testing.assert_allclose(first["log_probs"], second["log_probs"], atol=1e-4)
    made = {name for node in placed.model.graph.node for name in node.output}
    assert all(f"{name}_uncentered" in made and name not in made for name in table.offsets)
