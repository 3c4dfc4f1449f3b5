"""References in NeMo's YAML."""

import pytest

from trtasr.checkpoint.yaml_config import load_config, resolve
from trtasr.errors import CheckpointError


def resolved(text, key="a"):
    return resolve(load_config(text.encode(), "model_config.yaml"), key)


@pytest.mark.parametrize(("text", "value"), [
    ("a: ${b}\nb: 3", 3),
    ("a: ${b.c.d}\nb: {c: {d: [1, 2]}}", [1, 2]),
    ("a: ${b.1}\nb: [x, y]", "y"),
    ("a: [{x: '${b}'}]\nb: ${c}\nc: true", [{"x": True}]),
    ("a: 'n_${b}_${c}k'\nb: 3\nc: 16", "n_3_16k"),
    ("a: {x: '${a.y}', y: 2}", {"x": 2, "y": 2}),
    ("a: null", None),
    ("a: 1e-5", 1e-5),
    ("a: 2.5E+3", 2500.0),
    ("a: &m [1]\nb: *m", [1]),
])  # fmt: skip
def test_resolves(text, value):
    assert resolved(text) == value


@pytest.mark.parametrize(("text", "words"), [
    ("a: ${oc.env:HOME}", "more than a reference"),
    ("a: ${env:HOME}", "more than a reference"),
    ("a: ${now:%Y}", "more than a reference"),
    ("a: ${.b}", "more than a reference"),
    ("a: ${b.${c}}\nb: 1\nc: 2", "more than a reference"),
    ("a: x ${b", "more than a reference"),
    ("a: {deep: {er: '${gone}'}}", r"a\.deep\.er: \$\{gone\} names no key"),
    ("a: ${b.c}\nb: 3", "names no key"),
    ("a: ${b.5}\nb: [1]", "names no key"),
    ("a: ${b}\nb: ${a}", "circle.*b -> a -> b"),
    ("a: ${a}", "circle"),
    ("a: {x: '???'}", r"a\.x: mandatory value missing"),
    ("a: 'x${b}'\nb: {c: 1}", "section"),
])  # fmt: skip
def test_refuses_naming_the_key(text, words):
    with pytest.raises(CheckpointError, match=words):
        resolved(text)


def test_aliases_and_references_that_multiply_are_bounded():
    rows = ["v0: [x, x, x, x, x, x, x, x, x, x]"]
    aliases = ["v0: &v0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, 12):
        below = f"v{level - 1}"
        rows.append(f"v{level}: [" + ", ".join([f"'${{{below}}}'"] * 10) + "]")
        aliases.append(f"v{level}: &v{level} [" + ", ".join([f"*{below}"] * 10) + "]")
    for text in ("\n".join(rows), "\n".join(aliases)):
        with pytest.raises(CheckpointError, match="more than"):
            resolved(text, "v11")


def test_a_structure_inside_itself_is_refused():
    with pytest.raises(CheckpointError, match="nested too deep"):
        resolved("a: &a [*a]")


@pytest.mark.parametrize("text", [b"a: {b: 0x1" + b"0" * 5000 + b"}", b"a: {b: -99999999999999999999}"])
def test_integers_that_no_size_can_have(text):
    with pytest.raises(CheckpointError, match=r"a\.b: an integer of \d+ bits"):
        resolve(load_config(text, "config"), "a")
