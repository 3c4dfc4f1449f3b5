"""What a compile begins with."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_archive import write_manifest
from whisper_folder import write_folder

from trtasr.errors import AudioError, CheckpointError, UsageError
from trtasr.models.whisper import Whisper
from trtasr.pipeline.job import Options, begin, read_utterances
from trtasr.recipe import EngineShapes, Evaluation, Recipe

CPU = EngineShapes(target="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = write_folder(tmp_path_factory.mktemp("job") / "tiny")
    write_manifest(path.parent, 2)
    return path


def recipe(folder, manifest=True):
    evaluation = Evaluation(manifest=str(folder.parent / "manifest.json") if manifest else "")
    return Recipe("tiny", str(folder), engine=CPU, evaluation=evaluation)


def test_a_job_has_read_model_and_speech(folder):
    given, options = recipe(folder), Options(Path("out"))
    job = begin(given, options)
    assert (job.recipe, job.options) == (given, options)
    assert [target.name for target in job.targets] == ["cpu"]
    assert job.host is None
    assert isinstance(job.model, Whisper)
    assert not job.model.training
    assert job.checkpoint.generation.prompt[0] == 89
    assert [(Path(item.audio_filepath).name, item.duration, item.frames) for item in job.utterances] == [
        ("0.wav", 1.0, 80),
        ("1.wav", 1.25, 80),
    ]
    assert {item.features.shape for item in job.utterances} == {(16, 80)}
    assert job.started > 0


def test_without_a_manifest_there_is_no_speech_and_that_is_said(folder, caplog):
    caplog.set_level(logging.WARNING)
    assert begin(recipe(folder, manifest=False), Options(Path("out"))).utterances == []
    assert "WER is not measured" in caplog.text


def test_controls_need_speech(folder):
    job = begin(recipe(folder), Options(Path("out")))
    silent = recipe(folder, manifest=False)
    with pytest.raises(UsageError, match="--controls compares WER"):
        read_utterances(silent, job.checkpoint, Options(Path("out"), controls=True))
    assert len(read_utterances(recipe(folder), job.checkpoint, Options(Path("out"), controls=True))) == 2


def test_bad_input_is_refused(folder, tmp_path):
    with pytest.raises(CheckpointError, match="absent"):
        begin(replace(recipe(folder), checkpoint=str(tmp_path / "absent")), Options(Path("out")))
    lost = replace(recipe(folder), evaluation=Evaluation(manifest=str(tmp_path / "absent.json")))
    with pytest.raises(AudioError, match=r"absent\.json"):
        begin(lost, Options(Path("out")))
