"""NeMo's YAML: a safe loader and the one kind of ``${...}`` interpolation that archives contain."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from trtasr.errors import CheckpointError

REFERENCE = re.compile(r"\$\{([A-Za-z_]\w*(?:\.\w+)*)\}")
BUDGET = 2**20  # values and characters one section may resolve to: bounds aliases and references that multiply
EDIT = "correct model_config.yaml: plain values and references such as ${encoder.feat_in}"


class ConfigLoader(yaml.SafeLoader):
    """YAML's safe loader, with ``1e-5`` read as a number as OmegaConf does (YAML 1.1 asks for a dot)."""


ConfigLoader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(?:\.\d*)?[eE][-+]?\d+$"),
                                   list("-+0123456789"))  # fmt: skip


def load_config(content: bytes, name: str) -> dict[str, Any]:
    """Parse a YAML mapping.

    Raises:
        CheckpointError: no YAML, or not a mapping.
    """
    try:
        root = yaml.load(content, Loader=ConfigLoader)  # noqa: S506 (a subclass of SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{name} is not valid YAML ({first_line(error)})", EDIT) from error
    if not isinstance(root, dict):
        raise CheckpointError(f"{name} is not a mapping", EDIT)
    return root


def resolve(root: Mapping[str, Any], key: str) -> Any:
    """Value of ``root[key]`` with every reference in it replaced.

    Only plain references to other keys of the same file are resolved (``${a.b.c}``, counted from the root, alone or
    inside a longer string).

    Raises:
        CheckpointError: a cycle, a missing key, a resolver such as ``${oc.env:X}``, or a mandatory value ``???``.
    """
    try:
        return Resolver(root).value(root[key], key, ())
    except RecursionError as error:
        raise CheckpointError(f"{key}: nested too deep", EDIT) from error


class Resolver:
    """Resolves one section; counts what it produces, so that small files cannot grow large.

    Args:
        root: the whole configuration.
    """

    def __init__(self, root: Mapping[str, Any]) -> None:
        self.root = root
        self.budget = BUDGET

    def value(self, value: Any, where: str, trail: tuple[str, ...]) -> Any:
        """Resolve ``value``, found at the dotted path ``where`` after following the references ``trail``."""
        self.spend(1, where)
        if isinstance(value, dict):
            return {key: self.value(item, f"{where}.{key}", trail) for key, item in value.items()}
        if isinstance(value, list):
            return [self.value(item, f"{where}.{index}", trail) for index, item in enumerate(value)]
        if isinstance(value, int) and abs(value) >= 2**63:
            raise CheckpointError(f"{where}: an integer of {value.bit_length()} bits", EDIT)
        if value == "???":
            raise CheckpointError(f"{where}: mandatory value missing (???)", EDIT)
        return self.text(value, where, trail) if isinstance(value, str) else value

    def text(self, text: str, where: str, trail: tuple[str, ...]) -> Any:
        """Resolve the references in a string; a lone reference keeps the type of what it names."""
        self.spend(len(text), where)
        if whole := REFERENCE.fullmatch(text):
            return self.follow(whole[1], where, trail)
        if "${" in REFERENCE.sub("", text):
            raise CheckpointError(f"{where}: {text!r} is more than a reference to another key", EDIT)
        return REFERENCE.sub(lambda match: self.scalar(match[1], where, trail), text)

    def scalar(self, key: str, where: str, trail: tuple[str, ...]) -> str:
        """A referenced value as text."""
        value = self.follow(key, where, trail)
        if isinstance(value, (dict, list)):
            raise CheckpointError(f"{where}: ${{{key}}} is a section and cannot stand inside a string", EDIT)
        text = str(value)
        self.spend(len(text), where)
        return text

    def follow(self, key: str, where: str, trail: tuple[str, ...]) -> Any:
        """The resolved value at a dotted path from the root."""
        if key in trail:
            raise CheckpointError(f"{where}: references run in a circle ({' -> '.join((*trail, key))})", EDIT)
        value: Any = self.root
        for part in key.split("."):
            try:
                value = value[int(part)] if isinstance(value, list) else value[part]
            except (KeyError, IndexError, TypeError, ValueError):
                raise CheckpointError(f"{where}: ${{{key}}} names no key of this file", EDIT) from None
        return self.value(value, key, (*trail, key))

    def spend(self, amount: int, where: str) -> None:
        """Count what was produced."""
        self.budget -= amount
        if self.budget < 0:
            raise CheckpointError(f"{where}: resolves to more than {BUDGET} values", EDIT)


def first_line(error: Exception) -> str:
    """First line of an error message."""
    return (str(error).splitlines() or [type(error).__name__])[0]
