"""Building: parts as one engine, the fallback against a real refusal, other GPUs from the same Q/DQ graph."""

import copy
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from tiny_archive import block, config, write_archive, write_manifest, write_members
from whisper_pair import CONVOLUTIONS, exported, tiny_features

from trtasr.cli import main
from trtasr.engine.build import rtx_version
from trtasr.errors import BuildError, NoKernelError, RecipeError
from trtasr.graph.halve import halve
from trtasr.models.jasper import JasperCtc
from trtasr.pipeline import build as building
from trtasr.pipeline.build import build, build_baselines, orders
from trtasr.pipeline.scales import make_table
from trtasr.recipe import Quantization, Recipe
from trtasr.results import Built
from trtasr.targets import CPU, T4, T4_RTX, choose
from trtasr.targets.t4_rtx import t4_rtx

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
STATIC = ["--set", "engine.activation_scales=static"]

RECIPE = Recipe("tiny", "tiny", quantization=Quantization(exclude=(CONVOLUTIONS,)))
needs_rtx = pytest.mark.skipif(rtx_version() is None, reason="TensorRT for RTX is not installed")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Graphs and table of a tiny Whisper, whose convolutions stay in floating point."""
    graphs = exported(tmp_path_factory.mktemp("pair"))
    return graphs, make_table(graphs, tiny_features(), RECIPE.quantization, {})


def from_pair(pair, recipe=RECIPE):
    graphs, table = pair
    return orders(graphs, table, recipe, None, no_features)


def folder_of(given):
    """Of the bundle."""
    return given[0].graph.parent


def no_features(method):
    raise AssertionError("no calibrator takes its own ranges")


def test_the_parts_of_a_network_are_one_engine(pair):
    given = from_pair(pair)
    engine = build(given, CPU)
    names = [f"cpu/{half}.int8.onnx" for half in ("encoder", "decoder")]
    sizes = [(folder_of(given) / name).stat().st_size for name in names]
    assert [(part.path, part.size_bytes) for part in engine.parts] == list(zip(names, sizes, strict=True))
    assert engine.graphs == engine.paths == engine.measured == tuple(names)
    assert engine.size_bytes == sum(sizes)
    assert (engine.target, engine.label, engine.rest, engine.stand_in) == ("cpu", "int8 cpu", "FP32", "")
    rules = {item.node: item.rule for item in engine.decisions}
    assert rules["/encoder/conv1/Conv"] == "exclude"
    assert rules["/decoder/layers.0/encoder_attn/k_proj/MatMul"] == rules["/decoder/MatMul"] == "int8"
    assert sum(item.quantized for item in engine.decisions) == (6 + 2) * 2 + 8 * 2 + 1
    named = [row.onnx_nodes[0] for row in engine.layers if row.macs]
    assert {"/encoder/layers.1/fc2/MatMul", "/decoder/layers.1/fc2/MatMul"} <= set(named)


def test_each_part_has_its_own_shapes_scales_and_patterns(pair):
    patterns = ("/encoder/conv*", "/encoder/layers.0/*", "*/encoder_attn/*", "/decoder/MatMul")
    given = from_pair(pair, replace(RECIPE, quantization=Quantization(exclude=patterns)))
    encoder, decoder = given
    assert (encoder.exclude, decoder.exclude) == (patterns[:3], patterns[2:])
    for part in given:
        inputs = [value.name for value in onnx.load(part.graph).graph.input]
        assert sorted(part.shapes.shapes()) == sorted(inputs)
    assert encoder.macs["/encoder/layers.0/fc1/MatMul"] == 32 * 64 * 20  # positions per second
    assert decoder.macs["/decoder/layers.0/fc1/MatMul"] == 32 * 64 * 4  # per token, four a second
    assert not set(encoder.table.weights) & set(decoder.table.weights)
    wrong = replace(RECIPE, quantization=Quantization(exclude=(*patterns, "/decoder/layers.9/*")))
    with pytest.raises(RecipeError, match=r"/decoder/layers.9/\* *' matches no Conv, MatMul or Gemm node"):
        from_pair(pair, wrong)


def test_a_budgets_layers_stay_float_in_the_part_that_has_them(pair):
    left = ("/encoder/layers.0/fc1/MatMul", "/decoder/MatMul")
    rules = {item.node: item.rule for item in build(from_pair(pair), CPU, dict.fromkeys(left, "budget")).decisions}
    assert [rules[name] for name in left] == ["budget", "budget"]


def test_lint_of_every_part_is_kept_and_an_absent_target_has_a_stand_in(pair):
    def plan(order):
        order.plan.parent.mkdir(exist_ok=True)
        order.plan.write_bytes(b"plan")
        return Built("", 4, (), {"graph": order.graph.name})

    def lint(graph, fp32, table, int8):
        return [f"{len(int8)} small"], [f"{len(int8)} large"]

    engine = build(from_pair(pair), replace(T4, build=plan, lint=lint))
    assert (engine.linted, engine.subnormal, engine.overflowing) == (
        True,
        ("16 small", "17 small"),
        ("16 large", "17 large"),
    )
    assert [part.details for part in engine.parts] == [
        {"graph": "encoder.lowered.onnx"},
        {"graph": "decoder.lowered.onnx"},
    ]
    assert engine.paths == ("t4/encoder.plan", "t4/decoder.plan")
    assert engine.measured == engine.graphs == ("encoder.qdq.onnx", "decoder.qdq.onnx")
    assert (engine.stand_in, engine.absent) == ("Q/DQ graph, ONNX Runtime", "no T4 here")
    assert sorted(path.name for path in (folder_of(from_pair(pair)) / "t4").iterdir()) == [
        "decoder.plan",
        "encoder.plan",
    ]


def test_a_baseline_is_built_whole_or_not_at_all(pair, caplog):
    def plan(order):
        if order.plan.name == "decoder.fp16.plan":
            raise BuildError("no room", "none")
        order.plan.parent.mkdir(exist_ok=True)
        order.plan.write_bytes(b"plan")
        return Built("", 4)

    given = from_pair(pair)
    target = replace(T4, baselines=tuple(replace(item, build=plan) for item in T4.baselines))
    (found,) = build_baselines(given, [target, CPU])
    assert (found.target, found.precision, found.size_bytes) == ("t4-fp32", "fp32", 8)
    assert (found.graphs, found.decisions) == ((), ())
    assert "no FP16 baseline: no room" in caplog.text
    held = sorted(path.name for path in (folder_of(given) / "t4").glob("*fp*"))
    assert held == ["decoder.fp32.plan", "encoder.fp32.plan"]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lower")
    write_manifest(folder)
    return write_archive(folder / "tiny.nemo")


ALL_INT8 = ("--set", "quantization.fidelity=fast")  # random weights are easily harmed


def compiled(archive, out, *flags, code=0):
    manifest = archive.parent / "manifest.json"
    assert main(["compile", str(archive), "--manifest", str(manifest), "-o", str(out), "-q", *FAST, *flags]) == code
    return {name: json.loads((out / f"{name}.json").read_text()) for name in ("scales", "layers", "bundle")}


def changed(monkeypatch, **changes):
    """Every ``t4-rtx`` target has other attributes."""
    monkeypatch.setattr(choose, "t4_rtx", lambda channels: replace(t4_rtx(channels), **changes))


def in_fp32(halve, names):
    """A building that dequantizes the operands of the named nodes to FP32: products sm_75 cannot compute.

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


