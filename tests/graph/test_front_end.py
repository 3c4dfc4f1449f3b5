import onnx
import pytest

from trtasr.graph.front_end import position_rules, stem, waveform_front_end, waveform_rules
from trtasr.graph.qdq import decide

HEADER = '<ir_version: 9, opset_import: ["" : 20]>'


def floats(count):
    return "{" + ",".join(["0.5"] * count) + "}"


def graph(channels=1):
    """Two convolutions with a norm between them, a linear layer beside a residual, and a convolution behind both."""
    return onnx.parser.parse_model(f"""{HEADER}
        agraph (float[1,{channels},16] features) => (float[1,2,12] y) <
            float[2,{channels},3] w1 = {floats(6 * channels)}, float[2,2,3] w2 = {floats(12)},
            float[12,12] w3 = {floats(144)}, float[2,2,1] w4 = {floats(4)}> {{
            [first] a = Conv <kernel_shape=[3]> (features, w1)
            b = Tanh(a)
            [second] c = Conv <kernel_shape=[3]> (b, w2)
            d = Gelu(c)
            [linear] e = MatMul(d, w3)
            f = Add(d, e)
            [behind] y = Conv <kernel_shape=[1]> (f, w4)
        }}""")


def test_a_front_end_ends_at_the_first_linear_layer():
    assert waveform_front_end(graph()) == {"first", "second"}


def test_features_of_several_rows_have_no_such_front_end():
    assert waveform_front_end(graph(2)) == set()


def test_a_plane_of_one_channel_is_no_waveform():
    plane = onnx.parser.parse_model(f"""{HEADER}
        agraph (float[1,1,8,8] features) => (float[1,2,6,6] y) <float[2,1,3,3] w = {floats(18)}> {{
            [plane] y = Conv <kernel_shape=[3,3]> (features, w)
        }}""")
    assert waveform_front_end(plane) == set()


def test_a_stem_is_what_reads_several_positions_in_front_of_the_first_linear_layer():
    assert stem(graph(2)) == {"first", "second"}


def test_a_network_of_convolutions_alone_has_no_stem(fp32):
    assert stem(fp32) == set()


def test_planes_and_pointwise_convolutions_are_no_stem(conformer):
    assert stem(conformer.fp32) == set()


@pytest.mark.parametrize(("channels", "rule"), [(1, "waveform"), (2, "stem")])
def test_a_stem_is_named_in_the_decision_too(channels, rule):
    model = graph(channels)
    assert {item.node: item.rule for item in decide(model, position_rules(model))}["second"] == rule


@pytest.mark.parametrize(("node", "rule"), [("first", "waveform"), ("second", "waveform"), ("behind", "int8")])
def test_the_rule_is_named_in_the_decision(node, rule):
    model = graph()
    assert {item.node: item.rule for item in decide(model, waveform_rules(model))}[node] == rule
