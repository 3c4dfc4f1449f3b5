"""The gates themselves: WER over FP32, and speed over FP16."""

import pytest
from report_sample import difference, scored

from trtasr.pipeline.gates import missed_fidelity, missed_gates, slower_than_fp16, speedups
from trtasr.recipe import Evaluation
from trtasr.results import BenchResult, Comparison, Fidelity, Judged, Latency, PairedDifference, TensorComparison


def precision_of(target: str) -> str:
    return {"fp32": "fp32", "t4-fp32": "fp32", "t4-fp16": "fp16"}.get(target, "int8")


def row(target: str, wer: float, *differences: PairedDifference, spaced: bool = True) -> BenchResult:
    label, precision = f"int8 {target}", precision_of(target)
    return BenchResult(
        label, target, 1, (), scored(wer, spaced=spaced), precision=precision, differences=tuple(differences)
    )


def missed(fp32: float, int8: float, limit: float = 0.3, spaced: bool = True) -> tuple[str, ...]:
    rates = (fp32, int8) if spaced else (fp32 / 2, int8 / 2)  # CER is half of WER here
    found = difference(*rates, (-1.0, 1.0))
    results = (row("fp32", fp32, spaced=spaced), row("t4-rtx", int8, found, spaced=spaced))
    return missed_gates(results, Evaluation(max_wer_increase=limit))


@pytest.mark.parametrize(("int8", "problems"), [(5.0, 0), (5.3, 0), (5.31, 1), (4.0, 0)])
def test_the_gate_is_the_recipes_limit(int8: float, problems: int) -> None:
    assert len(missed(5.0, int8)) == problems


def test_a_missed_gate_says_which_engine_and_by_how_much() -> None:
    (problem,) = missed(5.0, 6.0)
    assert "int8 t4-rtx" in problem
    assert "+1.00" in problem
    assert "+0.30" in problem


def test_without_spaces_between_words_the_gate_is_about_characters() -> None:
    (problem,) = missed(5.0, 6.0, spaced=False)
    assert "CER 3.00 % is +0.50 points over FP32" in problem
    assert missed(5.0, 5.5, spaced=False) == ()


def test_a_wider_limit_admits_it() -> None:
    assert missed(5.0, 6.0, limit=1.0) == ()


def test_baselines_are_shown_but_only_int8_is_judged() -> None:
    far = difference(5.0, 9.0, (3.0, 5.0))
    results = (row("fp32", 5.0), row("t4-rtx", 5.1, difference(5.0, 5.1, (0.0, 0.2))), row("t4-fp16", 9.0, far))
    assert missed_gates(results, Evaluation()) == ()
    assert len(missed_gates((results[0], row("t4-rtx", 9.0, far)), Evaluation())) == 1


def judged(settings: Evaluation, *differences: PairedDifference) -> tuple[str, ...]:
    return missed_gates((row("fp32", 5.0), row("cpu", 5.1, *differences)), settings)


@pytest.mark.parametrize(
    ("delta", "interval", "problems"),
    [
        (0.0, (-0.2, 0.6), 0),
        (0.0, (-0.7, 0.61), 1),
        (0.5, (0.4, 0.6), 0),
        (-1.0, (-1.5, -0.5), 0),
        (0.9, (0.7, 1.1), 1),
    ],
)
def test_the_gate_of_the_interval_is_about_its_upper_end(delta, interval, problems) -> None:
    found = judged(Evaluation(gate="interval"), difference(5.0, 5.0 + delta, interval))
    assert len(found) == problems
    assert all(f"{interval[1]:+.2f}]; the gate is +0.60 for the interval's upper end" in text for text in found)
    wider = Evaluation(gate="interval", max_wer_upper=2.0)
    assert judged(wider, difference(5.0, 5.0 + delta, interval)) == ()


