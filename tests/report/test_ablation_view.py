"""The tables of an ablation."""

from report_sample import scored

from trtasr.report.ablation_view import ablation_table, spread
from trtasr.results import Ablation, Scored, Setting, cell_of

LABELS = {"synthetic": "synthetic (data-free)", "audio": "real audio"}
FADE = cell_of(Setting("synthetic", "fade", 4), False, [Scored(6.0 + i, 2.0 + i, 90.0 + i, 20.0 + i) for i in range(3)])


def test_the_table_shows_mean_deviation_and_difference():
    lines = ablation_table(Ablation(scored(5.0), {}, {}, (FADE,)), LABELS).splitlines()
    assert len(lines) == 3
    assert lines[0] == "FP32: WER 5.00 %, normalizer basic-en-v1"
    assert lines[1].split("  ")[-1].strip() == "seeds"
    assert lines[2].split() == [
        *["W4A8", "synthetic", "(data-free)", "fade", "7.00", "+-", "1.00", "+2.00"],
        *["3.00", "+-", "1.00", "91.00", "+-", "1.00", "21.00", "+-", "1.00", "3"],
    ]
    assert spread([3.0]) == "3.00"


def test_a_seed_without_a_figure_is_counted():
    cell = cell_of(Setting("audio", "none", 4), False, [Scored(6.0, 1.0, 1.0, 1.0), Scored(None, None, 2.0, 2.0)])
    line = ablation_table(Ablation(scored(5.0), {}, {}, (cell,)), LABELS).splitlines()[2]
    assert "real audio" in line
    assert line.count("useless (1 of 2)") == 2
    assert " - " in line


def test_several_sets_have_a_table_of_their_own():
    rates = [Scored(6.0, 1.0, 90.0, 20.0, {"dev": 5.0 + i, "an4": None if i else 9.0}) for i in range(2)]
    cell = cell_of(Setting("audio", "fade", 4, 128), True, rates)
    _, _, table = ablation_table(Ablation(scored(5.0), {"dev": 4.5, "an4": 8.0}, {}, (cell,)), LABELS).partition("\n\n")
    assert table.splitlines() == [
        "weights                features    correction    dev: WER %        an4: WER %",
        "FP32                                                   4.50              8.00",
        "W4 g128, weights only  real audio  fade        5.50 +- 0.71  useless (1 of 2)",
    ]
