"""The pipeline of encoder-decoders: checkpoint -> two ONNX graphs -> one scale table -> engines -> measured report."""

import copy
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from trtasr.bundle import staged
from trtasr.checkpoint.checkpoint import Checkpoint
from trtasr.engine.compare_pair import DECODER, ENCODER, decoder_inputs
from trtasr.engine.sessions import utterances
from trtasr.errors import RecipeError
from trtasr.files.scratch import scratch
from trtasr.graph.check import assert_parity, run_graph
from trtasr.graph.export_pair import export_pair
from trtasr.models.encoder_decoder import no_past
from trtasr.network.pair_run import refuse_longer
from trtasr.pipeline.calibrate_pair import PairGraphs, pair_table
from trtasr.pipeline.controls import run_pair_controls
from trtasr.pipeline.evaluate import feeds
from trtasr.pipeline.gpu import benchmarked_pair
from trtasr.pipeline.job import Job, fitting, scale_tables
from trtasr.pipeline.lower_pair import (
    encoder_profile,
    longest_frames,
    lower_and_build_pair,
    pair_baselines,
    pair_plants,
    part_of,
)
from trtasr.pipeline.measure import COMPARED_UTTERANCES, compare_first_pair, measure, timed_engines
from trtasr.pipeline.pair_features import pair_features, synthetic
from trtasr.pipeline.record import Record, write_record
from trtasr.values import FloatArray, IntArray

logger = logging.getLogger(__name__)

PARITY = 1e-3  # largest difference of logits between the module in float64 and the FP32 graphs
PARITY_FACTOR = 4  # ... or this times torch's own float32 rounding, where that is more,
LARGEST_PARITY = 3e-2  # but never more than this
CHECKED_TOKENS = 6
CHECKED_SECONDS = 2.0


def compile_pair(job: Job) -> Record:
    """Compile an encoder-decoder into a bundle and measure it; see `trtasr.pipeline.compile.compile_recipe`.

    Raises:
        TrtasrError: bad input (2), broken numbers (3), a missing library (4), a refused graph (5).
    """
    refuse(job)
    recipe, checkpoint = job.recipe, job.checkpoint
    with staged(job.options.out) as folder, scratch():
        graphs = exported_pair(job.model, checkpoint, folder)
        parity = prove_parity(job, graphs)
        tables = scale_tables(
            job,
            lambda method, settings: pair_table(
                graphs, pair_features(method, recipe, checkpoint, graphs), recipe.quantization, settings
            ),
        )
        plants = pair_plants(folder, tables[recipe.calibration.method], recipe, checkpoint, job.model, job.host)
        lowered, engines = zip(*[lower_and_build_pair(plants, target) for target in job.targets], strict=True)
        baselines = pair_baselines(plants) if job.host else ()
        measured = measure(plants.encoder, checkpoint, lowered, (*engines, *baselines), job.utterances)
        comparison = compare_first_pair(plants.encoder, checkpoint, lowered[0], *compared(job))
        controls = run_pair_controls(graphs, tables, job.utterances, recipe, checkpoint) if job.options.controls else ()
        record = Record(
            recipe,
            checkpoint,
            tables,
            lowered,
            timed_engines((*engines, *baselines), measured),
            measured,
            comparison,
            controls,
            parity,
            time.monotonic() - job.started,
        )
        write_record(folder, record, job.options.out)
    return record


def refuse(job: Job) -> None:
    """Refuse what encoder-decoders cannot have, before any work.

    Raises:
        RecipeError: a budget of layers in floating point, implicit quantization, or a benchmark that is longer than the
        model's positions. AudioError: speech that is.
    """
    evaluation, quantization = job.recipe.evaluation, job.recipe.engine.quantization
    if evaluation.min_sqnr or evaluation.mixed:
        raise RecipeError(
            "--min-sqnr and --max-wer-drop choose layers of CTC models only",
            "leave them out; quantization.exclude keeps layers in floating point",
        )
    if quantization == "implicit":
        raise RecipeError(
            "engine.quantization = 'implicit': encoder-decoders are quantized explicitly only", "leave it out"
        )
    refuse_longer(job.checkpoint.frontend, longest_frames(job.checkpoint), (), evaluation.bench_seconds)
    say_limits(job)
    if job.host:
        refuse_misfits(job)