@pytest.mark.parametrize("gate", ["point", "interval"])
@pytest.mark.parametrize(
    ("delta", "interval", "problems"),
    [
        (1.0, (0.2, 1.8), 1),  # over the limit, and no chance
        (1.0, (-0.1, 2.1), 0),  # may be chance
        (1.0, (0.0, 2.0), 0),
        (0.3, (0.1, 0.5), 0),  # a loss, but within the limit
    ],
)
def test_a_single_set_fails_where_it_shows_a_loss(gate, delta, interval, problems) -> None:
    parts = difference(5.0, 5.0, (0, 0), "dev"), difference(5.0, 5.0 + delta, interval, "an4")
    found = judged(Evaluation(gate=gate), difference(5.0, 5.1, (0.0, 0.2)), *parts)
    assert len(found) == problems
    assert all("int8 cpu, an4: WER 6.00 % is +1.00 points over FP32, 95 % interval [+0.20, +1.80]" in x for x in found)


def test_without_transcripts_nothing_is_judged() -> None:
    assert (
        missed_gates(
            (BenchResult("fp32", "fp32", 1, precision="fp32"), BenchResult("int8 cpu", "cpu", 1)), Evaluation()
        )
        == ()
    )


def timed(target: str, *milliseconds: float, threads: int = 0) -> BenchResult:
    latencies = [
        Latency(ms, ms, ms, 50, seconds, 1, threads, "Tesla T4")
        for ms, seconds in zip(milliseconds, (2.0, 16.0), strict=True)
    ]
    label = "int8 t4" if target == "t4" else target
    return BenchResult(label, target, 1, tuple(latencies), precision=precision_of(target))


def test_speed_is_judged_over_all_shapes_by_the_geometric_mean() -> None:
    int8, slower, faster = timed("t4", 2.0, 2.0), timed("t4-fp16", 1.0, 3.0), timed("t4-fp16", 1.5, 3.0)
    assert [item.ratio for item in speedups((int8, faster), "fp16")] == [0.75, 1.5]
    assert slower_than_fp16((int8, faster)) == []
    (problem,) = slower_than_fp16((int8, slower))
    assert "0.87 times as fast as FP16" in problem
    assert "2 s: 0.50 x" in problem
    assert "16 s" not in problem
    assert slower_than_fp16((int8, slower), allowed=True) == []


def test_a_gpu_without_an_fp16_plan_cannot_be_judged() -> None:
    (problem,) = slower_than_fp16((timed("t4", 2.0, 2.0), timed("t4-fp32", 9.0, 9.0)))
    assert "there is no FP16 plan" in problem


def test_on_a_cpu_there_is_nothing_to_be_faster_than() -> None:
    results = timed("fp32", 9.0, 9.0, threads=2), timed("cpu", 18.0, 3.0, threads=2)
    assert slower_than_fp16(results) == []
    assert [item.ratio for item in speedups(results, "fp32", on_gpu=False)] == [0.5, 3.0]


def compared(sqnr: float, agreement: float) -> Comparison:
    tensor = TensorComparison("log_probs", sqnr, 0.9, 1.0)
    return Comparison("fp32", "int8-cpu", (tensor,), agreement, 100, "audio", "polygraphy", "comparison.json")


@pytest.mark.parametrize(("sqnr", "agreement", "problems"), [(10.0, 0.9, 0), (9.9, 0.9, 1), (3.5, 0.51, 2)])
def test_a_comparison_that_disagrees_is_a_missed_gate(sqnr: float, agreement: float, problems: int) -> None:
    assert len(missed_fidelity((), compared(sqnr, agreement))) == problems


def test_a_target_that_is_too_far_from_fp32_is_named() -> None:
    together = Fidelity("", 100, 20.0, 0.9, 0.1, 0.2, 10, 1)
    found = (Judged("cpu", "fast", 0.2, 0.015, together, ()), Judged("t4-rtx", "fast", 0.015, 0.015, together, ()))
    (problem,) = missed_fidelity(found, compared(20.0, 0.95))
    assert problem.startswith("cpu: on probe signals its outputs are 0.2000 nats from FP32's")
    assert problem.endswith("the gate of fidelity fast is 0.015")
