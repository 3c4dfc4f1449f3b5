"""The training corpus: espeak-ng speech cached on disk and the real digit recordings."""

import json
import logging
import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from tqdm import tqdm

from trtasr.values import FloatArray
from trtasr.zoo.grammar import DIGITS, sample
from trtasr.zoo.speech import SAMPLE_RATE, Style, Voice, sample_style, spoken_form, synthesize, voices

logger = logging.getLogger(__name__)
TEST_TAKES = 5  # takes 0..4 of each digit and speaker are for testing


@dataclass(frozen=True)
class Clip:
    """A waveform and what is said in it.

    Attributes:
        audio: float32 or int16 (full scale 32767) [samples] at 16 kHz.
        text: the transcript.
        voice: who says it.
    """

    audio: FloatArray | np.typing.NDArray[np.int16]
    text: str
    voice: str

    def waveform(self) -> FloatArray:
        """float32 [samples] in -1..1."""
        scale = 32767 if self.audio.dtype == np.int16 else 1
        return np.asarray(self.audio, np.float32) / np.float32(scale)

    @property
    def seconds(self) -> float:
        """Duration."""
        return len(self.audio) / SAMPLE_RATE


@dataclass(frozen=True)
class Order:
    """One utterance to be synthesized."""

    text: str
    spoken: str
    voice: Voice
    style: Style


def orders(split: str, count: int, seed: int) -> list[Order]:
    """Draw sentences, voices and styles; the same seed gives the same list."""
    rng = random.Random(f"{split} {seed}")  # noqa: S311
    speakers = voices(split)
    drawn = []
    for index in range(count):
        if index % len(speakers) == 0:
            rng.shuffle(speakers)
        text = sample(rng)
        drawn.append(Order(text, spoken_form(text, rng), speakers[index % len(speakers)], sample_style(rng)))
    return drawn


def fulfil(order: Order) -> np.typing.NDArray[np.int16]:
    """Synthesize one order as int16 [samples] at 16 kHz."""
    return (synthesize(order.spoken, order.voice, order.style) * 32767).astype(np.int16)


def espeak_corpus(cache: Path, split: str, count: int, seed: int, processes: int = 2) -> list[Clip]:
    """Synthesized clips, from the cache folder when it has them.

    The cache is one flat int16 array per (split, count, seed) and a JSON list of texts, voices and lengths.
    """
    stem = cache / f"{split}-{count}-{seed}"
    if not stem.with_suffix(".json").exists():
        synthesize_all(stem, orders(split, count, seed), processes)
    samples = np.load(stem.with_suffix(".npy"), mmap_mode="r")
    ends = 0
    clips = []
    for entry in json.loads(stem.with_suffix(".json").read_text()):
        clips.append(Clip(samples[ends : ends + entry["samples"]], entry["text"], entry["voice"]))
        ends += entry["samples"]
    return clips


def synthesize_all(stem: Path, wanted: Sequence[Order], processes: int) -> None:
    """Speak every order in several processes; write the samples and their index."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(processes) as pool:
        sounds = list(tqdm(pool.map(fulfil, wanted, chunksize=16), "espeak-ng", len(wanted), disable=None))
    np.save(stem.with_suffix(".npy"), np.concatenate(sounds))
    index = [
        {"text": order.text, "voice": str(order.voice), "samples": len(sound)}
        for order, sound in zip(wanted, sounds, strict=True)
    ]
    stem.with_suffix(".json").write_text(json.dumps(index))
    logger.info("%s: %d utterances, %.0f s", stem.name, len(sounds), sum(map(len, sounds)) / SAMPLE_RATE)


class DigitRecordings:
    """Real digits of the Free Spoken Digit Dataset, strung together at random.

    Args:
        folder: of recordings named ``<digit>_<speaker>_<take>.flac``.
        test: True for the takes kept for testing, False for the others.
    """

    def __init__(self, folder: Path, test: bool) -> None:
        self.takes: dict[tuple[str, int], list[FloatArray]] = {}
        for path in sorted(folder.glob("*.flac")):
            digit, speaker, take = path.stem.split("_")
            if (int(take) < TEST_TAKES) == test:
                sound, rate = soundfile.read(path, dtype="float32")
                self.takes.setdefault((speaker, int(digit)), []).append(
                    np.asarray(soxr.resample(sound, rate, SAMPLE_RATE), np.float32)
                )
        self.speakers = sorted({speaker for speaker, _ in self.takes})

    def string(self, rng: random.Random, lengths: tuple[int, int] = (3, 6)) -> Clip:
        """One speaker's string of ``lengths`` digits, with pauses of 0.05 to 0.4 s between them and at the ends."""
        speaker = rng.choice(self.speakers)
        digits = [rng.randrange(10) for _ in range(rng.randint(*lengths))]
        parts = [pause(rng)]
        for digit in digits:
            parts += [levelled(rng.choice(self.takes[speaker, digit])), pause(rng)]
        return Clip(np.concatenate(parts), " ".join(DIGITS[digit] for digit in digits), f"real-{speaker}")


def pause(rng: random.Random) -> FloatArray:
    """Silence of 0.05 to 0.4 s."""
    return np.zeros(int(rng.uniform(0.05, 0.4) * SAMPLE_RATE), np.float32)


def levelled(audio: FloatArray) -> FloatArray:
    """Audio whose largest sample is 0.5."""
    return np.asarray(0.5 * audio / max(float(np.abs(audio).max()), 1e-4), np.float32)
