"""NeMo's YAML: a safe loader and the one kind of ``${...}`` interpolation that archives contain."""

import re
from collections.abc import Mapping
from typing import Any, cast

import yaml

from trtasr.errors import CheckpointError, said

REFERENCE = re.compile(r"\$\{([A-Za-z_]\w*(?:\.\w+)*)\}")
BUDGET = 2**20  # values and characters one section may resolve to: bounds aliases and references that multiply
EDIT = "correct model_config.yaml: plain values and references such as ${encoder.feat_in}"
MAX_DEPTH = 64  # of nested values; published configurations have 8
MAX_EVENTS = 200_000  # of the parser: bounds its time; a vocabulary of 100,000 tokens takes half
MAX_NUMBER = 64  # characters of a number
MAX_KEY = 256  # characters of a key
TAG = "tag:yaml.org,2002:"
BOOLEAN, INTEGER, FLOAT, MERGE = TAG + "bool", TAG + "int", TAG + "float", TAG + "merge"


class ConfigLoader(yaml.SafeLoader):
    """YAML's safe loader, narrowed to what OmegaConf writes: plain values, lists and mappings.

    As OmegaConf does, it reads ``1e-5`` as a number (YAML 1.1 asks for a dot), and dates as text.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.events = self.depth = 0
        self.merged = 0

    def get_event(self) -> Any:
        """The next event of the parser, counted.

        Raises:
            yaml.YAMLError: too many, or nested too deep.
        """
        event = cast(Any, super()).get_event()
        self.events += 1
        self.depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if self.events > MAX_EVENTS or self.depth > MAX_DEPTH:
            raise yaml.YAMLError(f"more than {MAX_EVENTS} values, or nested more than {MAX_DEPTH} deep")
        return event

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put in place what ``<<`` merges, up to a bound: each merge may double what the one before made.

        Raises:
            yaml.YAMLError: more than `BUDGET` pairs.
        """
        for key, value in node.value:
            merged = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for mapping in merged if key.tag == MERGE else ():
                if isinstance(mapping, yaml.MappingNode):
                    self.flatten_mapping(mapping)
                    self.merged += len(mapping.value)
                if self.merged > BUDGET:
                    raise yaml.YAMLError(f"merge keys (<<) make more than {BUDGET} values")
        super().flatten_mapping(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose keys are plain values.

        Raises:
            yaml.YAMLError: a key that is no plain value, or a long one.
        """
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or len(key.value) > MAX_KEY:
                raise yaml.YAMLError(f"a key that is no plain value of at most {MAX_KEY} characters")
        return super().construct_mapping(node, deep)

    def number(self, node: yaml.ScalarNode) -> Any:
        """A boolean, integer or float, if its text is one: a tag may claim what the text is not.

        Raises:
            yaml.YAMLError: other text, a number too long or too large.
        """
        kind, text = node.tag, node.value
        fitting = cast(Any, self).resolve(yaml.ScalarNode, text, (True, False))
        if len(text) > MAX_NUMBER or (fitting != kind and (fitting, kind) != (INTEGER, FLOAT)):
            raise yaml.YAMLError(f"{text[:40]!a} is no {kind.rpartition(':')[2]} of at most {MAX_NUMBER} characters")
        try:
            return NUMBERS[kind](self, node)
        except (ValueError, OverflowError) as error:
            raise yaml.YAMLError(f"{text[:40]!a} is no number ({error})") from error


NUMBERS = {kind: yaml.SafeLoader.yaml_constructors[kind] for kind in (BOOLEAN, INTEGER, FLOAT)}
KEPT = {tag: yaml.SafeLoader.yaml_constructors[tag] for tag in (TAG + "null", TAG + "str", TAG + "seq", TAG + "map")}
UNKNOWN: dict[Any, Any] = {None: yaml.SafeLoader.yaml_constructors[None]}  # refuses every other tag
ConfigLoader.yaml_constructors = KEPT | dict.fromkeys(NUMBERS, ConfigLoader.number) | UNKNOWN
ConfigLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != TAG + "timestamp"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
ConfigLoader.add_implicit_resolver(FLOAT, re.compile(r"^[-+]?\d+(?:\.\d*)?[eE][-+]?\d+$"), list("-+0123456789"))


def load_config(content: bytes, name: str) -> dict[str, Any]:
    """Parse a YAML mapping.

    Raises:
        CheckpointError: no YAML, not a mapping, or more than any configuration holds.
    """
    try:
        root = yaml.load(content, Loader=ConfigLoader)  # noqa: S506 (a subclass of SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{name} is not valid YAML ({said(error)})", EDIT) from error
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
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise CheckpointError(f"{where}: {text!a:.80} holds half a character (a lone surrogate)", EDIT)
        if whole := REFERENCE.fullmatch(text):
            return self.follow(whole[1], where, trail)
        if "${" in REFERENCE.sub("", text):
            raise CheckpointError(f"{where}: {text!r:.80} is more than a reference to another key", EDIT)
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
