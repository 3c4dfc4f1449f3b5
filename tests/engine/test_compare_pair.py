"""Two encoder-decoders on the same speech and the same tokens: who is judged on what, and what is kept."""

import json
import shlex
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from polygraphy.comparator import RunResults
from polygraphy.tools import main as polygraphy_main
from whisper_pair import START, VOCABULARY, exported, tiny_features, tiny_whisper

from trtasr.engine.compare import compare_tensor
from trtasr.engine.compare_pair import Dictated, compare_pair, decoder_beside, decoder_inputs, vocabulary_size
from trtasr.engine.sessions import utterances
from trtasr.errors import QualityError, UsageError

LABELS = ("fp32", "int8-cpu")


@pytest.fixture(scope="module")
def spoken():
    features = tiny_features(batches=1)
    feeds = [(item["features"], item["lengths"]) for item in utterances(features)]
    return Dictated(feeds, features.tokens, "synthetic")


def changed(module):
    """The same network with one weight of each half larger."""
    with torch.no_grad():
        module.encoder.layers[1].fc2.weight.mul_(1.5)
        module.decoder.layers[1].fc2.weight.mul_(1.5)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A bundle: FP32, another network, and either half of it beside the other FP32 half."""
    root = tmp_path_factory.mktemp("bundle")
    for name in ("other", "encoder", "decoder"):
        (root / name).mkdir()
    exact, other = exported(root), exported(root / "other", changed(tiny_whisper()))
    for name in ("encoder", "decoder"):
        for one, another in zip(exact.files, other.files, strict=True):
            source = another if another.name.startswith(name) else one
            (root / name / source.name).write_bytes(source.read_bytes())
    return root


def compared(folder, spoken, name):
    return compare_pair(folder / "encoder.fp32.onnx", folder / name / "encoder.fp32.onnx", spoken, folder, LABELS)


@torch.no_grad()
def by_torch(module, spoken):
    """What the module gives: encoded positions and logits, one utterance behind the other."""
    encoded, logits = [], []
    for (features, lengths), tokens in zip(spoken.feeds, spoken.tokens, strict=True):
        given = torch.from_numpy(features), torch.from_numpy(lengths)
        encoded.append(module.encoder(*given)[0][0].double().numpy())
        logits.append(module(*given, torch.from_numpy(tokens)[None])[0].double().numpy())
    return np.concatenate(encoded), np.concatenate(logits)


def test_the_same_graphs_agree_wholly(folder, spoken, capfd):
    found = compared(folder, spoken, "")
    assert [(item.tensor, item.sqnr_db, item.max_abs) for item in found.tensors] == [
        ("encoded", np.inf, 0.0),
        ("logits", np.inf, 0.0),
    ]
    assert (found.token_agreement, found.frames) == (1.0, sum(map(len, spoken.tokens)))
    assert (found.reference, found.candidate, found.features, found.unit) == (*LABELS, "synthetic", "tokens")
    assert capfd.readouterr().out == ""


def test_the_encoder_is_judged_by_itself_and_its_error_reaches_the_tokens(folder, spoken):
    """The decoder is the same, so its logits behind the FP32 encoder are; behind its own encoder tokens differ."""
    found = compared(folder, spoken, "encoder")
    encoded, logits = found.tensors
    module = tiny_whisper()
    exact = by_torch(module, spoken)
    module.encoder = changed(tiny_whisper()).encoder
    other = by_torch(module, spoken)
    assert encoded.sqnr_db == pytest.approx(compare_tensor("", exact[0], other[0]).sqnr_db, abs=0.01)
    assert encoded.sqnr_db < 30
    assert logits.sqnr_db == np.inf
    assert found.token_agreement == np.mean(exact[1].argmax(1) == other[1].argmax(1)) < 1


def test_the_decoder_is_judged_on_the_encoder_of_full_precision(folder, spoken):
    alone, both = compared(folder, spoken, "decoder"), compared(folder, spoken, "other")
    assert alone.tensors[0].sqnr_db == np.inf
    assert alone.tensors[1] == both.tensors[1]
    module = tiny_whisper()
    exact = by_torch(module, spoken)
    wanted = compare_tensor("logits", exact[1], by_torch(replace_decoder(module), spoken)[1])
    assert alone.tensors[1].sqnr_db == pytest.approx(wanted.sqnr_db, abs=0.01)
    assert alone.tensors[1].cosine == pytest.approx(wanted.cosine, abs=1e-5)
    assert alone.token_agreement != both.token_agreement


def replace_decoder(module):
    module.decoder = changed(tiny_whisper()).decoder
    return module


def test_polygraphy_loads_what_is_kept(folder, spoken):
    found = compared(folder, spoken, "other")
    assert found.results_file == "comparison.json"
    encoder, decoder = (RunResults.load(str(folder / name)) for name in ("comparison.json", "comparison_decoder.json"))
    assert list(encoder.keys()) == list(decoder.keys()) == list(LABELS)
    assert [item["encoded"].shape[1] for item in encoder["int8-cpu"]] == [30, 17, 23]
    assert [item["logits"].shape[1] for item in decoder["fp32"]] == [len(tokens) for tokens in spoken.tokens]
    assert len(json.loads((folder / "comparison_decoder_inputs.json").read_text())) == 3


def test_the_printed_commands_run_inside_the_bundle(folder, spoken, monkeypatch):
    found = compared(folder, spoken, "decoder")
    monkeypatch.chdir(folder)
    runs = [shlex.split(command) for command in found.command.split(" && ")]
    assert {run[0] for run in runs} == {"polygraphy"}
    codes = [polygraphy_main(run[1:]) for run in runs]
    assert codes == [0, 0, 0, 1]  # the encoders are the same, the decoders below 20 dB
    assert (folder / "comparison_decoder_reference.json").is_file()


def test_a_decoder_reads_all_tokens_behind_an_empty_past(folder):
    cross = {"cross_key.0": np.ones((2, 2, 5, 4)), "cross_value.0": np.ones((2, 2, 5, 4))}
    found = decoder_inputs({"encoded": np.ones(3), "positions": np.array([5, 4]), **cross}, np.arange(6), 9)
    assert found["tokens"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["past_key.0"].shape == found["past_value.0"].shape == (2, 2, 0, 4)
    assert found["token_bias"].tolist() == [0.0] * 9
    assert set(found) == {"tokens", "positions", "token_bias", *cross, "past_key.0", "past_value.0"}
    assert vocabulary_size(decoder_beside(folder / "encoder.fp32.onnx")) == VOCABULARY > START


@pytest.mark.parametrize(("half", "output"), [("encoder", "encoded"), ("decoder", "logits")])
def test_broken_numbers_are_an_error_that_names_the_side(folder, spoken, tmp_path, half, output):
    for name in ("encoder", "decoder"):
        model = onnx.load(folder / f"{name}.fp32.onnx")
        norm = next(item for item in model.graph.initializer if item.name == f"{name}.layer_norm.bias")
        if name == half:
            norm.CopyFrom(numpy_helper.from_array(np.full(32, np.nan, np.float32), norm.name))
        onnx.save(model, tmp_path / f"{name}.fp32.onnx")
    with pytest.raises(QualityError, match=f"{output} of int8-cpu holds NaN"):
        compare_pair(folder / "encoder.fp32.onnx", tmp_path / "encoder.fp32.onnx", spoken, tmp_path, LABELS)


def test_silence_alone_is_nothing_to_compare(folder, spoken, tmp_path):
    empty = replace(spoken, feeds=[(np.zeros((1, 16, 4), np.float32), np.array([0]))])
    with pytest.raises(UsageError, match="nothing to compare"):
        compare_pair(folder / "encoder.fp32.onnx", folder / "encoder.fp32.onnx", empty, tmp_path, LABELS)


def test_what_does_not_fit_the_files_is_left_out_with_its_tokens(folder, spoken, monkeypatch, tmp_path):
    monkeypatch.setattr("trtasr.engine.compare.MAX_INPUT_BYTES", spoken.feeds[0][0].nbytes + 10)
    found = compare_pair(folder / "encoder.fp32.onnx", folder / "encoder.fp32.onnx", spoken, tmp_path, LABELS)
    assert found.frames == len(spoken.tokens[0])
