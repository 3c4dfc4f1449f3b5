"""Reference arrays from transformers itself, for Whisper, its front-end, its greedy decoding and its byte-level tokens.

Command, in an environment of its own (never a dependency of this project), in the folder above ``tests``:

    pip install "transformers==5.23.0" "torch==2.13.0"
    python tests/golden/make_whisper_goldens.py

Made with transformers 5.23.0, tokenizers 0.23.3, torch 2.13.0 (CPU), numpy 2.4.6, Python 3.11. Inputs and weights come
from `whisper_configs.py` by seeded rules, so `whisper.npz` holds outputs only: of small configurations the encoder's
output, logits with given tokens, tokens and mean log-probabilities of ``generate`` and names and shapes of the state
dict; of the front-end a few frames and statistics over all of them; of random token sequences the decoded text.

transformers refuses features of another length than ``max_source_positions`` asks for, so the encoder's output for
shorter ones (``short``) is computed here by its layers one after the other, on as many positions as there are.

Published sizes are compared here, with random weights and the 30 seconds they were trained on, and printed:

    tiny: 37.76 M parameters; largest difference of logits 2.6e-06 of 4.8;
        greedy tokens equal: True, 6 different ones
    tiny.en: 37.76 M parameters; largest difference of logits 2.9e-06 of 4.7;
        greedy tokens equal: True, 3 different ones
    base: 72.59 M parameters; largest difference of logits 3.0e-06 of 4.9;
        greedy tokens equal: True, 3 different ones
    small: 241.73 M parameters; largest difference of logits 3.0e-06 of 4.7;
        greedy tokens equal: True, 3 different ones
    large-v3-turbo: 808.88 M parameters; largest difference of logits 2.5e-06 of 5.1;
        greedy tokens equal: True, 3 different ones
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

from golden import cases, whisper_configs  # noqa: E402
from torch_decoding import TorchDecoding  # noqa: E402

from trtasr.checkpoint.generation import read_generation  # noqa: E402
from trtasr.models.load import build_model  # noqa: E402
from trtasr.text.generate import greedy  # noqa: E402


def reference(config: dict) -> WhisperForConditionalGeneration:
    """The model of transformers with the weights of the seeded rule."""
    network = WhisperForConditionalGeneration(WhisperConfig(**config)).eval()
    network.model.load_state_dict(
        {
            name: torch.from_numpy(whisper_configs.weight(name, tuple(tensor.shape)))
            for name, tensor in network.model.state_dict().items()
        }
    )
    network.tie_weights()
    return network


def short(network: WhisperForConditionalGeneration, features: torch.Tensor) -> torch.Tensor:
    """The encoder's layers on fewer positions: [B, mel, T] -> [B, T', d]."""
    encoder = network.model.encoder
    hidden = torch.nn.functional.gelu(encoder.conv2(torch.nn.functional.gelu(encoder.conv1(features)))).transpose(1, 2)
    hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
    for layer in encoder.layers:
        hidden = layer(hidden, None)
    return encoder.layer_norm(hidden)


def generated(
    network: WhisperForConditionalGeneration, settings: dict, features: torch.Tensor
) -> dict[str, np.ndarray]:
    """The prompt [B, P], the tokens behind it, padded [B, L], and their mean log-probabilities [B]."""
    network.generation_config = GenerationConfig(**settings)
    found = network.generate(features, do_sample=False, num_beams=1, return_dict_in_generate=True, output_scores=True)
    count = len(found.scores)
    tokens = found.sequences[:, -count:]
    scores = torch.stack([row.log_softmax(1) for row in found.scores], 1).gather(2, tokens[:, :, None])[:, :, 0]
    ended = torch.isin(tokens, torch.tensor(settings["eos_token_id"])).int()
    counted = (ended.cumsum(1) - ended) == 0  # the end itself is a token
    means = (scores * counted).nan_to_num(0.0).sum(1) / counted.sum(1)
    return {"prompt": found.sequences[:, :-count].numpy(), "tokens": tokens.numpy(), "log_probs": means.numpy()}


def small_goldens() -> dict[str, np.ndarray]:
    """Outputs and state-dict lines of every small configuration."""
    arrays = {}
    for name, config in whisper_configs.SMALL.items():
        network = reference(config)
        shapes = {key: tuple(tensor.shape) for key, tensor in network.model.state_dict().items()}
        features = torch.from_numpy(whisper_configs.features(config))
        given = torch.from_numpy(whisper_configs.tokens(config))
        arrays[f"{name}/state"] = np.frombuffer(cases.state_lines(shapes), np.uint8)
        arrays[f"{name}/encoded"] = network.model.encoder(features).last_hidden_state.numpy()
        arrays[f"{name}/logits"] = network(features, decoder_input_ids=given).logits.numpy()
        for frames in whisper_configs.SHORT_FRAMES:
            arrays[f"{name}/short/{frames}"] = short(network, features[:1, :, :frames]).numpy()
        for case, settings in whisper_configs.GENERATIONS.items():
            found = generated(network, settings, features)
            arrays.update({f"{name}/{case}/{key}": value for key, value in found.items()})
    return arrays


def frontend_goldens() -> dict[str, np.ndarray]:
    """Kept frames, shape and statistics of every front-end case."""
    arrays = {}
    for name, (rows, seconds, padding) in whisper_configs.FRONTENDS.items():
        extractor = WhisperFeatureExtractor(feature_size=rows)
        made = extractor(cases.signal(seconds), padding=padding, sampling_rate=16000, return_tensors="np")
        features = made["input_features"][0]
        arrays[f"logmel/{name}/shape"] = np.array(features.shape)
        arrays[f"logmel/{name}/kept"] = features[:, cases.kept(features.shape[1])]
        arrays[f"logmel/{name}/moments"] = cases.moments(features)
    return arrays


def byte_goldens() -> dict[str, np.ndarray]:
    """Texts that the library makes of token sequences, as JSON."""
    from tokenizers import AddedToken, Tokenizer, decoders, models  # noqa: PLC0415

    pieces, sequences = whisper_configs.byte_pieces(), whisper_configs.byte_sequences()
    made = Tokenizer(models.BPE({piece: index for index, piece in enumerate(pieces)}, []))
    made.decoder = decoders.ByteLevel()
    special = [piece for piece in pieces if piece.startswith("<|") and piece.endswith("|>")]
    made.add_special_tokens([AddedToken(piece, special=True) for piece in special])
    texts = [made.decode(ids, skip_special_tokens=True).strip() for ids in sequences]
    return {"bytes/texts": np.frombuffer(json.dumps(texts).encode(), np.uint8)}


def compare_published(name: str) -> str:
    """Ours against transformers: largest differences, and whether greedy tokens agree."""
    config = whisper_configs.PUBLISHED[name]
    torch.manual_seed(0)
    network = WhisperForConditionalGeneration(WhisperConfig(**config)).eval()
    for parameter in network.model.parameters():
        if parameter.dim() > 1:  # the rule of the small models is too slow here
            parameter.normal_(std=parameter[0].numel() ** -0.5)
    features, tokens = whisper_configs.features(config)[:2], whisper_configs.tokens(config)[:2]
    theirs = network(torch.from_numpy(features), decoder_input_ids=torch.from_numpy(tokens)).logits
    settings = {
        "decoder_start_token_id": config["decoder_start_token_id"],
        "eos_token_id": config["eos_token_id"],
        "pad_token_id": config["pad_token_id"],
        "max_new_tokens": 24,
    }
    wanted = generated(network, settings, torch.from_numpy(features))["tokens"]
    ours = build_model("whisper", config, network.model.state_dict())
    lengths = np.array([features.shape[2]] * 2)
    logits = ours(*map(torch.from_numpy, (features, lengths, tokens)))
    generation = read_generation("whisper", config, settings, ("",) * config["vocab_size"])
    found = greedy(
        TorchDecoding(ours, generation, config["vocab_size"]),
        features,
        lengths,
        np.full(2, 30.0),
        generation,
        guard=False,
    )
    return (
        f"    {name}: {sum(tensor.numel() for tensor in ours.parameters()) / 1e6:.2f} M parameters; largest "
        f"difference of logits {(logits - theirs).abs().max():.1e} of {theirs.abs().max():.1f}; "
        f"greedy tokens equal: {found.tokens == tuple(map(tuple, wanted.tolist()))}, "
        f"{len(set(wanted.flatten().tolist()))} different ones"
    )


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    np.savez_compressed(HERE / "whisper.npz", **small_goldens(), **frontend_goldens(), **byte_goldens())
    for size in sys.argv[1:] or ("tiny", "tiny.en", "base", "small", "large-v3-turbo"):
        sys.stdout.write(compare_published(size) + "\n")
        sys.stdout.flush()
