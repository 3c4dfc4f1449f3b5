"""CTC: log-probabilities become text, plans and graphs are opened alike, and torch is the reference."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from exported import exported
from tiny_archive import LETTERS, write_archive

from trtasr.engine.sessions import OrtRunner
from trtasr.engine.trt_run import TrtRunner
from trtasr.errors import BundleError
from trtasr.network import ctc as wiring
from trtasr.network.ctc import CtcRecognizer, gaussian
from trtasr.recipe import Calibration, EngineShapes
from trtasr.text.tokens import CharTokenizer
from trtasr.values import Example

TOKENS = CharTokenizer(("a", "b", "c"))
BLANK = 3


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ctc")
    return exported(write_archive(folder / "tiny.nemo"), folder)


class Plan(TrtRunner):
    """A plan without a GPU that gives fixed log-probabilities."""

    def __init__(self, ms=None, captured=True):
        self.device_ms, self._graphs, self.asked = ms, captured, []

    captured = property(lambda self: self._graphs)

    def use_graphs(self, wanted):
        self._graphs = wanted

    def __call__(self, features, lengths):
        self.asked.append((features.shape, lengths.tolist()))
        return spelled("ab"), np.array([3])


def spelled(*texts, classes=BLANK + 1):
    """Log-probabilities of letters, each followed by a blank."""
    found = np.full((len(texts), 2 * max(map(len, texts)), classes), -9.0, np.float32)
    found[:, :, BLANK] = -1.0
    for row, text in zip(found, texts, strict=True):
        row[range(0, 2 * len(text), 2), ["abc".index(letter) for letter in text]] = 0.0
    return found


def test_the_best_path_is_read_over_the_valid_frames():
    read = CtcRecognizer(None, TOKENS).decode
    assert read(spelled("abba", "cab"), np.array([8, 6])) == ["abba", "cab"]
    assert read(spelled("abba", "cab"), np.array([3, 0])) == ["ab", ""]


@pytest.mark.parametrize("classes", [BLANK, BLANK + 2])
def test_other_tokens_than_the_vocabulary_has_are_refused(classes):
    with pytest.raises(BundleError, match=f"scores {classes} tokens, .* 3 and the blank"):
        CtcRecognizer(None, TOKENS).decode(np.zeros((1, 2, classes), np.float32), np.array([2]))


def test_nothing_is_cut_or_doubted_and_an_example_has_no_tokens():
    recognizer, features, lengths = CtcRecognizer(None, TOKENS), np.zeros((1, 2, 9), np.float32), np.array([7])
    example = recognizer.example(features, lengths)
    assert (example.features is features, example.lengths is lengths, example.tokens) == (True, True, None)
    assert not recognizer.cut
    assert recognizer.doubt(1e6) == ""


def test_a_graph_is_run_by_onnx_runtime_with_the_threads_and_waiting_asked_for(graphs, monkeypatch):
    opened = []
    monkeypatch.setattr(wiring, "OrtRunner", lambda *given: opened.append(given) or OrtRunner(*given))
    features, lengths = np.ones((1, 64, 80), np.float32), np.array([80])
    with graphs.network.open(graphs.files, 1, True) as recognizer:
        found, counts = recognizer.run(features, lengths)
        assert len(recognizer.decode(found, counts)) == 1
        assert not recognizer.captured
        recognizer.use_graphs(False)  # there are none
    assert opened == [(graphs.files[0], 1, True)]
    assert found.shape == (1, 40, len(LETTERS) + 1)


@pytest.mark.parametrize("names", [["model.plan"], ["model.plan", "model.unmasked.plan"]])
def test_a_plan_is_opened_on_the_gpu_and_may_forgo_its_graphs(graphs, monkeypatch, tmp_path, names):
    opened, plan, files = [], Plan(), [tmp_path / name for name in names]

    @contextmanager
    def open_plan(*paths):
        opened.append(paths)
        yield plan

    monkeypatch.setattr(wiring, "open_plan", open_plan)
    with graphs.network.open(files) as recognizer:
        assert recognizer.runner is plan
        assert recognizer.captured
        recognizer.use_graphs(False)
        assert not recognizer.captured
    assert opened == [tuple(files)]


def test_a_benchmarked_run_has_full_lengths_and_the_devices_own_time():
    plan = Plan(ms=1.5)
    run = CtcRecognizer(plan, TOKENS).whole_run(np.zeros((2, 64, 30), np.float32), 0.3)
    assert run() == 1.5
    assert plan.asked == [((2, 64, 30), [30, 30])]
    assert (run.tokens, run.encoder_ms(5)) == (0, 0.0)


def test_a_graph_is_timed_from_outside(graphs):
    with graphs.network.open(graphs.files) as recognizer:
        assert recognizer.whole_run(np.zeros((1, 64, 30), np.float32), 0.3)() is None


def test_parity_is_tried_on_a_long_and_a_short_utterance(graphs):
    trial = graphs.original.trial
    assert trial.features.shape == (2, 64, 217)
    assert (trial.lengths.tolist(), trial.tokens) == ([217, 96], None)
    np.testing.assert_array_equal(trial.features, wiring.trial(graphs.network.frontend).features)
    assert not np.array_equal(trial.features[0], trial.features[1])


def test_the_reference_is_the_module_in_either_precision(graphs):
    original = graphs.original
    single, exact = (original.reference(original.trial, dtype) for dtype in (torch.float32, torch.float64))
    assert (single["log_probs"].dtype, exact["log_probs"].dtype) == (np.float32, np.float64)
    assert single["output_lengths"].tolist() == exact["output_lengths"].tolist() == [109, 48]
    np.testing.assert_allclose(single["log_probs"], exact["log_probs"], atol=1e-4)
    again = original.reference(original.trial, torch.float32)  # the module itself stayed as it was
    np.testing.assert_array_equal(again["log_probs"], single["log_probs"])


def test_a_plans_shapes_and_what_is_compared_without_speech(graphs):
    engine = EngineShapes(min_seconds=0.5, opt_seconds=1.0, max_seconds=2.0, opt_batch=2)
    (profile,) = graphs.original.shapes(engine)
    usual = profile.shapes()["features"][1]
    assert usual == [2, 64, 112]
    features, lengths = graphs.original.unheard(Calibration(), engine)
    assert (list(features.shape), lengths.tolist()) == (usual, [112, 112])
    np.testing.assert_array_equal(features, graphs.original.unheard(Calibration(seed=7), engine)[0])


def test_nothing_is_said_to_calibration_features(graphs):
    found = gaussian(Calibration(batches=1, batch_size=2, seconds=0.5), graphs.network.frontend)
    assert graphs.original.spoken(graphs.files, found) is found


def test_noise_is_gaussian_by_its_seed(graphs):
    settings, config = Calibration(batches=2, batch_size=3, seconds=1.5, seed=4), graphs.network.frontend
    found = gaussian(settings, config)
    assert [(x.shape, x.dtype) for x in found.batches] == [((3, 64, 150), np.float32)] * 2
    assert [x.tolist() for x in found.lengths] == [[150] * 3] * 2
    values = np.concatenate([x.ravel() for x in found.batches])
    assert (values.mean(), values.std()) == pytest.approx((0.0, 1.0), abs=0.02)
    assert (found.method, found.seed) == ("noise", 4)
    np.testing.assert_array_equal(found.batches[1], gaussian(settings, config).batches[1])
    others = (*found.batches, *gaussian(replace(settings, seed=5), config).batches)
    assert len({x.tobytes() for x in others}) == 4


def test_synthesis_gets_the_recipes_settings_with_frames_for_seconds(graphs):
    settings = Calibration(batches=3, batch_size=5, seconds=1.5, steps=7, learning_rate=0.25, seed=9, bfloat16=True)
    found = wiring.synthesis_settings(settings, graphs.network.frontend)
    assert (found.batches, found.batch_size, found.steps, found.frames) == (3, 5, 7, 150)
    assert (found.learning_rate, found.seed, found.bfloat16) == (0.25, 9, True)


def test_inputs_are_features_and_lengths(graphs):
    example = Example(np.zeros((1, 64, 9), np.float32), np.array([9]))
    found = graphs.network.last.inputs(example, {})
    assert (found["features"] is example.features, found["lengths"] is example.lengths) == (True, True)
    assert graphs.network.last.steps(2.0) == (200, 1)
