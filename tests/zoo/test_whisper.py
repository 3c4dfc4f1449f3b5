"""The bundled Whisper's folder: written, read back, and what its tokenizer and its rules are."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch_decoding import TorchDecoding as Reference

from trtasr.checkpoint.read import read_checkpoint
from trtasr.text.generate import biases, greedy
from trtasr.zoo.whisper import (
    END,
    LONGEST_TEXT,
    NO_SPEECH,
    PIECES,
    PROMPT,
    SECONDS,
    SPECIAL,
    TorchDecoding,
    beginner,
    configuration,
    load_folder,
    sinusoids,
    train_tokenizer,
    untrained,
    write_folder,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def recognizer():
    torch.manual_seed(0)
    found = beginner()
    found.model.eval()
    return found


@pytest.fixture(scope="module")
def folder(recognizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("zoo") / "deep" / "whisper"
    for _ in range(2):  # a folder that is there is written over
        write_folder(path, recognizer.model)
    return path


def test_the_folder_has_the_files_that_transformers_reads(folder):
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "generation_config.json",
        "preprocessor_config.json",
        "tokenizer_config.json",
        "tokenizer.json",
        "model.safetensors",
    }
    names = {
        "config": "model_type",
        "preprocessor_config": "feature_extractor_type",
        "tokenizer_config": "tokenizer_class",
        "generation_config": "no_timestamps_token_id",
    }
    for name, key in names.items():
        assert key in json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def test_weights_are_stored_in_half_under_hugging_faces_names(folder, recognizer):
    state = recognizer.model.state_dict()
    with safe_open(folder / "model.safetensors", "pt") as stored:
        assert stored.metadata() == {"format": "pt"}
        assert set(stored.keys()) == {f"model.{name}" for name in state}
        for name, value in state.items():
            found = stored.get_tensor(f"model.{name}")
            assert found.dtype == torch.float16
            assert torch.equal(found, value.half())


def test_a_folder_comes_back_as_it_was(folder, recognizer):
    again = load_folder(folder)
    assert not again.model.training
    for name, value in again.model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, recognizer.model.state_dict()[name].half().float()), name
    assert again.generation == recognizer.generation
    assert again.tokens.vocabulary == recognizer.tokens.vocabulary
    assert again.frontend.config == recognizer.frontend.config
    assert not any(parameter.requires_grad for parameter in again.model.parameters())


def test_its_rules_are_whispers(folder):
    checkpoint = read_checkpoint(folder)
    rules = checkpoint.generation
    assert rules.prompt == PROMPT
    assert [checkpoint.vocabulary[token] for token in rules.prompt] == [
        "<|startoftranscript|>",
        "<|en|>",
        "<|transcribe|>",
        "<|notimestamps|>",
    ]
    assert checkpoint.vocabulary[PIECES:] == SPECIAL
    assert (rules.end, rules.max_length, rules.no_speech, rules.languages) == ((END,), LONGEST_TEXT, NO_SPEECH, ())
    assert set(rules.suppress) == set(range(PIECES, PIECES + len(SPECIAL))) - {END}
    assert checkpoint.frontend.pad_seconds == 0
    positions = configuration()["max_source_positions"]
    assert positions == SECONDS * checkpoint.frontend.frames_per_second / 2


@pytest.mark.parametrize("text", ["close the red door", "o'clock", "zero one two three", "x"])
def test_texts_become_ids_and_texts_again(recognizer, text):
    ids = recognizer.encoder()(text)
    assert 0 < len(ids) < len(text) + 2
    assert max(ids) < PIECES
    assert recognizer.tokens.decode(ids).strip() == text


def test_nothing_said_is_no_token(recognizer):
    assert recognizer.encoder()("") == []


def test_the_tokenizer_is_the_same_every_time():
    assert train_tokenizer.__wrapped__().to_str() == train_tokenizer().to_str()


def test_a_beginner_has_fixed_positions_and_quiet_residuals():
    model = untrained()
    places = model.encoder.embed_positions.weight
    assert not places.requires_grad
    assert torch.equal(places, sinusoids(*places.shape))
    deviations = {name: float(value.detach().std()) for name, value in model.named_parameters() if value.dim() > 1}
    assert deviations["encoder.layers.0.fc1.weight"] == pytest.approx(0.04, rel=0.02)
    assert deviations["encoder.layers.3.fc2.weight"] == pytest.approx(0.04 / 8**0.5, rel=0.02)
    assert deviations["decoder.layers.1.encoder_attn.out_proj.weight"] == pytest.approx(0.04 / 6**0.5, rel=0.02)
    assert deviations["decoder.embed_tokens.weight"] == pytest.approx(0.04, rel=0.02)


@torch.no_grad()
def test_transcripts_are_those_of_greedy_generation(recognizer):
    audio = 0.1 * torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([8000, 5000])
    features, frames = recognizer.frontend(audio, lengths)
    size = len(recognizer.tokens.vocabulary)
    given = features.numpy(), frames.numpy(), np.float32([0.5, 0.3125]), recognizer.generation
    wanted = greedy(Reference(recognizer.model, recognizer.generation, size), *given)
    found = greedy(TorchDecoding(recognizer.model, biases(recognizer.generation, size)), *given)
    assert found.tokens == wanted.tokens
    np.testing.assert_allclose(found.no_speech, wanted.no_speech, rtol=1e-5)
    np.testing.assert_allclose(found.log_probs, wanted.log_probs, rtol=1e-5)
    assert recognizer.transcribe(audio, lengths) == [recognizer.tokens.decode(ids) for ids in wanted.tokens]


def test_a_write_that_breaks_off_leaves_the_folder_readable(folder, recognizer, monkeypatch):
    real = Path.write_bytes

    def full(path, content):
        real(path, content[:100])
        raise OSError("no space")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space"):
        write_folder(folder, recognizer.model)
    monkeypatch.undo()
    assert load_folder(folder).generation == recognizer.generation


def test_sinusoids_are_whispers():
    """Position 0 has sine 0 and cosine 1; the slowest rate is 1 / 10000."""
    found = sinusoids(1500, 384)
    assert found.shape == (1500, 384)
    assert torch.equal(found[0], torch.cat((torch.zeros(192), torch.ones(192))))
    np.testing.assert_allclose(found[100, [0, 191, 192]], np.sin([100, 0.01, 100 + np.pi / 2]), atol=1e-4)
