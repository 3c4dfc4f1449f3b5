"""`trtasr transcribe` on files of all kinds, one after another, and within the machine's memory."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_archive import write_archive, write_conformer, write_manifest

from trtasr.cli import main
from trtasr.engine.sessions import OrtRunner
from trtasr.errors import AudioError
from trtasr.pipeline.use import transcribe_files

FAST = [
    "--set",
    "calibration.batches=1",
    "--set",
    "calibration.steps=3",
    "--set",
    "evaluation.bench_seconds=[1.0]",
    "--set",
    "calibration.seconds=1.5",
    "--target",
    "cpu",
    "-q",
]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    assert main(["compile", str(write_archive(folder / "tiny.nemo")), "-o", str(folder / "out"), *FAST]) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def conformer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("conformer")
    assert main(["compile", str(write_conformer(folder / "tiny.nemo")), "-o", str(folder / "out"), *FAST]) == 0
    return folder / "out"


@pytest.fixture
def speech(tmp_path):
    write_manifest(tmp_path, 3)
    (tmp_path / "manifest.json").unlink()
    return tmp_path


@pytest.fixture
def heard(bundle, capsys, caplog):
    """Exit code, standard output, and what is logged or told on standard error."""

    def transcribe(*arguments):
        capsys.readouterr()
        caplog.clear()
        code = main(["transcribe", str(bundle), *map(str, arguments)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err + caplog.text

    return transcribe


def test_one_bad_file_among_many_stops_no_other(speech, heard):
    (speech / "1.wav").write_bytes(b"no audio")
    files = [speech / "0.wav", speech / "1.wav", speech / "2.wav"]
    code, out, err = heard(*files)
    assert code == 2
    lines = [line.split("\t") for line in out.splitlines() if "\t" in line]
    assert [name for name, _ in lines] == [str(files[0]), str(files[2])]
    assert f"{files[1]}: not readable audio" in err
    code, out, err = heard(*files, "--json")
    rows = json.loads(out)
    assert code == 2
    assert [row["audio_filepath"] for row in rows] == list(map(str, files))
    assert [row["pred_text"] is None for row in rows] == [False, True, False]
    assert "not readable audio" in rows[1]["error"]
    assert "error" not in rows[0]
    assert [rows[0]["pred_text"], rows[2]["pred_text"]] == [text for _, text in lines]


def test_one_file_too_long_for_a_graph_stops_no_other(speech, heard, monkeypatch):
    """As the integer-only graph's table of positions; the network says so when it is run."""
    run = OrtRunner.__call__

    def limited(self, features, lengths):
        if features.shape[2] > 400:
            raise AudioError(f"{features.shape[2]} feature frames: too many", "cut the audio")
        return run(self, features, lengths)

    monkeypatch.setattr(OrtRunner, "__call__", limited)
    soundfile.write(speech / "1.wav", np.random.default_rng(0).normal(0, 0.1, 5 * 16000), 16000)
    files = [speech / "0.wav", speech / "1.wav", speech / "2.wav"]
    code, out, err = heard(*files)
    assert code == 2
    assert [line.split("\t")[0] for line in out.splitlines() if "\t" in line] == [str(files[0]), str(files[2])]
    assert f"{files[1]}: 500 feature frames: too many" in err


def test_a_single_bad_file_fails_as_before(speech, heard):
    (speech / "1.wav").write_bytes(b"no audio")
    code, out, err = heard(speech / "1.wav")
    assert (code, "\t" in out) == (2, False)
    assert f"error: {speech}/1.wav: not readable audio" in err


def test_a_name_that_is_not_utf_8_is_transcribed_and_printed(speech, heard):
    name = speech / os.fsdecode(b"caf\xe9.wav")
    (speech / "0.wav").rename(name)
    assert heard(name)[0] == 0
    code, out, _ = heard(name, speech / "1.wav")
    assert code == 0
    assert out.splitlines()[0].startswith(f"{speech}/caf")
    code, out, _ = heard(name, "--json")
    (row,) = json.loads(out)
    assert code == 0
    assert Path(row["audio_filepath"]) == name


def test_a_folder_is_transcribed_file_by_file_in_order(speech, heard):
    (speech / "below").mkdir()
    (speech / "2.wav").rename(speech / "below" / "2.wav")
    code, out, _ = heard(speech)
    assert code == 0
    assert [line.split("\t")[0] for line in out.splitlines()] == [
        f"{speech}/{name}" for name in ("0.wav", "1.wav", "below/2.wav")
    ]


def test_standard_input_is_transcribed_as_the_file_is(speech, heard, monkeypatch):
    expected = heard(speech / "0.wav")[:2]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((speech / "0.wav").read_bytes())))
    assert heard("-")[:2] == expected


def test_one_channel_is_heard_alone(speech, heard):
    left, rate = soundfile.read(speech / "0.wav")
    soundfile.write(speech / "phase.wav", np.stack([left, -left], axis=1), rate)
    _, _, err = heard(speech / "phase.wav")
    assert "channels cancel each other" in err
    code, out, err = heard(speech / "phase.wav", "--channel", "0")
    assert (code, out) == (0, heard(speech / "0.wav")[1])
    assert "cancel" not in err
    code, _, err = heard(speech / "phase.wav", "--channel", "2")
    assert (code, "no channel 2" in err, "channels 0 to 1" in err) == (2, True, True)


def test_a_file_is_read_when_the_transcript_before_it_is_there(speech, bundle):
    late = (speech / "1.wav").rename(speech / "elsewhere.wav")
    found = iter(transcribe_files(bundle, "cpu", [speech / "0.wav", speech / "1.wav"]))
    assert next(found).pred_text
    late.rename(speech / "1.wav")
    assert next(found).pred_text


@pytest.mark.parametrize(
    ("megabytes", "code", "words"),
    [
        (100, 2, "130.0 s would take about"),
        (100_000, 0, ""),
    ],
)
def test_audio_that_memory_is_not_enough_for_is_refused_by_its_header(
    conformer, tmp_path, capsys, monkeypatch, megabytes, code, words
):
    """A tiny Conformer: four heads, scores for all pairs of 3,250 positions."""
    monkeypatch.setattr("trtasr.engine.memory.available_bytes", lambda: megabytes * 2**20)
    path = tmp_path / "long.wav"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 130 * 16000), 16000)
    assert main(["transcribe", str(conformer), str(path), "-q"]) == code
    err = capsys.readouterr().err
    assert words in err
    assert ("enough for" in err) == (code == 2)


def test_a_manifest_with_audio_that_memory_is_not_enough_for_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("trtasr.engine.memory.available_bytes", lambda: 100 * 2**20)
    soundfile.write(tmp_path / "long.wav", np.random.default_rng(0).normal(0, 0.1, 130 * 16000), 16000)
    (tmp_path / "speech.json").write_text(json.dumps({"audio_filepath": "long.wav", "text": "one"}))
    model = write_conformer(tmp_path / "tiny.nemo")
    command = ["compile", str(model), "-o", str(tmp_path / "out"), "--manifest", str(tmp_path / "speech.json"), *FAST]
    assert main(command) == 2
    assert "long.wav: 130.0 s would take about" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
