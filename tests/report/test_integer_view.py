import json
import math
from dataclasses import replace

import pytest

from trtasr.report.integer_view import (
    decibels,
    format_interval,
    integer_text,
    proof_json,
    proof_text,
    proof_view,
    steps_sentence,
)
from trtasr.results import Accumulator, Difference, IntegerComparison, IntegerRow, LayerSteps, Proof, plain

SUMS = (
    Accumulator("/conv", "ConvInteger", 64, 2**20, 31),
    Accumulator("/attention/MatMul", "MatMul", 5000, 2**60, 63),
    Accumulator("/head", "MatMulInteger", 32, 1_482_910, 31),
    Accumulator("/gate", "MatMul", 5000, 2**40, 63),
    Accumulator("/dead", "ConvInteger", 9, 0, 31),
)
PROOF = Proof(
    4123, (), ("features_quantized/QuantizeLinear",), {"Add": 12, "ConvInteger": 2, "MatMul": 1}, SUMS, 56, 5000
)


ROWS = (
    IntegerRow("fp32 (reference)", 13.19, 0.0, None, math.inf, 1.0),
    IntegerRow("Q/DQ t4-rtx", 13.25, 0.06, (-0.1, 0.2), 38.34, 0.994),
    IntegerRow("Q/DQ, every layer INT8", 13.3, 0.11, (-0.05, 0.3), 35.0, 0.99),
    IntegerRow("integer-only", 13.28, 0.09, (-0.08, 0.28), 35.02, 0.9899),
)
LAYERS = (
    LayerSteps("/a", 38.9, 38.9, 1000, 0, 0, 0, 0),
    LayerSteps("/b", 30.0, 30.1, 2000, 500, 2, 1, 1),
    LayerSteps("/c", 25.0, 24.9, 1000, 500, 2, 0, 0),
    LayerSteps("/d", 25.0, 24.9, 1000, 100, 1, 10, 1),
)
OVER = (Difference("Q/DQ t4-rtx", 0.03, (-0.02, 0.08)), Difference("Q/DQ, every layer INT8", -0.02, (-0.1, 0.04)))
FOUND = IntegerComparison(ROWS, OVER, LAYERS, 123456, 0, 20, 300, 4256, "WER", "basic-en-v1")


def cells(text, *starts):
    """The words of every line that begins so."""
    return [line.split() for line in text.splitlines() if line.startswith(starts)]


def test_the_proof():
    text = proof_text(PROOF, show_all=False)
    floats, quantized, operators, *_, premises, widest = text.splitlines()
    assert floats.endswith("0 of 4123")
    assert quantized.endswith(" features_quantized/QuantizeLinear")
    assert operators.endswith("12 Add, 2 ConvInteger, 1 MatMul")
    assert cells(text, "/") == [  # the least headroom first
        ["/head", "MatMulInteger", "32", "2^20.5", "1482910", "31", "10"],
        ["/conv", "ConvInteger", "64", "2^20.0", "1048576", "31", "10"],
        ["/dead", "ConvInteger", "9", "-", "0", "31", "31"],
    ]
    assert "61 of 63 bits (--all)" in text
    assert premises.endswith(" 5000")
    assert widest.endswith(" 56 bits")


def test_sums_in_int64_are_listed_when_all_are_asked_for():
    lines = proof_text(PROOF, show_all=True).splitlines()
    assert [line.split()[0] for line in lines[6:11]] == ["/attention/MatMul", "/head", "/conv", "/gate", "/dead"]
    assert "int64, of attention" not in "".join(lines)


def test_the_view_of_the_report_has_the_int32_sums():
    view = proof_view(PROOF)
    assert (view["floats"], view["tensors"]) == (0, 4123)
    assert [item.node for item in view["sums"]] == ["/head", "/conv", "/dead"]


def test_float_tensors_are_named():
    names = tuple(f"tensor{index}" for index in range(7))
    lines = proof_text(replace(PROOF, floats=names), show_all=False).splitlines()
    assert lines[0].endswith("the logits: 7 of 4123")
    assert "tensor2, tensor3 and 3 more" in lines[1]
    assert "tensor4" not in lines[1]


def test_many_sums_are_cut_after_the_worst():
    sums = tuple(Accumulator(f"/{bits}", "ConvInteger", 9, 2**bits, 31) for bits in range(30))
    lines = proof_text(replace(PROOF, accumulators=sums), show_all=False).splitlines()
    assert [line.split()[0] for line in lines if line.startswith("/")] == [f"/{bits}" for bits in range(29, 17, -1)]
    assert lines[-3] == "... and 18 more (--all)"
    whole = proof_text(replace(PROOF, accumulators=sums), show_all=True)
    assert "--all" not in whole
    assert sum(line.startswith("/") for line in whole.splitlines()) == 30


def test_operators_are_wrapped_between_counts():
    operators = {f"Operator{index}": 1000 + index for index in range(30)}
    lines = proof_text(replace(PROOF, operators=operators), show_all=False).split("\n\n")[0].splitlines()[2:]
    assert len(lines) > 3
    assert max(map(len, lines)) <= 110
    words = " ".join(line.strip() for line in lines).removeprefix("operators: ")
    assert words == ", ".join(f"{count} {name}" for name, count in operators.items())
    assert all(line.endswith(",") for line in lines[:-1])  # a count stays with its operator


def test_a_graph_without_sums():
    text = proof_text(replace(PROOF, accumulators=(), boundary=()), show_all=False)
    assert "sums" not in text
    assert "quantized at: -" in text


