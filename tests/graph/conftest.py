"""The tiny network, its FP32 graph, its scale table and a batch of mixed lengths."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))  # tiny_network, whatever the import mode
from tiny_archive import conformer_network
from tiny_network import MEL, Tiny, table_of
from whisper_pair import exported, tiny_whisper

from trtasr.graph.export import export_onnx, fold_batchnorm
from trtasr.models.whisper import Whisper
from trtasr.values import ScaleTable


@pytest.fixture(scope="session")
def network():
    torch.manual_seed(0)
    model = Tiny()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.2, 1.5)
            nn.init.normal_(module.weight, 1.5, 0.3)
            nn.init.normal_(module.bias, 0, 0.3)
    return model.eval()


@pytest.fixture(scope="session")
def fp32(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    export_onnx(fold_batchnorm(network), path, MEL)
    return onnx.load(path)


@pytest.fixture(scope="session")
def feeds():
    lengths = np.array([61, 40, 7])
    features = np.random.default_rng(1).normal(size=(3, MEL, 61)).astype(np.float32)
    features *= np.arange(61) < lengths[:, None, None]
    return {"features": features, "lengths": lengths}


@pytest.fixture(scope="session")
def table(fp32, feeds):
    """Scales from the test batch itself."""
    return table_of(fp32, feeds)


@dataclass(frozen=True)
class Conformer:
    """A tiny Conformer's FP32 graph, a batch of mixed lengths for it, and a table from that batch."""

    fp32: onnx.ModelProto
    feeds: dict
    table: ScaleTable


@pytest.fixture(scope="session", params=["striding", "dw_striding", "vggnet"])
def conformer(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("conformer") / "model.onnx"
    export_onnx(fold_batchnorm(conformer_network(subsampling=request.param)), path, 64)
    lengths = np.array([97, 64, 33])
    features = np.random.default_rng(1).normal(size=(3, 64, 97)).astype(np.float32)
    inputs = {"features": features * (np.arange(97) < lengths[:, None, None]), "lengths": lengths}
    graph = onnx.load(path)
    return Conformer(graph, inputs, table_of(graph, inputs))


@dataclass(frozen=True)
class Pair:
    """A tiny Whisper as torch module and as both FP32 graphs."""

    module: Whisper
    encoder: onnx.ModelProto
    decoder: onnx.ModelProto


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    module = tiny_whisper()
    files = exported(tmp_path_factory.mktemp("pair"), module).files
    return Pair(module, *map(onnx.load, files))
