"""Integer-only graphs: exact, proved, proved wrong when something is planted in them, and beside FP32 and Q/DQ."""

import json
import logging
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from exported import exported
from onnx import TensorProto, helper, numpy_helper
from stored_table import read_table
from tiny_archive import config, write_archive, write_conformer, write_manifest

from trtasr.audio.manifest import read_manifest
from trtasr.audio.prepare import examples, prepare
from trtasr.bench.agreement import Scores, sqnr_db
from trtasr.cli import main
from trtasr.engine.sessions import OrtRunner
from trtasr.errors import AudioError, BundleError, QualityError, UsageError
from trtasr.graph.integer import LONGEST_FRAMES
from trtasr.graph.integer_proof import prove
from trtasr.pipeline import integer as module
from trtasr.pipeline.export import centered
from trtasr.pipeline.integer import (
    GRAPH,
    Equality,
    compare_integer,
    executor,
    integer_only,
    longest_of,
    rows,
    valid_frames,
)
from trtasr.quant.integer import IntegerExecutor

ROOT = Path(__file__).parents[2]
ZOO = ROOT / "trtasr" / "zoo"
BUNDLED = ("quartznet", "jasper", "conformer")
CHANGES = (
    "calibration.batches=1",
    "calibration.steps=3",
    "calibration.seconds=1.5",
    "evaluation.bench_seconds=[1.0]",
    "evaluation.max_wer_increase=100",
)
FAST = ["-q", *(word for change in CHANGES for word in ("--set", change))]
CLASSES = 29


@pytest.fixture(scope="module", params=BUNDLED)
def bundled(request, tmp_path_factory):
    """Folder with a bundled model's integer-only graph, its proof, and the model's front-end."""
    folder = tmp_path_factory.mktemp(request.param)
    table = read_table(ROOT / f"calib/{request.param}.json")
    plain = exported(ZOO / f"{request.param}.nemo", folder / "plain")
    return folder, integer_only(centered(plain, table, folder), table), plain.network.frontend


def assert_equal_integers(folder, frontend, limit):
    model, run = onnx.load(folder / GRAPH), OrtRunner(folder / GRAPH)
    execute = executor(model)
    items = examples(prepare(read_manifest(ZOO / "eval" / "manifest.json")[:limit], frontend))
    assert len(items) == (limit or 240)
    for item in items:
        expected, found = (compute(item.features, item.lengths) for compute in (run, execute))
        assert expected[0].dtype == found[0].dtype == np.int32
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


def test_a_network_of_several_graphs_has_none(tmp_path):
    assert integer_only(SimpleNamespace(files=(tmp_path / "encoder.onnx", tmp_path / "decoder.onnx")), None) is None


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
    model, manifest = str(write_conformer(folder / "tiny.nemo")), str(write_manifest(folder))
    command = ["compile", model, "--manifest", manifest, "-o", str(folder / "out"), "--target", "cpu", *FAST]
    assert main(command) == 0
    return folder / "out"


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
        speech, out = str(write_manifest(tmp_path)), str(tmp_path / "out")
        assert main(["compile", str(model), "--manifest", speech, "-o", out, "--target", "cpu", *FAST]) == 0
    assert "no integer-only graph" in caplog.text
    assert not (tmp_path / "out" / GRAPH).exists()
    assert main(["inspect", str(tmp_path / "out"), "--integer"]) == 2
    assert "has no integer-only graph" in capsys.readouterr().err


@pytest.fixture(scope="module")
def bundle(tiny_folder):
    model, manifest, out = (str(tiny_folder / name) for name in ("tiny.nemo", "manifest.json", "out"))
    assert main(["compile", model, "--manifest", manifest, "-o", out, "--target", "t4-rtx", *FAST]) == 0
    return tiny_folder / "out"


@pytest.fixture(scope="module")
def found(bundle):
    return compare_integer(bundle, (), None)


def test_all_graphs_are_compared_on_the_whole_manifest(found):
    assert [row.graph for row in found.rows] == [
        "fp32 (reference)",
        "Q/DQ t4-rtx",
        "Q/DQ, every layer INT8",
        "integer-only",
    ]
    assert (found.utterances, found.words) == (3, 6)
    reference, *others = found.rows
    assert (reference.delta, reference.interval, reference.sqnr_db, reference.token_agreement) == (0, None, math.inf, 1)
    assert all(25 < row.sqnr_db < 60 and 0.9 < row.token_agreement <= 1 for row in others)
    assert others[0].sqnr_db > others[1].sqnr_db + 1  # the first leaves depthwise layers in floating point
    assert others[2].sqnr_db == pytest.approx(others[1].sqnr_db, abs=0.5)


def test_the_word_error_rates_are_those_of_the_bundle(bundle, found):
    measured = {row["target"]: row["wer"] for row in json.loads((bundle / "bench.json").read_text(encoding="utf-8"))}
    assert [row.wer for row in found.rows[:2]] == [measured["fp32"], measured["t4-rtx"]]
    for row in found.rows[1:]:
        assert row.delta == row.wer - found.rows[0].wer
        assert row.interval[0] <= row.delta <= row.interval[1]
    assert [item.graph for item in found.over] == [row.graph for row in found.rows[1:3]]
    for item, row in zip(found.over, found.rows[1:3], strict=True):
        assert item.points == found.rows[3].wer - row.wer
        assert item.interval[0] <= item.points <= item.interval[1]


def test_the_executor_gives_the_integers_of_onnx_runtime(found):
    assert found.frames > 100
    assert (found.elements, found.unequal) == (found.frames * CLASSES, 0)


