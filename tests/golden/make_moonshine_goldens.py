"""Reference arrays from transformers itself, for Moonshine and its front-end.

Command, in an environment of its own (never a dependency of this project), in the folder above ``tests``:

    pip install "transformers==5.23.0" "torch==2.13.0"
    python tests/golden/make_moonshine_goldens.py

Made with transformers 5.23.0, torch 2.13.0 (CPU), numpy 2.4.6, Python 3.11. Inputs and weights come from
`moonshine_configs.py` by seeded rules, so `moonshine.npz` holds outputs only: of small configurations the encoder's
output, logits with given tokens, greedy tokens through the cache, names and shapes of the state dict; of the front-end
a padded batch. Published sizes are compared here, with random weights and 10 s of audio, and printed:

    tiny: 27.09 M parameters, 160 tensors, 415 positions; largest difference encoded 3.7e-05, logits 6.1e-05 of 4.0;
        greedy tokens equal: True, 12 different ones
    base: 61.51 M parameters, 210 tensors, 415 positions; largest difference encoded 4.1e-05, logits 5.5e-05 of 4.6;
        greedy tokens equal: True, 12 different ones
"""

import sys
from pathlib import Path

import numpy as np
import torch
from transformers import MoonshineConfig, MoonshineForConditionalGeneration, Wav2Vec2FeatureExtractor

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

from golden import cases, moonshine_configs  # noqa: E402

from trtasr.models.moonshine import Moonshine  # noqa: E402


def reference(config: dict) -> MoonshineForConditionalGeneration:
    """The model of transformers with the weights of the seeded rule."""
    network = MoonshineForConditionalGeneration(MoonshineConfig(**config)).eval()
    weights = {
        name: torch.from_numpy(moonshine_configs.weight(name, tuple(tensor.shape)))
        for name, tensor in network.model.state_dict().items()
    }
    network.model.load_state_dict(weights)
    network.tie_weights()
    network.generation_config.eos_token_id = None  # always all tokens
    return network


def outputs(network: MoonshineForConditionalGeneration, samples: int) -> dict[str, np.ndarray]:
    """Encoder output [T', d], logits [L, V] and greedy tokens of one waveform."""
    audio = torch.from_numpy(moonshine_configs.waveform(samples))[None]
    given = torch.from_numpy(moonshine_configs.tokens(network.config.vocab_size))
    greedy = network.generate(audio, max_new_tokens=moonshine_configs.NEW_TOKENS, do_sample=False, num_beams=1)
    return {
        "encoded": network.model.encoder(audio).last_hidden_state[0].numpy(),
        "logits": network(audio, decoder_input_ids=given).logits[0].numpy(),
        "greedy": greedy[0].numpy(),
    }


def small_goldens() -> dict[str, np.ndarray]:
    """Outputs and state-dict lines of every small configuration."""
    arrays = {}
    for name, config in moonshine_configs.SMALL.items():
        network = reference(config)
        shapes = {key: tuple(tensor.shape) for key, tensor in network.model.state_dict().items()}
        arrays[f"{name}/state"] = np.frombuffer(cases.state_lines(shapes), np.uint8)
        for samples in moonshine_configs.SAMPLES:
            found = outputs(network, samples)
            arrays.update({f"{name}/{samples}/{key}": value for key, value in found.items()})
    return arrays


def frontend_goldens() -> dict[str, np.ndarray]:
    """Input of the model for a batch of mixed lengths."""
    extractor = Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True)
    batch = [moonshine_configs.waveform(samples) for samples in moonshine_configs.SAMPLES[:2]]
    made = extractor(batch, padding=True, sampling_rate=16000, return_tensors="np")
    return {"waveform/values": made["input_values"], "waveform/lengths": made["attention_mask"].sum(axis=1)}


def compare_published(name: str, samples: int = 160001) -> str:
    """Ours against transformers: largest differences, and whether greedy tokens agree."""
    config = moonshine_configs.PUBLISHED[name]
    network = reference(config)
    theirs = outputs(network, samples)
    ours = Moonshine(config).eval()
    ours.load_state_dict(network.model.state_dict())
    audio, lengths = torch.from_numpy(moonshine_configs.waveform(samples))[None, None], torch.tensor([samples])
    encoded, positions = ours.encoder(audio, lengths)
    logits = ours(audio, lengths, torch.from_numpy(moonshine_configs.tokens(config["vocab_size"])))
    differences = [
        np.abs(found[0].numpy() - theirs[key]).max() for found, key in ((encoded, "encoded"), (logits, "logits"))
    ]
    equal = moonshine_configs.greedy(ours, audio, lengths)[0].tolist() == theirs["greedy"].tolist()
    parameters = sum(tensor.numel() for tensor in ours.parameters())
    return (
        f"    {name}: {parameters / 1e6:.2f} M parameters, {len(network.model.state_dict())} tensors, "
        f"{int(positions)} positions; largest difference encoded {differences[0]:.1e}, "
        f"logits {differences[1]:.1e} of {np.abs(theirs['logits']).max():.1f}; greedy tokens equal: {equal}, "
        f"{len(set(theirs['greedy'].tolist()))} different ones"
    )


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    np.savez_compressed(HERE / "moonshine.npz", **small_goldens(), **frontend_goldens())
    for size in moonshine_configs.PUBLISHED:
        sys.stdout.write(compare_published(size) + "\n")
