"""The gate of fidelity on models that people know: it holds, and engines that are spoilt miss it, without any audio."""

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from exported import exported
from onnx import numpy_helper

from trtasr.bench.fidelity import LIMITS, NEAR
from trtasr.pipeline.budget import Goal, Trial, leave_out
from trtasr.pipeline.compile import fidelity_goals, spendable
from trtasr.pipeline.export import centered
from trtasr.pipeline.features import calibration_features
from trtasr.pipeline.fidelity import judged, probed
from trtasr.pipeline.job import checkpoint_of
from trtasr.pipeline.lock import calibration_settings, committed_table
from trtasr.pipeline.scales import make_table
from trtasr.recipe import Calibration, Recipe, load_recipe
from trtasr.results import Engine
from trtasr.targets import CPU, T4_RTX
from trtasr.text.generate import Generation

ROOT = Path(__file__).parents[2]
LATE = "/encoder/encoder.5/mconv.6/conv/Conv"
SILENT = "/encoder/encoder.3/mconv.6/conv/Conv"


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    """The bundled QuartzNet with its committed table, quantized by static scales, and what FP32 makes of the probes."""
    recipe = load_recipe(ROOT / "engines/quartznet.toml")
    checkpoint = checkpoint_of(recipe)
    table = committed_table(ROOT / "calib", "quartznet", calibration_settings(recipe, checkpoint))
    folders = [tmp_path_factory.mktemp(name) for name in ("exported", "centered")]
    graphs = centered(exported(checkpoint.path, folders[0]), table, folders[1])
    probes = probed(graphs, recipe.calibration)
    return Trial(graphs, table, recipe, T4_RTX, probes.few), probes


def loss_of(bundled, folder, table=None, spoil=lambda model: model):
    """The loss of a candidate of which something is changed."""
    trial, probes = bundled
    (file,) = replace(trial, table=table or trial.table).written((), folder)
    onnx.save(spoil(onnx.load(file)), file)
    engine = Engine("t4-rtx", "int8", (), (file.name,))
    (found,) = judged(probes, "high", [engine], folder, {})
    assert found.held == (found.loss <= LIMITS["high"])
    assert sum(kind.positions for kind in found.kinds) == found.together.positions
    return found.loss


def narrowed(trial, layer):
    """The table with half of the range that a layer reads."""
    (name,) = [node.input[0] for node in trial.centered[0].graph.node if node.name == layer]
    entry = trial.table.activations[name]
    return replace(trial.table, activations={**trial.table.activations, name: replace(entry, amax=entry.amax / 2)})


def flipped(layer):
    """A graph whose layer has the opposite weight."""

    def spoil(model):
        (weight,) = [node.input[1].replace("_dequantized", "_int8") for node in model.graph.node if node.name == layer]
        (codes,) = [item for item in model.graph.initializer if item.name == weight]
        codes.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(codes), weight))
        return model

    return spoil


def test_the_bundled_model_holds_the_gate(bundled, tmp_path):
    trial, probes = bundled
    assert loss_of(bundled, tmp_path) < LIMITS["high"] / 2
    (on_cpu,) = replace(trial, target=CPU).written((), tmp_path)
    assert probes.used([on_cpu], LIMITS["max"]) <= 1


def test_half_the_range_of_one_late_layer_misses_it(bundled, tmp_path):
    assert loss_of(bundled, tmp_path, narrowed(bundled[0], LATE)) > LIMITS["high"]


def test_one_weight_of_the_opposite_sign_misses_it(bundled, tmp_path):
    assert loss_of(bundled, tmp_path, spoil=flipped(SILENT)) > 2 * LIMITS["high"]


def test_the_layer_that_is_spoilt_is_the_one_that_goes_back(bundled):
    trial, probes = bundled
    spoilt = replace(trial, table=narrowed(trial, LATE), known={})
    left = leave_out(spoilt, [Goal("fidelity", lambda files: probes.used(files, LIMITS["high"]), 0.5)])
    assert left.rules == {LATE: "fidelity"}
    assert left.harm == {LATE: min(spoilt.harm.values())}


def test_high_goes_on_from_its_limit_as_far_as_a_share_of_the_work_pays(bundled, tmp_path):
    """Nearer with scales at run time than with static ones."""
    trial, probes = bundled
    files = trial.written((), tmp_path)
    loss = probes.judge(files)[0].divergence
    for target, limit in ((T4_RTX, LIMITS["max"]), (T4_RTX.scaled("dynamic"), NEAR)):
        near, limited = fidelity_goals(probes, "high", target, 0.15)
        assert (near.most, near.partial, limited.most, limited.partial) == (0.15, True, 0.5, False)
        assert [goal.used(files) for goal in (near, limited)] == [loss / limit, loss / LIMITS["high"]]
        (alone,) = fidelity_goals(probes, "max", target, 0.15)
        assert alone.used(files) == loss / LIMITS["max"]


def test_less_is_spent_where_layer_norms_hold_the_activations_and_most_where_tokens_are_generated(bundled):
    trial, probes = bundled
    described = probes.network.described
    talking = replace(described, generation=Generation(0, (), (), (), (), 9, None, (), 0.0))
    assert spendable(replace(probes.network, described=talking), trial.centered) == 0.2
    assert spendable(probes.network, trial.centered) == 0.15
    norm = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 20]>
        g (float[T,8] x, float[8] s) => (float[T,8] y) { y = LayerNormalization(x, s) }""")
    assert spendable(probes.network, [*trial.centered, norm]) == 0.1


def test_the_same_graphs_are_judged_once(bundled, tmp_path):
    trial, probes = bundled
    before = dict(probes.known)
    files = trial.written((), tmp_path)
    assert probes.judge(files) is probes.judge(files)
    assert len(probes.known) <= len(before) + 1


@pytest.mark.slow
def test_a_published_moonshine_misses_it_with_its_front_end_in_int8(published, tmp_path):
    """Its own rule keeps the front-end in floating point; without the rule WER goes from 12 to over 60 %."""
    recipe = Recipe("moonshine", str(published("moonshine-tiny")), calibration=Calibration(batches=2))
    graphs = exported(Path(recipe.checkpoint), tmp_path)
    table = make_table(graphs, calibration_features("synthetic", recipe, graphs), recipe.quantization, {})
    probes = probed(graphs, recipe.calibration)
    found = []
    for target in (T4_RTX, replace(T4_RTX, graph_rules=lambda _: ())):
        (folder := tmp_path / str(len(found))).mkdir()
        found.append(probes.judge(Trial(graphs, table, recipe, target, ()).written((), folder))[0])
    assert found[1].divergence > 10 * found[0].divergence
    assert found[1].divergence > LIMITS["high"]
