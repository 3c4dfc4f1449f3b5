"""Bounds of every value, names that stay inside engines/, and recipes that nobody would write."""

import json
import random
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from trtasr.errors import RecipeError
from trtasr.recipe import (
    Calibration,
    EngineShapes,
    Evaluation,
    Quantization,
    Recipe,
    from_dict,
    load_recipe,
    override,
    to_dict,
)

RECIPE = Recipe("a", "b.nemo")
SEED = b"""name = "seed"
checkpoint = "m.nemo"
[calibration]
seed = 3
seconds = 4.0
[quantization]
exclude = ["/encoder/*"]
headroom = 1.5
[engine]
target = "cpu"
max_seconds = 20.0
[evaluation]
bench_seconds = [2.0, 7.0]
mixed = false
"""
BITS = [
    b"[",
    b"]" * 40,
    b"[" * 2000,
    b"{a=" * 500,
    b"9" * 5000,
    b"0x" + b"f" * 9000,
    b"1e400",
    b"inf",
    b"-nan",
    b"\xff",
    b"\x00",
    b"\x1b[2J",
    b'"',
    b"\n",
    b"=",
    b".",
    b"a." * 300 + b"b=1\n",
    b"1979-05-27",
    b"true",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b"'''",
    b"10" * 12,
    b"-1",
    b"1",
    b"[1]",
    b"'cpu'",
]


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("evaluation.threads=100000", "use at most 1024"),
        ("engine.max_seconds=1e9", "use at most 3600"),
        ("calibration.seconds=1e9", "use at most 600"),
        ("calibration.batch_size=100000000", "use at most 256"),
        ("calibration.batches=100000", "use at most 1000"),
        ("calibration.steps=1000000000", "use at most 10000"),
        ("calibration.seed=100000000000000000000000", "use at most 9223372036854775807"),
        ("calibration.seed=-1", "use at least 0"),
        ("calibration.learning_rate=1e300", "use at most 10"),
        ("calibration.learning_rate=inf", "finite"),
        ("quantization.headroom=1e9", "use at most 10"),
        ("quantization.damping=1e30", "use at most"),
        ("quantization.gptq_damping=0", "use at least 1e-06"),
        ("engine.workspace_mb=100000000", "use at most 1048576"),
        ("engine.max_batch=100000", "use at most 1024"),
        ("evaluation.batch=100000", "use at most 1024"),
        ("evaluation.gpu_batches=[100000]", "use at most 1024"),
        ("evaluation.bench_seconds=[1e9]", "use at most 3600"),
        ("evaluation.max_wer_increase=1e9", "use at most 1000000"),
        (f"evaluation.bench_seconds=[{'1,' * 2000}]", "give at most 1000"),
        (f"calibration.seed={'9' * 5000}", "not a value"),
        (f"calibration.seed=0x{'f' * 5000}", "use at most"),
        (f"calibration.seconds=0x{'f' * 5000}", "expected a number"),
        (f"calibration.seed={'[' * 5000}", "not a value"),
        ("calibration.steps=x", "give an integer"),
        ("calibration.seconds=x", "give a number"),
        ("calibration.bfloat16=1", "give true or false"),
        (f"checkpoint={'x' * 300}", "longer than a file's name"),
        (f"checkpoint={'x/' * 3000}", "use less than 4096 bytes"),
        ('checkpoint="a\\u0000b"', "cannot be shown"),
        ('checkpoint=""', "checkpoint = ''"),
        ("evaluation.manifest=\udcff.json", "cannot be shown"),
        ('evaluation.manifest=["a.json", "\\u0000"]', "cannot be shown"),
        ('evaluation.manifest=["a.json", ""]', "name a file or a folder"),
        ("evaluation.manifest=3", "expected a list"),
        (f"evaluation.manifest={'x' * 300}", "longer than a file's name"),
        ("evaluation.gate=both", "use one of point, interval"),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_the_bound_and_the_flag(assignment: str, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        override(RECIPE, [assignment])
    assert words in str(caught.value)
    assert str(caught.value).startswith("--set ")
    assert len(str(caught.value)) < 500


def test_many_batches_of_long_features_are_too_much_together() -> None:
    with pytest.raises(RecipeError, match="use at most 86400 s"):
        override(RECIPE, ["calibration.batches=1000", "calibration.batch_size=256", "calibration.seconds=600"])


@pytest.mark.parametrize("kind", [Calibration, Quantization, EngineShapes, Evaluation])
def test_every_number_of_a_recipe_is_bounded(kind: type) -> None:
    section = {
        Calibration: "calibration",
        Quantization: "quantization",
        EngineShapes: "engine",
        Evaluation: "evaluation",
    }
    for item in fields(kind):
        if str(item.type).replace("tuple[", "").startswith(("int", "float")) or item.type in (int, float):
            value = 2.0**62 if "float" in str(item.type) else 2**64
            text = f"[{value}]" if "tuple" in str(item.type) else f"{value}"
            with pytest.raises(RecipeError, match="use at most"):
                override(RECIPE, [f"{section[kind]}.{item.name}={text}"])


@pytest.mark.parametrize(
    "name",
    [
        "../../evil",
        "/etc/evil",
        "a/b",
        "..",
        ".",
        "",
        " ",
        ". .",
        "a\0b",
        "x" * 101,
        "é" * 51,
        "a\nb",
        "\x1b[2J",
        "a\u202eb",
        "a\\b",
        "\ud800",
    ],
)
def test_a_name_cannot_leave_engines(name: str) -> None:
    with pytest.raises(RecipeError):
        from_dict(Recipe, {"name": name, "checkpoint": "m.nemo"}, "recipe.toml")
    with pytest.raises(RecipeError, match="--set"):
        override(RECIPE, [f"name={json.dumps(name)}"])


@pytest.mark.parametrize("name", ["модель", "हिन्दी", "語音", "whisper-tiny.en", "my model", "a+b", "x" * 100])
def test_a_name_keeps_its_letters(name: str) -> None:
    assert from_dict(Recipe, {"name": name, "checkpoint": "m.nemo"}, "recipe.toml").name == name


def test_composed_and_decomposed_names_are_one() -> None:
    assert from_dict(Recipe, {"name": "cafe\u0301", "checkpoint": "m"}, "recipe.toml").name == "caf\u00e9"


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "windows.toml"
    path.write_bytes(b"\xef\xbb\xbf" + SEED)
    assert load_recipe(path).name == "seed"


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe",
        b"seed = " + b"9" * 5000,
        b"a = " + b"[" * 5000,
        b"a.b" + b".c" * 5000 + b" = 1",
        b"[calibration]\nseconds = inf",
        b"name = 1979-05-27",
        b"calibration = []",
        b"x" * 2**21,
    ],
)
def test_hostile_files_end_in_a_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(b'checkpoint = "m"\n'[: 0 if content.startswith(b"a") else None] + content)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 800


