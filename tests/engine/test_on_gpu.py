"""What needs a GPU: real pycuda, real TensorRT, a captured CUDA graph. `make test-gpu` on any CUDA host."""

import numpy as np
import pytest
import tiny_graphs

from trtasr.engine.build_tensorrt import TensorrtOptions, build_tensorrt, require_tensorrt
from trtasr.engine.device import Arena, gpu_state, pci_bus_id, primary_context
from trtasr.engine.profile import Profile
from trtasr.engine.sessions import OrtRunner
from trtasr.engine.trt_run import open_plan
from trtasr.errors import MissingError

PROFILE = Profile(batches=(1, 1, 4), seconds=(0.1, 1.0, 2.0), frames_per_second=100, mel_bins=tiny_graphs.MELS)

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def cuda():
    try:
        with primary_context() as driver:
            yield driver
    except MissingError as error:
        pytest.skip(error.problem)


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """The FP32 graph as a plan, with its ONNX file."""
    try:
        host = require_tensorrt()
    except MissingError as error:
        pytest.skip(error.problem)
    folder = tmp_path_factory.mktemp("gpu")
    graph = tiny_graphs.fp32(folder / "tiny.onnx")
    options = TensorrtOptions(workspace_mb=256, timing_cache=folder / "timing.cache")
    engine = build_tensorrt(graph, folder / "t4" / "model.plan", PROFILE, {"pw": 1}, options, host)
    assert engine.layers
    assert (folder / "timing.cache").stat().st_size > 0
    return folder / "t4" / "model.plan", graph


def test_arrays_come_back_as_they_went(cuda):
    arena, stream = Arena(cuda), cuda.Stream()
    for size in (10, 1000, 3):
        array = np.random.default_rng(size).normal(size=size).astype(np.float32)
        pointer = arena.upload("x", array, array.dtype, stream)
        stream.synchronize()
        back = np.empty_like(array)
        cuda.memcpy_dtoh(back, pointer)
        np.testing.assert_array_equal(back, array)
    arena.close()


def test_torch_shares_the_context(cuda):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch is a CPU build")
    before = cuda.Context.get_current()
    tensor = torch.arange(4, device="cuda")
    back = np.empty(4, np.int64)
    cuda.memcpy_dtoh(back, tensor.data_ptr())
    np.testing.assert_array_equal(back, np.arange(4))
    assert cuda.Context.get_current() == before


@pytest.mark.parametrize("graphs", [False, True])
def test_a_plan_computes_what_onnx_runtime_computes(plan, graphs):
    path, onnx_file = plan
    reference = OrtRunner(onnx_file)
    rng = np.random.default_rng(0)
    with open_plan(path, graphs=graphs) as run:
        for batch, frames, repeated in ((1, 80, 0), (1, 80, 1), (1, 80, 2), (3, 50, 0), (1, 200, 0), (1, 200, 1)):
            features = rng.normal(size=(batch, tiny_graphs.MELS, frames)).astype(np.float32)
            lengths = np.arange(frames - batch + 1, frames + 1)
            expected, counts = reference(features, lengths)
            found, found_counts = run(features, lengths)
            np.testing.assert_allclose(found, expected, atol=2e-3)
            np.testing.assert_array_equal(found_counts, counts)
            assert 0 < run.device_ms < 1000
            assert run.captured == (graphs and repeated > 0)


def test_one_plan_after_another_shares_the_context(plan):
    path, _ = plan
    features = np.ones((1, tiny_graphs.MELS, 60), np.float32)
    results = []
    for _ in range(3):
        with open_plan(path) as run:
            results.append(run(features, np.array([60]))[0])
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_layers_are_timed(plan):
    path, _ = plan
    features = np.zeros((1, tiny_graphs.MELS, 100), np.float32)
    with open_plan(path, graphs=False) as run:
        times = run.layer_times(features, np.array([100]), runs=3)
    assert times
    assert {len(values) for values in times.values()} == {3}


def test_the_card_reports_its_state(cuda):
    state = gpu_state(pci_bus_id())
    assert state.name
    assert state.sm_mhz > 0