def say_limits(job: Job) -> None:
    """Say where the recipe's lengths are not those of the engine."""
    config, most = job.checkpoint.frontend, job.recipe.engine.max_seconds
    limit = longest_frames(job.checkpoint) / config.frames_per_second
    if padded := getattr(config, "pad_seconds", 0):
        logger.info("every utterance is padded to %g s: engine.min_, opt_, max_seconds are unused", padded)
    elif most > limit:
        logger.info("engine.max_seconds = %g: the model hears at most %g s, and so does the engine", most, limit)


def refuse_misfits(job: Job) -> None:
    """Refuse what a plan with the recipe's shapes could not run, before anything is built.

    Raises:
        AudioError: an utterance too short or too long. RecipeError: more utterances per run than the plan takes, or no
        benchmarked shape fits.
    """
    config, evaluation = job.checkpoint.frontend, job.recipe.evaluation
    accepted = encoder_profile(job.recipe.engine, config, longest_frames(job.checkpoint))
    benchmarked_pair(evaluation, accepted, getattr(config, "pad_seconds", 0))
    fitting(job, accepted)


def exported_pair(model: nn.Module, checkpoint: Checkpoint, folder: Path) -> PairGraphs:
    """Both FP32 graphs, written to a folder."""
    graphs = PairGraphs(folder / f"{ENCODER}.fp32.onnx", folder / f"{DECODER}.fp32.onnx")
    export_pair(cast(Any, model), graphs.encoder, graphs.decoder, checkpoint.frontend.rows)
    return graphs


def prove_parity(job: Job, graphs: PairGraphs) -> float:
    """Prove that both FP32 graphs, one behind the other, compute what the checkpoint computes.

    The reference is the module in float64, on a batch of mixed lengths and random tokens. The graphs may be off by
    1e-3 in the logits, or by `PARITY_FACTOR` times what torch itself is off in float32 where that is more.

    Returns:
        largest difference of the logits.

    Raises:
        QualityError: it is larger, or encoder positions differ.
    """
    front, generator = job.checkpoint.frontend, torch.Generator().manual_seed(0)
    frames = round(CHECKED_SECONDS * front.frames_per_second)
    features = torch.randn(2, front.rows, frames, generator=generator)
    lengths = torch.tensor([frames, frames * 3 // 5])
    tokens = torch.randint(len(job.checkpoint.vocabulary), (2, CHECKED_TOKENS), generator=generator)
    exact, positions = teacher_forced(job.model, features.double(), lengths, tokens)
    single, _ = teacher_forced(job.model, features, lengths, tokens)
    encoded = run_graph(graphs.encoder, {"features": features.numpy(), "lengths": lengths.numpy()})
    assert_parity({"positions": positions.numpy()}, {"positions": encoded["positions"]}, 0)
    inputs = decoder_inputs(encoded, tokens.numpy(), len(job.checkpoint.vocabulary))
    found = run_graph(graphs.decoder, inputs)["logits"]
    rounding, difference = (float(np.abs(x - exact.numpy()).max()) for x in (single.numpy(), found))
    allowed = max(PARITY, min(PARITY_FACTOR * rounding, LARGEST_PARITY))
    assert_parity({"logits": exact.numpy()}, {"logits": found}, allowed)
    if difference > PARITY:
        logger.warning(
            "FP32 graphs are off by %.1e in the logits (torch in float32: %.1e): this network amplifies "
            "float32 rounding",
            difference,
            rounding,
        )
    return difference


@torch.no_grad()
def teacher_forced(model: nn.Module, features: Tensor, lengths: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [B, L, V] and encoder positions [B] of given tokens, computed in the type of the features.

    Encoder and decoder are converted one after the other, so that a copy of only one of them is held.
    """
    encoded, positions = converted(part_of(model, ENCODER), features.dtype)(features, lengths)
    decoder = converted(part_of(model, DECODER), features.dtype)
    cross = decoder.cross(encoded)
    logits, _ = decoder(tokens, no_past(cross), cross, positions)
    return logits, positions


def converted(module: Any, dtype: torch.dtype) -> Any:
    """The module itself in float32, else a copy in another type."""
    return module if dtype == torch.float32 else copy.deepcopy(module).to(dtype)


def compared(job: Job) -> tuple[list[tuple[FloatArray, IntArray]], str]:
    """What engines are compared on: the first utterances, else synthetic features."""
    pairs = feeds(job.utterances[:COMPARED_UTTERANCES])
    if pairs:
        return pairs, "audio"
    found = synthetic(replace(job.recipe.calibration, batches=1, seed=1), job.checkpoint)
    return [(item["features"], item["lengths"]) for item in utterances(found)], "synthetic"
