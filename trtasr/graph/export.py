"""torch module -> FP32 ONNX graph with batch norm folded and readable node names."""

import copy
import warnings
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from trtasr.files.replace import OTHER_FOLDER
from trtasr.files.workspace import workspace
from trtasr.graph.edit import write_model
from trtasr.graph.fold_scale import fold_scale
from trtasr.graph.named_weights import named_weights
from trtasr.graph.passes import passed
from trtasr.graph.unshare import unshare

OPSET = 20  # FP16 scales of QuantizeLinear / DequantizeLinear need 19
Axes = Mapping[int, str]


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """Fold every BatchNorm1d into the convolution in front of it.

        x -> Conv(W, b) -> BatchNorm(g, beta, mu, v, eps)      becomes      x -> Conv(W', b') -> Identity

        W' = W g / sqrt(v + eps)
        b' = (b - mu) g / sqrt(v + eps) + beta

    (Jacob et al. 2018, arXiv 1712.05877, section 3.2, with the stored statistics.) Pairs are found inside ModuleList
    and Sequential containers: an `nn.Conv1d`, or a module whose ``.conv`` is one, directly followed by
    `nn.BatchNorm1d`. Other modules name their pairs in an attribute ``folds``. Module names and indices stay.

    Args:
        model: module in eval mode; not changed.

    Returns:
        a copy that computes the same function; it shares the parameters that are not folded.
    """
    folded = copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
    for container in folded.modules():
        if isinstance(container, nn.ModuleList | nn.Sequential):
            for index, conv, norm in list(pairs(container)):
                fold(conv, norm)
                container[index] = nn.Identity()
        for conv_name, norm_name in getattr(container, "folds", ()):
            fold(getattr(container, conv_name), getattr(container, norm_name))
            setattr(container, norm_name, nn.Identity())
    return folded


def export_onnx(model: nn.Module, path: Path, mel_bins: int) -> None:
    """Write ``model`` as one ONNX file (opset 20) with dynamic batch and time.

    Inputs: ``features`` float32 [batch, mel, time], ``lengths`` int64 [batch]. Outputs: ``log_probs`` float32
    [batch, frames, vocabulary + 1], ``output_lengths`` int64 [batch]. The same module gives the same bytes.
    No two layers share a weight or a bias.

    Args:
        model: module in eval mode with batch norm folded: (features, lengths) -> (log_probs, output_lengths).
        path: file to write.
        mel_bins: mel of the features.
    """
    example = (torch.zeros(2, mel_bins, 64), torch.tensor([64, 40]))
    inputs = {"features": {0: "batch", 2: "time"}, "lengths": {0: "batch"}}
    outputs = {"log_probs": {0: "batch", 1: "frames"}, "output_lengths": {0: "batch"}}
    export_module(model, example, path, inputs, outputs)


def export_module(
    module: nn.Module, example: tuple[Tensor, ...], path: Path, inputs: Mapping[str, Axes], outputs: Mapping[str, Axes]
) -> None:
    """Export a module and tidy its graph.

    Args:
        module: in eval mode.
        example: its inputs.
        path: file to write.
        inputs: name -> dynamic axes, in order.
        outputs: likewise.
    """
    with warnings.catch_warnings(), torch.no_grad(), workspace(path.parent, OTHER_FOLDER) as work:
        warnings.simplefilter("ignore")
        raw = work / path.name  # the exporter writes one file per weight where they are large
        torch.onnx.export(
            module,
            example,
            str(raw),
            dynamo=False,  # the older exporter keeps module paths as node names, by which reports are read
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={**inputs, **outputs},
        )
        passes = (unshare, fold_scale, named_weights)  # the exporter stores equal constants of layers once
        graph = passed(onnx.load(raw), passes, f"export.{path.name.partition('.')[0]}")  # the raw one is let go
    write_model(graph, path)


def pairs(container: nn.ModuleList | nn.Sequential) -> Iterator[tuple[int, nn.Conv1d, nn.BatchNorm1d]]:
    """Convolutions of a container that a batch norm follows, each with the norm and its index."""
    for index, (first, second) in enumerate(pairwise(container), start=1):
        conv = first if isinstance(first, nn.Conv1d) else getattr(first, "conv", None)
        if isinstance(conv, nn.Conv1d) and isinstance(second, nn.BatchNorm1d):
            yield index, conv, second


@torch.no_grad()
def fold(conv: nn.Conv1d, norm: nn.BatchNorm1d) -> None:
    """Multiply a convolution by the gain of its batch norm and move its shift into the bias, in float64."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    gain = norm.weight.double() / torch.sqrt(variance.double() + norm.eps)
    bias = torch.zeros_like(mean) if conv.bias is None else conv.bias
    dtype = conv.weight.dtype
    conv.weight = nn.Parameter((conv.weight.double() * gain[:, None, None]).to(dtype))
    conv.bias = nn.Parameter(((bias.double() - mean.double()) * gain + norm.bias.double()).to(dtype))
