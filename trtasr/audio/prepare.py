"""Manifest lines -> utterances with their features; what does not fit into memory is computed again when asked for."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import overload

import numpy as np
import torch
from tqdm import tqdm

from trtasr.audio.frontend import Frontend, frontend
from trtasr.audio.manifest import ManifestEntry
from trtasr.audio.read import MIXED, Reading, read_audio
from trtasr.results import Prepared
from trtasr.values import Example, FloatArray, alone

logger = logging.getLogger(__name__)
KEPT = 64 * 2**20  # bytes of features of a manifest that stay in memory

Frontends = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class Utterances(Sequence[Prepared]):
    """Utterances with their features; those beyond `KEPT` bytes are computed again whenever they are asked for.

    All are read once at first: a broken file is refused before anything is made of the others, and features that are
    kept are not computed twice.

    Args:
        entries: of a manifest.
        listen: reads one.

    Attributes:
        longest: file and seconds of the longest one.
    """

    def __init__(self, entries: Sequence[ManifestEntry], listen: "Listener") -> None:
        self._entries, self._listen = entries, listen
        self._kept: dict[int, Prepared] = {}
        self.longest = ("", 0.0)
        size = 0
        for index, entry in enumerate(tqdm(entries, desc="features", unit="utt", disable=None)):
            item = listen(entry)
            size += item.features.nbytes
            self.longest = max(self.longest, (item.audio_filepath, item.duration), key=lambda known: known[1])
            if size <= KEPT:
                self._kept[index] = item

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> Prepared: ...
    @overload
    def __getitem__(self, index: slice) -> list[Prepared]: ...
    def __getitem__(self, index: int | slice) -> Prepared | list[Prepared]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        return self._kept[place] if place in self._kept else self._listen(self._entries[place], again=True)


class Listener:
    """Audio files -> utterances with their features, cut to their valid frames (at least one).

    Args:
        config: of the front-end.
        reading: how files are read.
    """

    def __init__(self, config: Frontend, reading: Reading = MIXED) -> None:
        self._rate, self._made, self._reading = config.sample_rate, frontend(config), reading

    def __call__(self, entry: ManifestEntry, again: bool = False) -> Prepared:
        """One utterance; ``again``: without the warnings of the first time.

        Raises:
            AudioError: naming the file.
        """
        reading = replace(self._reading, warn=self._reading.warn and not again)
        samples = read_audio(entry.audio_filepath, self._rate, *entry.segment, reading)
        seconds = len(samples) / self._rate
        if reading.warn and entry.duration and differs(entry.duration, seconds):
            logger.warning(
                "%s: %.2f s found, but the manifest says %.2f s", entry.audio_filepath, seconds, entry.duration
            )
        features, frames = features_of(samples, self._made)
        return Prepared(str(entry.audio_filepath), seconds, entry.text, features, frames, entry.dataset)


def differs(promised: float, found: float) -> bool:
    """Whether a duration is further off than rounding and padding explain."""
    return abs(promised - found) > max(0.1, 0.02 * found)


def prepare(entries: Iterable[ManifestEntry], config: Frontend, reading: Reading = MIXED) -> Utterances:
    """Every utterance with its features.

    Raises:
        AudioError: naming the file.
    """
    return Utterances(list(entries), Listener(config, reading))


def examples(items: Iterable[Prepared]) -> list[Example]:
    """Each utterance alone, as a network takes it; empty ones are left out."""
    return [found for item in items for found in alone(item.features[None], np.array([item.frames], np.int64))]


def features_of(samples: FloatArray, made: Frontends) -> tuple[FloatArray, int]:
    """Features float32 [rows, T] of one utterance and its valid frames T (0 when shorter than one stride)."""
    features, frames = made(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
    count = int(frames[0])
    return features[0, :, : max(count, 1)].numpy(), count
