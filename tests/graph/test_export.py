import re

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, shape_inference
from tiny_archive import LETTERS, config, conformer_network
from tiny_network import MEL
from torch import nn

from trtasr.audio.features import FrontendConfig
from trtasr.graph.check import assert_parity, check_model, run_graph
from trtasr.graph.export import export_onnx, fold_batchnorm
from trtasr.graph.tensors import weight_tensors
from trtasr.models.jasper import JasperCtc
from trtasr.network.ctc import ctc, ctc_original
from trtasr.network.network import Described
from trtasr.pipeline.export import export
from trtasr.pipeline.scales import make_table
from trtasr.recipe import Quantization
from trtasr.text.tokens import CharTokenizer
from trtasr.values import CalibrationSet

CONFORMERS = {
    "conformer": {},
    "fastconformer": {
        "subsampling": "dw_striding",
        "subsampling_factor": 8,
        "subsampling_conv_channels": 24,
        "use_bias": False,
        "xscaling": False,
    },
    "vggnet": {"subsampling": "vggnet", "subsampling_conv_channels": 8, "n_heads": 1, "feat_out": 20},
}


@pytest.fixture(scope="module", params=CONFORMERS)
def conformer(request, one_thread, tmp_path_factory):
    """A tiny Conformer and its graph."""
    network = conformer_network(**CONFORMERS[request.param])
    path = tmp_path_factory.mktemp("conformer") / "model.onnx"
    export_onnx(fold_batchnorm(network), path, 64)
    return network, onnx.load(path)


def test_folding_keeps_the_function_and_the_module_names(network):
    folded = fold_batchnorm(network)
    x, lengths = torch.randn(2, MEL, 33), torch.tensor([33, 20])
    with torch.no_grad():
        torch.testing.assert_close(folded(x, lengths)[0], network(x, lengths)[0], atol=1e-5, rtol=1e-5)
    assert not any(isinstance(module, nn.BatchNorm1d) for module in folded.modules())
    assert any(isinstance(module, nn.BatchNorm1d) for module in network.modules())
    assert [name for name, _ in folded.named_modules()] == [name for name, _ in network.named_modules()]


def test_folding_follows_the_formula():
    block = nn.Sequential(nn.Conv1d(3, 4, 1), nn.BatchNorm1d(4, eps=0.1)).eval()
    norm = block[1]
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    gain = norm.weight / torch.sqrt(norm.running_var + 0.1)
    folded = fold_batchnorm(block)
    torch.testing.assert_close(folded[0].weight, block[0].weight * gain[:, None, None])
    torch.testing.assert_close(folded[0].bias, (block[0].bias - norm.running_mean) * gain + norm.bias)


@pytest.mark.parametrize(("batch", "frames"), [(1, 9), (3, 101)])
def test_exported_graph_equals_torch_at_unseen_shapes(network, fp32, batch, frames):
    x = torch.randn(batch, MEL, frames)
    lengths = torch.linspace(frames, frames // 2, batch).long()
    with torch.no_grad():
        log_probs, output_lengths = network(x, lengths)
    found = run_graph(fp32, {"features": x.numpy(), "lengths": lengths.numpy()})
    assert_parity({"log_probs": log_probs.numpy(), "output_lengths": output_lengths.numpy()}, found)
    assert found["output_lengths"].dtype == np.int64


def test_exported_graph_is_valid_named_and_free_of_booleans(fp32):
    check_model(fp32)
    inferred = shape_inference.infer_shapes(fp32).graph
    assert all(v.type.tensor_type.elem_type != TensorProto.BOOL for v in [*inferred.value_info, *inferred.output])
    assert "/mconv.0/conv/Conv" in {node.name for node in fp32.graph.node}
    assert {node.op_type for node in fp32.graph.node}.isdisjoint({"BatchNormalization", "Identity"})
    dims = fp32.graph.input[0].type.tensor_type.shape.dim
    assert [dims[0].dim_param, dims[1].dim_value, dims[2].dim_param] == ["batch", MEL, "time"]


def test_export_is_deterministic(network, fp32, tmp_path):
    export_onnx(fold_batchnorm(network), tmp_path / "again.onnx", MEL)
    assert onnx.load(tmp_path / "again.onnx").SerializeToString() == fp32.SerializeToString()


@pytest.mark.parametrize("correction", ["none", "bias"])
def test_network_without_means_and_shifts_can_be_calibrated(correction, tmp_path):
    """As random weights leave it: the biases behind batch norm are all zero, and torch stores them once."""
    torch.manual_seed(0)
    model = JasperCtc(config()["encoder"], config()["decoder"]).eval()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]
    assert not any(norm.running_mean.any() or norm.bias.any() for norm in norms)
    network = ctc(Described("jasper", FrontendConfig(), CharTokenizer(tuple(LETTERS))))
    graphs = export(network, ctc_original(model, network), tmp_path)
    features = np.random.default_rng(0).normal(size=(4, 64, 80)).astype(np.float32)
    calibration = CalibrationSet((features,), (np.full(4, 80),), "noise")
    table = make_table(graphs, calibration, Quantization(correction=correction), {})
    sites = [info.name for info in weight_tensors(onnx.load(graphs.files[0]))]
    assert len(sites) == sum(isinstance(module, nn.Conv1d) for module in model.modules())
    assert set(table.weights) == set(sites)


