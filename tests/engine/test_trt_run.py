"""The runner on the fake TensorRT and GPU (tests/fakes): buckets, buffers, captured graphs and errors.

The fake driver captures: what is enqueued meanwhile runs at every launch of the graph, at the addresses of then.
"""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import tiny_graphs
from fake_gpu import fake_gpu

from trtasr.engine import cuda_graph, trt_run
from trtasr.engine.builder import NetworkRequest, build_network, make_monitor
from trtasr.engine.profile import BUCKET, Alone, Profile
from trtasr.engine.sessions import OrtRunner
from trtasr.engine.trt_run import TrtRunner
from trtasr.errors import BuildError

LARGEST = 200  # frames, no whole bucket
PROFILE = Profile(batches=(1, 1, 4), seconds=(0.1, 1.0, 1.99), frames_per_second=100, mel_bins=tiny_graphs.MELS)
PROFILE = replace(PROFILE, most_frames=LARGEST)
FEW = 3  # graphs that are kept here


@pytest.fixture(scope="module")
def gpu():
    """The fake tensorrt and driver, in the place of real ones."""
    with fake_gpu() as (patch, trt, driver):
        patch.setattr(cuda_graph, "load_libcuda", lambda: driver.libcuda)
        patch.setattr(trt_run, "MOST_GRAPHS", FEW)
        driver.Context().push()
        yield SimpleNamespace(trt=trt, driver=driver, cuda=driver.libcuda)


def build(trt, model, shapes, path):
    """A plan by the steps of a real build, its graph beside it."""
    onnx.save(model, path.with_suffix(".onnx"))

    def customize(_network, config, _profile):
        config.progress_monitor = make_monitor(trt)

    request = NetworkRequest(path.with_suffix(".onnx"), shapes)
    path.write_bytes(build_network(trt, trt.Logger(trt.Logger.WARNING), request, customize).plan)
    return path


@pytest.fixture(scope="module")
def plans(gpu, tmp_path_factory):
    """A plan, and one of the same network without its mask, for one utterance."""
    folder = tmp_path_factory.mktemp("plans")
    model = onnx.load(tiny_graphs.fp32(folder / "tiny.onnx"))
    plan = build(gpu.trt, model, PROFILE.shapes(), folder / "model.plan")
    (product,) = [node for node in model.graph.node if node.output[0] == "masked"]
    product.op_type = "Identity"
    del product.input[1:]
    return plan, build(gpu.trt, model, Alone(PROFILE).shapes(), folder / "model.unmasked.plan")


@pytest.fixture
def opened(gpu, plans):
    """Opens a runner; at the end all of it is given back."""
    runners = []

    def opened(count=1, **options):
        runners.append(TrtRunner(plans[:count], gpu.trt, gpu.driver, **options))
        return runners[-1]

    gpu.driver.copies.clear()
    yield opened
    gpu.driver.state |= {"limit": float("inf"), "capture": True}
    for runner in runners:
        runner.close()
    assert not gpu.driver.memory
    assert not gpu.cuda.graphs


@pytest.fixture
def reference(plans):
    """The graph by ONNX Runtime, on features as long as they are."""
    return OrtRunner(plans[0].with_suffix(".onnx"))


def speech(frames, batch=2, seed=0):
    features = np.random.default_rng(seed).standard_normal((batch, tiny_graphs.MELS, frames), np.float32)
    return features, np.arange(batch, dtype=np.int64) + frames - batch + 1


def check(runner, reference, frames, batch=2, seed=0):
    """A run gives what ONNX Runtime gives at every valid frame."""
    features, lengths = speech(frames, batch, seed)
    found, expected = runner(features, lengths), reference(features, lengths)
    np.testing.assert_array_equal(found[1], expected[1])
    assert found[0].shape == expected[0].shape
    for row, exact, length in zip(found[0], expected[0], lengths, strict=True):
        np.testing.assert_allclose(row[:length], exact[:length], atol=1e-6)


def launches(gpu):
    """Graphs launched so far."""
    return gpu.driver.state["launches"]


