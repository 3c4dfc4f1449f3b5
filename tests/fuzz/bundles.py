"""Readers of what the product wrote: bundles, scale tables, calibration caches, features for Polygraphy."""

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import tiny_archive
import tokenizer_zoo
import torch
import whisper_folder
from compiling import CHANGES
from fuzz.checkpoints import safetensors
from fuzz.mutate import Mutation, bytes_of_any_file, json_tree, message, one_member
from fuzz.target import Target
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from trtasr.audio.features import FrontendConfig, mel_bank, window
from trtasr.cli import parser
from trtasr.cli.polygraphy_loader import read_features, write_features
from trtasr.cli.verbs import VERBS
from trtasr.engine.cache import parse_cache
from trtasr.errors import UsageError
from trtasr.files.read import Source
from trtasr.models.jasper import JasperCtc
from trtasr.pipeline.lock import committed_table
from trtasr.values import CalibrationSet

SMALL = ("calibration.batches=1", "calibration.steps=1", "calibration.seconds=1.0", "evaluation.bench_seconds=[0.3]")


def verb(*words: object) -> object:
    """Run one verb of the command line in this process; its errors come out as they are."""
    arguments = parser().parse_args(list(map(str, words)))
    return VERBS[arguments.verb](arguments)


def changed(changes: Sequence[str]) -> list[str]:
    """Flags that change a recipe."""
    return [word for change in changes for word in ("--set", change)]


# bundles


@cache
def pieces() -> bytes:
    """A small SentencePiece model."""
    return tokenizer_zoo.trained(vocab_size=40, normalization_rule_name="identity")


def write_ctc(path: Path) -> None:
    """An archive whose bundle has every kind of file: over pieces, with a mel bank and a window of its own."""
    listed = tokenizer_zoo.strings(pieces())
    config = tiny_archive.config() | {
        "target": tokenizer_zoo.BPE,
        "tokenizer": {"dir": "bpe", "type": "bpe", "model_path": "nemo:tokenizer.model"},
    }
    config["decoder"] = {**config["decoder"], "num_classes": len(listed), "vocabulary": listed}
    torch.manual_seed(0)
    state = JasperCtc(config["encoder"], config["decoder"]).state_dict()
    computed = FrontendConfig(features=64)
    state["preprocessor.featurizer.fb"] = torch.from_numpy(mel_bank(computed) * np.float32(1.1))[None]
    state["preprocessor.featurizer.window"] = torch.from_numpy(window(computed) * np.float32(0.9))
    tiny_archive.write_members(path, config, state, {"tokenizer.model": pieces()})


