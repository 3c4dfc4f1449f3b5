"""Utterances that an engine is judged on without audio: every probe signal through the model's own front-end."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from trtasr.audio.frontend import frontend
from trtasr.network.families import network_of
from trtasr.network.network import Described, Exported, Network
from trtasr.quant.probes import PROBES
from trtasr.recipe import Calibration
from trtasr.text.ctc import greedy
from trtasr.values import Example, FloatArray

CALIBRATION = "synthetic"  # name of the kind that is made as the calibration's features are, from another seed
BATCH, SECONDS, STEPS = 2, 3.0, 8
MOST_TOKENS = 40  # generated for a probe

Kinds = Mapping[str, Sequence[Example]]


def probes(exported: Exported, calibration: Calibration) -> Kinds:
    """Kind -> utterances, none of which the calibration has seen; 45 s of audio, or one window of each kind.

    Args:
        exported: the network.
        calibration: the recipe's section; its seed is another one here.
    """
    described, seed = exported.network.described, calibration.seed + 1
    heard = {kind: through_frontend(kind, described, seed) for kind in PROBES}
    return {CALIBRATION: like_calibration(exported, replace(calibration, steps=STEPS)), **heard}


def like_calibration(exported: Exported, calibration: Calibration) -> list[Example]:
    """Two short utterances made as the calibration's features are, from the seed behind its own."""
    described = exported.network.described
    longest = described.most_frames / described.frontend.frames_per_second
    few = replace(calibration, batches=1, batch_size=BATCH, seconds=min(SECONDS, longest), seed=calibration.seed + 1)
    return exported.original.synthetic(few).examples()


def through_frontend(kind: str, described: Described, seed: int) -> list[Example]:
    """The utterances of one kind; of a front-end that pads all to one length, the first."""
    config, generator = described.frontend, torch.Generator().manual_seed(seed)
    longest = described.most_frames / config.frames_per_second
    make, seconds = PROBES[kind]
    front = frontend(config)
    found = []
    for length in seconds[:1] if getattr(config, "pad_seconds", 0) else seconds:
        audio = make(min(length, longest), config.sample_rate, generator)
        features, frames = front(audio[None], torch.tensor([len(audio)]))
        count = int(frames[0])
        found.append(Example(np.ascontiguousarray(features[:, :, :count].numpy()), np.array([count], np.int64)))
    return found


def brief(network: Network) -> Network:
    """The same network, which generates few tokens: noise makes some decoders talk without an end."""
    described = network.described
    if described.generation is None:
        return network
    most = len(described.generation.prompt) + 1 + MOST_TOKENS
    generation = replace(described.generation, max_length=min(described.generation.max_length, most))
    return network_of(replace(described, generation=generation))


def transcripts(examples: Sequence[Example], scores: Sequence[FloatArray]) -> list[list[int]]:
    """Greedy token ids: what was generated, else the best path through the scores, whose last token is the blank."""
    return [
        item.tokens.tolist()
        if item.tokens is not None
        else greedy(row[None], np.array([len(row)]), row.shape[1] - 1)[0]
        for item, row in zip(examples, scores, strict=True)
    ]
