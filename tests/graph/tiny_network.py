"""A tiny masked network in the Jasper form, and how its outputs are compared."""

import copy

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from trtasr.graph.check import run_graph
from trtasr.graph.tensors import activation_tensors, weight_tensors
from trtasr.values import ScaleTable, TensorScale, WeightScale

MEL, CHANNELS, CLASSES = 16, 32, 29


class Masked(nn.Module):
    def __init__(self, inputs, outputs, kernel, stride=1, groups=1):
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)

    def forward(self, x, mask):
        return self.conv(x * mask)


class Tiny(nn.Module):
    """Strided separable stem, a separable residual block, a dense kernel-3 convolution, a decoder."""

    def __init__(self):
        super().__init__()
        c = CHANNELS
        norm = nn.BatchNorm1d
        self.stem = nn.ModuleList([Masked(MEL, MEL, 5, 2, MEL), Masked(MEL, c, 1), norm(c)])
        self.mconv = nn.ModuleList(
            [
                Masked(c, c, 7, 1, c),
                Masked(c, c, 1),
                norm(c),
                nn.ReLU(),
                Masked(c, c, 7, 1, c),
                Masked(c, c, 1),
                norm(c),
            ]
        )
        self.res = nn.ModuleList([Masked(c, c, 1), norm(c)])
        self.dense = nn.ModuleList([Masked(c, c, 3), norm(c)])
        self.decoder = nn.Sequential(nn.Conv1d(c, CLASSES, 1))

    @staticmethod
    def mask(lengths, frames):
        steps = torch.arange(frames)
        return (lengths[:, None] - steps[None]).clamp(0, 1).to(torch.float32)[:, None]

    def run(self, layers, x, mask):
        for layer in layers:
            x = layer(x, mask) if isinstance(layer, Masked) else layer(x)
        return x

    def forward(self, features, lengths):
        x = self.stem[0](features, self.mask(lengths, features.shape[2]))
        lengths = torch.div(lengths - 1, 2, rounding_mode="trunc") + 1
        mask = self.mask(lengths, x.shape[2])
        x = self.run(self.stem[1:], x, mask).relu()
        x = (self.run(self.mconv, x, mask) + self.run(self.res, x, mask)).relu()
        x = self.run(self.dense, x, mask).relu()
        return torch.log_softmax(self.decoder(x).transpose(1, 2), -1), lengths


def valid(outputs, item):
    return outputs["log_probs"][item, : outputs["output_lengths"][item]]


def sqnr_db(reference, test):
    items = range(len(reference["output_lengths"]))
    a, b = (np.concatenate([valid(o, i) for i in items]).astype(np.float64) for o in (reference, test))
    with np.errstate(divide="ignore"):  # the same bits: infinite
        return 10 * np.log10(np.square(a).sum() / np.square(a - b).sum())


def table_of(graph, inputs):
    """Scale table of a graph from one batch: the largest magnitude of each tensor and weight channel."""
    names = activation_tensors(graph)
    values = {**inputs, **run_graph(with_outputs(graph, names), inputs)}
    arrays = {item.name: numpy_helper.to_array(item) for item in graph.graph.initializer}
    weights = {}
    for info in weight_tensors(graph):
        channels = np.moveaxis(arrays[info.name], info.axis, 0).reshape(info.shape[info.axis], -1)
        weights[info.name] = WeightScale((np.abs(channels).max(1) / np.float32(127)).astype(np.float32), info.axis)
    activations = {
        name: TensorScale(float(np.abs(values[name]).max()), "max", bool((values[name] >= 0).all())) for name in names
    }
    return ScaleTable(activations, weights)


def with_outputs(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """A copy whose outputs are exactly ``names`` (float32); graph inputs among them are left out."""
    inputs = {value.name for value in model.graph.input}
    copied = copy.deepcopy(model)
    del copied.graph.output[:]
    copied.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in inputs
    )
    return copied


def ops(model, name):
    """How many nodes of a graph are of a kind."""
    return sum(node.op_type == name for node in model.graph.node)
