"""The WER gate itself."""

import dataclasses
from types import SimpleNamespace

import pytest
from report_sample import scored

from trtasr.pipeline.measure import Measured
from trtasr.pipeline.records import Record, changed_values
from trtasr.recipe import Evaluation, Recipe, override
from trtasr.results import BenchResult


def record(fp32: float, int8: float, limit: float = 0.3, spaced: bool = True) -> Record:
    def row(target: str, wer: float) -> BenchResult:
        return BenchResult(f"int8 {target}", target, 1, (), scored(wer, spaced=spaced))

    recipe = Recipe("x", "y", evaluation=Evaluation(max_wer_increase=limit))
    unused = SimpleNamespace()
    results = (row("fp32", fp32), row("t4-rtx", int8))
    return Record(recipe, unused, {}, (), (), Measured(results), unused, (), 0.0, 1.0)


@pytest.mark.parametrize(("int8", "outcome"), [(5.0, "PASSED"), (5.3, "PASSED"), (5.31, "FAILED"), (4.0, "PASSED")])
def test_the_gate_is_the_recipes_limit(int8: float, outcome: str) -> None:
    assert record(5.0, int8).outcome == outcome


def test_a_missed_gate_says_which_engine_and_by_how_much() -> None:
    (problem,) = record(5.0, 6.0).problems
    assert "int8 t4-rtx" in problem
    assert "+1.00" in problem
    assert "+0.30" in problem


def test_without_spaces_between_words_the_gate_is_about_characters() -> None:
    (problem,) = record(5.0, 6.0, spaced=False).problems  # CER is half of WER here
    assert "CER 3.00 % is +0.50 points over FP32" in problem
    assert record(5.0, 5.5, spaced=False).problems == ()


def test_a_wider_limit_admits_it() -> None:
    assert record(5.0, 6.0, limit=1.0).problems == ()


def test_baselines_are_shown_but_only_int8_is_judged() -> None:
    judged = record(5.0, 5.1)
    worse = BenchResult("fp16 t4", "t4-fp16", 1, (), scored(9.0))
    measured = Measured((*judged.results, worse))
    assert dataclasses.replace(judged, measured=measured).problems == ()


def test_every_changed_value_is_in_the_command_line() -> None:
    recipe = override(
        Recipe("x", "y"),
        [
            'engine.compute_capability="8.6"',
            'quantization.exclude=["/a b/*"]',
            "engine.quantize_depthwise=true",
            "calibration.seed=3",
        ],
    )
    changes = changed_values(recipe)
    assert len(changes) == 4
    assert override(Recipe("x", "y"), changes) == recipe
