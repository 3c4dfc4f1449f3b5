"""Q/DQ behind the ReLU of INT8 layers: where it goes, that codes stay codes, and what it costs elsewhere."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from quantized import with_qdq
from t4_graphs import first_part
from tiny_network import ops, sqnr_db, valid

from trtasr.errors import UsageError
from trtasr.graph.chains import chained, insert_chains, merge_pairs
from trtasr.graph.check import check_model, run_graph
from trtasr.graph.edit import consumers, producers
from trtasr.graph.masks import drop_pointwise_masks
from trtasr.graph.passes import passed
from trtasr.graph.qdq import decide, insert_qdq, int8_nodes
from trtasr.graph.switches import SWITCHES, switched
from trtasr.recipe import EngineShapes
from trtasr.targets import T4, targets_of
from trtasr.values import ScaleTable, TensorScale, WeightScale
from trtasr.zoo.network import bundled

pytestmark = pytest.mark.usefixtures("one_order_of_sums")
[CHAINED] = targets_of(EngineShapes(target="t4", chains="on"))


def chains(model):
    """ReLUs that only a Q reads."""
    readers = consumers(model)
    relus = [node.output[0] for node in model.graph.node if node.op_type == "Relu"]
    return [name for name in relus if {node.op_type for node in readers[name]} == {"QuantizeLinear"}]


def tiny(fp32, table):
    """The tiny network with Q/DQ, and with chains."""
    plain = with_qdq(fp32, table, T4.rules)
    before = plain.SerializeToString()
    changed = chained(plain, table)
    assert plain.SerializeToString() == before
    check_model(changed)
    return plain, changed


def test_a_relu_behind_an_int8_layer_is_read_through_a_pair(fp32, table):
    plain, changed = tiny(fp32, table)
    assert ops(fp32, "Relu") == 4  # one behind a residual sum, one in front of the decoder in floating point
    assert chains(plain) == []
    assert chains(changed) == ["/Relu_output_0", "/mconv.3/Relu_output_0"]
    assert ops(changed, "QuantizeLinear") == ops(plain, "QuantizeLinear") + 2
    int8 = int8_nodes(decide(fp32, T4.rules))
    assert insert_chains(fp32, table, int8) == changed


def test_the_rounding_in_front_of_a_depthwise_convolution_is_all_that_it_costs(fp32, table, feeds):
    plain, changed = tiny(fp32, table)
    exact, before, after = (run_graph(model, feeds) for model in (fp32, plain, changed))
    assert not np.array_equal(before["log_probs"], after["log_probs"])
    assert abs(sqnr_db(exact, after) - sqnr_db(exact, before)) < 3


def test_a_layer_in_floating_point_begins_no_chain(fp32, table):
    assert chains(chained(with_qdq(fp32, table, T4.rules, ["/mconv.1/*"]), table)) == ["/Relu_output_0"]
    assert chained(fp32, table) is fp32


MASK = "m1 = Clip(d, zero, one) m2 = Cast<to=1>(m1) m = Unsqueeze(m2, axis)"


def graph(body, outputs="float[B,4,T] y"):
    """Layers [first] and [second] of x [B, 4, T]; mask m of d."""
    model = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 20]>
        g (float[B,4,T] x, int64[B,T] d) => ({outputs}) {{ {MASK} {body} }}""")
    rng = np.random.default_rng(3)
    stored = {
        "zero": np.array(0),
        "one": np.array(1),
        "axis": np.array([1]),
        "w": rng.normal(size=(4, 4, 1)).astype(np.float32),
        "v": rng.normal(size=(4, 4, 3)).astype(np.float32),
        "square": rng.normal(size=(4, 4)).astype(np.float32),
        "b": rng.normal(size=4).astype(np.float32),
    }
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in stored.items())
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"node{index}"
    return model


def quantized(body, outputs="float[B,4,T] y", names=("first", "second"), **ranges):
    """With Q/DQ, and the table, which has a range of x and those given."""
    weights = {name: WeightScale(np.full(4, 0.02, np.float32), 0) for name in ("w", "v", "square")}
    table = ScaleTable({name: TensorScale(amax, "max") for name, amax in {"x": 3.0, **ranges}.items()}, weights)
    return insert_qdq(graph(body, outputs), table, names), table


