"""What is read from Hugging Face folders, and which models and settings are refused."""

import shutil

import numpy as np
import pytest
import torch
from golden import moonshine_configs, whisper_configs
from tokenizer_zoo import like_moonshine
from whisper_folder import PREPROCESSOR, refused, weights, write_folder

from trtasr.audio.log_mel import LogMelConfig
from trtasr.audio.waveform import WaveformConfig
from trtasr.checkpoint.read import read_checkpoint
from trtasr.models.load import build_model
from trtasr.models.moonshine import Moonshine

CONFIG = whisper_configs.config()
FRONTEND = LogMelConfig(sample_rate=1000, features=16, n_fft=40, hop_length=25, pad_seconds=2)


def test_a_folder_of_whisper_is_read(tmp_path):
    checkpoint = read_checkpoint(write_folder(tmp_path))
    assert (checkpoint.family, checkpoint.target) == ("whisper", "WhisperForConditionalGeneration")
    assert checkpoint.config == CONFIG
    assert checkpoint.vocabulary == whisper_configs.vocabulary()
    assert checkpoint.frontend == FRONTEND
    assert checkpoint.path == tmp_path
    assert checkpoint.generation.prompt == (89, 91, 93, 96)
    assert checkpoint.generation.no_speech == whisper_configs.NO_SPEECH
    assert checkpoint.tokenizer.kind == "huggingface"
    model = build_model(checkpoint.family, checkpoint.config, checkpoint.weights)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights()[f"model.{name}"])


def test_the_hash_covers_names_and_contents_of_what_is_used(tmp_path):
    first = read_checkpoint(write_folder(tmp_path / "a")).sha256
    (tmp_path / "a" / "README.md").write_text("not used")
    assert read_checkpoint(tmp_path / "a").sha256 == first
    other = write_folder(tmp_path / "b", generation_config=whisper_configs.GENERATIONS["english"])
    assert read_checkpoint(other).sha256 != first
    moved = write_folder(tmp_path / "c", preprocessor_config=None, processor_config={"feature_extractor": PREPROCESSOR})
    assert read_checkpoint(moved).sha256 not in (first, read_checkpoint(other).sha256)
    assert len(first) == 64


def test_audio_is_padded_unless_the_preprocessor_says_longest(tmp_path):
    for padding, seconds in (("longest", 0), ("max_length", 2), (None, 2)):
        folder = write_folder(tmp_path / str(padding), preprocessor_config={**PREPROCESSOR, "padding": padding})
        assert read_checkpoint(folder).frontend.pad_seconds == seconds


def test_preprocessor_of_transformers_5_and_none_at_all(tmp_path):
    nested = {"processor_class": "WhisperProcessor", "feature_extractor": PREPROCESSOR}
    folder = write_folder(tmp_path / "nested", preprocessor_config=None, processor_config=nested)
    assert read_checkpoint(folder).frontend == FRONTEND
    long = whisper_configs.config(max_source_positions=1500)
    grown = {**weights(), "model.encoder.embed_positions.weight": torch.zeros(1500, 32)}
    folder = write_folder(tmp_path / "none", grown, config=long, preprocessor_config=None)
    assert read_checkpoint(folder).frontend == LogMelConfig(features=16, pad_seconds=30)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"feature_size": 80}, "feature_size is 80, num_mel_bins .*16"),
        ({"chunk_length": 30}, "chunk_length 30 s .*max_source_positions .*2 s"),
        ({"chunk_length": 0}, "chunk_length 0 s"),
        ({"chunk_length": "2"}, "chunk_length = '2'"),
        ({"do_normalize": True}, "do_normalize is True"),
        ({"dither": 0.1}, "dither is 0.1"),
        ({"padding": "do_not_pad"}, "padding is 'do_not_pad'"),
        ({"padding": ["longest"]}, "padding is"),
        ({"sampling_rate": 16000.5}, "sampling_rate = 16000.5"),
        ({"n_fft": 2**40}, "n_fft = "),
        ({"hop_length": 0}, "hop_length = 0"),
    ],
)
def test_front_ends_that_do_not_fit(tmp_path, change, words):
    refused(write_folder(tmp_path, preprocessor_config={**PREPROCESSOR, **change}), words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "wav2vec2"}, "model_type 'wav2vec2'"),
        ({"model_type": None}, "model_type None"),
        ({"model_type": ["whisper"]}, "model_type"),
        ({"architectures": ["WhisperForAudioClassification"]}, "architectures .*WhisperForAudioClassification"),
        ({"architectures": "WhisperForConditionalGeneration"}, "architectures"),
        ({"vocab_size": 2**40}, "vocab_size = "),
        ({"vocab_size": None}, "vocab_size = None"),
        ({"num_mel_bins": None}, "feature_size is 16|num_mel_bins"),
        ({"max_source_positions": "40"}, "max_source_positions = '40'"),
    ],
)
def test_other_models_and_sizes(tmp_path, change, words):
    refused(write_folder(tmp_path, config={**CONFIG, **change}), words)


