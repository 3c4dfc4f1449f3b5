"""The bundled QuartzNet on two evaluation sets, from the command line to every file of the bundle."""

import json
from pathlib import Path

import jiwer
import pytest
from compiling import read, run

ROOT = Path(__file__).resolve().parents[2]
SPOKEN = ROOT / "trtasr" / "zoo" / "eval" / "manifest.json"
FLAGS = ("--calib-dir", ROOT / "calib", "--target", "cpu", "-q", "--set", "evaluation.bench_seconds=[0.5]")


def written(path: Path, lines: list[dict[str, str]], shift: int = 0) -> Path:
    """A manifest; with a shift every recording has the transcript of another one."""
    path.parent.mkdir(exist_ok=True)
    audio = [str(SPOKEN.parent / line["audio_filepath"]) for line in lines]
    texts = [line["text"] for line in lines]
    rows = zip(audio, [*texts[shift:], *texts[:shift]], strict=True)
    path.write_text("".join(json.dumps({"audio_filepath": name, "text": text}) + "\n" for name, text in rows))
    return path


@pytest.fixture(scope="module")
def lines() -> list[dict[str, str]]:
    return [json.loads(line) for line in SPOKEN.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def out(lines, tmp_path_factory) -> tuple[Path, str]:
    """A bundle measured on 120 and on 40 utterances, and what its compile printed."""
    folder = tmp_path_factory.mktemp("sets")
    speech = written(folder / "large.json", lines[:120]), written(folder / "small" / "manifest.json", lines[120:160])
    command = "compile", ROOT / "engines" / "quartznet.toml", "-o", folder / "out", *FLAGS
    code, printed = run(*command, "--manifest", ",".join(map(str, speech)))
    assert code == 0
    return folder / "out", printed


def test_the_table_names_every_set_and_all_together(out) -> None:
    _, printed = out
    table = [line.split() for line in printed.splitlines()]
    start = next(place for place, cells in enumerate(table) if cells[:3] == ["set", "words", "fp32"])
    names, words = zip(*(cells[:2] for cells in table[start + 1 : start + 4]), strict=True)
    assert names == ("large", "small", "pooled")
    assert int(words[0]) + int(words[1]) == int(words[2])


def test_every_file_of_the_bundle_has_the_same_figures_and_jiwer_too(out) -> None:
    bundle, _ = out
    wer = read(bundle, "wer.json")
    found = wer["cpu"]["differences"]
    assert read(bundle, "bundle.json")["results"]["cpu"]["differences"] == found
    assert next(row for row in read(bundle, "bench.json") if row["target"] == "cpu")["differences"] == found
    assert [part["dataset"] for part in found] == ["", "large", "small"]
    for part in found:
        sides = (("fp32", "reference"), ("fp32", "hypothesis"), ("cpu", "hypothesis"))
        spoken, before, after = (
            [row[key] for row in wer[target]["utterances"] if part["dataset"] in ("", row["dataset"])]
            for target, key in sides
        )
        assert part["utterances"] == len(spoken)
        assert part["reference"] == pytest.approx(100 * jiwer.wer(spoken, before))
        assert part["rate"] == pytest.approx(100 * jiwer.wer(spoken, after))
        assert part["disagreement"] == pytest.approx(100 * jiwer.wer(before, after))
        assert part["interval"][0] <= part["delta"] <= part["interval"][1]
    page = (bundle / "report.html").read_text(encoding="utf-8")
    assert all(f'<td class="name">{name}</td>' in page for name in ("large", "small", "pooled"))


def test_the_gate_of_the_interval_keeps_the_bundle_and_marks_it(lines, tmp_path) -> None:
    """Over all 240 utterances INT8 loses two words, 0.17 points, and the interval reaches to 0.43."""
    command = "compile", ROOT / "engines" / "quartznet.toml", "-o", tmp_path / "out", *FLAGS
    gate = "--set", "evaluation.gate=interval", "--set", "evaluation.max_wer_upper=0.3"
    speech = "--manifest", written(tmp_path / "speech.json", lines)
    code, printed = run(*command, "--target", "t4-rtx", *speech, *gate)
    assert code == 3
    assert "; the gate is +0.30 for the interval's upper end" in printed
    assert printed.splitlines()[-1].startswith("FAILED")
    sidecar = read(tmp_path / "out", "bundle.json")
    assert sidecar["outcome"] == "FAILED"
    found = sidecar["results"]["t4-rtx"]["differences"][0]
    assert found["delta"] < 0.3 < found["interval"][1]
    assert sidecar["recipe"]["evaluation"]["gate"] == "interval"


def test_a_set_with_the_transcripts_of_other_recordings_ends_the_run_by_its_name(lines, tmp_path, capsys) -> None:
    right, wrong = written(tmp_path / "right.json", lines[:120]), written(tmp_path / "wrong.json", lines[120:160], 1)
    command = "compile", ROOT / "engines" / "quartznet.toml", "-o", tmp_path / "out", *FLAGS
    assert run(*command, "--manifest", right, "--manifest", wrong)[0] == 3
    assert "the FP32 reference recognizes too little of wrong to hold INT8 against" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
