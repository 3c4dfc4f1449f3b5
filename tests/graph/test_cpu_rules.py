import onnx

from trtasr.graph.cpu_rules import before_gelu, cpu_rules, integer_form
from trtasr.graph.qdq import decide
from trtasr.values import Site

HEADER = '<ir_version: 9, opset_import: ["" : 20]>'


def graph(behind):
    """A convolution of three taps and what reads it."""
    return onnx.parser.parse_model(f"""{HEADER}
        agraph (float[1,2,8] features) => (float[1,2,8] y) <float[2,2,3] w = {{{",".join(["0.5"] * 12)}}}> {{
            [conv] c = Conv <kernel_shape=[3], pads=[1,1]> (features, w)
            {behind}
        }}""")


def test_only_a_convolution_that_gelu_alone_reads_stays_in_floating_point():
    assert before_gelu(graph("y = Gelu(c)")) == {"conv"}
    assert before_gelu(graph("y = Relu(c)")) == set()
    assert before_gelu(graph("g = Gelu(c) y = Add(g, c)")) == set()


def test_the_rule_is_named_in_the_decision():
    model = graph("y = Gelu(c)")
    (decision,) = decide(model, cpu_rules(model))
    assert (decision.quantized, decision.rule) == (False, "gelu")


def test_convolutions_over_one_or_two_axes_have_an_integer_form():
    image = Site("image", "Conv", (32, 1, 3, 3), 1, 32, 1, (3, 3), (2, 2))
    assert integer_form(image) is None
    assert integer_form(Site("volume", "Conv", (32, 1, 3, 3, 3), 1, 32, 1, (3, 3, 3), (1, 1, 1))) == "operator"
    assert integer_form(Site("mel", "Conv", (288, 80, 3), 80, 288, 1, (3,), (1,))) is None
