"""Values of a recipe, checked: kind, words, bounds, names and paths; each error says where the value came from."""

import difflib
import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, cast, get_args, get_origin, get_type_hints

from trtasr.errors import RecipeError
from trtasr.recipe.sections import CHOICES, Calibration, EngineShapes, Evaluation, Quantization, Recipe
from trtasr.text.printable import printable

BOUNDS: Mapping[str, tuple[float, float]] = {  # smallest and largest of every number, and of those in a list
    "seed": (0, 2**63 - 1),
    "batches": (1, 1000),
    "batch_size": (1, 256),
    "steps": (1, 10_000),
    "seconds": (0.1, 600),
    "learning_rate": (1e-9, 10),
    "headroom": (0.1, 10),
    "alpha": (0, 1),
    "damping": (1e-6, 1e6),
    "gptq_damping": (1e-6, 1e6),
    "weight_bits": (2, 8),
    "weight_group": (0, 2**31 - 1),
    "min_seconds": (0.05, 3600),
    "opt_seconds": (0.05, 3600),
    "max_seconds": (0.05, 3600),
    "min_batch": (1, 1024),
    "opt_batch": (1, 1024),
    "max_batch": (1, 1024),
    "unfold_channels": (1, 2**31 - 1),
    "workspace_mb": (0, 2**20),
    "max_wer_increase": (0, 10**6),
    "max_wer_upper": (0, 10**6),
    "batch": (1, 1024),
    "threads": (0, 1024),
    "min_sqnr": (0, 1000),
    "bench_seconds": (0.01, 3600),
    "gpu_seconds": (0.01, 3600),
    "gpu_batches": (1, 1024),
    "tokens_per_second": (0, 100),
}
MOST_ITEMS = 1000  # of a list
MOST_SECONDS = 86_400  # of synthetic audio, over all batches
LONGEST_NAME, LONGEST_TEXT, LONGEST_PART = 100, 4096, 255  # bytes of an engine's name, of a text, of a path's part
PATHS = ("checkpoint", "manifest", "timing_cache")
ONE_OR_MORE = ((Evaluation, "manifest"),)
WORDS: Mapping[type, str] = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}
SHOWN = 80  # characters of a value in a message


def from_dict(kind: type, data: Mapping[str, Any], where: str) -> Any:
    """A dataclass from a mapping, with every key and value checked.

    Raises:
        RecipeError: naming ``where`` and the key.
    """
    names = [f.name for f in fields(kind)]
    for key in data:
        if key not in names:
            raise RecipeError(f"{where}: unknown key {shown(key)}", nearest(key, names, "known keys"))
    missing = [n for n in ("name", "checkpoint") if n in names and n not in data]
    if missing:
        raise RecipeError(f"{where}: missing key {missing[0]!r}", "add it; see engines/quartznet.toml")
    built = kind(**{key: value_of(kind, key, value, where) for key, value in data.items()})
    if isinstance(built, EngineShapes):
        check_order(built, where)
    if isinstance(built, Calibration):
        check_amount(built, where)
    if isinstance(built, Quantization):
        check_groups(built, where)
    return built


def nearest(key: str, names: Sequence[str], known: str) -> str:
    """The repair of an unknown key: the name that is meant, or all that there are."""
    near = difflib.get_close_matches(key[:SHOWN], names, 1, 0.5)
    return f"did you mean {near[0]!r}?" if near else f"{known}: {', '.join(names)}"


def value_of(kind: type, key: str, value: Any, where: str) -> Any:
    """The value of one key of a dataclass, checked; a text is a list of one where several may be named.

    Raises:
        RecipeError: of another kind, or not allowed.
    """
    hint = get_type_hints(kind)[key]
    if (kind, key) in ONE_OR_MORE and isinstance(value, str):
        value = [value] if value else []
    return allowed(kind, key, valued(hint, value, f"{where}: {key}"), where)


def valued(hint: Any, value: Any, where: str) -> Any:
    """A value of the kind that a key's type hint asks for: integers become floats, lists tuples, tables sections.

    Raises:
        RecipeError: of another kind, not finite, or text that is too long or cannot be shown.
    """
    if is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise RecipeError(f"{where}: expected a section, got {shown(value)}", "write it as a TOML table")
        return from_dict(cast(type, hint), value, where)
    if get_origin(hint) is tuple:
        return items(get_args(hint)[0], value, where)
    if hint is float and type(value) is int and abs(value) < 2**1000:
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        repair = f"put it in quotes: '\"{value}\"'" if hint is str and is_short(value) else f"give {WORDS[hint]}"
        raise RecipeError(f"{where}: expected {WORDS[hint]}, got {shown(value)}", repair)
    if isinstance(value, float) and not math.isfinite(value):
        raise RecipeError(f"{where}: {value}", "give a finite number")
    return checked_text(value, where) if isinstance(value, str) else value


def is_short(value: Any) -> bool:
    """True for a number that is written in few digits."""
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 10**SHOWN)


def items(hint: type, value: Any, where: str) -> tuple[Any, ...]:
    """A list of a recipe, item by item.

    Raises:
        RecipeError: no list, or a longer one than anybody needs.
    """
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise RecipeError(f"{where}: expected a list, got {shown(value)}", f"write it as [{shown(value)}]")
    if len(value) > MOST_ITEMS:
        raise RecipeError(f"{where}: {len(value)} items", f"give at most {MOST_ITEMS}")
    return tuple(valued(hint, item, where) for item in value)


