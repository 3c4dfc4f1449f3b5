"""The README tells the truth about commands: every target, verb and flag it names exists."""

import re
import subprocess
from pathlib import Path

import pytest

from trtasr.cli import parser

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_make_targets_exist_and_have_help() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    documented = set(re.findall(r"^([a-z0-9-]+):.*## ", makefile, re.MULTILINE))
    promised = {"help", "setup", "engine", "calib", "bench", "wer", "compare", "inspect", "test", "lint", "clean"}
    assert promised <= documented
    assert set(re.findall(r"(?:^|`)make ([a-z0-9-]+)", README, re.MULTILINE)) <= documented


@pytest.mark.parametrize("line", re.findall(r"^(?:\.venv/bin/)?trtasr ([^#\n]+)", README, re.MULTILINE))
def test_command_lines_parse(line: str) -> None:
    assert parser().parse_args(line.split()).verb == line.split(maxsplit=1)[0]


@pytest.mark.parametrize(
    "flag",
    sorted({flag for code in re.findall(r"`([^`\n]+)`", README) for flag in re.findall(r"(--[a-zA-Z-]+)", code)}),
)
def test_flags_exist(flag: str) -> None:
    known = {option for verb in ("compile", "bench", "inspect", "compare", "transcribe") for option in options(verb)}
    assert flag in known


def options(verb: str) -> set[str]:
    actions = next(a for a in parser()._actions if a.choices and verb in a.choices)
    return set(actions.choices[verb]._option_string_actions)


def test_ci_runs_the_two_commands_tests_first() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    commands = re.findall(r"^make .*$", script, re.MULTILINE)
    assert commands == ["make test", "make engine MODEL=quartznet"]
    assert all(command in README for command in commands)


def test_every_value_is_filled_in() -> None:
    assert not re.findall(r"@[A-Z]+@", README)


def test_make_help_names_every_target() -> None:
    printed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("engine", "test", "calib", "bench", "inspect"):
        assert f"make {target}" in printed
