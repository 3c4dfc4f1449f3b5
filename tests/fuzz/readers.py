"""Every reader of the product that takes a file from outside."""

import hashlib
import io
import json
import random
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import tiny_archive
import torch
import whisper_folder
import yaml
from fuzz.mutate import Mutation, bytes_of_any_file, json_lines, json_tree, tree, yaml_text
from fuzz.target import Target

from trtasr.audio.manifest import read_manifest
from trtasr.audio.read import read_audio
from trtasr.calibrate import read_table
from trtasr.checkpoint.read import read_checkpoint
from trtasr.cli import parser
from trtasr.commands import VERBS, resolve_recipe
from trtasr.job import model_of
from trtasr.polygraphy_loader import read_features, save_features
from trtasr.recipe import load_recipe
from trtasr.values import CalibrationSet

COMPILE = (
    "--target",
    "cpu",
    "-q",
    "--set",
    "calibration.batches=1",
    "--set",
    "calibration.steps=1",
    "--set",
    "calibration.seconds=1.0",
    "--set",
    "evaluation.bench_seconds=[0.3]",
)


def verb(*words: object) -> object:
    """Run one verb of the command line in this process; its errors come out as they are."""
    arguments = parser().parse_args(list(map(str, words)))
    return VERBS[arguments.verb](arguments)


# archives


@cache
def weights() -> bytes:
    """The tiny archive's weights as torch saves them."""
    buffer = io.BytesIO()
    torch.save(tiny_archive.state(), buffer)
    return buffer.getvalue()


def read_archive(path: Path) -> object:
    """A whole archive, up to the module that holds its weights."""
    return model_of(read_checkpoint(path))


def archive_of(place: Path, config: bytes, state: bytes) -> Path:
    """An archive of two members, uncompressed."""
    return tiny_archive.write_raw(place / "model.nemo", {"model_config.yaml": config, "model_weights.ckpt": state})


def config_seeds(_: Path) -> list[bytes]:
    """Configurations of both encoders."""
    return [yaml.safe_dump(config).encode() for config in (tiny_archive.config(), tiny_archive.conformer_config())]


def config_tree(draw: random.Random, content: bytes) -> bytes:
    """A configuration with changed places."""
    return yaml.safe_dump(tree(draw, yaml.safe_load(content)), allow_unicode=True).encode("utf-8", "surrogatepass")


def read_config(content: bytes, place: Path) -> object:
    """A configuration in an archive with weights that fit the unspoiled one."""
    return read_archive(archive_of(place, content, weights()))


def archive_seeds(place: Path) -> list[bytes]:
    """Archives, compressed and not."""
    plain = archive_of(place, config_seeds(place)[0], weights()).read_bytes()
    return [plain, tiny_archive.write_archive(place / "gzip.nemo").read_bytes()]


def read_archive_bytes(content: bytes, place: Path) -> object:
    """An archive from its bytes."""
    (place / "model.nemo").write_bytes(content)
    return read_archive(place / "model.nemo")


def weights_pickle(draw: random.Random, content: bytes) -> bytes:
    """Weights whose pickle is spoiled inside a whole zip, or the zip itself."""
    if draw.random() < 0.3:
        return bytes_of_any_file(draw, content)
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, bytes_of_any_file(draw, data) if name.endswith("data.pkl") else data)
    return changed.getvalue()


def read_weights(content: bytes, place: Path) -> object:
    """Weights in an archive with the configuration they belong to."""
    return read_archive(archive_of(place, config_seeds(place)[0], content))


# Hugging Face folders


def folder_file(name: str) -> Target:
    """One JSON file of a folder."""

    def seeds(place: Path) -> list[bytes]:
        return [(whisper_folder.write_folder(place / "model") / name).read_bytes()]

    def read(content: bytes, place: Path) -> object:
        (place / "model" / name).write_bytes(content)
        return read_archive(place / "model")

    mutate: Mutation = json_tree if name.endswith(".json") else safetensors
    return Target(f"hf {name.partition('.')[0]}", seeds, read, mutate, 2)


def safetensors(draw: random.Random, content: bytes) -> bytes:
    """Safetensors with a changed header, or with changed bytes."""
    if draw.random() < 0.3:
        return bytes_of_any_file(draw, content)
    size = int.from_bytes(content[:8], "little")
    header = json_tree(draw, content[8 : 8 + size])
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


# recipes, manifests, audio


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
    """A manifest of three lines."""
    first = json.loads(tiny_archive.write_manifest(place).read_bytes().splitlines()[0])
    return [tiny_archive.write_manifest(place).read_bytes(), json.dumps({**first, "offset": 0.1}).encode()]


def read_lines(content: bytes, place: Path) -> object:
    """A manifest, its recordings not."""
    (place / "manifest.json").write_bytes(content)
    return read_manifest(place / "manifest.json")


