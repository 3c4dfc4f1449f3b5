"""The fuzzer finds what it is for; and the product's readers give it nothing to find."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fuzz import run
from fuzz.mutate import bytes_of_any_file, json_lines, json_tree, yaml_text
from fuzz.target import Target

from trtasr.errors import UsageError

TESTS = Path(__file__).resolve().parents[1]
SPOILED = {0: b"fine", 1: b"refused", 2: b"exception", 3: b"hang", 4: b"memory", 5: b"outside", 6: b"crash", 7: b"fine"}


def read_planted(content, place):
    """A reader with every fault that the fuzzer knows."""
    if content == b"refused":
        raise UsageError("no", "do it again")
    if content == b"exception":
        raise KeyError("planted")
    if content == b"hang":
        time.sleep(60)
    if content == b"memory":
        return len(b"x" * 600_000_000)
    if content == b"outside":
        Path(os.environ["OUTSIDE"]).write_text("x", encoding="utf-8")
    if content == b"crash":
        os.abort()
    return None


PLANTED = Target("planted", lambda place: list(SPOILED.values()), read_planted)


def test_every_planted_fault_is_found(tmp_path, monkeypatch):
    outside = TESTS.parent / ".pytest_cache" / "fuzz-outside"
    outside.parent.mkdir(exist_ok=True)
    monkeypatch.setenv("OUTSIDE", str(outside))
    monkeypatch.setattr(run, "SECONDS", 8.0)
    monkeypatch.setattr(run, "start", start_planted)
    tally = run.fuzz(PLANTED, len(SPOILED), tmp_path / "planted")
    outside.unlink()
    assert (tally.accepted, tally.refused) == (4, 1)  # memory and outside are read too
    assert {number: what.split()[0] for what, number in tally.findings.items()} == {
        2: "KeyError",
        3: "hang",
        4: "more",
        5: "wrote",
        6: "the",
    }


def start_planted(target, first, count, folder, stderr):
    code = (
        f"from fuzz.test_run import PLANTED; from fuzz import run; from pathlib import Path; "
        f"run.MEMORY_KB = 500_000; run.work(PLANTED, {first}, {count}, Path({str(folder)!r}))"
    )
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    return subprocess.Popen([sys.executable, "-c", code], env=variables, stderr=stderr)


@pytest.mark.parametrize("mutate", [bytes_of_any_file, json_tree, json_lines, yaml_text])
def test_mutations_repeat_and_change_what_they_are_given(mutate):
    target = Target("seeded", lambda place: [], read_planted, mutate)
    seed = b'{"a": [1, 2, {"b": "text"}], "c": null}'
    inputs = [run.input_of(target, [seed], number) for number in range(1, 300)]
    assert inputs == [run.input_of(target, [seed], number) for number in range(1, 300)]
    assert len(set(inputs)) > 150


def test_readers_survive_a_few_hundred_inputs():
    assert fuzzed("--inputs", "400", "--jobs", "1", "--only", "manifest", "recipe", "yaml text", "weights").startswith(
        "PASSED"
    )


@pytest.mark.slow
def test_readers_survive_a_hundred_thousand_inputs():
    assert fuzzed("--inputs", "100000").startswith("PASSED")


def fuzzed(*flags):
    """Last line of the fuzzer."""
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    done = subprocess.run(
        [sys.executable, "-m", "fuzz", *flags], env=variables, check=False, text=True, capture_output=True
    )
    assert done.returncode in (0, 1), done.stderr
    sys.stdout.write(done.stdout)  # pytest shows it beside a failure
    return done.stdout.splitlines()[-1]
