"""The sections of a recipe agree with the words and bounds that they are checked by."""

from dataclasses import FrozenInstanceError, fields, is_dataclass
from typing import get_type_hints

import pytest

from trtasr.recipe import to_dict
from trtasr.recipe.check import BOUNDS, from_dict
from trtasr.recipe.sections import CHOICES, Recipe

SECTIONS = [kind for kind in get_type_hints(Recipe).values() if is_dataclass(kind)]


def test_every_choice_is_a_key_and_its_default_one_of_the_words():
    for (kind, key), words in CHOICES.items():
        assert kind in SECTIONS
        assert getattr(kind(), key) in words, key
        assert len(set(words)) == len(words)


@pytest.mark.parametrize("kind", SECTIONS)
def test_every_default_lies_within_its_bounds_and_every_number_has_some(kind):
    for item in fields(kind):
        value = getattr(kind(), item.name)
        numbers = [
            number
            for number in (value if isinstance(value, tuple) else (value,))
            if isinstance(number, int | float) and not isinstance(number, bool)
        ]
        for number in numbers:
            low, high = BOUNDS[item.name]
            assert low <= number <= high, item.name


def test_sections_cannot_be_changed():
    recipe = Recipe("a", "b")
    for item in (recipe, recipe.engine, recipe.quantization):
        with pytest.raises(FrozenInstanceError):
            item.target = "cpu"


def test_what_is_written_is_read_back_as_the_same():
    recipe = Recipe("a", "b")
    assert from_dict(Recipe, to_dict(recipe), "x") == recipe
