"""The verbs on the bundle of an encoder-decoder."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
from compiling import read, run

from trtasr.bench.roofline import roofline
from trtasr.checkpoint.read import read_checkpoint
from trtasr.engine.ort_generate import OrtDecoding
from trtasr.graph.traffic import layer_traffic
from trtasr.text.generate import biases, greedy


@pytest.fixture
def folder(pair_bundle):
    """Of checkpoint and speech."""
    return pair_bundle.checkpoint.parent


@pytest.fixture
def compiled(pair_bundle):
    return pair_bundle.bundle


def test_bench_measures_the_bundle_again(compiled, folder):
    code, printed = run("bench", compiled, "--manifest", folder / "manifest.json", "--seconds", "1", "-q")
    assert code == 0
    assert "int8 cpu against fp32" in printed
    timed = [line for line in printed.splitlines() if "1 s of audio, batch 1: p50" in line]
    assert len(timed) == 2
    assert all(line.endswith("ms per token (4 tokens)") for line in timed)
    wers = {row["target"]: row["wer"] for row in read(compiled, "bench.json")}
    assert sum(f"{wers[target]:.2f}" in printed for target in ("fp32", "t4-rtx", "cpu")) == 3


@pytest.mark.parametrize("target", ["t4-rtx", "cpu"])
def test_compare_is_repeated_on_speech(compiled, folder, tmp_path, target):
    code, printed = run(
        "compare",
        compiled,
        "--manifest",
        folder / "manifest.json",
        "--target",
        target,
        "-o",
        tmp_path / "cmp",
        "--json",
        "-q",
    )
    assert code == 0
    found = json.loads(printed)
    assert [item["tensor"] for item in found["tensors"]] == ["encoded", "logits"]
    assert all(10 < item["sqnr_db"] < 80 for item in found["tensors"])
    assert (found["unit"], found["candidate"]) == ("tokens", f"int8-{target}")
    assert 0.3 < found["token_agreement"] <= 1
    assert {path.name for path in (tmp_path / "cmp").iterdir()} == {
        "comparison.json",
        "comparison_inputs.json",
        "comparison_decoder.json",
        "comparison_decoder_inputs.json",
    }
    if target == "t4-rtx":
        assert found["tensors"] == read(compiled, "bundle.json")["comparison"]["tensors"]


def test_inspect_counts_the_layers_of_both(compiled):
    code, printed = run("inspect", compiled, "--target", "cpu")
    assert code == 0
    assert "cpu: 33 of 35 layers INT8" in printed


def test_the_estimate_counts_the_decoder_once_per_token(compiled):
    code, printed = run("inspect", compiled, "--roofline", "--seconds", "1.5", "--json")
    assert code == 0
    estimate = json.loads(printed)["estimate"]
    assert (estimate["seconds"], estimate["tokens"]) == (1.5, 6)
    config = read(compiled, "bundle.json")["frontend"]
    encoder, decoder = (onnx.load(compiled / f"{name}.fp32.onnx") for name in ("encoder", "decoder"))
    frames = config["pad_seconds"] * config["sample_rate"] // config["hop_length"]
    layers = [*layer_traffic(encoder, 1, frames), *layer_traffic(decoder, 1, 1, 6)]
    wanted = roofline(layers, set(), 1, 1.5).fp32
    assert [item["node"] for item in estimate["fp32"]] == [item.node for item in wanted]
    assert [item["memory_ms"] for item in estimate["fp32"]] == [item.memory_ms for item in wanted]
    assert {item["precision"] for item in estimate["int8"]} == {"int8", "fp16"}
    assert "1.5 s of audio, batch 1, 6 tokens" in run("inspect", compiled, "--roofline", "--seconds", "1.5")[1]


@pytest.mark.parametrize("seconds", ["0", "2.5"])
def test_an_estimate_is_of_what_the_model_hears(compiled, capsys, seconds):
    assert run("inspect", compiled, "--roofline", "--seconds", seconds)[0] == 2
    assert "at most 2 s" in capsys.readouterr().err


@pytest.mark.parametrize("target", ["t4-rtx", "cpu"])
def test_layers_of_both_graphs_are_compared(compiled, folder, target):
    manifest = folder / "manifest.json"
    code, printed = run("compare", compiled, "--layers", "--target", target, "--manifest", manifest, "--json", "-q")
    assert code == 0
    found = json.loads(printed)["sqnr_db"]
    assert {"encoder", "decoder"} <= {name.split("/")[1] for name in found if name.startswith("/")}
    assert any(value is not None and value < 60 for value in found.values())


def test_transcribe_writes_what_the_evaluation_read(compiled, folder):
    code, printed = run("transcribe", compiled, folder / "0.wav", folder / "1.wav", "--target", "cpu", "--json", "-q")
    assert code == 0
    rows = json.loads(printed)
    assert [Path(row["audio_filepath"]).name for row in rows] == ["0.wav", "1.wav"]
    scored = read(compiled, "wer.json")["cpu"]["utterances"]
    assert [row["pred_text"].split() for row in rows] == [row["pred_text"].split() for row in scored]
    assert all(row["pred_text"] for row in rows)


def test_a_moved_bundle_writes_the_same_text_and_needs_nothing_else(compiled, folder, tmp_path, monkeypatch):
    shutil.copytree(compiled, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    code, printed = run("transcribe", "moved", folder / "0.wav", "--target", "cpu", "-q")
    assert code == 0
    assert printed.split() == read(compiled, "wer.json")["cpu"]["utterances"][0]["pred_text"].split()
    (tmp_path / "moved" / "tokenizer.json").unlink()
    assert run("transcribe", "moved", folder / "0.wav", "--target", "cpu", "-q")[0] == 2


def test_a_transcript_that_the_longest_length_cuts_is_named(compiled, folder, caplog):
    """Random weights never end by themselves."""
    assert run("transcribe", compiled, folder / "0.wav", "--target", "cpu", "-q")[0] == 0
    [warning] = [record.getMessage() for record in caplog.records if "lacks its end" in record.getMessage()]
    assert "0.wav" in warning
    assert "tokens" in warning


def test_silence_ends_in_every_engine(compiled, folder, tmp_path):
    """Random weights never tire; the longest text does."""
    generation = read_checkpoint(folder / "tiny").generation
    rules = biases(generation, 97)
    for graph in ("encoder.fp32.onnx", "encoder.qdq.onnx", "cpu/encoder.int8.onnx"):
        decoding = OrtDecoding(compiled / graph, compiled / graph.replace("encoder", "decoder"), rules, 1)
        for features in (np.zeros((2, 16, 80), np.float32), np.full((2, 16, 1), -1.5, np.float32)):
            found = greedy(decoding, features, np.full(2, features.shape[2]), np.full(2, 2.0), generation)
            longest = greedy(decoding, features, np.full(2, features.shape[2]), np.full(2, 2.0), generation, False)
            for kept, said in zip(found.tokens, longest.tokens, strict=True):
                assert len(kept) <= len(said) <= generation.max_length - len(generation.prompt)
    soundfile.write(tmp_path / "silence.wav", np.zeros(8000, np.float32), 16000)
    assert run("transcribe", compiled, tmp_path / "silence.wav", "-q")[0] == 0


@pytest.mark.parametrize("verb", ["transcribe", "compare", "bench"])
def test_no_verb_cuts_speech_that_the_model_cannot_hear(compiled, tmp_path, capsys, verb):
    soundfile.write(tmp_path / "long.wav", np.zeros(33600, np.float32), 16000)
    line = {"audio_filepath": "long.wav", "duration": 2.1, "text": "one"}
    (tmp_path / "manifest.json").write_text(json.dumps(line), encoding="utf-8")
    given = [tmp_path / "long.wav"] if verb == "transcribe" else ["--manifest", tmp_path / "manifest.json"]
    assert run(verb, compiled, *given, "-q")[0] == 2
    err = capsys.readouterr().err
    assert "long.wav: 2.100 s, but the model hears at most 2 s" in err
    assert "cut it at pauses into files of at most 2 s" in err


def test_no_benchmark_pretends_to_hear_more_than_the_model_does(compiled, capsys):
    assert run("bench", compiled, "--seconds", "3", "-q")[0] == 2
    assert "bench_seconds = [3.0]: the model hears 0.025 to 2 s" in capsys.readouterr().err
