"""FP32, Q/DQ and integer-only of a tiny compiled bundle."""

import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from trtasr.cli import main
from trtasr.engine.compare import sqnr_db
from trtasr.errors import BundleError, QualityError, UsageError
from trtasr.pipeline import compare_integer as module
from trtasr.pipeline.compare_integer import Equality, Tally, compare_integer, rows, valid_frames
from trtasr.quant.integer import IntegerExecutor

CHEAP = [
    "--set",
    "calibration.batches=1",
    "--set",
    "calibration.steps=3",
    "--set",
    "evaluation.bench_seconds=[0.5]",
    "--set",
    "evaluation.max_wer_increase=100",
    "--set",
    "calibration.seconds=1.5",
]
CLASSES = 29


@pytest.fixture(scope="module")
def bundle(tiny_folder):
    code = main(
        [
            "compile",
            str(tiny_folder / "tiny.nemo"),
            "--manifest",
            str(tiny_folder / "manifest.json"),
            "-o",
            str(tiny_folder / "out"),
            "--target",
            "t4-rtx",
            "-q",
            *CHEAP,
        ]
    )
    assert code == 0
    return tiny_folder / "out"


@pytest.fixture(scope="module")
def found(bundle):
    return compare_integer(bundle, None, None)


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
    wrong = compare_integer(bundle, None, None)
    assert wrong.rows[3].sqnr_db < found.rows[3].sqnr_db - 10
    assert wrong.rows[3].token_agreement == found.rows[3].token_agreement


def test_an_executor_that_differs_is_counted(bundle, found, monkeypatch):
    def off_by_one(self, features, lengths):
        logits, frames = IntegerExecutor.__call__(self, features, lengths)
        logits[0, 0, :2] += 1
        return logits, frames

    monkeypatch.setattr(module, "IntegerExecutor", type("Off", (IntegerExecutor,), {"__call__": off_by_one}))
    assert compare_integer(bundle, None, 2).unequal == 4


def test_every_sum_is_held_against_its_bound(bundle, monkeypatch):
    """The bounds that the executor gets are those of the graph's own nodes."""
    model = onnx.load(bundle / "model.integer.onnx")
    proof = module.inspect_integer(model, 1000)
    worst = proof.accumulators[0]
    tight = [SimpleNamespace(node=worst.node, bound=10)]
    monkeypatch.setattr(module, "inspect_integer", lambda *_: SimpleNamespace(accumulators=tight))
    with pytest.raises(QualityError, match=rf"{worst.node}.*exceeds its bound 10"):
        compare_integer(bundle, None, 1)


def test_speech_without_transcripts_has_no_word_error_rate(bundle, tiny_folder):
    lines = (tiny_folder / "manifest.json").read_text(encoding="utf-8").splitlines()
    silent = [json.dumps(json.loads(lines[0]) | {"text": ""}), *lines[1:]]
    (tiny_folder / "silent.json").write_text("\n".join(silent), encoding="utf-8")
    found = compare_integer(bundle, tiny_folder / "silent.json", 2)
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
        compare_integer(tmp_path / "old", None, None)


def test_a_changed_graph_is_refused(bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "changed")
    file = tmp_path / "changed" / "model.integer.qdq.onnx"
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(BundleError, match=r"model\.integer\.qdq\.onnx: sha256"):
        compare_integer(tmp_path / "changed", None, None)


def test_an_encoder_decoder_is_refused(bundle, monkeypatch):
    pair = SimpleNamespace(texts=SimpleNamespace(generation=object()))
    monkeypatch.setattr(module, "open_engine", lambda path: pair)
    with pytest.raises(UsageError, match="integer-only inference is for CTC models"):
        compare_integer(bundle, None, None)


@pytest.mark.parametrize("limit", [0, -1])
def test_at_least_one_utterance(bundle, limit):
    with pytest.raises(UsageError, match=f"--utterances {limit}"):
        compare_integer(bundle, None, limit)


def test_tallies_add_up_over_utterances():
    tally = Tally()
    tally.add(np.array([[0, -1], [-2, 0]], np.float32), np.array([[0, -1], [0, 0]], np.float32), np.array([0, 0]))
    tally.add(np.array([[-1, 0]], np.float32), np.array([[-1, 1]], np.float32), np.array([1]))
    assert (tally.signal, tally.noise, tally.same, tally.frames) == (1 + 4 + 1, 4 + 1, 2, 3)
    (row,) = rows(["fp32"], [], [tally])
    assert (row.sqnr_db, row.token_agreement) == (sqnr_db(6, 5), 2 / 3)


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