FEEDS = {
    "x": np.random.default_rng(4).normal(size=(2, 4, 9)).astype(np.float32),
    "d": np.arange(9) + np.array([[-8], [-4]]),
}
FIRST = "[first] c = Conv<kernel_shape=[1]>(x, w, b)"
LAST = "[second] y = Conv<kernel_shape=[3], pads=[1,1]>"
EXACT = {
    "a mask": (f"{FIRST} r = Relu(c) p = Mul(r, m) {LAST}(p, v)", {"p": 2.0}),
    "two masks": (f"{FIRST} r = Relu(c) p = Mul(r, m) q = Mul(p, m) {LAST}(q, v)", {"q": 2.0}),
    "a layout": (f"{FIRST} r = Relu(c) t = Transpose<perm=[0,2,1]>(r) [second] y = MatMul(t, square)", {"t": 2.0}),
    "a pool": (f"{FIRST} r = Relu(c) p = MaxPool<kernel_shape=[3], pads=[1,1]>(r) {LAST}(p, v)", {"p": 2.0}),
    "a bias": (
        "t = Transpose<perm=[0,2,1]>(x) [first] e = MatMul(t, square) c = Add(e, b) r = Relu(c) "
        "u = Transpose<perm=[0,2,1]>(r) p = Mul(u, m) [second] y = Conv<kernel_shape=[3], pads=[1,1]>(p, v)",
        {"t": 3.0, "p": 2.0},
    ),
    "a pair of its own": (f"{FIRST} r = Relu(c) p = Mul(r, m) q = Mul(p, p) {LAST}(r, v) z = Add(y, q)", {"r": 2.0}),
}


@pytest.mark.parametrize("case", list(EXACT)[:-1])
def test_codes_that_an_int8_layer_reads_stay_the_same_bits(case):
    body, ranges = EXACT[case]
    outputs = "float[B,T,4] y" if case == "a layout" else "float[B,4,T] y"
    plain, table = quantized(body, outputs, **ranges)
    changed = chained(plain, table)
    check_model(changed)
    assert len(chains(changed)) == 1
    np.testing.assert_array_equal(run_graph(plain, FEEDS)["y"], run_graph(changed, FEEDS)["y"])


def test_a_pair_that_is_there_is_read_by_the_others_too():
    body, ranges = EXACT["a pair of its own"]
    plain, table = quantized(body, "float[B,4,T] z", **ranges)
    changed = chained(plain, table)
    check_model(changed)
    assert (chains(plain), chains(changed)) == ([], ["r"])
    assert ops(changed, "QuantizeLinear") == ops(plain, "QuantizeLinear")


STAY = {
    "a residual sum": f"{FIRST} s = Add(c, x) r = Relu(s) p = Mul(r, m) {LAST}(p, v)",
    "another reader in front of it": f"{FIRST} r = Relu(c) p = Mul(r, m) {LAST}(p, v) z = Tanh(c)",
    "a layer in floating point": f"{FIRST} r = Relu(c) [head] y = Conv<kernel_shape=[3], pads=[1,1]>(r, v)",
    "a product with something else": f"{FIRST} r = Relu(c) p = Mul(r, x) {LAST}(p, v)",
    "no ReLU": f"{FIRST} p = Mul(c, m) {LAST}(p, v)",
    "nothing but a Q": f"{FIRST} r = Relu(c) {LAST}(r, v)",
    "no range": f"{FIRST} r = Relu(c) p = Mul(r, m) [head] y = Conv<kernel_shape=[3], pads=[1,1]>(p, v)",
}


@pytest.mark.parametrize("case", STAY)
def test_what_would_fuse_no_better_keeps_its_form(case):
    names = ("first",) if "[head]" in STAY[case] else ("first", "second")
    outputs = "float[B,4,T] y, float[B,4,T] z" if "z =" in STAY[case] else "float[B,4,T] y"
    ranges = {} if case == "no range" else {"p": 2.0, "r": 2.0}
    model, table = quantized(STAY[case], outputs, names, **ranges)
    assert chained(model, table) is model


def test_an_output_of_the_graph_keeps_its_values():
    model, table = quantized(f"{FIRST} r = Relu(c) p = Mul(r, m) {LAST}(p, v)", "float[B,4,T] y, float[B,4,T] r", p=2.0)
    assert chained(model, table) is model


