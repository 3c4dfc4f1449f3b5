"""The integer-only graphs of the bundled models: exact, proved, and proved wrong when something is planted in them."""

import json
import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from stored_table import read_table
from tiny_archive import config, write_archive, write_conformer, write_manifest

from trtasr.audio.manifest import read_manifest
from trtasr.audio.prepare import prepare
from trtasr.checkpoint.read import read_checkpoint
from trtasr.cli import main
from trtasr.engine.sessions import OrtRunner
from trtasr.errors import AudioError, QualityError
from trtasr.graph.center import center
from trtasr.graph.export import export_onnx, fold_batchnorm
from trtasr.graph.integer import LONGEST_FRAMES
from trtasr.graph.integer_proof import prove
from trtasr.pipeline.compare_integer import executor
from trtasr.pipeline.evaluate import feeds
from trtasr.pipeline.integer_graph import GRAPH, longest_of, write_integer
from trtasr.pipeline.job import model_of
from trtasr.pipeline.lower import FP32, save

ROOT = Path(__file__).parents[2]
ZOO = ROOT / "trtasr" / "zoo"
BUNDLED = ("quartznet", "jasper", "conformer")


@pytest.fixture(scope="module", params=BUNDLED)
def bundled(request, tmp_path_factory):
    """Folder with a bundled model's integer-only graph, its proof, and the model's front-end."""
    folder = tmp_path_factory.mktemp(request.param)
    checkpoint, table = read_checkpoint(ZOO / f"{request.param}.nemo"), read_table(ROOT / f"calib/{request.param}.json")
    export_onnx(fold_batchnorm(model_of(checkpoint)), folder / "plain.onnx", checkpoint.frontend.rows)
    save(center(onnx.load(folder / "plain.onnx"), table.offsets), folder / FP32)
    return folder, write_integer(folder, folder / FP32, table), checkpoint.frontend


def assert_equal_integers(folder, frontend, limit):
    model, run = onnx.load(folder / GRAPH), OrtRunner(folder / GRAPH)
    execute = executor(model)
    items = feeds(prepare(read_manifest(ZOO / "eval" / "manifest.json")[:limit], frontend))
    assert len(items) == (limit or 240)
    for features, lengths in items:
        expected, found = run(features, lengths), execute(features, lengths)
        assert expected[0].dtype == found[0].dtype == np.int32
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


def test_executor_and_onnx_runtime_give_the_same_integers(bundled) -> None:
    folder, _, frontend = bundled
    assert_equal_integers(folder, frontend, 3)


@pytest.mark.slow
def test_executor_and_onnx_runtime_give_the_same_integers_on_the_whole_set(bundled) -> None:
    folder, _, frontend = bundled
    assert_equal_integers(folder, frontend, None)


def test_the_bundled_graphs_are_proved(bundled) -> None:
    proof = bundled[1].proof
    assert proof.integer_only
    assert len(proof.boundary) == 1
    assert len(proof.accumulators) > 20
    assert all(item.headroom >= 1 for item in proof.accumulators)
    assert bundled[1].to_json()["float_tensors"] == 0


def test_one_planted_float_operator_fails_the_proof(bundled) -> None:
    model = onnx.load(bundled[0] / GRAPH)
    index, node = next((i, n) for i, n in enumerate(model.graph.node) if n.op_type == "Relu")
    node.output[0], name = "planted_relu", node.output[0]
    model.graph.node.insert(index + 1, helper.make_node("Cast", ["planted_relu"], ["planted"], to=TensorProto.FLOAT))
    model.graph.node.insert(index + 2, helper.make_node("Cast", ["planted"], [name], to=TensorProto.INT32))
    with pytest.raises(QualityError, match=r"'planted'.*is float"):
        prove(model, longest_of(model))


def test_a_planted_overflow_fails_the_proof(bundled) -> None:
    model = onnx.load(bundled[0] / GRAPH)
    held = next(
        item
        for item in model.graph.initializer
        if item.data_type == TensorProto.INT32 and item.name.endswith("_addend")
    )
    bias = numpy_helper.to_array(held).copy()
    bias.flat[0] = 2**31 - 1000  # its sums reach further than that
    held.CopyFrom(numpy_helper.from_array(bias, held.name))
    with pytest.raises(QualityError, match="do not fit int32"):
        prove(model, longest_of(model))