def once(compiled: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """Compiles a bundle the first time and writes its files from then on: every one of them is a target."""
    kept: dict[Path, bytes] = {}

    def written(place: Path) -> Path:
        if not kept:
            bundle = compiled(place)
            kept.update({path.relative_to(place): path.read_bytes() for path in bundle.rglob("*") if path.is_file()})
        for name, content in kept.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(content)
        return place / "bundle"

    return written


@once
def compiled_ctc(place: Path) -> Path:
    """The bundle of `write_ctc`."""
    write_ctc(place / "tiny.nemo")
    verb("compile", place / "tiny.nemo", "-o", place / "bundle", "--target", "cpu", "-q", *changed(SMALL))
    return place / "bundle"


@once
def compiled_pair(place: Path) -> Path:
    """The bundle of a tiny Whisper."""
    whisper_folder.write_folder(place / "tiny")
    verb("compile", place / "tiny", "-o", place / "bundle", "--target", "cpu", "-q", *changed(CHANGES))
    return place / "bundle"


def bundle_file(
    kind: str, compiled: Callable[[Path], Path], name: str, mutate: Mutation, *verbs: tuple[str, ...]
) -> Target:
    """One file of a bundle; its hash fits again after it was spoiled."""

    def seeds(place: Path) -> list[bytes]:
        tiny_archive.write_manifest(place, 1)
        return [(compiled(place) / name).read_bytes()]

    def read(content: bytes, place: Path) -> None:
        (place / "bundle" / name).write_bytes(content)
        if name != "bundle.json":
            sidecar = json.loads((place / "bundle" / "bundle.json").read_bytes())
            sidecar["files"][name] = hashlib.sha256(content).hexdigest()
            (place / "bundle" / "bundle.json").write_text(json.dumps(sidecar), encoding="utf-8")
        first, *rest = random.Random(content).choice(verbs)
        verb(first, place / "bundle", *(place / word if word.endswith(".wav") else word for word in rest))

    return Target(f"{kind} {name}", seeds, read, mutate, 20 if name == "bundle.json" else 8)


# tables and features


def calibrated(name: str) -> Callable[[Path], list[bytes]]:
    """One file of a committed scale table with corrected weights."""

    def seeds(place: Path) -> list[bytes]:
        tiny_archive.write_archive(place / "tiny.nemo")
        changes = (*SMALL[:3], "quantization.correction=bias")
        verb("calibrate", place / "tiny.nemo", "--calib-dir", place, "-q", *changed(changes))
        return [(place / name).read_bytes()]

    return seeds


def read_committed(content: bytes, place: Path) -> object:
    """A scale table, beside the weights that it names."""
    (place / "tiny.json").write_bytes(content)
    return committed_table(place, "tiny", {})


def read_corrected(content: bytes, place: Path) -> object:
    """Corrected weights whose hash is the one that their table names."""
    (place / "tiny.safetensors").write_bytes(content)
    table = json.loads((place / "tiny.json").read_bytes())
    table["corrected_sha256"] = hashlib.sha256(content).hexdigest()
    (place / "tiny.json").write_text(json.dumps(table), encoding="utf-8")
    return committed_table(place, "tiny", {})


def read_cache(content: bytes, place: Path) -> object:
    """TensorRT's calibration cache, beside its table and alone."""
    (place / "tiny.cache").write_bytes(content)
    committed_table(place, "tiny", {})
    return parse_cache(Source(place / "tiny.cache", UsageError, "make it again").text())


def feature_seeds(place: Path) -> list[bytes]:
    """Features for Polygraphy."""
    made = np.random.default_rng(0).standard_normal((2, 8, 20), np.float32)
    write_features(place / "features.npz", CalibrationSet((made,), (np.array([20, 12]),), "noise", 0), "0" * 64)
    return [(place / "features.npz").read_bytes()]


def read_saved_features(content: bytes, place: Path) -> object:
    """Features for Polygraphy."""
    (place / "features.npz").write_bytes(content)
    return read_features(place / "features.npz")


def zip_member(draw: random.Random, content: bytes) -> bytes:
    """A zip file in which one member is spoiled, or the file itself."""
    return one_member(draw, content, ".npy")


graph, sentencepieces = message(onnx.ModelProto), message(ModelProto)
SPEAK = ("transcribe", "0.wav", "-q")
SPEAK_FP32, SPEAK_INTEGER = (*SPEAK, "--target", "fp32"), (*SPEAK, "--target", "integer")
BUNDLES = (
    bundle_file("bundle", compiled_ctc, "bundle.json", json_tree, SPEAK, ("inspect",), ("inspect", "--roofline")),
    bundle_file("bundle", compiled_ctc, "layers.json", json_tree, ("inspect",), ("inspect", "--all")),
    bundle_file("bundle", compiled_ctc, "cpu/model.int8.onnx", graph, SPEAK),
    bundle_file("bundle", compiled_ctc, "model.fp32.onnx", graph, SPEAK_FP32, ("inspect", "--roofline")),
    bundle_file("bundle", compiled_ctc, "model.integer.onnx", graph, SPEAK_INTEGER, ("inspect", "--integer")),
    bundle_file("bundle", compiled_ctc, "tokenizer.model", sentencepieces, SPEAK),
    bundle_file("bundle", compiled_ctc, "frontend.safetensors", safetensors, SPEAK),
    bundle_file("pair", compiled_pair, "bundle.json", json_tree, SPEAK, ("inspect",)),
    bundle_file("pair", compiled_pair, "tokenizer.json", json_tree, SPEAK),
    *(bundle_file("pair", compiled_pair, f"{half}.fp32.onnx", graph, SPEAK_FP32) for half in ("encoder", "decoder")),
    *(bundle_file("pair", compiled_pair, f"cpu/{half}.int8.onnx", graph, SPEAK) for half in ("encoder", "decoder")),
    Target("scale table", calibrated("tiny.json"), read_committed, json_tree, 30),
    Target("corrected weights", calibrated("tiny.safetensors"), read_corrected, safetensors, 20),
    Target("calibration cache", calibrated("tiny.cache"), read_cache, bytes_of_any_file, 20),
    Target("polygraphy features", feature_seeds, read_saved_features, zip_member, 30),
)