def checked_text(value: str, where: str) -> str:
    """A text as it is.

    Raises:
        RecipeError: it cannot be shown, or is longer than any name or path.
    """
    if printable(value) != value or "\n" in value or "\t" in value:
        raise RecipeError(f"{where} = {shown(value)}: has characters that cannot be shown", "rename it without them")
    if len(value.encode()) >= LONGEST_TEXT:
        raise RecipeError(f"{where} = {shown(value)}: {len(value)} characters", f"use less than {LONGEST_TEXT} bytes")
    return value


def shown(value: Any) -> str:
    """A value in a message: short whatever it is."""
    if isinstance(value, Mapping):
        return "a section"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"a list of {len(value)}"
    if isinstance(value, int) and not is_short(value):
        return f"an integer of over {SHOWN} digits"
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def allowed(kind: type, key: str, value: Any, where: str) -> Any:
    """The value, of the right kind already, if its key may have it; a name in NFC.

    Raises:
        RecipeError: another word than the known ones, out of bounds, or no name or path.
    """
    words = CHOICES.get((kind, key))
    if words and value not in words:
        raise RecipeError(f"{where}: {key} = {shown(value)}", f"use one of {', '.join(words)}")
    if kind is Recipe and key == "name":
        return folder_name(value, where)
    for path in (value if isinstance(value, tuple) else (value,)) if key in PATHS else ():
        check_path(key, path, where, isinstance(value, tuple))
    if key in BOUNDS:
        check_bounds(key, value, where)
    return value


def check_bounds(key: str, value: Any, where: str) -> None:
    """Refuse numbers outside `BOUNDS`.

    Raises:
        RecipeError: naming the key and the bound.
    """
    low, high = BOUNDS[key]
    numbers = value if isinstance(value, tuple) else (value,)
    if not numbers:
        raise RecipeError(f"{where}: {key} = []", "give at least one")
    for number in numbers:
        if number < low:
            raise RecipeError(f"{where}: {key} = {shown(number)}", f"use at least {low}")
        if number > high:
            raise RecipeError(f"{where}: {key} = {shown(number)}", f"use at most {high}")


def folder_name(value: str, where: str) -> str:
    """The name of an engine, in one form of Unicode, which is that of its folder.

    Raises:
        RecipeError: no folder can have it.
    """
    name = unicodedata.normalize("NFC", value)
    if not name.strip(". ") or name != name.strip() or "/" in name or "\\" in name:
        raise RecipeError(f"{where}: name = {shown(value)}: is no name of a folder", "use letters and digits, no path")
    if len(name.encode()) > LONGEST_NAME:
        raise RecipeError(f"{where}: name = {shown(value)}: too long", f"use at most {LONGEST_NAME} bytes")
    return name


def check_path(key: str, value: str, where: str, listed: bool) -> None:
    """Refuse paths that no file system takes; an empty one stands for none, but not in a list.

    Raises:
        RecipeError: naming the key.
    """
    if key == "checkpoint" and not value:
        raise RecipeError(f"{where}: checkpoint = ''", "give the path of an archive or a folder")
    if listed and not value:
        raise RecipeError(f"{where}: {key} = ['']", "name a file or a folder, or leave it out")
    if any(len(part.encode()) > LONGEST_PART for part in value.split("/")):
        raise RecipeError(f"{where}: {key} = {shown(value)}: longer than a file's name can be", "correct the path")


def check_amount(calibration: Calibration, where: str) -> None:
    """Refuse more synthetic features than memory or patience hold.

    Raises:
        RecipeError: more than `MOST_SECONDS`.
    """
    seconds = calibration.batches * calibration.batch_size * calibration.seconds
    if seconds > MOST_SECONDS:
        raise RecipeError(
            f"{where}: batches x batch_size x seconds = {seconds:g} s of features", f"use at most {MOST_SECONDS} s"
        )


def check_groups(quantization: Quantization, where: str) -> None:
    """Refuse groups of one column, and groups in anything but a simulation of weights alone.

    Raises:
        RecipeError: naming the key.
    """
    group = quantization.weight_group
    if group == 1:
        raise RecipeError(f"{where}: weight_group = 1", "use at least 2, or 0 for one scale per output channel")
    if group and not quantization.weight_only:
        raise RecipeError(
            f"{where}: weight_group = {group}: engines have one weight scale per output channel; groups are simulated "
            "beside activations in floating point only",
            "add quantization.weight_only = true and run trtasr ablation, or leave out quantization.weight_group",
        )


def check_order(shapes: EngineShapes, where: str) -> None:
    """Refuse shapes that are not min <= opt <= max.

    Raises:
        RecipeError: naming the three.
    """
    for unit in ("batch", "seconds"):
        low, usual, high = (getattr(shapes, f"{which}_{unit}") for which in ("min", "opt", "max"))
        if not low <= usual <= high:
            raise RecipeError(f"{where}: {unit} {low}, {usual}, {high} is not min <= opt <= max", "put them in order")
