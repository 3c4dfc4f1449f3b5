"""A target in two forms: which of them the engine is, and whose files are there then."""

from dataclasses import replace

import onnx
import pytest

from trtasr.errors import BuildError, NoKernelError
from trtasr.pipeline.budget import Trial, switched_part
from trtasr.pipeline.build import build, orders
from trtasr.pipeline.scales import make_table
from trtasr.recipe import EngineShapes, Recipe
from trtasr.results import Built, LayerRow
from trtasr.targets import T4, targets_of

[AUTO] = targets_of(EngineShapes(target="t4", chains="auto"))
KERNEL = LayerRow("a", "CaskConvolution", ("Int8", "Int8"), ("Half",), ("/a",), int8=True)
GLUE = replace(KERNEL, int8=False)
POINTWISE = "/encoder/encoder.0/mconv.1/conv/Conv"


@pytest.fixture(scope="module")
def table(ctc):
    """Scales of a tiny QuartzNet."""
    return make_table(ctc.exported, ctc.features, ctc.plain, {})


@pytest.fixture
def given(ctc, table, tmp_path):
    """What its engines are built from, in a folder of its own."""
    (order,) = orders(ctc.exported, table, Recipe("tiny", "tiny"), None, lambda method: None)
    (tmp_path / "model.fp32.onnx").write_bytes(order.graph.read_bytes())
    return (replace(order, graph=tmp_path / "model.fp32.onnx"),)


def pairs(file):
    return sum(node.op_type == "QuantizeLinear" for node in onnx.load(file).graph.node)


def both(given, chains, plain):
    """Build with a builder that gives each form these layers, or that error."""

    def builder(found):
        def plan(order):
            if isinstance(found, Exception):
                raise found
            order.plan.parent.mkdir(exist_ok=True)
            order.plan.write_bytes(str(len(found)).encode())
            return Built("", 1, found)

        return plan

    rival = replace(T4, build=builder(plain))
    return build(given, replace(AUTO, build=builder(chains), rival=rival))


@pytest.mark.parametrize(
    ("chains", "plain", "names"),
    [
        ((KERNEL, GLUE), (KERNEL, GLUE, GLUE), ["chains", "plain"]),
        ((KERNEL,) * 3, (KERNEL,), ["chains", "plain"]),
        ((KERNEL,), (KERNEL,), ["plain", "chains"]),
        ((replace(KERNEL, outputs=("Int8",)),), (KERNEL,), ["chains", "plain"]),
        ((KERNEL, GLUE), (KERNEL,), ["plain", "chains"]),
    ],
)
def test_the_lesser_form_is_the_engine_and_leaves_its_files(given, chains, plain, names):
    engine = both(given, chains, plain)
    assert [form.name for form in engine.forms] == names
    assert [form.chosen for form in engine.forms] == [True, False]
    counts = {form.name: form.counts.kernels for form in engine.forms}
    assert counts == {"chains": len(chains), "plain": len(plain)}
    folder = given[0].graph.parent
    assert (folder / "t4" / "model.plan").read_bytes() == str(counts[names[0]]).encode()
    alone = build(given, replace(T4, build=None))
    assert engine.graphs == alone.graphs
    assert engine.decisions == alone.decisions


def test_the_graph_is_that_of_the_form_that_was_chosen(given):
    folder, found = given[0].graph.parent, {}
    for chains in ((KERNEL,), (KERNEL, GLUE, GLUE)):
        engine = both(given, chains, (KERNEL, GLUE))
        found[engine.forms[0].name] = pairs(folder / "model.qdq.onnx")
        assert {path.name for path in folder.iterdir()} == {"model.fp32.onnx", "model.qdq.onnx", "t4"}
    assert found["chains"] == found["plain"] + 2


@pytest.mark.parametrize("refused", ["chains", "plain"])
def test_a_form_that_is_refused_leaves_the_other(given, refused, caplog):
    error = BuildError("the parser refused it", "another graph")
    engine = both(given, *(error if name == refused else (KERNEL,) for name in ("chains", "plain")))
    (only,) = engine.forms
    assert (only.name == refused, only.chosen) == (False, True)
    assert (given[0].graph.parent / "t4" / "model.plan").read_bytes() == b"1"
    assert f"not built with {refused}: the parser refused it" in caplog.text


def test_an_error_of_both_ends_the_build(given):
    with pytest.raises(BuildError, match="second"):
        both(given, BuildError("first", ""), NoKernelError("second", "", (POINTWISE.replace("0", "9"),)))


def test_the_harm_of_a_layer_is_that_of_the_plain_form(ctc, table):
    recipe = Recipe("tiny", "tiny")
    plain, chains = (Trial(ctc.exported, table, recipe, target, ()) for target in (T4, AUTO))
    assert switched_part(chains, 0) == switched_part(plain, 0)
    assert chains.placed(())[0].model != plain.placed(())[0].model
