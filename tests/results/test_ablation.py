"""One line of an ablation."""

import pytest

from trtasr.results import Scored, Setting, cell_of

ONE = Scored(6.0, 1.5, 90.0, 20.0, {"a": 5.0, "b": 7.0})
USELESS = Scored(None, None, 10.0, 0.0, {"a": None, "b": None})


@pytest.mark.parametrize(
    ("group", "weight_only", "words"),
    [(0, False, "W4A8"), (0, True, "W4, weights only"), (128, True, "W4 g128, weights only")],
)
def test_a_cell_says_how_weights_are_quantized(group, weight_only, words):
    setting = Setting("audio", "fade", 4, group)
    found = cell_of(setting, weight_only, [ONE])
    assert found.weights == words
    assert found.setting == setting


def test_a_cell_has_a_figure_per_seed_and_set():
    found = cell_of(Setting("synthetic", "none", 3), True, [ONE, USELESS])
    assert (found.wer, found.disagreement) == ((6.0, None), (1.5, None))
    assert (found.agreement, found.sqnr_db) == ((90.0, 10.0), (20.0, 0.0))
    assert found.sets == {"a": (5.0, None), "b": (7.0, None)}