@pytest.mark.parametrize(
    "lengths",
    [
        [1],
        [2, 1],
        [64, 40],
        [64, 64, 64],
        [65],
        [201, 130, 8, 1],
        [97, 0],
        [333],
    ],
    ids=str,
)
def test_conformer_graph_equals_torch_at_unseen_shapes(conformer, lengths):
    network, graph = conformer
    features = np.random.default_rng(len(lengths)).normal(size=(len(lengths), 64, lengths[0])).astype(np.float32)
    log_probs, frames = network(torch.from_numpy(features), torch.tensor(lengths))
    found = run_graph(graph, {"features": features, "lengths": np.array(lengths)})
    assert_parity({"log_probs": log_probs.numpy(), "output_lengths": frames.numpy()}, found, tolerance=1e-4)
    assert found["output_lengths"].dtype == np.int64
    assert log_probs.std(dim=-1).min() > 0.1


def test_folding_a_conformer_keeps_the_function_and_the_module_names(conformer):
    network, _ = conformer
    folded = fold_batchnorm(network)
    x, lengths = torch.randn(2, 64, 61), torch.tensor([61, 33])
    torch.testing.assert_close(folded(x, lengths)[0], network(x, lengths)[0], atol=2e-5, rtol=0)
    assert not any(isinstance(module, nn.BatchNorm1d) for module in folded.modules())
    assert [name for name, _ in folded.named_modules()] == [name for name, _ in network.named_modules()]


def test_conformer_graph_has_no_booleans_and_no_batch_norm(conformer):
    """TensorRT's calibrator refuses a network with a boolean operator."""
    _, graph = conformer
    check_model(graph)
    inferred = shape_inference.infer_shapes(graph, strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.output)}
    assert {name for node in graph.graph.node for name in node.output} <= types.keys()  # none escapes the next line
    assert TensorProto.BOOL not in types.values()
    kinds = {node.op_type for node in graph.graph.node}
    assert kinds.isdisjoint({"BatchNormalization", "And", "Or", "Not", "Where", "Equal", "Greater", "Less", "If"})


def test_conformer_graph_stays_dynamic_in_batch_and_time(conformer):
    _, graph = conformer
    features, lengths = graph.graph.input
    dims = features.type.tensor_type.shape.dim
    assert [dims[0].dim_param, dims[1].dim_value, dims[2].dim_param] == ["batch", 64, "time"]
    assert lengths.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_conformer_nodes_keep_module_paths(conformer):
    network, graph = conformer
    names = [node.name for node in graph.graph.node]
    assert len(set(names)) == len(names)
    for path, module in network.encoder.named_modules(prefix="encoder"):
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            kind = "MatMul" if isinstance(module, nn.Linear) else "Conv"
            assert re.sub(r"/(\d+)", r".\1", f"/{path.replace('.', '/')}") + f"/{kind}" in names
    assert "/encoder/layers.1/self_attn/linear_pos/MatMul" in names
    assert "/decoder/decoder_layers/decoder_layers.0/Conv" in names


def test_conformer_export_is_deterministic(conformer, tmp_path):
    network, graph = conformer
    export_onnx(fold_batchnorm(network), tmp_path / "again.onnx", 64)
    assert onnx.load(tmp_path / "again.onnx").SerializeToString() == graph.SerializeToString()
