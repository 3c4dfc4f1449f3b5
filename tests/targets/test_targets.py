from dataclasses import replace

import numpy as np
import onnx
import pytest

from trtasr.errors import RecipeError
from trtasr.graph.chains import insert_chains
from trtasr.graph.conv2d import conv1d_to_conv2d
from trtasr.graph.gains import channel_gains
from trtasr.graph.halve import half_caches, halve
from trtasr.graph.masks import drop_pointwise_masks, without_masks
from trtasr.recipe import EngineShapes
from trtasr.targets import CPU, T4, T4_RTX, TARGETS, targets_of
from trtasr.targets.integer import INTEGER
from trtasr.targets.rtx import rtx
from trtasr.targets.target import ALWAYS, ASKED, NEEDED
from trtasr.values import ScaleTable, Site, TensorScale, WeightScale

POINTWISE = Site("pw", "Conv", (256, 256, 1), 256, 256, 1, (1,), (1,))
DEPTHWISE = Site("dw", "Conv", (256, 1, 33), 256, 256, 256, (33,), (1,))
WIDE = Site("jasper", "Conv", (256, 256, 11), 256, 256, 1, (11,), (1,))
FEW = Site("few", "Conv", (240, 256, 11), 256, 240, 1, (11,), (1,))
PLANE = Site("plane", "Conv", (256, 256, 3, 3), 256, 256, 1, (3, 3), (2, 2))
STRIDED = Site("strided", "Conv", (256, 64, 1), 64, 256, 1, (1,), (2,))
DECODER = Site("decoder", "Conv", (29, 1024, 1), 1024, 29, 1, (1,), (1,))
LINEAR = Site("linear", "MatMul", (256, 1024), 256, 1024)
NARROW = Site("narrow", "Conv", (256, 8, 3), 8, 256, 1, (3,), (1,))


def skipped(target, site):
    return next((name for rule in target.rules if (name := rule(site))), None)


@pytest.mark.parametrize(
    ("site", "t4", "t4_rtx"),
    [
        (POINTWISE, None, None),
        (DEPTHWISE, "depthwise", "depthwise"),
        (WIDE, None, None),
        (FEW, None, "kernel"),
        (PLANE, None, "kernel"),
        (STRIDED, None, None),
        (DECODER, "alignment", None),
        (LINEAR, None, None),
        (NARROW, "alignment", None),
    ],
)
def test_rules(site, t4, t4_rtx):
    assert skipped(T4, site) == t4
    assert skipped(T4_RTX, site) == t4_rtx
    assert skipped(CPU, site) is None


def test_targets_by_name_and_their_passes():
    assert {name: [change.__name__ for change in target.passes] for name, target in TARGETS.items()} == {
        "t4": ["drop_pointwise_masks", "conv1d_to_conv2d", "merge_pairs", "halve", "half_caches"],
        "t4-rtx": ["unfold_convolutions", "pointwise_to_matmul", "channel_gains", "halve", "half_caches"],
        "cpu": [],
    }


def test_the_recipe_may_leave_convolutions_one_dimensional_in_the_plan_and_its_baselines():
    (flat,), (deep,) = (targets_of(EngineShapes(target="t4", one_dimensional=chosen)) for chosen in (True, False))
    assert deep is T4
    for one, other in zip((flat, *flat.baselines), (deep, *deep.baselines), strict=True):
        assert one.passes == tuple(change for change in other.passes if change is not conv1d_to_conv2d)
        assert len(one.passes) == len(other.passes) - 1
    (same,) = targets_of(EngineShapes(target="t4-rtx", one_dimensional=True))
    assert same.passes == T4_RTX.passes


def test_the_recipe_may_have_a_plan_without_masks_beside_every_plan():
    (target,) = targets_of(EngineShapes(target="t4", unmasked_plan=True))
    for one, other in zip((target, *target.baselines), (T4, *T4.baselines), strict=True):
        assert (one.passes, other.unmasked) == (other.passes, ())
        assert one.unmasked == (without_masks, *other.passes[1:])
        assert other.passes[0] is drop_pointwise_masks
    (flat,) = targets_of(EngineShapes(target="t4", unmasked_plan=True, one_dimensional=True))
    assert flat.unmasked == (without_masks, *flat.passes[1:])
    for name in ("t4-rtx", "cpu"):
        (other,) = targets_of(EngineShapes(target=name, unmasked_plan=True))
        assert other.unmasked == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quantization": "implicit"}, "has no scales for a graph without masks"),
        ({"min_batch": 2, "opt_batch": 2}, "= 2"),
    ],
)
def test_a_plan_without_masks_that_nothing_could_run_in_is_refused(changes, words):
    with pytest.raises(RecipeError, match=rf"engine\.unmasked_plan: .*{words}") as caught:
        targets_of(EngineShapes(target="t4", unmasked_plan=True, **changes))
    assert "leave" in caught.value.repair


def test_the_recipe_may_ask_for_chains_or_leave_them_to_the_builder():
    (off,), (on,), (auto,) = (targets_of(EngineShapes(target="t4", chains=chosen)) for chosen in ("off", "on", "auto"))
    assert (off, off.form, off.rival) == (T4, "plain", None)
    assert (on.quantize, on.switched, on.form, on.rival) == (insert_chains, T4.quantize, "chains", None)
    assert auto == replace(on, rival=T4)
    assert (on.passes, on.rules, on.activation_scales) == (T4.passes, T4.rules, "static")
    (flat,) = targets_of(EngineShapes(target="t4", chains="auto", one_dimensional=True, quantize_depthwise=True))
    assert flat.passes == flat.rival.passes != T4.passes
    assert flat.rules == flat.rival.rules != T4.rules
    (other,) = targets_of(EngineShapes(target="t4-rtx", chains="on"))
    assert (other.quantize, other.form, other.passes) == (T4_RTX.dynamic, "", T4_RTX.passes)


