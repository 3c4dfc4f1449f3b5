"""Readers of what a user writes or records: recipes, ``--set``, manifests, audio."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import tiny_archive
from fuzz.mutate import bytes_of_any_file, json_lines
from fuzz.target import Target

from trtasr.audio.manifest import read_manifest
from trtasr.audio.read import audio_seconds, read_audio
from trtasr.cli import parser
from trtasr.cli.verbs import resolve_recipe
from trtasr.recipe import load_recipe


def recipe_seeds(_: Path) -> list[bytes]:
    """A recipe with every section, and the bundled ones."""
    bundled = (Path(__file__).resolve().parents[2] / "engines").glob("*.toml")
    made = (
        b'name = "a"\ncheckpoint = "a.nemo"\n[calibration]\nsteps = 3\nseconds = 2.5\nmethod = "noise"\n'
        b"[engine]\nmax_batch = 8\n[evaluation]\nthreads = 1\nbench_seconds = [1.0, 2]\n"
        b'[quantization]\nexclude = ["/a/*"]\nheadroom = 1.5\n'
    )
    return [made, *(file.read_bytes() for file in sorted(bundled))]


def read_recipe(content: bytes, place: Path) -> object:
    """A recipe file."""
    (place / "recipe.toml").write_bytes(content)
    return load_recipe(place / "recipe.toml")


ASSIGNMENTS = (
    b"evaluation.threads=2",
    b"engine.max_seconds=20",
    b"calibration.seed=1",
    b'name="a"',
    b'quantization.exclude=["/a/*"]',
    b"calibration={steps=3}",
    b"engine.target=cpu",
)


def read_assignment(content: bytes, place: Path) -> object:
    """``--set`` with anything."""
    (place / "base.toml").write_bytes(recipe_seeds(place)[0])
    text = content.decode("utf-8", "surrogateescape").replace("\0", "")
    return resolve_recipe(parser().parse_args(["compile", str(place / "base.toml"), f"--set={text}"]))


def manifest_seeds(place: Path) -> list[bytes]:
    """A manifest of three lines, and one with a segment."""
    whole = tiny_archive.write_manifest(place).read_bytes()
    return [whole, json.dumps({**json.loads(whole.splitlines()[0]), "offset": 0.1}).encode()]


def read_lines(content: bytes, place: Path) -> object:
    """A manifest, its recordings not."""
    (place / "manifest.json").write_bytes(content)
    return read_manifest(place / "manifest.json")


def librispeech_seeds(place: Path) -> list[bytes]:
    """A LibriSpeech transcript beside its recordings."""
    (place / "84").mkdir()
    for number in range(2):
        soundfile.write(place / "84" / f"84-{number}.flac", np.zeros(1600, np.float32), 16000)
    return [b"84-0 ONE TWO\n84-1 THREE\n"]


def read_librispeech(content: bytes, place: Path) -> object:
    """A folder of LibriSpeech."""
    (place / "84" / "84.trans.txt").write_bytes(content)
    return read_manifest(place / "84")


def audio_seeds(kind: tuple[str, str]) -> Any:
    """A tenth of a second in one container, mono and, where it can be, of two channels at 8 kHz."""

    def seeds(place: Path) -> list[bytes]:
        sound = np.random.default_rng(0).normal(0, 0.1, 1600).astype(np.float32)
        written = []
        for samples, rate in ((sound, 16000), (sound.reshape(800, 2), 8000)):
            if samples.ndim == 1 or kind[1] not in MONO:
                soundfile.write(place / "made", samples, rate, format=kind[0], subtype=kind[1])
                written.append((place / "made").read_bytes())
        return written

    return seeds


def read_sound(content: bytes, place: Path) -> object:
    """Audio of any kind, and its length."""
    (place / "sound").write_bytes(content)
    return read_audio(place / "sound", 16000), audio_seconds(place / "sound")


MONO = ("GSM610",)
CONTAINERS = (
    *(("WAV", kind) for kind in ("PCM_U8", "PCM_16", "FLOAT", "ALAW", "IMA_ADPCM", "MS_ADPCM", "GSM610")),
    *(("OGG", kind) for kind in ("VORBIS", "OPUS")),
    ("FLAC", "PCM_16"),
    ("MP3", "MPEG_LAYER_III"),
    ("WAVEX", "PCM_24"),
    ("RF64", "PCM_16"),
    ("W64", "FLOAT"),
    ("AIFF", "PCM_24"),
    ("CAF", "ALAC_16"),
    ("AU", "ULAW"),
    ("NIST", "PCM_16"),
    ("VOC", "PCM_16"),
    ("IRCAM", "PCM_16"),
)

INPUTS = (
    Target("recipe", recipe_seeds, read_recipe, share=80),
    Target("assignment", lambda place: list(ASSIGNMENTS), read_assignment, share=30),
    Target("manifest", manifest_seeds, read_lines, json_lines, 80),
    Target("librispeech", librispeech_seeds, read_librispeech, bytes_of_any_file, 20),
    *(Target(f"audio {kind} {name}", audio_seeds((kind, name)), read_sound, share=12) for kind, name in CONTAINERS),
)
