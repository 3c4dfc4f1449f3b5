"""How fast engines are: whole utterances, engines in turn, plans launched alike."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from whisper_pair import DESCRIBED, FRONTEND

from trtasr.audio.features import FrontendConfig
from trtasr.audio.waveform import WaveformConfig
from trtasr.engine.profile import Profile
from trtasr.engine.sessions import cpu_name
from trtasr.errors import RecipeError
from trtasr.network.families import network_of
from trtasr.network.limits import benchmarked
from trtasr.network.network import accepted
from trtasr.pipeline import speed
from trtasr.pipeline.speed import Timing, cpu_timing, gpu_timing, latencies, noise
from trtasr.recipe import EngineShapes, Evaluation

MEL = FrontendConfig()
PADDED = replace(FRONTEND, pad_seconds=2)


def test_utterances_alone_on_the_threads_of_the_recipe():
    found = cpu_timing(Evaluation(bench_seconds=(0.5, 2.0), threads=3))
    assert (found.shapes, found.device, found.threads) == ([(1, 0.5), (1, 2.0)], cpu_name(), 3)
    assert cpu_timing(Evaluation()).threads > 0


def test_graphs_are_timed_from_features_to_the_last_token(tiny):
    network, files = tiny.exported.network, tiny.exported.files
    found = latencies(network, {"fp32": files, "same": files}, Timing([(1, 0.5), (2, 1.0)], "CPU", threads=1))
    assert list(found) == ["fp32", "same"]
    generates = len(files) > 1
    for rows in found.values():
        assert [(row.batch, row.audio_seconds, row.tokens) for row in rows] == [
            (1, 0.5, 2 * generates),
            (2, 2.0, 4 * generates),
        ]
        assert {(row.threads, row.device, row.runs) for row in rows} == {(1, "CPU", 50)}
        for row in rows:
            assert 0 < row.p50_ms <= row.p95_ms <= row.p99_ms
            assert 0 < row.encoder_ms < row.p50_ms if generates else row.encoder_ms == 0


class Plan:
    """A recognizer whose runs take a millisecond by the device's clock."""

    def __init__(self, captured):
        self.able, self.wanted, self.asked = captured, True, []

    captured = property(lambda self: self.able and self.wanted)

    def use_graphs(self, wanted):
        self.wanted = wanted

    def whole_run(self, features, seconds):
        self.asked.append((features.shape, seconds))
        return Run(self)


class Run:
    tokens = 0

    def __init__(self, plan):
        self.plan = plan

    def __call__(self):
        return 1.0 if self.plan.captured else 3.0

    def encoder_ms(self, runs):
        return 0.0


def timed(monkeypatch, *captured):
    """Plans with their latencies on a GPU, and how long they were warmed up for every shape."""
    plans, warmed = [Plan(item) for item in captured], []
    monkeypatch.setattr(speed, "warm_up", lambda runs, seconds: warmed.append((len(list(runs)), seconds)))

    @contextmanager
    def opened(files, threads=0, timed=False):
        yield plans[int(files[0])]

    network = replace(network_of(replace(DESCRIBED, family="jasper", frontend=MEL)), open=opened)
    found = latencies(network, {str(i): (str(i),) for i in range(len(plans))}, Timing([(1, 1.0), (4, 2.0)], "T4"))
    return plans, found, warmed


def test_plans_are_timed_by_the_device_behind_one_warm_up(monkeypatch):
    plans, found, warmed = timed(monkeypatch, True, True)
    assert plans[0].asked == [((1, 64, 100), 1.0), ((4, 64, 200), 2.0)]
    assert [(row.p50_ms, row.audio_seconds, row.threads) for row in found["0"]] == [(1.0, 1.0, 0), (1.0, 8.0, 0)]
    assert {row.device for rows in found.values() for row in rows} == {"T4, CUDA graphs"}
    beside = [row.plain_launches for rows in found.values() for row in rows]
    assert {(row.device, row.p50_ms, row.runs) for row in beside} == {("T4, plain launches", 3.0, 50)}
    assert [(row.batch, row.audio_seconds) for row in beside[:2]] == [(1, 1.0), (4, 8.0)]
    assert all(plan.captured for plan in plans)  # the next shape is launched by graphs again
    assert warmed == [(2, speed.WARM_SECONDS), (2, 0)]


def test_one_plan_that_cannot_be_captured_lets_all_be_launched_plainly(monkeypatch):
    plans, found, _ = timed(monkeypatch, True, False, True)
    assert not any(plan.wanted for plan in plans)
    assert {row.device for rows in found.values() for row in rows} == {"T4, plain launches"}
    assert {(row.p50_ms, row.plain_launches) for rows in found.values() for row in rows} == {(3.0, None)}


def test_a_warm_up_runs_every_plan_and_lasts(monkeypatch):
    clock, counts = iter(range(100)), {"a": 0, "b": 0}
    monkeypatch.setattr(speed.time, "monotonic", lambda: float(next(clock)))

    def runs(name):
        def run():
            counts[name] += 1

        return run

    speed.warm_up([runs("a"), runs("b")], 2.0)
    assert counts == {"a": 3 + 1, "b": 3 + 1}  # asked at 0, then at 1 and 2 seconds


@pytest.mark.parametrize(
    ("config", "shape"), [(MEL, (3, 64, 150)), (PADDED, (3, 16, 80)), (WaveformConfig(), (3, 1, 24000))]
)
def test_what_is_heard_has_unit_variance_and_the_front_ends_shape(config, shape):
    found = noise(config, 3, 1.5)
    assert (found.shape, found.dtype) == (shape, np.float32)
    assert found.std() == pytest.approx(1, abs=0.05)
    np.testing.assert_array_equal(found, noise(config, 3, 1.5))


def profile(config=MEL, **changes):
    shapes = EngineShapes(min_batch=1, opt_batch=2, max_batch=4, min_seconds=1.0, opt_seconds=2.0, max_seconds=8.0)
    return accepted(replace(shapes, **changes), replace(DESCRIBED, frontend=config, most_frames=np.inf))


def test_shapes_outside_the_profile_are_not_timed(caplog):
    caplog.set_level("INFO")
    settings = Evaluation(gpu_seconds=(0.5, 2.0, 8.0, 9.0), gpu_batches=(1, 4, 8))
    assert benchmarked(settings, profile(), MEL) == [(1, 2.0), (1, 8.0), (4, 2.0), (4, 8.0)]
    assert "8 of 12" in caplog.text
    found = gpu_timing(settings, profile(), MEL, "T4")
    assert (found.device, found.threads, found.warmup, len(found.shapes)) == ("T4", 0, 10, 4)


def test_all_that_a_front_end_pads_to_may_be_speech():
    settings = Evaluation(gpu_seconds=(0.1, 2.0, 2.5), gpu_batches=(1,))
    padded = profile(PADDED)
    assert isinstance(padded, Profile)
    assert benchmarked(settings, padded, PADDED) == [(1, 0.1), (1, 2.0)]


@pytest.mark.parametrize("settings", [Evaluation(gpu_seconds=(60.0,)), Evaluation(gpu_batches=(99,))])
def test_no_shape_that_fits_is_refused(settings):
    with pytest.raises(RecipeError, match=r"evaluation\.gpu_seconds = .*1 to 8 s") as caught:
        benchmarked(settings, profile(), MEL)
    assert caught.value.repair
