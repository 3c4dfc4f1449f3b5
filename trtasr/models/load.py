"""State dict -> evaluated torch module, with every mismatch named."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trtasr.errors import CheckpointError, first_few
from trtasr.files.scratch import scratch
from trtasr.models.conformer import ConformerCtc
from trtasr.models.decoder import CtcNetwork
from trtasr.models.jasper import JasperCtc
from trtasr.models.moonshine import Moonshine
from trtasr.models.whisper import Whisper

# buffers of modules that play no part in the network, or that the network computes itself
UNUSED = ("preprocessor.", "spec_augmentation.", "loss.", "encoder.rotary_emb.", "decoder.rotary_emb.")
Section = Mapping[str, Any]
FAMILIES: Mapping[str, Callable[[Section], nn.Module]] = {
    "jasper": lambda config: JasperCtc(config["encoder"], config["decoder"]),
    "conformer": lambda config: ConformerCtc(config["encoder"], config["decoder"]),
    "whisper": Whisper,
    "moonshine": Moonshine,
}
# all others a cast would change silently: complex numbers, those of eight bits, integers
REAL = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
COUNTER = "num_batches_tracked"  # of a batch norm: without effect outside of training, and missing after conversions
LISTED, LONGEST_NAME = 8, 160
PROBE_FRAMES = 203  # that a network is tried on: even and odd in turn when it is halved
REPAIR = "use weights and configuration from the same checkpoint"


def build_model(family: str, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> nn.Module:
    """Build a module and load its weights.

    Args:
        family: ``jasper``, ``conformer``, ``whisper`` or ``moonshine``.
        config: model configuration; that of a CTC family has ``encoder`` and ``decoder`` sections.
        weights: state dict with NeMo's names, or Hugging Face's without the leading ``model.``; floating-point tensors
            of any precision.

    Returns:
        the module in evaluation mode, float32, without gradients; it shares the tensors that are float32 already.

    Raises:
        CheckpointError: unknown family, layers that do not fit each other, missing or extra keys, other shapes, or
            values that are not finite. A missing ``num_batches_tracked`` is 0, as for torch.
    """
    if family not in FAMILIES:
        raise CheckpointError(f"model family {family!r} is not known", f"use one of {', '.join(FAMILIES)}")
    # Shapes only: nothing is allocated, before or after the weights are known to fit. Without numbers, torch loads its
    # compiler, which makes a folder.
    with scratch(), torch.device("meta"):
        model = FAMILIES[family](config)
    expected = model.state_dict()
    given = {canonical(name, expected): tensor for name, tensor in weights.items() if not name.startswith(UNUSED)}
    given |= {name: torch.zeros((), dtype=torch.int64) for name in expected if counts(name) and name not in given}
    check_weights(expected, given)
    if isinstance(model, CtcNetwork):
        check_layers(model, config["encoder"])
    fitting = {name: tensor.to(expected[name].dtype).contiguous() for name, tensor in given.items()}
    model.load_state_dict(fitting, assign=True)
    return model.eval().requires_grad_(False)


def counts(name: str) -> bool:
    """Whether a weight is the counter of a batch norm."""
    return name.endswith(f".{COUNTER}")


def check_layers(model: CtcNetwork, encoder: Section) -> None:
    """Run the network without numbers, so that layers which do not fit each other are found before anything is made.

    Args:
        model: on the meta device.
        encoder: NeMo's ``encoder`` section.

    Raises:
        CheckpointError: an encoder whose layers give shapes that the next ones, or residual branches, cannot take.
    """
    rows = encoder["feat_in"] * encoder.get("frame_splicing", 1)
    shapes = torch.empty(1, rows, PROBE_FRAMES, device="meta"), torch.empty(1, dtype=torch.int64, device="meta")
    try:
        with scratch():  # for torch's folder, as in `build_model`
            model.eval()(*shapes)
    except RuntimeError as error:
        reason = (str(error).splitlines() or [""])[0]
        raise CheckpointError(
            f"encoder: its layers do not fit each other ({reason:.160})",
            "correct strides, dilations and residual branches in model_config.yaml",
        ) from error


def canonical(name: str, expected: Mapping[str, Tensor]) -> str:
    """Our name of a weight: NeMo has bare convolutions (no ``conv.`` level) in encoders with ``conv_mask: false``."""
    wrapped = name.removesuffix("weight") + "conv.weight"
    return wrapped if name not in expected and wrapped in expected else name


def check_weights(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Compare two state dicts.

    Raises:
        CheckpointError: listing missing keys, extra keys, differing shapes, other kinds of numbers, tensors that are
            not finite, or negative variances.
    """
    common = [name for name in expected if name in given]
    problems = {
        "missing": [name for name in expected if name not in given],
        "extra": [name for name in given if name not in expected],
        "other shape": [
            f"{name} {list(given[name].shape)} instead of {list(expected[name].shape)}"
            for name in common
            if given[name].shape != expected[name].shape
        ],
    }
    if any(problems.values()):
        raise CheckpointError("weights do not fit the configuration; " + listing(problems), REPAIR)
    weights = [name for name in common if expected[name].dtype.is_floating_point]
    kinds = {"not of real numbers": [name for name in weights if given[name].dtype not in REAL]}
    if any(kinds.values()):
        raise CheckpointError("weights do not fit the configuration; " + listing(kinds), REPAIR)
    broken = {
        "not finite": [name for name in common if not bool(torch.isfinite(given[name]).all())],
        "negative": [name for name in common if name.endswith("running_var") and bool((given[name] < 0).any())],
    }
    if any(broken.values()):
        raise CheckpointError("weights are damaged; " + listing(broken), "use a checkpoint that trained to the end")


def listing(problems: Mapping[str, list[str]]) -> str:
    """``kind (count): first names, and n more`` for each kind that has names."""
    short = {
        kind: [name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}..." for name in names]
        for kind, names in problems.items()
        if names
    }
    return "; ".join(f"{kind} ({len(names)}): {first_few(names, LISTED)}" for kind, names in short.items())
