"""Recipes from TOML files and flags."""

import hashlib
import os
import tomllib
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any, cast, get_type_hints

from trtasr.errors import RecipeError
from trtasr.files.read import Source
from trtasr.recipe.check import LONGEST_NAME, from_dict, nearest, shown, value_of
from trtasr.recipe.sections import Recipe

LARGEST = 2**16  # bytes of a file, or characters of an assignment: nested keys take quadratic time
COMPARE = "compare it with engines/quartznet.toml"


@dataclass(frozen=True)
class Change:
    """A value of a recipe that the command line gives.

    Attributes:
        flag: that gives it, named in errors.
        key: ``section.key``.
        value: of any type; checked when it is applied.
    """

    flag: str
    key: str
    value: Any


def load_recipe(path: Path) -> Recipe:
    """Read a TOML recipe; relative paths in it are resolved against its folder.

    Raises:
        RecipeError: missing file, broken TOML, unknown key, value of the wrong kind or out of bounds.
    """
    if not os.path.lexists(path):
        raise RecipeError(f"{path}: no such recipe", "pass a .nemo archive or a recipe, see engines/*.toml")
    data = Source(path, RecipeError, COMPARE, LARGEST).toml()
    recipe = cast(Recipe, from_dict(Recipe, {"name": engine_name(path.stem), **data}, str(path)))
    return resolve_paths(recipe, path.parent)


def engine_name(text: str) -> str:
    """A name for an engine from the name of a file: no way out of ``engines/``, letters of every script kept.

    Letters, marks and digits stay, as do ``._-+`` and the joiners that scripts need; anything else becomes ``_``. What
    is too long is cut and told apart by a hash.

    Args:
        text: a file's name without its suffix, or a folder's name.

    Returns:
        the name in NFC.
    """
    composed = unicodedata.normalize("NFC", text)
    kept = "".join(c if unicodedata.category(c)[0] in "LMN" or c in "._-+\u200c\u200d" else "_" for c in composed)
    kept = kept.lstrip(".") or "model"
    if len(kept.encode()) <= LONGEST_NAME:
        return kept
    digest = hashlib.sha256(kept.encode()).hexdigest()[:8]
    return f"{kept.encode()[: LONGEST_NAME - 9].decode(errors='ignore')}-{digest}"


def resolve_paths(recipe: Recipe, folder: Path) -> Recipe:
    """Make the recipe's relative paths relative to the current folder instead of the recipe's."""

    def resolve(value: str) -> str:
        return str(folder / value) if value else ""

    return replace(
        recipe,
        checkpoint=resolve(recipe.checkpoint),
        calibration=replace(recipe.calibration, manifest=resolve(recipe.calibration.manifest)),
        engine=replace(recipe.engine, timing_cache=resolve(recipe.engine.timing_cache)),
        evaluation=replace(recipe.evaluation, manifest=tuple(map(resolve, recipe.evaluation.manifest))),
    )


def override(recipe: Recipe, assignments: Sequence[str]) -> Recipe:
    """Apply ``section.key=value`` assignments; values are TOML, bare words are taken as strings.

    Raises:
        RecipeError: no ``=``, unknown key, a value of the wrong kind or out of bounds.
    """
    return change(recipe, [parsed(assignment) for assignment in assignments])


def parsed(assignment: str) -> Change:
    """One assignment of ``--set``.

    Raises:
        RecipeError: no ``=``, or a value that is no TOML value and no word.
    """
    key, equals, text = assignment.partition("=")
    flag = f"--set {shown(assignment)}"
    if len(assignment) > LARGEST:
        raise RecipeError(f"{flag}: {len(assignment)} characters", "give a shorter value")
    if not equals:
        raise RecipeError(f"{flag}: no '='", "write it as --set section.key=value")
    try:
        return Change(flag, key.strip(), parse_value(text.strip()))
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{flag}: not a value ({error!s:.80})", "give a shorter value") from error


def parse_value(text: str) -> Any:
    """One TOML value; a bare word is a string.

    Raises:
        ValueError: a number of too many digits. RecursionError: nested too deeply.
    """
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def change(recipe: Recipe, changes: Sequence[Change]) -> Recipe:
    """The recipe with values that the command line gives.

    Raises:
        RecipeError: naming the flag, an unknown key, a value of the wrong kind or out of bounds; or values that
            contradict each other.
    """
    data = asdict(recipe)
    for item in changes:
        assign(data, item)
    return cast(Recipe, from_dict(Recipe, data, "recipe and flags"))


def assign(data: dict[str, Any], item: Change) -> None:
    """Put one change into a recipe's data, checked.

    Raises:
        RecipeError: an unknown section or key, with the nearest that is known, or a value that is not allowed.
    """
    *sections, key = item.key.split(".")
    kind: Any = Recipe
    for part in sections:
        known = {name: hint for name, hint in get_type_hints(kind).items() if is_dataclass(hint)}
        if part not in known:
            raise RecipeError(f"{item.flag}: unknown section {shown(part)}", nearest(part, list(known), "sections"))
        kind, data = known[part], data[part]
    hints = get_type_hints(kind)
    if key not in hints:
        raise RecipeError(f"{item.flag}: unknown key {shown(key)}", nearest(key, list(hints), "known keys"))
    value = value_of(kind, key, item.value, item.flag)
    data[key] = asdict(value) if is_dataclass(hints[key]) else value


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """The resolved recipe as plain JSON types."""
    return cast(dict[str, Any], plain(asdict(recipe)))


def plain(value: Any) -> Any:
    """Tuples as lists, at any depth, as JSON and TOML have them."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, (tuple, list)) else value
