"""What a record says of itself."""

from dataclasses import replace

from report_sample import gpu_sample, sample

from trtasr.values import ScaleTable


def test_a_missed_gate_fails_it():
    assert sample().outcome == "PASSED"
    assert replace(sample(), problems=("WER rose",)).outcome == "FAILED"


def test_baselines_are_no_targets():
    record = gpu_sample(2)
    assert record.targets == ("t4", "cpu")
    assert {engine.precision for engine in record.engines} - {engine.precision for engine in record.quantized} == {
        "fp16",
        "fp32",
    }


def test_the_table_is_that_of_the_recipes_method():
    ours, real = ScaleTable({}, {}, settings={"method": "synthetic"}), ScaleTable({}, {}, settings={"method": "audio"})
    recipe = {"calibration": {"method": "synthetic"}}
    record = replace(sample(), recipe=recipe, tables={"synthetic": ours, "audio": real})
    assert (record.table, record.audio_table) == (ours, real)
    alone = replace(record, recipe={"calibration": {"method": "audio"}}, tables={"audio": real})
    assert (alone.table, alone.audio_table) == (real, None)  # the controls were not run