@needs_rtx
def test_layers_the_builder_refuses_go_without_int8_and_the_build_goes_on(archive, tmp_path, monkeypatch, caplog):
    before = compiled(archive, tmp_path / "before", *STATIC)
    refused = quantized(before["scales"])[1:3]
    passes = tuple(in_fp32(halve, refused) if change is halve else change for change in T4_RTX.passes)
    changed(monkeypatch, passes=passes)
    after = compiled(archive, tmp_path / "after", *STATIC)
    rules = {d["node"]: d["rule"] for d in after["scales"]["decisions"]["t4-rtx"]}
    assert [rules[name] for name in refused] == ["fallback", "fallback"]
    assert quantized(after["scales"]) == [name for name in quantized(before["scales"]) if name not in refused]
    assert sum(row["int8"] for row in after["layers"]["t4-rtx"]) == len(quantized(before["scales"])) - 2
    told = [record.getMessage() for record in caplog.records if "no INT8 kernel" in record.getMessage()]
    assert all(any(name in line for line in told) for name in refused)
    graph = onnx.load(tmp_path / "after" / "model.qdq.onnx").graph
    assert not any(node.name in refused and node.input[0].endswith("_dequantized") for node in graph.node)


@needs_rtx
def test_the_fallback_is_bounded(archive, tmp_path, monkeypatch, capsys):
    builds = []

    def refuse(order):
        graph = onnx.load(order.graph).graph
        builds.append([node.name.removesuffix("/gain") for node in graph.node if node.name.endswith("/gain")])
        raise NoKernelError("no kernel", "none", builds[-1][:1])

    changed(monkeypatch, build=refuse)
    monkeypatch.setattr(building, "MAX_FALLBACKS", 2)
    manifest = archive.parent / "manifest.json"
    command = ["compile", str(archive), "--manifest", str(manifest), "-o", str(tmp_path / "out"), "-q", *FAST]
    assert main(command) == BuildError.exit_code
    assert [len(names) for names in builds] == [6, 5, 4]
    assert "still no INT8 kernel after 2 builds" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@needs_rtx
