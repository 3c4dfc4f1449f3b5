"""Configurations that claim more than the weights have are refused before anything is built, in no time."""

import time

import pytest
import torch
from golden import moonshine_configs, whisper_configs
from whisper_folder import PREPROCESSOR, refused, weights, write_folder

from trtasr.checkpoint.read import read_checkpoint
from trtasr.errors import CheckpointError
from trtasr.models.load import build_model
from trtasr.models.moonshine import Moonshine

WHISPER = whisper_configs.config()
MOONSHINE = {**moonshine_configs.config(vocab_size=97), "architectures": ["MoonshineForConditionalGeneration"]}
EMBEDDING = "model.decoder.embed_tokens.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encoder_layers": 256}, "encoder_layers = 256, .* 2 layers"),
        ({"decoder_layers": 1}, "decoder_layers = 1, .* 2 layers"),
        ({"encoder_layers": 2**70}, f"encoder_layers = {2**70}, .* 2 layers"),
        ({"decoder_layers": "2"}, "decoder_layers = '2'"),
        ({"vocab_size": 2**20}, r"vocab_size = 1048576, .*embed_tokens.weight .*\[97\]"),
        ({"vocab_size": 96}, "vocab_size = 96"),
    ],
)
def test_whispers_that_claim_too_much(tmp_path, change, words):
    folder = write_folder(tmp_path, config={**WHISPER, **change})
    start = time.process_time()
    refused(folder, words)
    assert time.process_time() - start < 5


@pytest.mark.parametrize("key", ["encoder_num_hidden_layers", "decoder_num_hidden_layers"])
def test_moonshines_that_claim_too_much(tmp_path, key):
    state = {f"model.{name}": tensor for name, tensor in Moonshine(MOONSHINE).state_dict().items()}
    files = {"generation_config": {}, "preprocessor_config": {"sampling_rate": 16000}}
    folder = write_folder(tmp_path, state, config={**MOONSHINE, key: 200}, **files)
    refused(folder, f"{key} = 200, .* 2 layers")


def test_weights_without_an_embedding(tmp_path):
    state = {name: tensor for name, tensor in weights().items() if name != EMBEDDING}
    refused(write_folder(tmp_path, state), r"decoder.embed_tokens.weight has \[\] rows")
    refused(write_folder(tmp_path, {**state, EMBEDDING: torch.zeros(())}), r"has \[\] rows")


def test_layers_of_odd_numbers_count_as_they_are(tmp_path):
    odd = {**weights(), "model.encoder.layers.99999999999999999999.fc1.bias": torch.zeros(1)}
    refused(write_folder(tmp_path, odd), "encoder_layers = 2, .* 3 layers")


@pytest.mark.parametrize("settings", [{"quant_method": "bitsandbytes"}, {"bits": 4}, "gptq"])
def test_weights_that_are_quantized_already(tmp_path, settings):
    refused(write_folder(tmp_path, config={**WHISPER, "quantization_config": settings}), "quantized already")
    assert read_checkpoint(write_folder(tmp_path, config={**WHISPER, "quantization_config": None}))


@pytest.mark.parametrize(
    "key",
    [
        "encoder_layers",
        "d_model",
        "num_mel_bins",
        "vocab_size",
        "architectures",
        "model_type",
        "max_source_positions",
        "dropout",
    ],
)
@pytest.mark.parametrize("depth", [40, 900, 100_000])
def test_values_nested_too_deeply(tmp_path, key, depth):
    """Whatever prints, copies or walks such a value would exhaust the stack."""
    nested = "[" * depth + "]" * depth
    content = '{"model_type": "whisper", "' + key + '": ' + nested + "}"
    folder = write_folder(tmp_path, config=content.encode())
    refused(folder, r"config\.json: (nested more than 32 deep|not as expected)")


@pytest.mark.parametrize("value", ["1" + "0" * 400, "9" * 5000, "1e999", "-1e400", "1" * 10**6, "NaN", "Infinity"])
@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("config", "encoder_layers"),
        ("config", "d_model"),
        ("config", "vocab_size"),
        ("generation_config", "max_length"),
        ("generation_config", "suppress_tokens"),
        ("preprocessor_config", "chunk_length"),
        ("preprocessor_config", "hop_length"),
    ],
)
def test_numbers_without_end(tmp_path, file, key, value):
    given = {"config": WHISPER, "generation_config": {}, "preprocessor_config": PREPROCESSOR}[file]
    pairs = ", ".join(
        f'"{name}": {str(number).lower()}'
        for name, number in given.items()
        if isinstance(number, int | float) and name != key
    )
    known = '"model_type": "whisper", ' if file == "config" else ""
    content = f'{{{known}"{key}": {value}{", " if pairs else ""}{pairs}}}'
    folder = write_folder(tmp_path, **{file: content.encode()})
    with pytest.raises(CheckpointError, match=r"repair") as caught:
        built(folder)
    assert len(caught.value.problem) < 1000


def built(folder):
    """The network of a folder."""
    checkpoint = read_checkpoint(folder)
    return build_model(checkpoint.family, checkpoint.config, checkpoint.weights)
