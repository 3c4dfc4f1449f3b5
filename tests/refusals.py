"""Commands that fail: what they say, with which code, and that they leave everything as it was."""

from pathlib import Path

import pytest

from trtasr.cli import main

FAST = [
    *("--set", "calibration.batches=1", "--set", "calibration.steps=2", "--set", "evaluation.bench_seconds=[1.0]"),
    *("--target", "cpu"),
]


def names(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def refused(folder: Path, arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The command fails with that code and words, offers a repair, and leaves the folder as it was."""
    before = names(folder)
    assert main(arguments) == code
    printed = capsys.readouterr()
    assert words in printed.err
    assert "repair:" in printed.err
    assert f"FAILED | exit {code} | " in printed.err
    assert not printed.out
    assert names(folder) == before
