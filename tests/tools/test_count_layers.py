"""How much smaller graphs of target t4 are in four dimensions; TensorRT for RTX stands in for TensorRT."""

import pytest

pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")

from t4_graphs import first_part
from tools.count_layers import FORMS, PLANS, counted, table, without

from trtasr.zoo.network import bundled


def counts(checkpoint, folder):
    """(form, plan) -> counts, of the first form and the last."""
    part = first_part(checkpoint, folder)
    return {
        (form, plan): counted(part, without(target, FORMS[form]), folder)
        for form in ("as exported", "four-dimensional")
        for plan, target in PLANS.items()
    }


def test_quartznet_needs_fewer_layers_and_kernels(tmp_path):
    found = counts(bundled("quartznet"), tmp_path)
    before, after = (found[form, "int8"] for form in ("as exported", "four-dimensional"))
    assert before.layers > 580
    assert after.layers <= 400
    assert after.shuffles <= 12
    assert after.int8 == before.int8 == 23
    assert after.kernels <= before.kernels
    assert found["as exported", "fp16"].kernels >= 80
    assert found["four-dimensional", "fp16"].kernels <= 46


@pytest.mark.slow
def test_quartznet15x5_needs_fewer_kernels(shared, tmp_path):
    found = counts(shared / "data" / "models" / "quartznet15x5.nemo", tmp_path)
    assert found["as exported", "fp16"].kernels >= 345
    assert found["four-dimensional", "fp16"].kernels <= 240
    assert found["four-dimensional", "int8"].int8 == found["as exported", "int8"].int8 == 93


@pytest.mark.slow
def test_a_conformer_has_no_more_shuffles_and_kernels(tmp_path):
    found = counts(bundled("conformer"), tmp_path)
    for plan in PLANS:
        before, after = (found[form, plan] for form in ("as exported", "four-dimensional"))
        assert after.shuffles < before.shuffles
        assert after.kernels <= before.kernels
        assert after.int8 == before.int8


def test_the_table_has_a_line_for_every_plan(tmp_path):
    _, *rows = [line.split() for line in table(bundled("jasper"), "sm86")]
    assert len(rows) == len(FORMS) * len(PLANS) + 1
    (plain,) = [row for row in rows if row[:2] == ["four-dimensional", "int8"]]
    assert rows[-1][:2] == ["chains", "int8"]
    assert int(rows[-1][2]) == int(plain[2]) + 4 * 5  # layers of a pair; the fifth takes the place of one that is there
    assert rows[-1][4:] == plain[4:]  # TensorRT for RTX makes the same kernels of them, which write no INT8