def test_signed_weights_fail_the_proof_because_they_saturate_on_some_machines(bundled) -> None:
    model = onnx.load(bundled[0] / GRAPH)
    held = next(item for item in model.graph.initializer if item.name.endswith("_uint8"))
    codes = numpy_helper.to_array(held).astype(np.int16) - 128
    held.CopyFrom(numpy_helper.from_array(codes.astype(np.int8), held.name))
    reader = next(node for node in model.graph.node if len(node.input) > 1 and node.input[1] == held.name)
    reader.input[3] = "signed_zero"
    model.graph.initializer.append(numpy_helper.from_array(np.int8(0), "signed_zero"))
    with pytest.raises(QualityError, match="is int8, whose products saturate"):
        prove(model, longest_of(model))


@pytest.mark.parametrize("frames", ["0", "-3", "abc", ""])
def test_the_premise_of_the_proof_is_checked(bundled, frames) -> None:
    model = onnx.load(bundled[0] / GRAPH)
    facts = {item.key: item.value for item in model.metadata_props} | {LONGEST_FRAMES: frames}
    helper.set_model_props(model, facts)
    with pytest.raises(QualityError, match="is no number of frames"):
        longest_of(model)
    with pytest.raises(QualityError, match="proves nothing"):
        prove(model, 0)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("integer")
    model, manifest = write_conformer(folder / "tiny.nemo"), write_manifest(folder)
    code = main(["compile", str(model), "--manifest", str(manifest), "-o", str(folder / "out"), "-q", *FAST])
    assert code == 0
    return folder / "out"


FAST = [
    "--set",
    "calibration.batches=1",
    "--set",
    "calibration.steps=3",
    "--set",
    "evaluation.bench_seconds=[1.0]",
    "--set",
    "evaluation.max_wer_increase=100",
    "--set",
    "calibration.seconds=1.5",
    "--target",
    "cpu",
]


def test_a_conformer_of_any_checkpoint_gets_one(compiled, capsys) -> None:
    sidecar = json.loads((compiled / "bundle.json").read_text(encoding="utf-8"))
    assert sidecar["integer"]["graph"] == GRAPH
    assert "Integer-only graph" in (compiled / "report.html").read_text(encoding="utf-8")
    assert main(["inspect", str(compiled), "--integer"]) == 0
    assert "the logits: 0 of " in capsys.readouterr().out
    assert main(["compare", str(compiled), "--integer", "--target", "cpu"]) == 2
    assert main(["compare", str(compiled), "--target", "integer"]) == 2
    assert "--integer" in capsys.readouterr().err
    assert main(["compare", str(compiled), "--integer", "--utterances", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["unequal"], found["utterances"], len(found["rows"])) == (0, 1, 4)


def test_it_transcribes(compiled, capsys) -> None:
    audio = ZOO / "eval" / "000.ogg"
    assert main(["transcribe", str(compiled), "--target", "integer", "--json", str(audio)]) == 0
    assert json.loads(capsys.readouterr().out)[0]["audio_filepath"] == str(audio)


def test_audio_beyond_the_table_of_positions_is_refused(compiled) -> None:
    run = OrtRunner(compiled / GRAPH)
    frames = 4 * 5000 + 8
    with pytest.raises(AudioError, match="20008 feature frames: the integer-only graph cannot run them"):
        run(np.zeros((1, 64, frames), np.float32), np.array([frames], np.int64))


def test_flags_that_contradict_each_other_are_refused(compiled, capsys) -> None:
    for flags in (["--integer", "--target", "cpu"], ["--integer", "--roofline"]):
        assert main(["inspect", str(compiled), *flags]) == 2
    assert "leave --target" in capsys.readouterr().err


def test_a_changed_graph_is_not_proved(compiled, tmp_path, capsys) -> None:
    kept = (compiled / GRAPH).read_bytes()
    try:
        (compiled / GRAPH).write_bytes(kept + b"x")
        assert main(["inspect", str(compiled), "--integer"]) == 2
    finally:
        (compiled / GRAPH).write_bytes(kept)
    assert "sha256" in capsys.readouterr().err


def test_an_activation_without_integer_form_costs_the_graph_and_nothing_else(tmp_path, caplog, capsys) -> None:
    model = write_archive(tmp_path / "tiny.nemo", config() | {"encoder": config()["encoder"] | {"activation": "gelu"}})
    with caplog.at_level(logging.WARNING):
        code = main(
            ["compile", str(model), "--manifest", str(write_manifest(tmp_path)), "-o", str(tmp_path / "out"), *FAST]
        )
    assert code == 0
    assert "no integer-only graph" in caplog.text
    assert not (tmp_path / "out" / GRAPH).exists()
    assert main(["inspect", str(tmp_path / "out"), "--integer"]) == 2
    assert "has no integer-only graph" in capsys.readouterr().err
