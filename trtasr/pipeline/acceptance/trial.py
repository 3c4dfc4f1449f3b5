"""The first questions: one convolution built, run and timed, before an hour is spent on a network of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx

from trtasr.bench.agreement import compare_tensor
from trtasr.engine.build_tensorrt import TensorrtOptions, build_tensorrt, require_tensorrt
from trtasr.engine.trt_run import open_plan
from trtasr.graph.check import run_graph
from trtasr.graph.trials import CHANNELS, TRIALS, trial_graph
from trtasr.pipeline.acceptance.steps import Request
from trtasr.pipeline.acceptance.verdict import layers_json
from trtasr.results import plain

FRAMES, BATCHES, RUNS = 512, (1, 8), 50


@dataclass(frozen=True)
class TrialShapes:
    """The shapes of a trial's plan: `FRAMES` frames, and all of `BATCHES`."""

    def shapes(self) -> dict[str, list[list[int]]]:
        """Input name -> [min, opt, max] shape."""
        batches = (min(BATCHES), max(BATCHES), max(BATCHES))
        return {"features": [[batch, CHANNELS, FRAMES] for batch in batches], "lengths": [[batch] for batch in batches]}

    def busy_shapes(self) -> dict[str, list[list[int]]]:
        """None: there is one profile."""
        return {}


def run_trial(request: Request, tell: Callable[[Mapping[str, Any]], None]) -> None:
    """Build one convolution, then run it: kernels, time on the card, distance to ONNX Runtime.

    Raises:
        BuildError: the builder refuses it. MissingError: no builder any more.
    """
    graph, plan = request.folder / "trial.onnx", request.folder / "plan" / "trial.plan"
    onnx.save(trial_graph(TRIALS[request.subject]), graph)
    options = TensorrtOptions(timing_cache=cache_of(request), evidence=request.folder)
    built = build_tensorrt(graph, plan, TrialShapes(), {}, options, require_tensorrt())
    tell({"details": built.details, **layers_json(built.layers)})
    features = np.random.default_rng(0).standard_normal((max(BATCHES), CHANNELS, FRAMES), np.float32)
    exact = run_graph(graph, {"features": features, "lengths": lengths(features)}, ["log_probs"])["log_probs"]
    with open_plan(plan, graphs=False) as runner:
        runner(features, lengths(features))
        found = runner.outputs()["log_probs"]  # [B, C, T], whole: as scores it would be cut to its lengths along C
        tell({"against_onnxruntime": plain(compare_tensor("convolved", exact, found))})
        for batch in BATCHES:
            tell({f"ms_batch_{batch}": timed(runner, features[:batch])})
        times = runner.layer_times(features, lengths(features), RUNS)
        tell({"layer_ms": {name: median(values) for name, values in times.items()}})


def cache_of(request: Request) -> Path | None:
    """The recipe's timing cache; None: the usual one."""
    return Path(request.recipe.engine.timing_cache) if request.recipe.engine.timing_cache else None


def lengths(features: Any) -> Any:
    """All frames of every item."""
    return np.full(len(features), features.shape[2], np.int64)


def timed(runner: Any, features: Any) -> float:
    """Median time of a run on the card in milliseconds, copies included."""
    times = []
    for _ in range(RUNS):
        runner(features, lengths(features))
        times.append(float(runner.device_ms))
    return median(times)