def test_a_base_model_and_an_unnamed_one_are_read(tmp_path):
    for name in (["WhisperModel"], None):
        folder = write_folder(tmp_path / str(name), config={**CONFIG, "architectures": name})
        assert read_checkpoint(folder).family == "whisper"


def test_a_folder_without_config(tmp_path):
    refused(write_folder(tmp_path, config=None), "a folder without config.json")


def test_moonshine(tmp_path):
    config = {**moonshine_configs.config(vocab_size=300), "architectures": ["MoonshineForConditionalGeneration"]}
    state = {f"model.{name}": tensor for name, tensor in Moonshine(config).state_dict().items()}
    state["model.decoder.rotary_emb.inv_freq"] = torch.zeros(4)  # older files have this buffer
    document = like_moonshine()
    the, er, silent = 260, 262, 265
    write_folder(
        tmp_path,
        state,
        config=config,
        generation_config={"_from_model_config": True},
        tokenizer=document,
        preprocessor_config={"do_normalize": False, "sampling_rate": 16000, "padding_value": 0.0},
    )
    checkpoint = read_checkpoint(tmp_path)
    assert (checkpoint.family, checkpoint.frontend) == ("moonshine", WaveformConfig(16000))
    assert checkpoint.generation.prompt == (1,)
    assert checkpoint.generation.end == (2,)
    assert checkpoint.generation.max_length == 194
    assert checkpoint.generation.tokens_per_second == 6.5
    assert checkpoint.generation.no_speech is None
    tokens = checkpoint.tokenizer
    assert tokens.kind == "huggingface"
    assert tokens.decode([1, the, silent, er, the, 3 + 0xE2, 3 + 0x82, 3 + 0xAC, 2, 299]) == "theer the\u20ac"
    model = build_model(checkpoint.family, checkpoint.config, checkpoint.weights)
    assert torch.equal(model.state_dict()["decoder.norm.weight"], state["model.decoder.norm.weight"])


def test_moonshine_that_normalizes_or_has_no_rate(tmp_path):
    config = moonshine_configs.config(vocab_size=97)
    for changed, words in (({"do_normalize": True}, "do_normalize"), ({"sampling_rate": "16 kHz"}, "sampling_rate")):
        refused(write_folder(tmp_path / words, config=config, preprocessor_config=changed), words)


def test_the_numbers_are_those_of_the_file_even_when_it_goes(tmp_path):
    checkpoint = read_checkpoint(write_folder(tmp_path / "folder"))
    shutil.rmtree(tmp_path / "folder")
    stored = weights()["model.decoder.embed_tokens.weight"].numpy()
    np.testing.assert_array_equal(checkpoint.weights["decoder.embed_tokens.weight"].numpy(), stored)
