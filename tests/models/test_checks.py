"""Values of a configuration are of their type and within their bounds, or refused by their key."""

import pytest

from trtasr.errors import CheckpointError
from trtasr.models.checks import check_integer, check_switches, check_table

INTEGERS, FIXED = {"layers": (1, 24), "width": (8, 64)}, {"activation": "gelu", "scale": None}


@pytest.mark.parametrize("value", [1, 5, 24])
def test_integers_within_their_bounds(value):
    check_integer("layers", value, (1, 24))


@pytest.mark.parametrize("value", [0, 25, -1, 10**30, True, 2.0, "2", None, [2], float("nan")])
def test_other_values_are_refused_with_the_bounds(value):
    with pytest.raises(CheckpointError, match="layers: ") as error:
        check_integer("layers", value, (1, 24))
    assert error.value.repair.endswith("from 1 to 24")


def test_a_long_value_is_cut():
    with pytest.raises(CheckpointError) as error:
        check_integer("layers", "x" * 10_000, (1, 24))
    assert len(error.value.problem) < 100


def test_switches_that_are_there_are_true_or_false():
    check_switches("encoder", {"a": True, "b": False, "other": 3}, ("a", "b", "absent"))
    with pytest.raises(CheckpointError, match=r"encoder\.b: 1"):
        check_switches("encoder", {"a": True, "b": 1}, ("a", "b"))


def test_a_table_has_its_integers_and_computes_as_we_do():
    check_table({"layers": 2, "width": 8, "activation": "gelu", "more": "x"}, INTEGERS, FIXED)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layers": 25}, "layers: 25"),
        ({"width": None}, "width: None"),
        ({"activation": "relu"}, "activation is 'relu'"),
        ({"scale": 2}, "scale is 2"),
    ],
)
def test_a_table_that_does_not_fit_names_the_key(change, words):
    with pytest.raises(CheckpointError, match=f"config.json: {words}"):
        check_table({"layers": 2, "width": 8, **change}, INTEGERS, FIXED)