def test_a_scale_that_nothing_can_be_divided_by_is_refused():
    body = f"{FIRST} r = Relu(c) p = Mul(r, m) y = Tanh(p)"
    model, table = quantized(body, names=("first",), r=float("nan"))
    with pytest.raises(UsageError, match="activation 'r' has a scale that is not positive"):
        chained(model, table)


def test_a_pair_that_repeats_another_goes(fp32, table, feeds):
    """The mask in front of a pointwise convolution is dropped, and leaves its Q/DQ behind that of the ReLU."""
    body = f"{FIRST} r = Relu(c) p = Mul(r, m) [second] e = Conv<kernel_shape=[1]>(p, w) y = Mul(e, m)"
    plain, scales = quantized(body, p=2.0)
    unmasked = drop_pointwise_masks(chained(plain, scales))
    assert ops(unmasked, "Mul") == 1
    changed = merge_pairs(unmasked)
    check_model(changed)
    assert ops(changed, "QuantizeLinear") == ops(unmasked, "QuantizeLinear") - 1 == 2
    np.testing.assert_array_equal(run_graph(unmasked, FEEDS)["y"], run_graph(changed, FEEDS)["y"])
    assert producers(changed)["e"].input[0] == "r_dequantized"
    for model in (plain, *tiny(fp32, table)):
        assert merge_pairs(model) is model


def test_pairs_of_other_scales_stay():
    body = f"{FIRST} r = Relu(c) p = Mul(r, m) [second] e = Conv<kernel_shape=[1]>(p, w) y = Mul(e, m)"
    plain, scales = quantized(body, p=2.0)
    wider = replace(scales, activations={**scales.activations, "p": TensorScale(3.0, "max")})
    unmasked = drop_pointwise_masks(chained(plain, wider))
    assert merge_pairs(unmasked) is unmasked


def test_a_switch_turns_a_layer_off_and_the_pairs_of_others_with_it(fp32, table, feeds):
    """The harm of layers is measured without chains, whose rounding no switch would turn off."""
    assert CHAINED.switched is T4.quantize is insert_qdq
    names = int8_nodes(decide(fp32, T4.rules))
    exact = run_graph(fp32, feeds)
    for quantize, apart in ((CHAINED.switched, False), (CHAINED.quantize, True)):
        model = switched(fp32, quantize(fp32, table, names), names, {})
        off = run_graph(model, {**feeds, SWITCHES: np.zeros(len(names), np.float32)})
        assert (sqnr_db(exact, off) < 80) == apart


@pytest.mark.parametrize(("name", "count"), [("quartznet", 12), ("jasper", 5), ("conformer", 1), ("whisper", 0)])
def test_chains_of_bundled_networks(name, count, tmp_path):
    part = first_part(bundled(name), tmp_path)
    plain, changed = part.quantized(), part.quantized(CHAINED)
    assert len(chains(changed)) == len(chains(plain)) + count
    first, second = run_graph(plain, part.feeds), run_graph(changed, part.feeds)
    if name == "quartznet":  # depthwise convolutions read eleven of twelve
        exact = run_graph(part.fp32, part.feeds)
        assert sqnr_db(exact, first) - 3 < sqnr_db(exact, second)
    else:
        for output, value in first.items():
            np.testing.assert_array_equal(value, second[output])


def test_a_plan_of_quartznet_is_made_of_chains_without_repeated_pairs(tmp_path):
    part = first_part(bundled("quartznet"), tmp_path)
    whole = [change for change in CHAINED.passes if "half" not in change.__name__ and change.__name__ != "halve"]
    quantized_graph, lowered = part.quantized(CHAINED), passed(part.quantized(CHAINED), whole, "t4")
    assert len(chains(lowered)) == len(chains(quantized_graph)) == 12
    made_by = producers(lowered)
    for node in lowered.graph.node:
        if node.op_type == "QuantizeLinear":
            assert made_by[node.input[0]].op_type != "DequantizeLinear"
    first, second = run_graph(quantized_graph, part.feeds), run_graph(lowered, part.feeds)
    for item in range(len(first["output_lengths"])):
        np.testing.assert_array_equal(valid(first, item), valid(second, item))
