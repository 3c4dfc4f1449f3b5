"""Lowering and building: the fallback against a real refusal, and other GPUs from the same Q/DQ graph."""

import copy
import json

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from tiny_archive import block, config, write_archive, write_manifest, write_members

from trtasr.cli import main
from trtasr.engine.build import rtx_version
from trtasr.errors import BuildError, NoKernelError
from trtasr.models.jasper import JasperCtc
from trtasr.pipeline import lower as lowering

FAST = [
    "--set",
    "calibration.batches=1",
    "--set",
    "calibration.steps=2",
    "--set",
    "evaluation.bench_seconds=[0.5]",
    "--set",
    "evaluation.max_wer_increase=100",
    "--set",
    "calibration.seconds=1.5",
    "--target",
    "t4-rtx",
]

pytestmark = pytest.mark.skipif(rtx_version() is None, reason="TensorRT for RTX is not installed")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lower")
    write_manifest(folder)
    return write_archive(folder / "tiny.nemo")


def compiled(archive, out, *flags, code=0):
    manifest = archive.parent / "manifest.json"
    assert main(["compile", str(archive), "--manifest", str(manifest), "-o", str(out), "-q", *FAST, *flags]) == code
    return {name: json.loads((out / f"{name}.json").read_text()) for name in ("scales", "layers", "bundle")}


def in_fp32(halve, names):
    """A lowering that dequantizes the operands of the named nodes to FP32: products sm_75 cannot compute.

    Without Q/DQ these nodes are lowered as all others are.
    """

    def lowered(model):
        graph = halve(model)
        for node in list(graph.graph.node):
            if node.op_type == "MatMul" and node.name.removesuffix("_MatMul") in names:
                dequantize_to_fp32(graph.graph, node)
        return graph

    return lowered


def dequantize_to_fp32(graph, node):
    made_by = {name: other for other in graph.node for name in other.output}
    turn, weight = made_by[node.input[0]], made_by.get(node.input[1])
    if weight is None:  # a constant: the node is not quantized
        return
    data = made_by[turn.input[0]]
    values = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    place = list(graph.node).index(node)
    added = []
    for source in (data, weight):
        wide = copy.deepcopy(source)
        wide.name, wide.input[1] = f"{source.name}_{node.name}", f"{source.input[1]}_{node.name}"
        wide.output[0] = f"{source.output[0]}_{node.name}"
        graph.initializer.append(numpy_helper.from_array(values[source.input[1]].astype(np.float32), wide.input[1]))
        added.append(wide)
    turned = copy.deepcopy(turn)
    turned.name, turned.input[0], turned.output[0] = f"{turn.name}_{node.name}", added[0].output[0], f"{node.name}_wide"
    product, half = f"{node.output[0]}_wide", TensorProto.FLOAT16
    back = helper.make_node("Cast", [product], [node.output[0]], f"{node.name}_back", to=half)
    node.input[:], node.output[0] = [turned.output[0], added[1].output[0]], product
    for offset, made in enumerate([*added, turned]):
        graph.node.insert(place + offset, made)
    graph.node.insert(place + len(added) + 2, back)


def quantized(scales):
    return [decision["node"] for decision in scales["decisions"]["t4-rtx"] if decision["quantized"]]


def test_layers_the_builder_refuses_go_without_int8_and_the_build_goes_on(archive, tmp_path, monkeypatch, caplog):
    before = compiled(archive, tmp_path / "before")
    refused = quantized(before["scales"])[1:3]
    monkeypatch.setitem(lowering.REWRITES, "halve", in_fp32(lowering.halve, refused))
    after = compiled(archive, tmp_path / "after")
    rules = {d["node"]: d["rule"] for d in after["scales"]["decisions"]["t4-rtx"]}
    assert [rules[name] for name in refused] == ["fallback", "fallback"]
    assert quantized(after["scales"]) == [name for name in quantized(before["scales"]) if name not in refused]
    assert sum(row["int8"] for row in after["layers"]["t4-rtx"]) == len(quantized(before["scales"])) - 2
    told = [record.getMessage() for record in caplog.records if "no INT8 kernel" in record.getMessage()]
    assert all(any(name in line for line in told) for name in refused)
    graph = onnx.load(tmp_path / "after" / "model.qdq.onnx").graph
    assert not any(node.name in refused and node.input[0].endswith("_dequantized") for node in graph.node)