def mutated(random_: random.Random) -> bytes:
    """A recipe with bytes changed, cut, doubled, and hostile pieces put in."""
    content = bytearray(SEED)
    for _ in range(random_.randint(1, 2)):
        at = random_.randrange(len(content) + 1)
        match random_.randrange(5):
            case 0:
                content[at:at] = random_.choice(BITS)
            case 1:
                del content[at : at + random_.randrange(1, 30)]
            case 2:
                content[at : at + 1] = bytes([random_.randrange(256)])
            case _:
                line = random_.choice(SEED.splitlines(keepends=True))
                found = content.find(line)
                key = line.split(b"=")[0]
                content[found : found + len(line)] = key + b"= " + random_.choice(BITS) + b"\n"
    return bytes(content)


def test_mutated_recipes_are_read_or_refused(tmp_path: Path) -> None:
    random_ = random.Random(0)
    path, outcomes = tmp_path / "fuzzed.toml", {"read": 0, "refused": 0}
    longest = 0
    for _ in range(1500):
        path.write_bytes(mutated(random_))
        try:
            recipe = load_recipe(path)
            assert from_dict(Recipe, json.loads(json.dumps(to_dict(recipe))), "again") == recipe
            outcomes["read"] += 1
        except RecipeError as error:
            longest = max(longest, len(str(error)))
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 20, outcomes
    assert longest < 1000


def test_mutated_assignments_are_applied_or_refused() -> None:
    random_ = random.Random(1)
    data = tomllib.loads(SEED.decode())
    keys = [f"{section}.{key}" for section, held in data.items() if isinstance(held, dict) for key in held]
    bits, longest = [*(bit.decode("utf-8", "surrogateescape") for bit in BITS), ","], 0
    for _ in range(1500):
        text = "".join(random_.choice(bits) for _ in range(random_.randint(1, 3)))
        try:
            override(RECIPE, [f"{random_.choice([*keys, 'name', 'engine', 'calibration.', text])}={text}"])
        except RecipeError as error:
            longest = max(longest, len(str(error)))
    assert 50 < longest < 1000