def test_every_layer_is_compared_and_adds_at_most_one_step(found):
    assert len(found.layers) == 8  # nine layers, two of which read the same tensor
    assert all(layer.own_largest <= 1 and layer.integer_sqnr_db > 20 for layer in found.layers)
    assert found.layers[0].differing == 0  # what is quantized at the boundary
    assert found.layers[-1].differing > 0


def test_the_log_probabilities_are_those_of_the_logits_times_their_scale(bundle, found, monkeypatch):
    """A wrong scale would show in the SQNR, and nowhere else."""
    right = module.logits_scale(onnx.load(bundle / "model.integer.onnx"))
    monkeypatch.setattr(module, "logits_scale", lambda model: 0.9 * right)
    wrong = compare_integer(bundle, (), None)
    assert wrong.rows[3].sqnr_db < found.rows[3].sqnr_db - 10
    assert wrong.rows[3].token_agreement == found.rows[3].token_agreement


def test_an_executor_that_differs_is_counted(bundle, found, monkeypatch):
    def off_by_one(self, features, lengths):
        logits, frames = IntegerExecutor.__call__(self, features, lengths)
        logits[0, 0, :2] += 1
        return logits, frames

    monkeypatch.setattr(module, "IntegerExecutor", type("Off", (IntegerExecutor,), {"__call__": off_by_one}))
    assert compare_integer(bundle, (), 2).unequal == 4


def test_every_sum_is_held_against_its_bound(bundle, monkeypatch):
    """The bounds that the executor gets are those of the graph's own nodes."""
    model = onnx.load(bundle / "model.integer.onnx")
    proof = module.inspect_integer(model, 1000)
    worst = proof.accumulators[0]
    tight = [SimpleNamespace(node=worst.node, bound=10)]
    monkeypatch.setattr(module, "inspect_integer", lambda *_: SimpleNamespace(accumulators=tight))
    with pytest.raises(QualityError, match=rf"{worst.node}.*exceeds its bound 10"):
        compare_integer(bundle, (), 1)


def test_speech_without_transcripts_has_no_word_error_rate(bundle, tiny_folder):
    lines = (tiny_folder / "manifest.json").read_text(encoding="utf-8").splitlines()
    silent = [json.dumps(json.loads(lines[0]) | {"text": ""}), *lines[1:]]
    (tiny_folder / "silent.json").write_text("\n".join(silent), encoding="utf-8")
    found = compare_integer(bundle, [tiny_folder / "silent.json"], 2)
    assert all(math.isnan(row.wer) and math.isnan(row.delta) and row.interval is None for row in found.rows)
    assert found.over == ()
    assert (found.utterances, found.words, found.unequal) == (2, 0, 0)
    assert found.rows[3].sqnr_db > 25


def test_a_bundle_without_the_graph(bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "old")
    sidecar = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    sidecar.pop("integer")
    (tmp_path / "old" / "bundle.json").write_text(json.dumps(sidecar), encoding="utf-8")
    with pytest.raises(UsageError, match=r"no integer-only graph[\s\S]*compile again"):
        compare_integer(tmp_path / "old", (), None)


def test_a_changed_graph_is_refused(bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "changed")
    file = tmp_path / "changed" / "model.integer.qdq.onnx"
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(BundleError, match=r"model\.integer\.qdq\.onnx: sha256"):
        compare_integer(tmp_path / "changed", (), None)


def test_an_encoder_decoder_is_refused(bundle, monkeypatch):
    pair = SimpleNamespace(network=SimpleNamespace(parts=("encoder", "decoder")))
    monkeypatch.setattr(module, "open_engine", lambda path: pair)
    with pytest.raises(UsageError, match="integer-only inference is for CTC models"):
        compare_integer(bundle, (), None)


@pytest.mark.parametrize("limit", [0, -1])
def test_at_least_one_utterance(bundle, limit):
    with pytest.raises(UsageError, match=f"--utterances {limit}"):
        compare_integer(bundle, (), limit)


def test_without_word_error_rates_a_row_has_what_the_scores_say():
    total = Scores(6.0, 5.0, 2, 3)
    (row,) = rows(["fp32"], [], [total])
    assert (row.graph, row.sqnr_db, row.token_agreement) == ("fp32", sqnr_db(6, 5), 2 / 3)
    assert math.isnan(row.wer)


def test_equality_counts_logits_lengths_and_shapes():
    logits, lengths = np.arange(6).reshape(1, 3, 2), np.array([3])
    same = Equality()
    same.add((logits, lengths), (logits.astype(np.int32), lengths))
    assert (same.elements, same.unequal) == (6, 0)
    same.add((logits, lengths), (logits // 5 * 5, lengths + 1))  # 5 of 6 are not 0 or 5 ...
    assert same.unequal == 4 + 1
    same.add((logits, lengths), (logits[:, :2], lengths))
    assert (same.elements, same.unequal) == (18, 5 + 6)


def test_outputs_must_be_finite_and_of_the_reference_length(tmp_path):
    values, lengths = np.zeros((1, 4, 2), np.float32), np.array([3])
    assert valid_frames(tmp_path, (values, lengths), lengths).shape == (3, 2)
    with pytest.raises(QualityError, match="another output length"):
        valid_frames(tmp_path, (values, lengths), lengths + 1)
    values[0, 2, 1] = np.nan
    with pytest.raises(QualityError, match="NaN or infinity"):
        valid_frames(tmp_path, (values, lengths), lengths)
