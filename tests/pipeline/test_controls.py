"""Calibration controls: what random noise and real audio give beside the recipe's own table."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from compiling import compiling, read
from exported import initializers

from trtasr.graph.tensors import weight_tensors
from trtasr.pipeline.controls import quantized, run_controls
from trtasr.pipeline.measure import word_error_rate
from trtasr.recipe import LABELS, Evaluation, Recipe
from trtasr.results import BenchResult, Prepared


@pytest.fixture
def spoken(tiny):
    """Three utterances, and an empty one."""
    items = [(item.features[0], int(item.lengths[0])) for item in tiny.features.examples()[:3]]
    found = [Prepared(f"{i}.wav", 1.0, "one two", values, frames) for i, (values, frames) in enumerate(items)]
    return [*found, Prepared("empty.wav", 0.0, "one", found[0].features[:, :1], 0)]


SPEECH = Evaluation(manifest=("m",), normalizer="none")


@pytest.fixture
def fp32(tiny, spoken, monkeypatch):
    """What full precision makes of them, even where it says the same to all."""
    with monkeypatch.context() as patch:
        patch.setattr("trtasr.bench.wer.refuse_degenerate", lambda rows: None)
        exact = word_error_rate(tiny.exported.network, tiny.exported.files, spoken, SPEECH)
    return BenchResult("FP32", "fp32", 1, wer=exact)


def controls_of(tiny, tables, utterances, fp32):
    recipe = Recipe("tiny", "tiny", quantization=tiny.plain, evaluation=SPEECH)
    rows = run_controls(tiny.exported, tables, recipe, utterances, fp32)
    assert [row.label for row in rows] == [recipe.label(method) for method in LABELS]
    return dict(zip(LABELS, rows, strict=True))


def test_every_method_is_measured_on_the_same_speech(tiny, spoken, fp32):
    """W4 stands for a calibration that is worse than the other two, which are one table."""
    tables = {method: tiny.table() for method in LABELS} | {"noise": tiny.table(weight_bits=4)}
    found = controls_of(tiny, tables, spoken, fp32)
    assert found["synthetic"].sqnr_db == found["audio"].sqnr_db > found["noise"].sqnr_db > 5
    assert found["synthetic"].wer == found["audio"].wer
    assert found["synthetic"].disagreement == found["audio"].disagreement
    assert [row.disagreement is None for row in found.values()] == [row.wer is None for row in found.values()]


def test_useless_transcripts_are_a_result(tiny, spoken, fp32):
    """The same to whatever was said."""
    alike = [replace(spoken[0], text=text) for text in ("one", "two", "three")]
    found = controls_of(tiny, dict.fromkeys(LABELS, tiny.table()), alike, fp32)
    assert [(row.wer, row.disagreement) for row in found.values()] == [(None, None)] * 3
    assert all(np.isfinite(row.sqnr_db) for row in found.values())


def test_every_part_is_quantized_but_what_the_recipe_leaves_out(tiny, tmp_path):
    models = tiny.models()
    layers = [weight_tensors(model) for model in models]
    left = layers[0][-1]
    files = quantized(tiny.exported, tiny.table(), (left.node,), tmp_path)
    assert [file.name for file in files] == [f"{part.name}.qdq.onnx" for part in tiny.exported.network.parts]
    for file, sites in zip(files, layers, strict=True):
        stored = initializers(onnx.load(file))
        assert f"{left.name}_int8" not in stored
        assert sum(f"{site.name}_int8" in stored for site in sites) >= 5


@pytest.mark.parametrize("bundle", ["ctc_bundle", "pair_bundle"])
def test_a_compile_shows_all_three(request, bundle, tmp_path):
    made = request.getfixturevalue(bundle)
    flags = ("--target", "cpu", "--controls", "--manifest", made.manifest)
    code, printed = compiling(made.checkpoint, tmp_path / "out", *flags)
    assert code == 0
    for label in ("random noise", "synthetic (data-free)", "real audio (the evaluation set itself)"):
        assert label in printed
    controls = read(tmp_path / "out", "bundle.json")["controls"]
    assert [item["wer"] is not None for item in controls] == [True] * 3
    assert all(item["sqnr_db"] > 10 for item in controls)