def test_every_shape_gives_its_own_result(opened, reference):
    runner = opened()
    for seed, (frames, batch) in enumerate([(10, 2), (20, 1), (65, 3), (10, 2), (199, 4), (20, 1), (20, 1)]):
        check(runner, reference, frames, batch, seed)
    assert runner.device_ms == 6.0  # of the fake's FP32 plans


def test_frames_are_padded_to_buckets_but_not_beyond_what_the_plan_takes(opened):
    runner = opened()
    for frames, run in ((1, BUCKET), (BUCKET, BUCKET), (BUCKET + 1, 2 * BUCKET), (193, LARGEST), (LARGEST, LARGEST)):
        runner(*speech(frames, 1))
        assert runner.outputs()["log_probs"].shape[1] == run
    runner = opened(graphs=False)
    runner(*speech(67, 1))
    assert runner.outputs()["log_probs"].shape[1] == 67


def test_what_lay_in_the_padding_before_changes_nothing(opened, reference):
    runner = opened()
    runner(np.full((2, tiny_graphs.MELS, BUCKET), 1e6, np.float32), np.array([BUCKET, BUCKET]))
    for _ in range(3):
        check(runner, reference, 11)


def test_lengths_of_one_bucket_share_a_graph_from_its_third_run_on(opened, reference, gpu):
    runner, captures, before = opened(), gpu.cuda.captures, launches(gpu)
    check(runner, reference, 192)  # the largest first: no buffer grows any more
    captured = []
    for seed, frames in enumerate((40, 41, 64, 50)):
        check(runner, reference, frames, seed=seed)
        captured.append(runner.captured)
    assert captured == [False, True, True, True]
    assert (gpu.cuda.captures - captures, launches(gpu) - before) == (1, 2)
    check(runner, reference, 65)
    assert not runner.captured
    check(runner, reference, 30)  # the graph is still there
    assert (gpu.cuda.captures - captures, launches(gpu) - before) == (1, 3)


def test_a_graph_has_a_context_of_its_own_that_keeps_its_shape(opened, reference, gpu):
    runner, before = opened(), launches(gpu)
    for seed, frames in enumerate((40, 100, 40, 100, 40, 100, 40, 100)):
        check(runner, reference, frames, seed=seed)
    assert launches(gpu) - before == 4
    assert {
        name for name in runner._arena._device if name not in ("features", "lengths", *runner._plans[0].outputs)
    } == {"activations"}  # which all of them share


def test_the_graph_that_was_launched_longest_ago_gives_way(opened, reference, gpu):
    runner, captures = opened(), gpu.cuda.captures
    check(runner, reference, 192, 4)  # no buffer grows any more
    for batch in (1, 2, 3, 1, 2, 3, 1):
        check(runner, reference, 40, batch)
    assert gpu.cuda.captures - captures == FEW == len(gpu.cuda.graphs) / 2  # a graph, and what is launched of it
    check(runner, reference, 100, 2)
    check(runner, reference, 100, 2)  # one graph too many: batch 2 was run before 3 and 1
    assert len(gpu.cuda.graphs) == 2 * FEW
    for batch in (3, 1):
        check(runner, reference, 40, batch)
        assert runner.captured
    before = launches(gpu)
    check(runner, reference, 40, 2)
    assert launches(gpu) == before  # plainly, and captured anew
    assert runner.captured
    assert gpu.cuda.captures - captures == FEW + 2


def test_results_do_not_change_when_the_next_utterance_runs(opened):
    runner = opened()
    for _ in range(3):
        first, counts = runner(*speech(12, seed=1))
        kept = first.copy(), counts.copy()
        runner(*speech(10, seed=2))
        np.testing.assert_array_equal(first, kept[0])
        np.testing.assert_array_equal(counts, kept[1])


def test_where_capture_is_refused_plain_launches_go_on_and_the_log_says_so_once(opened, reference, gpu, caplog):
    gpu.driver.state["capture"] = False
    runner, before = opened(), launches(gpu)
    for seed, frames in enumerate((12, 12, 12, 70, 70, 70)):
        check(runner, reference, frames, seed=seed)
        assert not runner.captured
    assert launches(gpu) == before
    assert caplog.text.count("no CUDA graph (cuStreamBeginCapture_v2: CUDA error 801): plain launches") == 1


