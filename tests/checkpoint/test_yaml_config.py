"""References in NeMo's YAML, and configurations made to harm."""

import time

import pytest

from trtasr.checkpoint import yaml_config
from trtasr.checkpoint.yaml_config import load_config, resolve
from trtasr.errors import CheckpointError


def resolved(text, key="a"):
    return resolve(load_config(text.encode(), "model_config.yaml"), key)


@pytest.mark.parametrize(
    ("text", "value"),
    [
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
    ],
)
def test_resolves(text, value):
    assert resolved(text) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: ${oc.env:HOME}", "more than a reference"),
        ("a: ${env:HOME}", "more than a reference"),
        ("a: ${now:%Y}", "more than a reference"),
        ("a: ${.b}", "more than a reference"),
        ("a: ${b.${c}}\nb: 1\nc: 2", "more than a reference"),
        ("a: x ${b", "more than a reference"),
        ("a: {deep: {er: '${gone}'}}", r"a\.deep\.er: \$\{gone\}"),
        ("a: ${b.c}\nb: 3", "names no key"),
        ("a: ${b.5}\nb: [1]", "names no key"),
        ("a: ${b}\nb: ${a}", "circle.*b -> a -> b"),
        ("a: ${a}", "circle"),
        ("a: {x: '???'}", r"a\.x: .*missing"),
        ("a: 'x${b}'\nb: {c: 1}", "section"),
    ],
)
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


@pytest.mark.parametrize("text", [b"a: {b: 0x1" + b"0" * 50 + b"}", b"a: {b: -99999999999999999999}"])
def test_integers_that_no_size_can_have(text):
    with pytest.raises(CheckpointError, match=r"a\.b: .* \d+ bits"):
        resolve(load_config(text, "config"), "a")


@pytest.mark.parametrize(
    "value",
    [
        "!!bool x",
        "!!bool 1",
        "!!int ''",
        "!!int x",
        "!!int 0x",
        "!!float ''",
        "!!float x",
        "!!timestamp x",
        "!!int yes",
        "!!timestamp 2001-01-01",
        "!!binary x",
        "!!set {a}",
        "!!omap [a: 1]",
        "!!python/name:os.system",
        "!x y",
        "1" + ":1" * 400,
        "1" + ":1" * 400 + ":1.0",
        "9" * 5000,
        "0x" + "f" * 5000,
        "1" * 5000 + ".0",
        "0b" + "1" * 400,
        "{? [a] : b}",
        "{? {a: b} : c}",
        "{" + "k" * 300 + ": 1}",
    ],
)
def test_values_that_are_not_what_they_claim(value):
    with pytest.raises(CheckpointError, match=r"model_config\.yaml .*YAML") as error:
        resolved(f"a: {value}\n")
    assert len(error.value.problem) < 300


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("!!float 3", 3.0),
        ("!!int 3", 3),
        ("!!bool yes", True),
        ("!!str 3", "3"),
        ("1:30", 90),
        ("0x10", 16),
        ("-5", -5),
        (".inf", float("inf")),
        ("2001-01-01", "2001-01-01"),
        ("~", None),
        ("'\u0928'", "\u0928"),
        ("1_000", 1000),
    ],
)
def test_values_as_omegaconf_reads_them(text, value):
    found = resolved(f"a: {text}")
    assert found == value
    assert type(found) is type(value)


def test_merge_keys_are_merged():
    assert resolved("m: &m {x: 1, y: 2}\nn: &n {<<: *m, y: 3}\na: {<<: [*n, *m], z: 4}") == {"x": 1, "y": 3, "z": 4}


HUNDRED = ", ".join(f"k{index}: 1" for index in range(100))


@pytest.mark.parametrize(
    "text",
    [
        "m0: &m0 {a: 1}\n" + "".join(f"m{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}]}}\n" for i in range(1, 22)),
        f"m: &m {{{HUNDRED}}}\na: {{<<: [{', '.join(['*m'] * 15_000)}]}}",
        "a: &a {<<: *a}",
        "[" * 1_000_000,
        "a: " + "{a: " * 50_000,
        "- " * 500_000,
        "a:\n" + "- b\n" * 30_000,
        "a: 1" + ":1" * 300_000,
        "a: !" + "x" * 100_000,
    ],
    ids=["merge", "merge many", "merge itself", "flow", "maps", "dashes", "values", "sexagesimal", "tag"],
)
def test_small_files_cannot_grow_large(text, monkeypatch):
    monkeypatch.setattr(yaml_config, "MAX_EVENTS", 20_000, raising=False)  # ten times less to wait for
    start = time.process_time()
    with pytest.raises(CheckpointError) as error:
        resolved(text)
    assert time.process_time() - start < 5
    assert len(error.value.problem) < 300


def test_half_a_character_is_refused():
    with pytest.raises(CheckpointError, match=r"a\.1: .*lone surrogate"):
        resolved('a: [b, "\\ud800"]')
