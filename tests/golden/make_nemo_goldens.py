"""Reference arrays from NeMo itself, for the front-end, the Jasper-block models and the Conformers.

Command, in an environment of its own (never a dependency of this project):

    pip install "nemo_toolkit[asr]==3.0.0" "torch==2.13.0"
    python tests/golden/make_nemo_goldens.py

Made with nemo_toolkit 3.0.0, torch 2.13.0 (CPU), librosa 0.11.0, numpy 2.4.6, Python 3.11. Inputs and weights come from
`cases.py` by seeded rules, so the files hold outputs only: `frontend.npz` (a few frames of each case and statistics
over all of them), `models.npz` (all log-probabilities, state-dict names) and `conformer.npz` (all log-probabilities;
names and shapes of the state dict, those of the published sizes too, as the bytes of sorted lines).
"""

from pathlib import Path

import cases
import numpy as np
import torch
from nemo.collections.asr.modules import (
    AudioToMelSpectrogramPreprocessor,
    ConformerEncoder,
    ConvASRDecoder,
    ConvASREncoder,
)
from nemo.collections.asr.parts.submodules.subsampling import ConvSubsampling, calc_length

HERE = Path(__file__).parent


def frontend_goldens() -> dict[str, np.ndarray]:
    """Kept frames, shapes and statistics of every front-end case."""
    arrays = {}
    for name in cases.frontend_cases():
        config, (audio, lengths) = cases.frontend_case(name)
        module = AudioToMelSpectrogramPreprocessor(**config).eval()
        features, frames = module(input_signal=torch.from_numpy(audio), length=torch.from_numpy(lengths))
        arrays[f"{name}/shape"] = np.array(features.shape)
        arrays[f"{name}/frames"] = frames.numpy()
        valid = [row[:, :count] for row, count in zip(features.numpy(), frames.tolist(), strict=True)]
        arrays[f"{name}/kept"] = np.concatenate([row[:, cases.kept(row.shape[1])] for row in valid], axis=1)
        arrays[f"{name}/moments"] = np.stack([cases.moments(row) for row in valid])
        arrays[f"{name}/input"] = np.abs(audio).sum(dtype=np.float64)
    return arrays


def model(encoder: dict) -> torch.nn.Module:
    """NeMo's encoder and decoder with the weights of the seeded rule."""
    parts = torch.nn.ModuleDict(
        {
            "encoder": ConvASREncoder(**encoder),
            "decoder": ConvASRDecoder(
                encoder["jasper"][-1]["filters"], len(cases.VOCABULARY), vocabulary=cases.VOCABULARY
            ),
        }
    )
    shapes = {name: tuple(tensor.shape) for name, tensor in parts.state_dict().items()}
    parts.load_state_dict({name: torch.from_numpy(cases.random_weight(name, shape)) for name, shape in shapes.items()})
    return parts.eval()


def log_probs(parts: torch.nn.Module, frames: tuple[int, ...], rows: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Valid log-probabilities of a batch, concatenated [sum of T', V + 1], and the output lengths."""
    features, lengths = cases.model_input(frames, rows=rows)
    with torch.no_grad():
        encoded, out = parts["encoder"](audio_signal=torch.from_numpy(features), length=torch.from_numpy(lengths))
        probs = parts["decoder"](encoder_output=encoded).numpy()
    out = np.minimum(out.numpy(), probs.shape[1])
    return np.concatenate([row[:count] for row, count in zip(probs, out, strict=True)]), out


def model_goldens() -> dict[str, np.ndarray]:
    """Log-probabilities of the full QuartzNet15x5 and of small configurations of every block option."""
    arrays = {}
    for name, encoder in {"quartznet15x5": cases.quartznet15x5(), **cases.SMALL_MODELS}.items():
        parts = model(encoder)
        arrays[f"{name}/names"] = np.array(list(parts.state_dict()))
        sizes = {"single": (200,), "mixed": cases.MODEL_FRAMES} if name == "quartznet15x5" else {"mixed": (45, 30)}
        if name == "no_conv_mask":
            sizes = {"single": (45,)}
        for key, frames in sizes.items():
            arrays[f"{name}/{key}"], arrays[f"{name}/{key}_lengths"] = log_probs(parts, frames)
    return arrays


class Unmasked(torch.nn.Sequential):
    """The layers of `MaskedConvSequential` one after the other, as NeMo ran them before it had masks."""

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = x.unsqueeze(1)
        for layer in self:
            x = layer(x)
        pools = sum(isinstance(layer, torch.nn.MaxPool2d) for layer in self)
        return x, calc_length(lengths, all_paddings=0, kernel_size=2, stride=2, ceil_mode=True, repeat_num=pools)


def conformer_parts(encoder: dict) -> torch.nn.ModuleDict:
    """NeMo's Conformer encoder and decoder."""
    width = encoder.get("feat_out", encoder["d_model"])
    return torch.nn.ModuleDict(
        {
            "encoder": ConformerEncoder(**encoder),
            "decoder": ConvASRDecoder(width, len(cases.VOCABULARY), vocabulary=cases.VOCABULARY),
        }
    )


def shapes_of(parts: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """State-dict names and shapes."""
    return {name: tuple(tensor.shape) for name, tensor in parts.state_dict().items()}


def conformer_goldens() -> dict[str, np.ndarray]:
    """Log-probabilities of small configurations of every option, and of the published small size."""
    arrays = {}
    for name, encoder in {**cases.SMALL_CONFORMERS, "conformer_small": cases.CONFORMER_SMALL}.items():
        parts = conformer_parts(encoder)
        if encoder.get("subsampling") == "vggnet":
            # MaskedConvSequential of NeMo 3.0.0 raises TypeError: it reads MaxPool2d.kernel_size[0], which is an int.
            # One utterance without padding needs no masks.
            parts["encoder"].pre_encode.conv = Unmasked(*parts["encoder"].pre_encode.conv)
        shapes = shapes_of(parts)
        arrays[f"{name}/state"] = np.frombuffer(cases.state_lines(shapes), np.uint8)
        parts.load_state_dict(
            {key: torch.from_numpy(cases.conformer_weight(key, shape, encoder)) for key, shape in shapes.items()}
        )
        found = log_probs(parts.eval(), cases.conformer_frames(name), encoder["feat_in"])
        arrays[f"{name}/log_probs"], arrays[f"{name}/lengths"] = found
    return arrays


def published_states() -> dict[str, np.ndarray]:
    """State-dict names and shapes of the published sizes; no memory is taken for the weights."""
    make = ConvSubsampling.__init__

    def on_cpu(*args: object, **kwargs: object) -> None:
        with torch.device("cpu"):  # it computes a width with a tensor
            make(*args, **kwargs)

    ConvSubsampling.__init__ = on_cpu
    arrays = {}
    for name, encoder in cases.PUBLISHED_CONFORMERS.items():
        with torch.device("meta"):
            arrays[f"{name}/state"] = np.frombuffer(cases.state_lines(shapes_of(conformer_parts(encoder))), np.uint8)
    return arrays


if __name__ == "__main__":
    np.savez_compressed(HERE / "frontend.npz", **frontend_goldens())
    np.savez_compressed(HERE / "models.npz", **model_goldens())
    np.savez_compressed(HERE / "conformer.npz", **(conformer_goldens() | published_states()))
