"""Recipes: frozen dataclasses read from TOML, overridden by ``--set section.key=value`` and other flags.

An unknown key is an error that names the nearest known key; a value of the wrong kind or out of bounds is an error that
names the kind or the bound, and where the value came from.
"""

from trtasr.recipe.check import from_dict
from trtasr.recipe.read import Change, change, engine_name, load_recipe, override, to_dict
from trtasr.recipe.sections import LABELS, Calibration, EngineShapes, Evaluation, Generating, Quantization, Recipe

__all__ = [
    "LABELS",
    "Calibration",
    "Change",
    "EngineShapes",
    "Evaluation",
    "Generating",
    "Quantization",
    "Recipe",
    "change",
    "engine_name",
    "from_dict",
    "load_recipe",
    "override",
    "to_dict",
]