def test_the_comparison():
    text = integer_text(FOUND, show_all=False)
    assert cells(text, "fp32 ", "Q/DQ", "integer-only  ") == [
        ["fp32", "(reference)", "13.19", "-", "-", "-", "-"],
        ["Q/DQ", "t4-rtx", "13.25", "+0.06", "-0.10", "..", "+0.20", "38.3", "99.40"],
        ["Q/DQ,", "every", "layer", "INT8", "13.30", "+0.11", "-0.05", "..", "+0.30", "35.0", "99.00"],
        ["integer-only", "13.28", "+0.09", "-0.08", "..", "+0.28", "35.0", "98.99"],
    ]
    over = cells(text, "integer-only against")
    assert [(row[-10], row[-3:]) for row in over] == [
        ("+0.03", ["-0.02", "..", "+0.08"]),
        ("-0.02", ["-0.10", "..", "+0.04"]),
    ]
    assert "20 utterances, 300 words" in text
    assert "4256 frames" in text
    assert "0 of 123456 logits differ" in text
    assert cells(text, "/") == [
        ["/c", "25.0", "24.9", "50.00", "2", "0.000", "0"],
        ["/b", "30.0", "30.1", "25.00", "2", "0.050", "1"],
        ["/d", "25.0", "24.9", "10.00", "1", "1.000", "1"],
        ["/a", "38.9", "38.9", "0.00", "0", "0.000", "0"],
    ]
    assert text.endswith(steps_sentence(LAYERS))


def test_all_layers_are_in_graph_order():
    layers = tuple(LayerSteps(f"/{index}", 30, 30, 100, index % 7, index % 3, 0, 0) for index in range(20))
    short = integer_text(replace(FOUND, layers=layers), show_all=False)
    shown = [line.split() for line in short.splitlines() if line.startswith("/")]
    assert len(shown) == 12
    assert [int(row[4]) for row in shown] == [2] * 6 + [1] * 6  # steps
    assert [row[0] for row in shown[:3]] == ["/5", "/11", "/17"]  # then the share that differs
    assert "... and 8 more (--all)" in short
    whole = integer_text(replace(FOUND, layers=layers), show_all=True)
    assert [line.split()[0] for line in whole.splitlines() if line.startswith("/")] == [f"/{i}" for i in range(20)]
    assert "--all" not in whole


def test_without_transcripts():
    nan = float("nan")
    rows = tuple(replace(row, wer=nan, delta=nan, interval=None) for row in ROWS)
    text = integer_text(replace(FOUND, rows=rows, over=(), words=0), show_all=False)
    assert "nan" not in text
    assert "no transcripts, 4256 frames" in text
    assert "points of WER" not in text
    assert cells(text, "integer-only  ") == [["integer-only", "-", "-", "-", "35.0", "98.99"]]


def test_unequal_logits_are_counted():
    assert "7 of 123456 logits differ" in integer_text(replace(FOUND, unequal=7), show_all=False)


def steps(name, largest, own):
    return LayerSteps(name, 30, 30, 100, 9, largest, 3, own)


def test_layers_that_add_more_than_one_step_are_named():
    found = steps_sentence([steps("/a", 1, 1), steps("/b", 3, 2), steps("/c", 2, 5)])
    own, added_up = found.split("; ")
    assert own.endswith(": /b (2), /c (5)")
    assert added_up.startswith("2 of 3 ")
    assert added_up.endswith(": /b (3), /c (2)")


def test_many_layers_are_counted_and_the_first_is_named():
    found = steps_sentence([steps("/a", 1, 1), *(steps(f"/{index}", 2 + index, 1) for index in range(5))])
    own, added_up = found.split("; ")
    assert own.startswith("no layer ")
    assert added_up.startswith("5 of 6 ")
    assert added_up.endswith("first /0 (2), at most 6")


def test_no_layer_differs_by_more_than_one_step():
    assert "; none differs" in steps_sentence([steps("/a", 1, 1)])


@pytest.mark.parametrize(
    ("value", "shown"), [(math.inf, "exact"), (-math.inf, "-inf"), (float("nan"), "-"), (35.04, "35.0")]
)
def test_decibels(value, shown):
    assert decibels(value) == shown


def test_intervals():
    assert format_interval((-0.001, 1.5)) == "+0.00 .. +1.50"
    assert format_interval(None) == "-"


def test_json_of_the_proof():
    data = json.loads(json.dumps(proof_json(PROOF)))
    assert data["integer_only"] is True
    assert data["operators"] == {"Add": 12, "ConvInteger": 2, "MatMul": 1}
    assert data["accumulators"][0] == {
        "node": "/conv",
        "op": "ConvInteger",
        "products": 64,
        "bound": 2**20,
        "capacity": 31,
        "bits": 21,
        "headroom": 10,
    }
    assert not proof_json(replace(PROOF, floats=("x",)))["integer_only"]


def test_json_of_the_comparison_holds_no_nan():
    silent = replace(FOUND, over=())
    data = json.loads(json.dumps(plain(silent), allow_nan=False))
    assert data["over"] == []
    assert data["rows"][0]["sqnr_db"] is None
    assert data["rows"][1]["interval"] == [-0.1, 0.2]
    assert data["layers"][1] == {
        "tensor": "/b",
        "qdq_sqnr_db": 30.0,
        "integer_sqnr_db": 30.1,
        "codes": 2000,
        "differing": 500,
        "largest": 2,
        "own_differing": 1,
        "own_largest": 1,
    }
    assert (data["elements"], data["unequal"], data["frames"]) == (123456, 0, 4256)
