"""The graphs of the first questions: each is one convolution, and computes what NumPy does."""

import numpy as np
import onnx
import pytest

from trtasr.graph.check import run_graph
from trtasr.graph.trials import CHANNELS, LIMIT, TAPS, TRIALS, Trial, trial_graph


def noise(frames=96):
    return np.random.default_rng(1).standard_normal((2, CHANNELS, frames)).astype(np.float32)


def ran(trial, features):
    found = run_graph(trial_graph(trial), {"features": features, "lengths": np.full(2, features.shape[2], np.int64)})
    return found["log_probs"], found["counts"]


def weights(model):
    held = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    weight = held["weight"].astype(np.float64)
    if "weight_scale" in held:
        weight *= held["weight_scale"].astype(np.float64).reshape(-1, *[1] * (weight.ndim - 1))
    return weight.reshape(*weight.shape[:2], -1)


def expected(trial, features):
    """The convolution in float64, on what it reads: FP16 numbers, or multiples of the scale."""
    read = features.astype(np.float16).astype(np.float64)
    if trial.int8:
        scale = float(np.float16(LIMIT / 127))
        read = np.clip(np.rint(read / scale), -128, 127) * scale
    weight = weights(trial_graph(trial))
    taps = weight.shape[2]
    padded = np.pad(read, [(0, 0), (0, 0), (taps // 2, taps // 2)])
    shifted = np.stack([padded[:, :, index : index + read.shape[2]] for index in range(taps)], axis=-1)
    if trial.depthwise:
        return np.einsum("bctk,ck->bct", shifted, weight[:, 0])
    return np.einsum("bctk,ock->bot", shifted, weight)


@pytest.mark.parametrize("name", TRIALS)
def test_a_trial_is_the_convolution_that_its_name_says(name):
    trial, features = TRIALS[name], noise()
    onnx.checker.check_model(trial_graph(trial), full_check=True)
    found, counts = ran(trial, features)
    assert found.shape == features.shape
    assert counts.tolist() == [96, 96]
    np.testing.assert_allclose(found, expected(trial, features), atol=2e-2)
    assert ("QuantizeLinear" in {node.op_type for node in trial_graph(trial).graph.node}) == trial.int8


def test_forms_of_one_convolution_compute_the_same():
    features = noise()
    flat, image = (ran(Trial(kernel, int8=True), features)[0] for kernel in ((1,), (1, 1)))
    np.testing.assert_allclose(flat, image, atol=5e-3)
    rows, columns = (ran(Trial(kernel, depthwise=True), features)[0] for kernel in ((1, TAPS), (TAPS, 1)))
    np.testing.assert_allclose(rows, columns, atol=5e-3)
