"""espeak-ng voices and synthesis: text -> 16 kHz waveform."""

import random
import shutil
import struct
import subprocess
from dataclasses import dataclass

import numpy as np
import soxr

from trtasr.errors import MissingError
from trtasr.values import FloatArray
from trtasr.zoo.grammar import DIGITS

SAMPLE_RATE = 16000
ACCENTS = ("en-gb", "en-us", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-rp", "en-gb-x-gbcwmd", "en-029", "en-us-nyc")
TRAIN_VARIANTS = (
    "m1",
    "m2",
    "m3",
    "m4",
    "m5",
    "m6",
    "m8",
    "f1",
    "f2",
    "f3",
    "f5",
    "Alex",
    "Alicia",
    "Andrea",
    "Denis",
    "Gene",
    "Henrique",
    "Hugo",
    "Jacky",
    "Lee",
    "Marco",
    "Mario",
    "Michael",
    "Nguyen",
    "RicishayMax",
    "RicishayMax2",
    "adam",
    "anika",
    "announcer",
    "antonio",
    "aunty",
    "belinda",
    "boris",
    "david",
    "edward",
    "grandma",
    "gustave",
    "iven",
    "iven2",
    "iven3",
    "john",
    "kaukovalta",
    "klatt",
    "klatt2",
    "klatt4",
    "linda",
    "marcelo",
    "michel",
    "miguel",
    "norbert",
    "pablo",
    "paul",
    "pedro",
    "rob",
    "robert",
    "sandro",
    "shelby",
    "steph",
    "steph2",
    "victor",
)
DEV_VARIANTS = ("m7", "Annie", "edward2", "klatt3", "iven4")
EVAL_VARIANTS = (
    "f4",
    "Andy",
    "Diogo",
    "Gene2",
    "Mike",
    "RicishayMax3",
    "benjamin",
    "ed",
    "grandpa",
    "klatt5",
    "max",
    "quincy",
    "steph3",
    "travis",
    "zac",
)
HELD_OUT_EVERY = 9  # one in nine accent and variant combinations of the training variants is kept for evaluation


@dataclass(frozen=True, order=True)
class Voice:
    """An espeak-ng voice: an English accent with a speaker variant."""

    accent: str
    variant: str

    def __str__(self) -> str:
        return f"{self.accent}+{self.variant}"


@dataclass(frozen=True)
class Style:
    """How a sentence is said.

    Attributes:
        speed: words per minute.
        pitch: espeak-ng's 0..99.
        gap: extra pause between words in units of 10 ms.
    """

    speed: int
    pitch: int
    gap: int


def voices(split: str) -> list[Voice]:
    """Voices of a split; no voice is in two of them.

    Args:
        split: ``train``; ``dev`` (variants of its own); ``eval`` (variants of its own, and combinations of an accent
            with a training variant that training never hears).
    """
    if split == "dev":
        return [Voice(accent, variant) for accent in ACCENTS for variant in DEV_VARIANTS]
    pairs = [
        (Voice(accent, variant), (3 * row + column) % HELD_OUT_EVERY == 0)
        for row, accent in enumerate(ACCENTS)
        for column, variant in enumerate(TRAIN_VARIANTS)
    ]
    if split == "train":
        return [voice for voice, held_out in pairs if not held_out]
    unheard = [Voice(accent, variant) for accent in ACCENTS for variant in EVAL_VARIANTS]
    return unheard + [voice for voice, held_out in pairs if held_out]


def sample_style(rng: random.Random) -> Style:
    """A speaking style: 110 to 215 words per minute, medium pitches, mostly short pauses."""
    gap = rng.randint(0, 3) if rng.random() < 0.75 else rng.randint(4, 25)
    return Style(rng.randint(110, 215), rng.randint(15, 85), gap)


def spoken_form(text: str, rng: random.Random) -> str:
    """The text as given to espeak-ng: digit strings now and then get commas, which it says as pauses."""
    words = text.split()
    if not set(words) <= set(DIGITS) or rng.random() < 0.4:
        return text
    return " ".join(word + ("," if rng.random() < 0.35 else "") for word in words)


def synthesize(text: str, voice: Voice, style: Style) -> FloatArray:
    """Say a text.

    Returns:
        float32 [samples] at 16 kHz, peak 0.5.

    Raises:
        MissingError: espeak-ng is not installed.
    """
    program = shutil.which("espeak-ng")
    if program is None:
        raise MissingError("espeak-ng: program not found", "install it, on Debian: apt-get install espeak-ng")
    command = [
        program,
        "-v",
        str(voice),
        "-s",
        str(style.speed),
        "-p",
        str(style.pitch),
        "-g",
        str(style.gap),
        "--stdout",
        text,
    ]
    sound = subprocess.run(command, check=True, capture_output=True).stdout
    (rate,) = struct.unpack_from("<I", sound, 24)  # a WAV header; its length field is not filled in on a pipe
    samples = np.frombuffer(sound[44 : 44 + (len(sound) - 44) // 2 * 2], np.int16).astype(np.float32)
    audio = soxr.resample(samples, rate, SAMPLE_RATE)
    return np.asarray(0.5 * audio / max(float(np.abs(audio).max()), 1.0), np.float32)
