"""The documents tell the truth: commands, flags, recipe keys, files and modules that they name exist."""

import inspect
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from textwrap import indent

import pytest
from test_layering import APART, FLOORS

from trtasr.cli import parser
from trtasr.pipeline.compile import compile_recipe
from trtasr.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
README, ARCHITECTURE = ROOT / "README.md", ROOT / "docs" / "architecture.md"
PAGES = sorted([README, ROOT / "trtasr" / "zoo" / "README.md", *(ROOT / "docs").glob("*.md")])
OTHER_PROGRAMS = {"docker.md", "polygraphy.md"}  # pages whose flags are not ours; tests of their own run them
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
FILES = {"calibration.cache", "calibration.json"}  # they look like keys of a recipe
LONGEST_README = 90  # lines: what a newcomer reads in two minutes


def shown(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[str]:
    """Fenced code of a page, comments cut off, continued lines joined."""
    found = [block.partition("\n")[2].removesuffix("```") for block in FENCE.findall(page.read_text(encoding="utf-8"))]
    return [re.sub(r"(^|\s)#.*", "", block).replace("\\\n", " ") for block in found]


def spans(page: Path) -> list[str]:
    """Code inside the sentences of a page, each on one line."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    return [re.sub(r"\s+", " ", span) for span in re.findall(r"`([^`]+)`", text)]


def code(page: Path) -> list[str]:
    return [*(line for block in blocks(page) for line in block.splitlines()), *spans(page)]


def commands(lines: list[str]) -> Iterator[list[str]]:
    """Command lines of trtasr, from the verb on."""
    for line in lines:
        for command in re.findall(r"(?:^|[\s/])trtasr ([a-z][^|;&)]*)", line):
            words = shlex.split(command)
            if words[0] != "make":  # of the Docker image, which is called trtasr too
                yield words


@cache
def options() -> dict[str, set[str]]:
    """Verb -> its flags."""
    actions = next(action for action in parser()._actions if action.choices and "compile" in action.choices)
    return {verb: set(sub._option_string_actions) for verb, sub in actions.choices.items()}


def makefile_targets() -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def recipe_keys() -> set[str]:
    recipe = Recipe("any", "any.nemo")
    sections = {field.name: getattr(recipe, field.name) for field in fields(recipe)}
    return {f"{name}.{key.name}" for name, part in sections.items() if is_dataclass(part) for key in fields(part)}


@pytest.fixture(params=PAGES, ids=shown)
def page(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


def test_make_targets_exist_and_have_help(page: Path) -> None:
    named = {target for line in code(page) for target in re.findall(r"(?<![\w-])make ([a-z0-9-]+)", line)}
    assert named <= makefile_targets()


def test_command_lines_parse(page: Path) -> None:
    for words in commands([line for block in blocks(page) for line in block.splitlines()]):
        assert parser().parse_args(words).verb == words[0]
    for words in commands(spans(page)):  # a span may name a verb and a flag of it only
        assert words[0] in options()
        if any(not word.startswith("-") for word in words[1:]):
            assert parser().parse_args(words).verb == words[0]
        assert {word for word in words if word.startswith("--")} <= options()[words[0]]


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in OTHER_PROGRAMS], ids=shown)
def test_flags_exist(page: Path) -> None:
    known = set().union(*options().values())
    ours = [span for span in spans(page) if not span.startswith("python")]
    assert {flag for span in ours for flag in re.findall(r"--[a-zA-Z-]+", span)} <= known


def test_recipe_keys_exist(page: Path) -> None:
    sections = "|".join({key.partition(".")[0] for key in recipe_keys()})
    named = {key for line in code(page) for key in re.findall(rf"(?:^|--set '?)((?:{sections})\.[a-z_]+)", line)}
    assert named - FILES <= recipe_keys()


def test_files_and_modules_exist(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).is_file(), link
    lines = code(page)
    paths = {path for line in lines for path in re.findall(r"(?<![\w/.-])(?:trtasr|tests|docs|calib)/[\w./-]*", line)}
    assert sorted(path for path in paths if not (ROOT / path).exists()) == []
    modules = {name for line in lines for name in re.findall(r"(?<![\w.])trtasr\.([a-z]\w*(?:\.\w+)*)", line)}
    assert sorted(name for name in modules if not found(name.split("."))) == []


def found(names: list[str]) -> bool:
    """A module below the package, or a name in one."""
    path = ROOT / "trtasr" / "/".join(names)
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    module = path.parent / "__init__.py" if path.parent.is_dir() else path.parent.with_suffix(".py")
    return module.is_file() and re.search(rf"\b{names[-1]}\b", module.read_text(encoding="utf-8")) is not None


def test_readme_is_short_and_leads_to_every_page() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST_README
    pages = {f"docs/{page.name}" for page in PAGES if page.parent == ROOT / "docs"}
    assert pages <= set(re.findall(r"\]\(([^)]+)\)", text))


def test_ci_runs_the_two_commands_tests_first() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    run = re.findall(r"^make .*$", script, re.MULTILINE)
    assert run == ["make test", "make engine MODEL=quartznet"]
    assert all(command in README.read_text(encoding="utf-8") for command in run)


def test_every_value_is_filled_in(page: Path) -> None:
    assert not re.findall(r"@[A-Z]+@", page.read_text(encoding="utf-8"))


def test_make_help_names_every_target() -> None:
    printed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    promised = {"help", "setup", "engine", "calib", "bench", "wer", "compare", "inspect", "test", "lint", "clean"}
    assert promised <= makefile_targets()
    for target in makefile_targets():
        assert f"make {target}" in printed


def test_the_drawing_has_every_room_on_its_floor() -> None:
    drawn: dict[str, set[str]] = {}
    floor = ""
    for line in blocks(ARCHITECTURE)[0].splitlines()[1:]:
        number, room = re.match(r"(\w*) +(\w+)", line).groups()
        floor = number or floor
        drawn.setdefault(floor, set()).add(room)
    assert drawn == {str(number): rooms for number, rooms in enumerate(FLOORS)} | {"apart": APART}


def test_the_pipeline_is_the_one_that_runs() -> None:
    assert indent(blocks(ARCHITECTURE)[1], "    ") in inspect.getsource(compile_recipe)


def test_a_scale_passes_through_the_functions_that_are_named() -> None:
    for line in blocks(ARCHITECTURE)[2].splitlines():
        name, file = line.split()[:2]
        assert re.search(rf"^def {name}\(", (ROOT / "trtasr" / file).read_text(encoding="utf-8"), re.MULTILINE)