@pytest.mark.parametrize(("key", "value"), [("quantization", "implicit"), ("activation_scales", "dynamic")])
def test_chains_need_scales_of_their_own(key, value):
    with pytest.raises(RecipeError, match=rf"engine\.chains = 'auto'.* not engine\.{key} = '{value}'") as error:
        targets_of(EngineShapes(target="t4", chains="auto", **{key: value}))
    assert error.value.repair == f"leave out engine.chains, or engine.{key}"


@pytest.mark.parametrize("target", [*TARGETS.values(), *T4.baselines, rtx("sm86"), INTEGER], ids=lambda item: item.name)
def test_a_target_gives_the_reason_of_each_of_its_rules(target):
    sites = (POINTWISE, DEPTHWISE, WIDE, FEW, PLANE, STRIDED, DECODER, LINEAR, NARROW)
    names = {name for site in sites for rule in target.rules if (name := rule(site))}
    assert names | {"waveform", "exclude", "activations", "budget", "fallback"} <= target.reasons.keys()


def test_an_unknown_target_is_refused_with_the_known_ones():
    with pytest.raises(RecipeError, match=r"engine\.target = 'tpu'") as error:
        targets_of(EngineShapes(target="tpu"))
    assert error.value.repair == "use one of auto, t4, t4-rtx, cpu"


@pytest.mark.parametrize(("channels", "rules"), [(1, [None, None]), (256, [None, "kernel"]), (257, ["kernel"] * 2)])
def test_the_recipe_says_from_how_many_channels_convolutions_are_unfolded(channels, rules):
    target, _ = targets_of(EngineShapes(unfold_channels=channels))
    assert [skipped(target, site) for site in (WIDE, FEW)] == rules
    assert skipped(target, STRIDED) is None  # one tap: nothing is copied
    (other,) = targets_of(EngineShapes(target="t4-rtx", compute_capability="8.6", unfold_channels=channels))
    assert skipped(other, FEW) is None
    assert other.passes == (channel_gains, halve, half_caches)


def quantize(model, table, int8):
    return model


@pytest.mark.parametrize(
    ("wanted", "when", "expected"),
    [
        ("auto", ASKED, "static"),
        ("auto", NEEDED, "static"),  # until the fidelity of that is known
        ("auto", ALWAYS, "dynamic"),
        ("static", ALWAYS, "static"),
        ("dynamic", ASKED, "dynamic"),
    ],
)
def test_a_recipe_chooses_the_scales_of_activations_or_leaves_them_to_the_target(wanted, when, expected):
    target = replace(T4, dynamic=quantize, dynamic_when=when)
    assert target.activation_scales == "static"
    chosen = target.scaled(wanted)
    assert chosen.activation_scales == expected
    assert (chosen.quantize is quantize) == (expected == "dynamic")


def test_a_target_without_dynamic_scales_refuses_them():
    target = replace(CPU, dynamic=None)
    assert target.scaled("auto") is target
    with pytest.raises(RecipeError, match="target cpu has static ones only") as error:
        target.scaled("dynamic")
    assert "--target t4-rtx" in error.value.repair
    assert T4.baselines[0].activation_scales == ""


def test_a_calibrator_has_no_dynamic_scales():
    engine = EngineShapes(target="t4", quantization="implicit", activation_scales="dynamic")
    with pytest.raises(RecipeError, match="a calibrator gives every tensor one scale"):
        targets_of(engine)
    (target,) = targets_of(replace(engine, activation_scales="auto"))
    assert target.activation_scales == "static"


def test_a_range_observed_bounds_no_accumulator_of_a_quiet_frame():
    """Its codes are as large as those of a loud one: of a layer with scales at run time only its weights tell."""
    model = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["" : 20]>
        one (float[B,16,T] x) => (float[B,16,T] y) { [layer] y = Conv<kernel_shape=[1]>(x, w) }""")
    weight = np.full((16, 16, 1), 0.5, np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    activations = {"x": TensorScale(12.7, "max"), "y": TensorScale(12.7, "max")}
    table = ScaleTable(activations, {"w": WeightScale(np.full(16, 0.5 / 127, np.float32), 0)})
    for target, overflowing in ((T4.scaled("static"), []), (T4.scaled("dynamic"), ["layer"])):
        graph = halve(target.quantize(model, table, {"layer"}))
        assert target.lint(graph, model, table, {"layer"})[1] == overflowing


def test_newer_gpus_judge_products_by_their_gains_and_convolutions_by_their_scales():
    """One layer with scales at run time, a product, and the same layer static, a convolution, on sm_86."""
    model = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["" : 20]>
        one (float[B,16,T] x) => (float[B,16,T] y) { [layer] y = Conv<kernel_shape=[1]>(x, w) }""")
    weight = np.full((16, 16, 1), 0.5, np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    activations = {"x": TensorScale(12.7, "max"), "y": TensorScale(40.0, "max")}
    table = ScaleTable(activations, {"w": WeightScale(np.full(16, 0.5 / 127, np.float32), 0)})
    for scales, expected in (("static", ([], ["layer"])), ("dynamic", ([], []))):
        target = rtx("sm86").scaled(scales)
        graph = target.quantize(model, table, {"layer"})
        for change in target.passes:
            graph = change(graph)
        assert target.lint(graph, model, table, {"layer"}) == expected
