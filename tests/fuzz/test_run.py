"""The fuzzer finds what it is for; and the product's readers give it nothing to find."""

import os
import random
import subprocess
import sys
import tarfile
from pathlib import Path

import onnx
import pytest
from fuzz import run
from fuzz.__main__ import main
from fuzz.mutate import bytes_of_any_file, json_lines, json_tree, message, tar_header, yaml_text
from fuzz.planted import PLANTED, SEEDS
from fuzz.readers import TARGETS
from fuzz.target import Target
from google.protobuf.message import DecodeError
from tiny_archive import write_raw

TESTS = Path(__file__).resolve().parents[1]


def test_every_planted_fault_is_found(tmp_path, monkeypatch):
    outside = TESTS.parent / ".pytest_cache" / "fuzz-outside"
    outside.parent.mkdir(exist_ok=True)
    monkeypatch.setenv("OUTSIDE", str(outside))
    monkeypatch.setattr(run, "SECONDS", 8.0)
    monkeypatch.setattr(run, "start", start_planted)
    tally = run.fuzz(PLANTED, len(SEEDS) + 2, tmp_path / "planted")
    outside.unlink()
    assert (tally.accepted, tally.refused) == (6, 2)  # what needs memory or writes is read too
    assert {number: what.split()[0] for what, number in tally.findings.items()} == {
        1: "a",  # valid input is refused
        2: "KeyError",
        3: "hang",
        4: "more",
        5: "wrote",
        6: "wrote",
        7: "wrote",
        8: "the",
        9: "printed",
    }
    assert {"wrote home/x", "wrote tmpdir/x"} <= tally.findings.keys()


def start_planted(target, first, count, folder, streams):
    code = (
        f"from fuzz.planted import PLANTED; from fuzz import run; from pathlib import Path; "
        f"run.MEMORY_KB = 500_000; run.work(PLANTED, {first}, {count}, Path({str(folder)!r}))"
    )
    paths = {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]), "TMPDIR": str(folder / run.TEMPORARY)}
    return subprocess.Popen([sys.executable, "-c", code], env=os.environ | paths, stdout=streams[0], stderr=streams[1])


def test_each_reader_has_its_share_of_a_hundred_thousand():
    names, shares = [target.name for target in TARGETS], [target.share for target in TARGETS]
    assert len(set(names)) == len(names)
    assert 100_000 * min(shares) >= 500 * sum(shares)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_reader_accepts_what_it_begins_with(target, tmp_path):
    for seed in target.seeds(tmp_path):
        target.read(seed, tmp_path)


@pytest.mark.parametrize("mutate", [bytes_of_any_file, json_tree, json_lines, yaml_text])
def test_mutations_repeat_and_change_what_they_are_given(mutate):
    target = Target("seeded", lambda place: [], lambda content, place: None, mutate)
    seed = b'{"a": [1, 2, {"b": "text"}], "c": null}'
    inputs = [run.input_of(target, [seed], number) for number in range(1, 300)]
    assert inputs == [run.input_of(target, [seed], number) for number in range(1, 300)]
    assert len(set(inputs)) > 150


def test_readers_survive_a_few_hundred_inputs(monkeypatch, capsys):
    """Each reader is a process of its own, which takes longer to begin than to read its inputs."""
    flags = ("--inputs", "225", "--jobs", "1", "--only", "manifest", "yaml text", "weights zip")
    monkeypatch.setattr(sys, "argv", ["fuzz", *flags])
    assert main() == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("PASSED")


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


def test_messages_are_spoiled_inside():
    seed = onnx.helper.make_model(
        onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [], [])
    ).SerializeToString()
    spoiled = [message(onnx.ModelProto)(random.Random(number), seed) for number in range(300)]
    whole = [content for content in spoiled if parsed(content) is not None]
    assert len(set(spoiled)) > 60
    assert len(whole) > 200


def test_headers_of_archives_are_spoiled_behind_whole_checksums(tmp_path):
    seed = write_raw(tmp_path / "a.tar", {"a": b"1", "b": b"2"}).read_bytes()
    spoiled = [tar_header(random.Random(number), seed) for number in range(200)]
    whole = [number for number, content in enumerate(spoiled) if first_header(content) is not None]
    assert len(set(spoiled)) > 150
    assert len(whole) > 100


def first_header(content):
    """The first member of an archive, None where its header is damaged."""
    try:
        return tarfile.TarInfo.frombuf(content[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.TarError:
        return None


def parsed(content):
    """An ONNX model, or None."""
    try:
        return onnx.ModelProto.FromString(content)
    except DecodeError:
        return None
