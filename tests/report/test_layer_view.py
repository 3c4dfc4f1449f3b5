from dataclasses import replace

import pytest
from report_sample import gpu_sample, sample

from trtasr.report.layer_view import engine_view, lints, mac_shares, precision, skipped, time_shares
from trtasr.results import Counts, Form, LayerRow
from trtasr.values import Decision


def layer(operands, macs=0, int8=False, time=0.0):
    return LayerRow("n", "gemm", operands, ("Half",), ("/n",), macs, int8, time_share=time)


@pytest.mark.parametrize(
    ("operands", "int8", "expected"),
    [
        (("Int8", "Int8"), True, "INT8"),
        (("Half", "Half"), False, "FP16"),
        (("fp32", "fp32"), False, "FP32"),
        (("Half", "Float"), False, "FP32"),
        (("Int8", "Half"), False, "FP16"),
        (("BF16", "BF16"), False, "other"),
        ((), False, "other"),
    ],
)
def test_precision_is_that_of_the_widest_operand(operands, int8, expected):
    assert precision(layer(operands, int8=int8)) == expected


def test_shares_of_macs_and_of_time_add_up():
    layers = [
        layer(("Int8", "Int8"), 600, True, 0.2),
        layer(("Half", "Half"), 300, time=0.2),
        layer(("Float", "Float"), 100, time=0.1),
        layer(("Half",), time=0.5),
    ]
    assert [(s.precision, s.percent) for s in mac_shares(layers)] == [("INT8", 60), ("FP16", 30), ("FP32", 10)]
    assert [(s.precision, round(s.percent)) for s in time_shares(layers)] == [
        ("INT8", 20),
        ("FP16", 20),
        ("FP32", 10),
        ("no weights", 50),
    ]
    assert time_shares([layer(("Half", "Half"), 1)]) == mac_shares([layer(("Half",))]) == ()


def test_a_layer_kept_out_of_int8_names_its_rule():
    data = sample()
    view = engine_view(data.engines[0])
    assert [(row.int8, row.macs, row.rule, row.reason) for row in view.rows] == [
        (True, 90, "", ""),
        (False, 10, "depthwise", "no INT8 kernel on sm_75"),
    ]
    assert (view.timed, view.tactics, view.kernels) == (False, False, "")


def test_the_rule_is_not_repeated_on_layers_without_weights():
    data = gpu_sample(4)
    view = engine_view(data.engines[0])
    assert (view.timed, view.tactics) == (True, True)
    assert view.kernels == "kernels: 2 INT8 (kernel unknown), 6 FP16"
    assert [row.kernel for row in view.rows] == ["INT8 (kernel unknown)", "FP16", "FP16", "FP16"] * 2
    assert sum(bool(row.rule) for row in view.rows) == 2
    assert sum(row.time for row in view.rows) == pytest.approx(100)


def test_skipped_nodes_by_rule():
    (row,) = skipped(sample().engines)
    assert row == ("t4-rtx", "depthwise", "no INT8 kernel on sm_75", ("/enc/1/Conv",))
    assert skipped(sample().engines[1:]) == []


def test_rules_come_by_how_many_layers_they_keep():
    decisions = (
        Decision("a", "Conv", False, "alignment"),
        Decision("b", "Conv", False, "depthwise"),
        Decision("c", "Conv", False, "depthwise"),
        Decision("d", "Conv", True, "int8"),
    )
    found = skipped([replace(sample().engines[0], decisions=decisions)])
    assert [(item.rule, item.nodes) for item in found] == [("depthwise", ("b", "c")), ("alignment", ("a",))]


def test_lint_keeps_targets_without_a_finding():
    plan, cpu = sample().engines
    newer = replace(plan, target="rtx-sm86", subnormal=(), overflowing=("b",))
    assert lints([plan, cpu, newer]) == [("t4-rtx", ("/enc/0/Conv",), ()), ("rtx-sm86", (), ("b",))]


def test_what_stays_out_of_int8_runs_in_what_the_engine_says():
    plan, cpu = gpu_sample(4).engines[:2]
    assert engine_view(plan).kept.startswith("kept FP16: 2 depthwise")
    assert engine_view(replace(plan, rest="FP32")).kept.startswith("kept FP32: 2 depthwise")
    assert engine_view(cpu).kept == "all INT8"


def test_both_forms_are_shown_where_both_were_built():
    chains, plain = Form("chains", Counts(23, 12, 60, 1, 2, 3), True), Form("plain", Counts(23, 0, 64, 4, 5, 6), False)
    engine = sample().engines[0]
    assert engine_view(engine).forms == engine_view(replace(engine, forms=(plain,))).forms == ()
    assert engine_view(replace(engine, forms=(chains, plain))).forms == (
        "chains (this engine): 60 kernels, 23 of them INT8, 12 of these INT8 to INT8; 1 reformats, 2 shuffles, "
        "3 Q/DQ kernels",
        "plain: 64 kernels, 23 of them INT8, 0 of these INT8 to INT8; 4 reformats, 5 shuffles, 6 Q/DQ kernels",
    )
