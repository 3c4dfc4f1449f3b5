"""Bundles of several evaluation sets in use."""

import json
import re
import shutil
from pathlib import Path

import pytest
from compiling import CHEAP, QUICK, refused, results, run
from tiny_archive import write_archive, write_manifest

from trtasr.cli import main


def datasets(rows: list[dict[str, object]]) -> list[list[str]]:
    """Of every row of a `bench`, the sets on which it is held against FP32."""
    return [[found["dataset"] for found in row["differences"]] for row in rows]


@pytest.fixture(scope="module")
def of_two_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``out``, compiled with two manifests, one of them with a comma in its name; both beside it."""
    folder = tmp_path_factory.mktemp("sets")
    for name, count in (("first", 3), ("second", 1)):
        (folder / name).mkdir()
        write_manifest(folder / name, count)
    (folder / "second" / "manifest.json").rename(folder / "second" / "a, b.json")
    paths = [str(folder / "first" / "manifest.json"), str(folder / "second" / "a, b.json")]
    speech = f"evaluation.manifest={json.dumps(paths)}"
    command = ["compile", write_archive(folder / "tiny.nemo"), "-o", folder / "out", "--set", speech, *CHEAP]
    assert main([*map(str, command)]) == 0
    return folder


def test_a_bundle_of_two_sets_knows_both(of_two_sets, capsys) -> None:
    sidecar = json.loads((of_two_sets / "out" / "bundle.json").read_text(encoding="utf-8"))
    assert sidecar["manifest"] == ["../first/manifest.json", "../second/a, b.json"]
    assert len(sidecar["recipe"]["evaluation"]["manifest"]) == 2
    wer = json.loads((of_two_sets / "out" / "wer.json").read_text(encoding="utf-8"))
    assert [row["dataset"] for row in wer["cpu"]["utterances"]] == ["first"] * 3 + ["a, b"]
    assert [found["dataset"] for found in wer["cpu"]["differences"]] == ["", "first", "a, b"]
    assert [found["utterances"] for found in wer["t4-rtx"]["differences"]] == [4, 3, 1]
    assert '<td class="name">a, b</td>' in (of_two_sets / "out" / "report.html").read_text(encoding="utf-8")
    assert datasets(results(capsys, of_two_sets / "out"))[1:] == [["", "first", "a, b"]] * 2
    code, printed = run("bench", of_two_sets / "out", *QUICK, "-q")
    assert code == 0
    assert re.search(r"^set +words +fp32 +int8 cpu +delta \[95 %\] +disagree % +detectable$", printed, re.MULTILINE)
    assert re.search(r"^pooled +8 ", printed, re.MULTILINE)


def test_both_sets_move_together_with_their_bundle_and_one_alone_is_none(of_two_sets, tmp_path, capsys, caplog) -> None:
    moved = shutil.copytree(of_two_sets, tmp_path / "elsewhere")
    of_two_sets.joinpath("second", "a, b.json").rename(tmp_path / "hidden.json")
    try:
        assert datasets(results(capsys, moved / "out"))[1:] == [["", "first", "a, b"]] * 2
        rows = results(capsys, of_two_sets / "out")
        assert all(row["wer"] is None for row in rows)
        assert "a, b.json is not here" in caplog.text
    finally:
        (tmp_path / "hidden.json").rename(of_two_sets / "second" / "a, b.json")


@pytest.mark.parametrize("spelled", ["{0},{1}", "{1}", "{0}|{1}", "{1}|{0}"])
def test_manifests_are_separated_by_commas_or_given_again_and_one_with_a_comma_is_itself(of_two_sets, capsys, spelled):
    paths = of_two_sets / "first" / "manifest.json", of_two_sets / "second" / "a, b.json"
    flags = [part for path in spelled.format(*paths).split("|") for part in ("--manifest", path)]
    if spelled == "{0},{1}":  # where a comma is meant and where it is not cannot be told
        assert "no such manifest" in refused(capsys, "bench", of_two_sets / "out", *flags)
        paths[1].with_name("again.json").write_bytes(paths[1].read_bytes())
        flags = ["--manifest", f"{paths[0]},{paths[1].with_name('again.json')}"]
        expected = ["", "first", "again"]
    else:
        expected = [""] if spelled == "{1}" else ["", *(("first", "a, b") if spelled[1] == "0" else ("a, b", "first"))]
    assert datasets(results(capsys, of_two_sets / "out", *flags))[1:] == [expected] * 2


@pytest.mark.parametrize("verb", [["compare"], ["compare", "--layers", "--target", "t4-rtx"], ["compare", "--integer"]])
def test_comparisons_hear_all_sets(of_two_sets, tmp_path, verb) -> None:
    code, printed = run(*verb[:1], of_two_sets / "out", *verb[1:], "-o", tmp_path / "cmp", "--json")
    assert code == 0
    if verb == ["compare", "--integer"]:
        assert json.loads(printed)["utterances"] == 4
