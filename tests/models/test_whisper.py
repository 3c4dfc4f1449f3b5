"""Whisper against transformers' own, batches against items alone, and configurations that are refused."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import cases, whisper_configs
from torch_decoding import TorchDecoding

from trtasr.checkpoint.generation import read_generation
from trtasr.errors import CheckpointError
from trtasr.models.load import build_model
from trtasr.models.whisper import FIXED, INTEGERS, Whisper, check_config
from trtasr.text.generate import greedy

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "whisper.npz")
NAMES = sorted(whisper_configs.SMALL)

SIZES = {"tiny": 37.76, "base": 72.59, "small": 241.73, "medium": 763.86, "large-v3": 1543.49, "large-v3-turbo": 808.88}


@cache
def built(name):
    config = whisper_configs.SMALL[name]
    with torch.device("meta"):
        shapes = {key: tuple(tensor.shape) for key, tensor in Whisper(config).state_dict().items()}
    weights = {key: torch.from_numpy(whisper_configs.weight(key, shape)) for key, shape in shapes.items()}
    return build_model("whisper", config, weights)


def inputs(name):
    features = whisper_configs.features(whisper_configs.SMALL[name])
    return features, np.full(len(features), features.shape[2])


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_names_are_transformers(name):
    shapes = {key: tuple(tensor.shape) for key, tensor in built(name).state_dict().items()}
    assert cases.state_lines(shapes) == GOLDEN[f"{name}/state"].tobytes()


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_encoder_and_logits_equal_transformers(name):
    features, lengths = map(torch.from_numpy, inputs(name))
    encoded, positions = built(name).encoder(features, lengths)
    assert positions.tolist() == [features.shape[2] // 2] * len(features)
    np.testing.assert_allclose(encoded.numpy(), GOLDEN[f"{name}/encoded"], atol=1e-5)
    tokens = torch.from_numpy(whisper_configs.tokens(whisper_configs.SMALL[name]))
    logits = built(name)(features, lengths, tokens)
    np.testing.assert_allclose(logits.numpy(), GOLDEN[f"{name}/logits"], atol=2e-5)


@pytest.mark.parametrize("frames", whisper_configs.SHORT_FRAMES)
@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_shorter_audio_is_what_transformers_layers_make_of_fewer_positions(name, frames):
    features, _ = inputs(name)
    encoded, positions = built(name).encoder(torch.from_numpy(features[:1, :, :frames]), torch.tensor([frames]))
    assert int(positions) == encoded.shape[1] == (frames + 1) // 2
    np.testing.assert_allclose(encoded.numpy(), GOLDEN[f"{name}/short/{frames}"], atol=1e-5)


@pytest.mark.parametrize("case", whisper_configs.GENERATIONS)
@pytest.mark.parametrize("name", NAMES)
def test_greedy_tokens_equal_transformers(name, case):
    config = whisper_configs.SMALL[name]
    generation = read_generation("whisper", config, whisper_configs.GENERATIONS[case], whisper_configs.vocabulary())
    features, lengths = inputs(name)
    decoding = TorchDecoding(built(name), generation, config["vocab_size"])
    found = greedy(decoding, features, lengths, np.full(len(features), 0.8), generation, guard=False)
    wanted = GOLDEN[f"{name}/{case}/tokens"].tolist()
    ends = [next((place for place, token in enumerate(row) if token in generation.end), len(row)) for row in wanted]
    assert found.tokens == tuple(tuple(row[:end]) for row, end in zip(wanted, ends, strict=True))
    np.testing.assert_allclose(found.log_probs, GOLDEN[f"{name}/{case}/log_probs"], atol=1e-5)
    assert found.no_speech.shape == (len(features),)


def test_some_transcripts_end_early_and_languages_differ():
    ended = GOLDEN["even/ended/tokens"]
    assert np.isin(ended, [4, 6]).any()
    assert len(np.unique(GOLDEN["uneven/detected/prompt"][:, 1])) > 1


@torch.inference_mode()
def test_a_batch_gives_what_its_items_give_alone():
    model, (features, _) = built("even"), inputs("even")
    lengths = torch.tensor([80, 51, 24, 1])
    tokens = torch.from_numpy(whisper_configs.tokens(whisper_configs.SMALL["even"]))
    batch = model(torch.from_numpy(features), lengths, tokens)
    for row, length in enumerate(lengths.tolist()):
        item = slice(row, row + 1)
        alone = model(torch.from_numpy(features[item, :, :length]), lengths[item], tokens[item])
        torch.testing.assert_close(batch[row], alone[0], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_the_cache_gives_what_all_tokens_at_once_give():
    model, (features, lengths) = built("uneven"), inputs("uneven")
    tokens = torch.from_numpy(whisper_configs.tokens(whisper_configs.SMALL["uneven"]))
    encoded, positions = model.encoder(torch.from_numpy(features), torch.from_numpy(lengths))
    cross = model.decoder.cross(encoded)
    past = [(key[:, :, :0], value[:, :, :0]) for key, value in cross]
    steps = []
    for part in (tokens[:, :3], tokens[:, 3:4], tokens[:, 4:]):
        logits, past = model.decoder(part, past, cross, positions)
        steps.append(logits)
    whole = model(torch.from_numpy(features), torch.from_numpy(lengths), tokens)
    torch.testing.assert_close(torch.cat(steps, 1), whole, atol=1e-5, rtol=0)
    assert past[0][0].shape == (4, 3, 7, 8)


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes_are_supported(name):
    """Millions of parameters as transformers counts them, on their model cards rounded."""
    config = whisper_configs.PUBLISHED[name]
    check_config(config)
    with torch.device("meta"):
        model = Whisper(config)
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(SIZES[name], abs=0.006)


@pytest.mark.parametrize("key", INTEGERS)
@pytest.mark.parametrize("value", [None, 0, -1, 2**40, 1.5, "3", True, [4]])
def test_sizes_are_integers_within_bounds(key, value):
    with pytest.raises(CheckpointError, match=f"config.json: {key}: "):
        check_config(whisper_configs.config(**{key: value}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("activation_function", "relu"),
        ("scale_embedding", True),
        ("tie_word_embeddings", False),
    ],
)
def test_what_is_computed_otherwise(key, value):
    assert key in FIXED
    with pytest.raises(CheckpointError, match=f"{key} is {value!r}"):
        check_config(whisper_configs.config(**{key: value}))


@pytest.mark.parametrize("key", ["encoder_attention_heads", "decoder_attention_heads"])
def test_heads_divide_the_width(key):
    with pytest.raises(CheckpointError, match=f"{key} = 5 .*d_model = 32"):
        check_config(whisper_configs.config(**{key: 5}))


def test_a_large_configuration_claims_no_memory_before_the_weights_fit():
    config = whisper_configs.config(d_model=8192, encoder_ffn_dim=2**15, vocab_size=2**20)  # 40 GB
    with pytest.raises(CheckpointError, match=r"do not fit.*missing"):
        build_model("whisper", config, {})