@pytest.mark.parametrize(
    "error",
    [RuntimeError("cuStreamEndCapture: CUDA error 901"), "driver", BuildError("TensorRT could not launch", "see")],
)
def test_whatever_ends_a_capture_costs_no_result(opened, reference, gpu, monkeypatch, error):
    if error == "driver":
        error = gpu.driver.LogicError("operation not permitted when stream is capturing")

    def refuse(record, stream):
        raise error

    monkeypatch.setattr(trt_run, "CudaGraph", refuse)
    runner = opened()
    for seed in range(3):
        check(runner, reference, 12, seed=seed)
    assert not runner.captured


def test_without_a_context_for_a_graph_plain_launches_go_on(opened, reference, monkeypatch, caplog):
    monkeypatch.setenv("FAKE_TRT_NO_CONTEXT", "1")
    runner = opened()
    for seed in range(4):
        check(runner, reference, 12, seed=seed)
    assert caplog.text.count("no CUDA graph (TensorRT gives no execution context for one): plain launches") == 1


def test_without_memory_for_a_graphs_activations_plain_launches_go_on(opened, reference, gpu, caplog):
    runner = opened()
    check(runner, reference, 12)
    gpu.driver.state["limit"] = gpu.driver.state["allocated"] + 100
    for seed in range(3):
        check(runner, reference, 12, seed=seed)
    assert "no CUDA graph (no GPU memory for activations" in caplog.text


def test_graphs_can_be_left_out_and_taken_again(opened, reference, gpu):
    runner = opened()
    for frames in (70, 12, 12):
        check(runner, reference, frames)
    assert runner.captured
    before = launches(gpu)
    runner.use_graphs(False)
    for seed in range(3):
        check(runner, reference, 12, seed=seed)
        check(runner, reference, 70, seed=seed)
    assert not runner.captured
    assert launches(gpu) == before
    runner.use_graphs(True)
    check(runner, reference, 12)
    assert (runner.captured, launches(gpu)) == (True, before + 1)


def test_buffers_are_reused_for_smaller_shapes_and_grow_by_half_at_least(opened, reference, gpu):
    runner, others = opened(graphs=False), set(gpu.driver.pinned)
    check(runner, reference, 100, 2)
    places, arrays = set(gpu.driver.memory), set(gpu.driver.pinned) - others
    assert len(places) == len(arrays) == 4  # of every tensor
    for frames, batch in ((100, 1), (10, 2), (70, 1), (99, 2), (100, 2)):
        check(runner, reference, frames, batch)
        assert (set(gpu.driver.memory), set(gpu.driver.pinned) - others) == (places, arrays)
    check(runner, reference, 101, 2)
    grown = set(gpu.driver.memory), set(gpu.driver.pinned) - others
    assert [len(now & before) for now, before in zip(grown, (places, arrays), strict=True)] == [2, 2]  # of lengths
    check(runner, reference, 150, 2)  # there was room for half as much again
    assert (set(gpu.driver.memory), set(gpu.driver.pinned) - others) == grown
    assert 2 * 150 * tiny_graphs.MELS * 4 in {gpu.driver.pinned[address].nbytes for address in grown[1]}


def test_graphs_go_when_a_buffer_moves_and_come_again(opened, reference, gpu):
    runner, before = opened(), launches(gpu)
    for seed in range(3):
        check(runner, reference, 12, seed=seed)
    assert launches(gpu) - before == 1
    check(runner, reference, 199, 4)
    assert not gpu.cuda.graphs
    for seed in range(3):  # the shape is known: one plain run, and its graph is there again
        check(runner, reference, 12, seed=seed)
    assert launches(gpu) - before == 3


def test_no_graph_outlives_a_buffer_that_could_not_grow(opened, reference, gpu):
    runner = opened()
    for seed in range(3):
        check(runner, reference, 12, seed=seed)
    gpu.driver.state["limit"] = gpu.driver.state["allocated"] + 10
    with pytest.raises(BuildError, match="no GPU memory for features"):
        runner(*speech(199, 4))
    gpu.driver.state["limit"] = float("inf")
    before = launches(gpu)
    check(runner, reference, 12)
    assert launches(gpu) == before