def test_a_refusal_that_int8_is_not_to_blame_for_ends_the_build(archive, tmp_path, monkeypatch, capsys):
    def refuse(order):
        raise NoKernelError("no kernel for /mask/Range", "none", ("/mask/Range",))

    changed(monkeypatch, build=refuse)
    assert main(["compile", str(archive), "-o", str(tmp_path / "out"), "-q", *FAST]) == BuildError.exit_code
    assert "no kernel for /mask/Range" in capsys.readouterr().err


@needs_rtx
@pytest.mark.parametrize(("capability", "sm"), [("8.6", "sm86"), ("8.9", "sm89")])
def test_convolutions_run_in_int8_on_gpus_that_have_them(archive, tmp_path, capability, sm):
    """NVIDIA's compiler agrees with the placement of Q/DQ: every convolution that reads INT8 is an INT8 layer."""
    found = compiled(archive, tmp_path / "out", "--compute-capability", capability, *ALL_INT8)
    target = f"rtx-{sm}"
    wanted = {d["node"] for d in found["scales"]["decisions"][target] if d["quantized"]}
    kinds = {row["onnx_nodes"][0]: row for row in found["layers"][target] if row["macs"]}
    assert len(wanted) == 5
    assert {name for name, row in kinds.items() if row["int8"]} == wanted
    assert found["bundle"]["engines"][target]["parts"][0]["capability"] == sm
    assert found["bundle"]["results"][target]["p50_ms"] is None


@needs_rtx
def test_depthwise_convolutions_too_when_asked(archive, tmp_path):
    found = compiled(archive, tmp_path / "out", "--compute-capability", "8.6", "--quantize-depthwise", *ALL_INT8)
    weighted = [row for row in found["layers"]["rtx-sm86"] if row["macs"]]
    assert len(weighted) == 9
    assert sum(row["int8"] for row in weighted) == 8  # all but the decoder, whose 29 channels are not aligned


@needs_rtx
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


@needs_rtx
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
    graph = onnx.load(tmp_path / "out" / "model.qdq.onnx").graph  # what is measured
    assert [sum(node.op_type == kind for node in graph.node) for kind in ("Conv", "MatMul")] == [2, 3]
    assert found["bundle"]["engines"]["t4-rtx"]["activation_scales"] == "dynamic"
    assert not set(found["bundle"]["engines"]["t4-rtx"]["dynamic_layers"]).intersection(wide)


@needs_rtx
def test_convolutions_with_few_output_channels_stay_fp16(wide_archive, tmp_path):
    found = compiled(wide_archive, tmp_path / "out")
    rules = {decision["node"]: decision["rule"] for decision in found["scales"]["decisions"]["t4-rtx"]}
    assert sorted(rules.values()) == ["int8"] * 3 + ["kernel"] * 2
    assert all(rules[f"/encoder/encoder.{index}/mconv.0/conv/Conv"] == "kernel" for index in (0, 1))


UNTOUCHED = ("cpu/model.int8.onnx", "model.integer.onnx", "calibration.cache")


@needs_rtx
def test_the_bundled_quartznet_with_scales_of_either_kind(tmp_path, capsys):
    """Dynamic is the default, nearer to FP32, and makes no kernel more; nothing else depends on it."""
    built, graphs, told = {}, {}, {}
    for kind in ("dynamic", "static"):
        out = tmp_path / kind
        flags = ["--set", "evaluation.bench_seconds=[0.5]", "--set", "evaluation.manifest=[]", "-q"]
        flags += STATIC if kind == "static" else []
        assert main(["compile", "quartznet", "-o", str(out), *flags]) == 0
        told[kind] = capsys.readouterr().out
        built[kind] = {name: json.loads((out / f"{name}.json").read_text()) for name in ("bundle", "layers")}
        graphs[kind] = {name: (out / name).read_bytes() for name in UNTOUCHED}
    engines = {kind: found["bundle"]["engines"]["t4-rtx"] for kind, found in built.items()}
    assert {kind: engine["activation_scales"] for kind, engine in engines.items()} == {kind: kind for kind in built}
    assert (len(engines["dynamic"]["dynamic_layers"]), engines["static"]["dynamic_layers"]) == (24, [])
    assert graphs["dynamic"] == graphs["static"]
    assert "(93.6 % of MACs); dynamic scales; kept FP16" in told["dynamic"]
    assert "(93.6 % of MACs); kept FP16" in told["static"]
    kinds = {kind: Counter(row["kind"] for row in found["layers"]["t4-rtx"]) for kind, found in built.items()}
    assert kinds["dynamic"]["kgen"] <= kinds["static"]["kgen"]
    assert kinds["dynamic"]["gemm"] == kinds["static"]["gemm"] == 24
    sqnr = {kind: found["bundle"]["comparison"]["tensors"][0]["sqnr_db"] for kind, found in built.items()}
    assert sqnr["dynamic"] > sqnr["static"] + 3
