"""What a compile begins with, and what it refuses before any work."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_archive import write_manifest
from whisper_folder import PREPROCESSOR, write_folder

from trtasr.errors import AudioError, CheckpointError, RecipeError, UsageError
from trtasr.pipeline import job as jobs
from trtasr.pipeline.job import Options, begin, by_header
from trtasr.recipe import EngineShapes, Evaluation, Recipe
from trtasr.targets import T4, targets_of

CPU = EngineShapes(target="cpu")
OPTIONS = Options(Path("out"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = write_folder(tmp_path_factory.mktemp("job") / "tiny")
    write_manifest(path.parent, 2)
    return path


def recipe(folder, manifest=True):
    evaluation = Evaluation(manifest=(str(folder.parent / "manifest.json"),) * manifest, bench_seconds=(0.5,))
    return Recipe("tiny", str(folder), engine=CPU, evaluation=evaluation)


def test_a_job_has_read_model_and_speech(folder):
    given = recipe(folder)
    job = begin(given, OPTIONS)
    assert (job.recipe, job.options) == (given, OPTIONS)
    assert [target.name for target in job.targets] == ["cpu"]
    assert job.host is None
    assert [part.name for part in job.network.parts] == ["encoder", "decoder"]
    assert job.network.described.most_frames == 80
    assert job.checkpoint.generation.prompt[0] == 89
    assert [(Path(item.audio_filepath).name, item.duration, item.frames) for item in job.utterances] == [
        ("0.wav", 1.0, 80),
        ("1.wav", 1.25, 80),
    ]
    assert {item.features.shape for item in job.utterances} == {(16, 80)}
    assert job.started > 0


def test_a_job_of_one_graph(tiny_folder):
    job = begin(recipe(tiny_folder / "tiny.nemo"), OPTIONS)
    assert [part.name for part in job.network.parts] == ["model"]
    assert job.checkpoint.generation is None
    assert job.network.described.most_frames == np.inf
    assert [item.frames for item in job.utterances] == [100, 125, 150]


def test_headers_alone_have_lengths_and_features_that_take_no_memory(folder):
    job = begin(recipe(folder), OPTIONS, by_header)
    assert [(item.duration, item.frames) for item in job.utterances] == [(1.0, 40), (1.25, 50)]
    assert {item.features.strides for item in job.utterances} == {(0, 0)}


def test_without_a_manifest_there_is_no_speech_and_that_is_said(folder, caplog):
    caplog.set_level(logging.WARNING)
    assert begin(recipe(folder, manifest=False), OPTIONS).utterances == []
    assert "WER is not measured" in caplog.text


def test_controls_need_speech(folder):
    options = replace(OPTIONS, controls=True)
    with pytest.raises(UsageError, match="--controls compares WER") as caught:
        begin(recipe(folder, manifest=False), options)
    assert "--manifest" in caught.value.repair
    assert len(begin(recipe(folder), options).utterances) == 2


def test_bad_input_is_refused(folder, tmp_path):
    with pytest.raises(CheckpointError, match="absent"):
        begin(replace(recipe(folder), checkpoint=str(tmp_path / "absent")), OPTIONS)
    lost = replace(recipe(folder), evaluation=Evaluation(manifest=(str(tmp_path / "absent.json"),)))
    with pytest.raises(AudioError, match=r"absent\.json"):
        begin(lost, OPTIONS)


def test_an_utterance_longer_than_the_model_hears_is_refused(folder, tmp_path):
    soundfile.write(tmp_path / "long.wav", np.zeros(33600, np.float32), 16000)
    line = {"audio_filepath": "long.wav", "duration": 2.1, "text": "one"}
    (tmp_path / "manifest.json").write_text(json.dumps(line), encoding="utf-8")
    given = replace(recipe(folder), evaluation=Evaluation(manifest=(str(tmp_path / "manifest.json"),)))
    for listen in ((), (by_header,)):
        with pytest.raises(AudioError, match=r"long\.wav: 2\.100 s, but the model hears at most 2 s") as caught:
            begin(given, OPTIONS, *listen)
        assert caught.value.repair


def test_a_benchmark_longer_than_the_model_hears_is_refused(folder):
    given = recipe(folder)
    with pytest.raises(RecipeError, match=r"bench_seconds = \[1\.0, 2\.5\]: the model hears 0\.025 to 2 s"):
        begin(replace(given, evaluation=replace(given.evaluation, bench_seconds=(1.0, 2.5))), OPTIONS)


def test_a_calibrator_for_several_graphs_is_refused(folder, monkeypatch):
    """Only a T4 host would come so far."""
    monkeypatch.setattr(jobs, "resolve", lambda engine: ((T4,), None))
    implicit = replace(recipe(folder), engine=EngineShapes(target="t4", quantization="implicit"))
    with pytest.raises(RecipeError, match=r"engine\.quantization = 'implicit'.* explicitly only") as caught:
        begin(implicit, OPTIONS)
    assert caught.value.repair == "leave it out"


def test_a_plan_without_masks_for_several_graphs_is_refused(folder, monkeypatch):
    """Only a T4 host would come so far."""
    monkeypatch.setattr(jobs, "resolve", lambda engine: (targets_of(engine), None))
    alone = replace(recipe(folder), engine=EngineShapes(target="t4", unmasked_plan=True))
    with pytest.raises(RecipeError, match=r"engine\.unmasked_plan: encoder-decoders have no such plan"):
        begin(alone, OPTIONS)


def test_lengths_that_the_engine_does_not_have_are_said(folder, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    begin(recipe(folder, manifest=False), OPTIONS)
    assert "every utterance is padded to 2 s" in caplog.text
    caplog.clear()
    write_folder(tmp_path / "alone", preprocessor_config=PREPROCESSOR | {"padding": "longest"})
    begin(recipe(tmp_path / "alone", manifest=False), OPTIONS)
    assert "engine.max_seconds = 20: the model hears at most 2 s" in caplog.text