def audio_seeds(kind: tuple[str, str]) -> Any:
    """A tenth of a second in one container."""

    def seeds(place: Path) -> list[bytes]:
        sound = np.random.default_rng(0).normal(0, 0.1, 1600).astype(np.float32)
        soundfile.write(place / "made", sound, 16000, format=kind[0], subtype=kind[1])
        return [(place / "made").read_bytes()]

    return seeds


def read_sound(content: bytes, place: Path) -> object:
    """Audio of any kind."""
    (place / "sound").write_bytes(content)
    return read_audio(place / "sound", 16000)


KINDS = (
    ("WAV", "PCM_16"),
    ("WAV", "GSM610"),
    ("FLAC", "PCM_16"),
    ("OGG", "VORBIS"),
    ("MP3", "MPEG_LAYER_III"),
    ("AIFF", "PCM_24"),
    ("W64", "FLOAT"),
    ("CAF", "PCM_16"),
    ("AU", "ULAW"),
    ("RF64", "PCM_16"),
)


# bundles


def bundle_seeds(name: str) -> Any:
    """One file of a tiny bundle, which is compiled first."""

    def seeds(place: Path) -> list[bytes]:
        tiny_archive.write_archive(place / "tiny.nemo")
        tiny_archive.write_manifest(place, 1)
        verb("compile", place / "tiny.nemo", "-o", place / "bundle", *COMPILE)
        return [(place / "bundle" / name).read_bytes()]

    return seeds


def bundle_file(name: str, mutate: Mutation, *verbs: tuple[str, ...], share: int = 2) -> Target:
    """One file of a bundle; its hash fits again after it was spoiled."""

    def read(content: bytes, place: Path) -> None:
        (place / "bundle" / name).write_bytes(content)
        if name != "bundle.json":
            sidecar = json.loads((place / "bundle" / "bundle.json").read_bytes())
            sidecar["files"][name] = hashlib.sha256(content).hexdigest()
            (place / "bundle" / "bundle.json").write_text(json.dumps(sidecar))
        first, *rest = random.Random(content).choice(verbs)
        verb(first, place / "bundle", *(str(place / word) if word.endswith(".wav") else word for word in rest))

    return Target(f"bundle {name}", bundle_seeds(name), read, mutate, share)


def table_seeds(place: Path) -> list[bytes]:
    """A committed scale table."""
    tiny_archive.write_archive(place / "tiny.nemo")
    verb(
        "calibrate",
        place / "tiny.nemo",
        "--calib-dir",
        place,
        "--set",
        "calibration.batches=1",
        "--set",
        "calibration.steps=1",
        "--set",
        "calibration.seconds=1.0",
    )
    return [(place / "tiny.json").read_bytes()]


def read_committed(content: bytes, place: Path) -> object:
    """A committed scale table."""
    (place / "tiny.json").write_bytes(content)
    return read_table(place / "tiny.json")


def feature_seeds(place: Path) -> list[bytes]:
    """Features for Polygraphy."""
    made = np.random.default_rng(0).standard_normal((2, 8, 20), np.float32)
    save_features(place / "features.json", CalibrationSet((made,), (np.array([20, 12]),), "noise", 0), "0" * 64)
    return [(place / "features.json").read_bytes()]


def read_saved_features(content: bytes, place: Path) -> object:
    """Features for Polygraphy."""
    (place / "features.json").write_bytes(content)
    return read_features(place / "features.json")


SPEAK = ("transcribe", "0.wav")
TARGETS: tuple[Target, ...] = (
    Target("yaml text", config_seeds, read_config, yaml_text, 10),
    Target("yaml tree", config_seeds, read_config, config_tree, 10),
    Target("archive", archive_seeds, read_archive_bytes, share=10),
    Target("weights", lambda place: [weights()], read_weights, weights_pickle, 10),
    *(
        folder_file(name)
        for name in (
            "config.json",
            "generation_config.json",
            "preprocessor_config.json",
            "tokenizer.json",
            "model.safetensors",
        )
    ),
    Target("recipe", recipe_seeds, read_recipe, share=8),
    Target("assignment", lambda place: list(ASSIGNMENTS), read_assignment, share=3),
    Target("manifest", manifest_seeds, read_lines, json_lines, 8),
    *(Target(f"audio {kind} {subtype}", audio_seeds((kind, subtype)), read_sound, share=1) for kind, subtype in KINDS),
    bundle_file("bundle.json", json_tree, SPEAK, ("inspect",), share=4),
    bundle_file("layers.json", json_tree, ("inspect",), ("inspect", "--all")),
    bundle_file("cpu/model.int8.onnx", bytes_of_any_file, SPEAK, share=4),
    bundle_file("model.fp32.onnx", bytes_of_any_file, (*SPEAK, "--target", "fp32"), ("inspect", "--roofline")),
    bundle_file("model.integer.onnx", bytes_of_any_file, (*SPEAK, "--target", "integer"), share=1),
    Target("scale table", table_seeds, read_committed, json_tree, 4),
    Target("polygraphy features", feature_seeds, read_saved_features, json_tree, 4),
)
