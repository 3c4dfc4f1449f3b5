"""Builds that a builder refuses: what is freed, how often it is tried, and what is known at the end."""

from dataclasses import replace

import pytest

from trtasr.errors import BuildError, MissingError, NoKernelError
from trtasr.pipeline.build import build, orders
from trtasr.pipeline.scales import make_table
from trtasr.recipe import Recipe
from trtasr.results import Built
from trtasr.targets import T4
from trtasr.targets.choose import with_depthwise
from trtasr.targets.t4 import CALIBRATED

DEPTHWISE = [
    "/encoder/encoder.0/mconv.0/conv/Conv",
    "/encoder/encoder.1/mconv.0/conv/Conv",
    "/encoder/encoder.1/mconv.5/conv/Conv",
]
POINTWISE = "/encoder/encoder.0/mconv.1/conv/Conv"


@pytest.fixture(scope="module")
def given(ctc):
    """What the engines of a tiny QuartzNet are built from."""
    table = make_table(ctc.exported, ctc.features, ctc.plain, {})
    return orders(ctc.exported, table, Recipe("tiny", "tiny"), None, lambda method: None)


def builder(refusals, seen):
    """A builder that first refuses with these errors; `seen` gets what each build keeps in floating point."""
    left = list(refusals)

    def plan(order):
        seen.append(order.floating)
        if left:
            raise left.pop(0)
        order.plan.parent.mkdir(exist_ok=True)
        order.plan.write_bytes(b"plan")
        return Built("", 4)

    return plan


def no_kernel(*nodes, behind=()):
    return NoKernelError("no kernel", "none", nodes, behind)


def built(given, target, *refusals):
    """Rules by node, and what each build kept in floating point."""
    seen = []
    engine = build(given, replace(target, build=builder(refusals, seen)))
    return {decision.node: decision.rule for decision in engine.decisions}, seen


def freed(rules):
    return [node for node, rule in rules.items() if rule == "fallback"]


def test_one_depthwise_convolution_without_a_kernel_frees_all_of_them_in_one_build(given, caplog):
    rules, seen = built(given, with_depthwise(T4), no_kernel(DEPTHWISE[1]))
    assert freed(rules) == DEPTHWISE
    assert len(seen) == 2
    assert all(node in caplog.text for node in DEPTHWISE)


def test_a_pointwise_convolution_without_a_kernel_frees_itself(given):
    rules, seen = built(given, with_depthwise(T4), no_kernel(POINTWISE))
    assert freed(rules) == [POINTWISE]
    assert len(seen) == 2


def test_what_the_child_found_behind_a_name_is_freed(given):
    region = "{ForeignNode[ONNXTRT_unsqueezeTensor_45...ONNXTRT_squeezeTensor_49]}"
    assert freed(built(given, T4, no_kernel(region, behind=(POINTWISE, "x/DequantizeLinear")))[0]) == [POINTWISE]
    with pytest.raises(NoKernelError, match="no kernel"):  # of no node that is INT8
        built(given, T4, no_kernel(region, behind=("x/DequantizeLinear",)))


def test_the_error_that_ends_a_build_keeps_what_the_builds_before_it_showed(given):
    refusals = no_kernel(DEPTHWISE[0]), no_kernel(POINTWISE), BuildError("the parser refused it", "another graph")
    with pytest.raises(BuildError, match="the parser refused it") as caught:
        built(given, with_depthwise(T4), *refusals)
    assert f"no INT8 kernel for: {', '.join((*DEPTHWISE, POINTWISE))}" in caught.value.problem
    assert caught.value.repair == "another graph"
    with pytest.raises(BuildError) as first:
        built(given, T4, BuildError("the parser refused it", "another graph"))
    assert first.value.problem == "the parser refused it"


def test_a_missing_library_is_no_missing_kernel(given):
    with pytest.raises(MissingError):
        built(given, T4, MissingError("gone", "install it"))


def test_with_a_calibrator_a_freed_node_is_pinned(given):
    rules, (first, second) = built(given, CALIBRATED, no_kernel(POINTWISE))
    assert rules[POINTWISE] == "fallback"
    assert set(first) >= set(DEPTHWISE)
    assert set(second) - set(first) == {POINTWISE}
    _, (only,) = built(given, with_depthwise(CALIBRATED))
    assert not set(only) & set(DEPTHWISE)
