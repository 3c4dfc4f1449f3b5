"""Lowering of encoder-decoders: two graphs, one scale table, two plans per target that count as one engine."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from trtasr.audio.frontend import Frontend
from trtasr.audio.log_mel import LogMelConfig
from trtasr.checkpoint.checkpoint import Checkpoint
from trtasr.engine.build_tensorrt import Host
from trtasr.engine.compare_pair import DECODER, ENCODER
from trtasr.engine.profile import DecoderProfile, Profile
from trtasr.errors import RecipeError
from trtasr.graph.fits import check_fits
from trtasr.graph.own_part import own_part
from trtasr.graph.tensors import WEIGHTED
from trtasr.network.pair_run import TOKENS_PER_SECOND, shortest_frames
from trtasr.pipeline.lower import Lowered, Plant, build_baselines, lower_and_build
from trtasr.recipe import EngineShapes, Recipe
from trtasr.results import Engine
from trtasr.targets import Target
from trtasr.values import ScaleTable

UNLIMITED = 1 << 31


@dataclass(frozen=True)
class Plants:
    """Where the engines of an encoder-decoder are built, graph by graph."""

    encoder: Plant
    decoder: Plant


def pair_plants(
    folder: Path, table: ScaleTable, recipe: Recipe, checkpoint: Checkpoint, model: nn.Module, host: Host | None
) -> Plants:
    """Both plants of a bundle folder that holds both FP32 graphs.

    Raises:
        RecipeError: an exclude pattern that matches a node of neither graph, shapes that are out of order, or a scale
            table of other graphs.
    """
    paths = [folder / f"{stem}.fp32.onnx" for stem in (ENCODER, DECODER)]
    encoder = encoder_profile(recipe.engine, checkpoint.frontend, longest_frames(checkpoint))
    frames = torch.tensor([shape[2] for shape in encoder.shapes()["features"]])
    low, usual, high = part_of(model, "encoder").positions(frames).tolist()
    rules = checkpoint.generation
    assert rules is not None
    prompt = len(rules.prompt) + bool(rules.languages)  # a language that is detected joins it
    decoder = DecoderProfile(
        encoder.batches,
        (low, usual, high),
        *cache_shape(paths[1]),
        len(checkpoint.vocabulary),
        rules.max_length,
        prompt,
    )
    excludes = split_excludes(recipe.quantization.exclude, paths)
    first, second = (
        replace(recipe, quantization=replace(recipe.quantization, exclude=patterns)) for patterns in excludes
    )
    models = [onnx.load(path) for path in paths]
    check_fits(table, models)
    tables = [own_part(table, model) for model in models]
    return Plants(
        Plant(folder, tables[0], first, checkpoint.frontend.frames_per_second, host, stem=ENCODER, shapes=encoder),
        Plant(folder, tables[1], second, TOKENS_PER_SECOND, host, stem=DECODER, shapes=decoder),
    )


def part_of(model: nn.Module, name: str) -> Any:
    """A part of an encoder-decoder of `trtasr.models`."""
    return getattr(model, name)


def encoder_profile(engine: EngineShapes, config: Frontend, most: int) -> Profile:
    """Shapes of the encoder: the recipe's, as far as the model's table of positions goes.

    Args:
        engine: the recipe's section.
        config: of the front-end.
        most: feature frames that the model has positions for (`longest_frames`).
    """
    batches = engine.min_batch, engine.opt_batch, engine.max_batch
    seconds = engine.min_seconds, engine.opt_seconds, engine.max_seconds
    if padded := getattr(config, "pad_seconds", 0):
        seconds = (padded,) * 3
    limit = most / config.frames_per_second
    shortest = shortest_frames(config) / config.frames_per_second
    low, usual, high = (min(max(item, shortest), limit) for item in seconds)
    return Profile(batches, (low, usual, high), config.frames_per_second, config.rows, most)


def longest_frames(checkpoint: Checkpoint) -> int:
    """Feature frames that the encoder has positions for; Moonshine's rotary positions have no end."""
    if isinstance(checkpoint.frontend, LogMelConfig):
        return 2 * int(checkpoint.config["max_source_positions"])
    return UNLIMITED


def cache_shape(decoder: Path) -> tuple[int, int, int]:
    """Layers, heads and head width of a decoder graph's cache."""
    inputs = onnx.load(decoder, load_external_data=False).graph.input
    pasts = [value for value in inputs if value.name.startswith("past_key.")]
    dims = pasts[0].type.tensor_type.shape.dim
    return len(pasts), dims[1].dim_value, dims[3].dim_value


def split_excludes(patterns: Sequence[str], graphs: Sequence[Path]) -> list[tuple[str, ...]]:
    """The patterns that match a weighted node, graph by graph.

    Raises:
        RecipeError: one that matches none in any.
    """
    names = [[node.name for node in onnx.load(path).graph.node if node.op_type in WEIGHTED] for path in graphs]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for each in names for name in each):
            raise RecipeError(
                f"exclude: {pattern!r} matches no Conv, MatMul or Gemm node of encoder or decoder",
                "use node names as in layers.json; * matches any characters",
            )
    return [
        tuple(pattern for pattern in patterns if any(fnmatchcase(name, pattern) for name in each)) for each in names
    ]


def lower_and_build_pair(plants: Plants, target: Target) -> tuple[Lowered, Engine]:
    """Both graphs of a target as one: the encoder's files stand for the pair, the decoder's lie beside them.

    Raises:
        BuildError: the builder refused a graph. MissingError: no builder here.
    """
    (first, encoder), (second, decoder) = (lower_and_build(plant, target) for plant in (plants.encoder, plants.decoder))
    both = replace(
        first,
        decisions=first.decisions + second.decisions,
        subnormal=first.subnormal + second.subnormal,
        overflowing=first.overflowing + second.overflowing,
    )
    return both, merged(encoder, decoder)


def pair_baselines(plants: Plants) -> tuple[Engine, ...]:
    """FP16 and FP32 plans of the T4 host, those precisions that both graphs could be built in."""
    encoders, decoders = (
        {engine.target: engine for engine in build_baselines(plant)} for plant in (plants.encoder, plants.decoder)
    )
    return tuple(merged(encoders[name], decoders[name]) for name in encoders if name in decoders)


def merged(encoder: Engine, decoder: Engine) -> Engine:
    """Two files as one engine: sizes and layers added, the builder's facts of the decoder under ``decoder``."""
    details = {
        **encoder.details,
        "decoder": {"path": decoder.path, "size_bytes": decoder.size_bytes, **decoder.details},
    }
    return replace(
        encoder,
        size_bytes=encoder.size_bytes + decoder.size_bytes,
        layers=encoder.layers + decoder.layers,
        details=details,
    )