def test_the_fallback_is_bounded(archive, tmp_path, monkeypatch, capsys):
    builds = []

    def refuse(plant, lowered, target):
        builds.append(lowered.int8)
        raise NoKernelError("no kernel", "none", lowered.int8[:1])

    monkeypatch.setattr(lowering, "build_engine", refuse)
    monkeypatch.setattr(lowering, "MAX_FALLBACKS", 2)
    manifest = archive.parent / "manifest.json"
    command = ["compile", str(archive), "--manifest", str(manifest), "-o", str(tmp_path / "out"), "-q", *FAST]
    assert main(command) == BuildError.exit_code
    assert [len(names) for names in builds] == [6, 5, 4]
    assert "still no INT8 kernel after 2 builds" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_refusal_that_int8_is_not_to_blame_for_ends_the_build(archive, tmp_path, monkeypatch, capsys):
    def refuse(plant, lowered, target):
        raise NoKernelError("no kernel for /mask/Range", "none", ("/mask/Range",))

    monkeypatch.setattr(lowering, "build_engine", refuse)
    assert main(["compile", str(archive), "-o", str(tmp_path / "out"), "-q", *FAST]) == BuildError.exit_code
    assert "no kernel for /mask/Range" in capsys.readouterr().err


@pytest.mark.parametrize(("capability", "sm"), [("8.6", "sm86"), ("8.9", "sm89")])
def test_convolutions_run_in_int8_on_gpus_that_have_them(archive, tmp_path, capability, sm):
    """NVIDIA's compiler agrees with the placement of Q/DQ: every convolution that reads INT8 is an INT8 layer."""
    found = compiled(archive, tmp_path / "out", "--compute-capability", capability)
    target = f"rtx-{sm}"
    wanted = {d["node"] for d in found["scales"]["decisions"][target] if d["quantized"]}
    kinds = {row["onnx_nodes"][0]: row for row in found["layers"][target] if row["macs"]}
    assert len(wanted) == 5
    assert {name for name, row in kinds.items() if row["int8"]} == wanted
    assert found["bundle"]["engines"][target]["capability"] == sm
    assert found["bundle"]["results"][target]["p50_ms"] is None


def test_depthwise_convolutions_too_when_asked(archive, tmp_path):
    found = compiled(archive, tmp_path / "out", "--compute-capability", "8.6", "--quantize-depthwise")
    weighted = [row for row in found["layers"]["rtx-sm86"] if row["macs"]]
    assert len(weighted) == 9
    assert sum(row["int8"] for row in weighted) == 8  # all but the decoder, whose 29 channels are not aligned


def test_depthwise_convolutions_are_refused_where_no_kernel_is(archive, tmp_path, capsys):
    assert main(["compile", str(archive), "-o", str(tmp_path / "out"), *FAST, "--quantize-depthwise"]) == 2
    assert "no INT8 convolution on sm_75" in capsys.readouterr().err


@pytest.fixture(scope="module")
def wide_archive(tmp_path_factory):
    """Convolutions over time that are neither pointwise nor depthwise: a strided one and one in a residual block."""
    folder, settings = tmp_path_factory.mktemp("wide"), config()
    blocks = [block(32, 11, stride=[2]), block(32, 7, residual=True), block(64, 1)]
    settings["encoder"] |= {"jasper": [item | {"separable": False} for item in blocks]}
    torch.manual_seed(0)
    model = JasperCtc(settings["encoder"], settings["decoder"]).train()
    with torch.no_grad():
        for _ in range(10):
            model(torch.randn(4, 64, 120), torch.full((4,), 120))
    write_manifest(folder)
    return write_members(folder / "wide.nemo", settings, model.state_dict())


def test_wide_convolutions_are_int8_products_and_their_work_is_still_found(wide_archive, tmp_path, capsys):
    found = compiled(wide_archive, tmp_path / "out", "--set", "engine.unfold_channels=32")
    assert all(decision["quantized"] for decision in found["scales"]["decisions"]["t4-rtx"])
    weighted = {row["onnx_nodes"][0]: row for row in found["layers"]["t4-rtx"] if row["macs"]}
    wide = [f"/encoder/encoder.{index}/mconv.0/conv/Conv" for index in (0, 1)]
    assert [(weighted[name]["kind"], weighted[name]["int8"]) for name in wide] == [("gemm", True)] * 2
    assert [weighted[name]["macs"] for name in wide] == [64 * 32 * 11 * 50, 32 * 32 * 7 * 50]
    assert main(["inspect", str(tmp_path / "out"), "--target", "t4-rtx"]) == 0
    shown = capsys.readouterr().out
    assert all(any(line.startswith(name) and " yes " in line for line in shown.splitlines()) for name in wide)
    assert "(100.0 % of MACs)" in shown
    graph = onnx.load(tmp_path / "out" / "model.qdq.onnx").graph  # what is measured: convolutions
    assert sum(node.op_type == "Conv" for node in graph.node) == 5


def test_convolutions_with_few_output_channels_stay_fp16(wide_archive, tmp_path):
    found = compiled(wide_archive, tmp_path / "out")
    rules = {decision["node"]: decision["rule"] for decision in found["scales"]["decisions"]["t4-rtx"]}
    assert sorted(rules.values()) == ["int8"] * 3 + ["kernel"] * 2
    assert all(rules[f"/encoder/encoder.{index}/mconv.0/conv/Conv"] == "kernel" for index in (0, 1))