def test_where_memory_is_short_a_buffer_grows_by_what_is_needed_alone(opened, reference, gpu):
    runner = opened(graphs=False)
    check(runner, reference, 100, 1)
    features = 4 * tiny_graphs.MELS * 110
    gpu.driver.state["limit"] = gpu.driver.state["allocated"] + 10 * (4 * tiny_graphs.MELS + 32 + 8)
    check(runner, reference, 110, 1)
    assert runner._arena._device["features"][1] == features


def test_a_shape_outside_the_profile_is_refused_and_the_runner_goes_on(opened, reference):
    runner = opened()
    check(runner, reference, 10)
    for _ in range(3):
        with pytest.raises(BuildError, match=rf"input features is .* has 1 to {LARGEST} at axis 2|has 10 to {LARGEST}"):
            runner(*speech(LARGEST + 1))
        with pytest.raises(BuildError, match="has 1 to 4 at axis 0"):
            runner(*speech(10, 5))
    check(runner, reference, 10)
    assert runner.captured


def test_a_plan_of_another_gpu_is_refused(gpu, tmp_path):
    (tmp_path / "model.plan").write_bytes(b"of another one")
    with pytest.raises(BuildError, match="cannot load this plan"):
        TrtRunner([tmp_path / "model.plan"], gpu.trt, gpu.driver)


def test_layers_are_timed_at_the_shape_as_it_is(opened):
    times = opened(graphs=False).layer_times(*speech(67, 1), runs=3)
    assert times
    assert {len(values) for values in times.values()} == {3}


def plan_of(runner):
    """The name of the plan of the last run, and at which frames."""
    return runner._last.plan.path.name, runner._last.key.shape[2]


def test_an_utterance_alone_runs_without_masks_at_its_own_length(opened, reference, gpu):
    runner, captures = opened(2), gpu.cuda.captures
    for frames in (67, 64, 10, LARGEST):
        check(runner, reference, frames, 1)
        assert plan_of(runner) == ("model.unmasked.plan", frames)
    for frames in (67, 67):
        check(runner, reference, frames, 1)
        assert runner.captured
    assert gpu.cuda.captures - captures == 1


def test_what_is_padded_runs_with_masks(opened, reference):
    runner = opened(2)
    check(runner, reference, 67, 2)
    assert plan_of(runner) == ("model.plan", 2 * BUCKET)
    features, _ = speech(67, 1)
    runner(features, np.array([60]))  # an utterance alone, with padding of its own
    assert plan_of(runner) == ("model.plan", 2 * BUCKET)
    runner(*speech(4, 1))  # shorter than the plans take: its bucket is not
    assert plan_of(runner) == ("model.plan", BUCKET)


def test_which_plan_runs_does_not_depend_on_what_ran_before(opened):
    runner, given = opened(2), speech(67, 1)
    first, _ = runner(*given)
    for _ in range(3):
        runner(*speech(67, 2))
        again, _ = runner(*given)
        np.testing.assert_array_equal(again, first)
    runner.use_graphs(False)
    np.testing.assert_array_equal(runner(*given)[0], first)


def test_both_plans_share_buffers_and_each_keeps_its_graphs(opened, reference, gpu):
    runner, before = opened(2), launches(gpu)
    for seed in range(4):
        check(runner, reference, 64, 1, seed)
        check(runner, reference, 64, 2, seed)
    assert launches(gpu) - before == 4


def test_plans_that_do_not_fit_each_other_are_refused(gpu, plans, tmp_path):
    model = onnx.load(plans[0].with_suffix(".onnx"))
    model.graph.output[1].name = "counts"
    next(node for node in model.graph.node if node.output[0] == "output_lengths").output[0] = "counts"
    other = build(gpu.trt, model, PROFILE.shapes(), tmp_path / "other.plan")
    with pytest.raises(BuildError, match=r"other\.plan: other inputs or outputs than model\.plan"):
        TrtRunner([plans[0], other], gpu.trt, gpu.driver)
