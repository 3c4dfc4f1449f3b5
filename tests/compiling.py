"""Compiles of tiny checkpoints through the command line, for the tests of the pipeline and of the verbs."""

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_archive import config, state, write_manifest, write_members
from whisper_folder import write_folder

from trtasr.audio.features import FrontendConfig, mel_bank
from trtasr.cli import main

# What random weights say has any WER.
CHANGES = [
    "calibration.batches=1",
    "calibration.batch_size=2",
    "calibration.steps=3",
    "calibration.seconds=1.5",
    "evaluation.bench_seconds=[0.5]",
    "evaluation.max_wer_increase=100000",
]
QUICK = ["--seconds", "0.3"]  # of `bench`
CHEAP = ["-q", *(part for change in CHANGES for part in ("--set", change))]


@dataclass(frozen=True)
class Compiled:
    """A checkpoint and its bundle.

    Attributes:
        checkpoint: its folder has speech too, ``manifest.json``.
        bundle: compiled for ``t4-rtx`` and ``cpu``, with that speech.
        printed: what the compile printed.
        parts: names of its graphs.
        flags: of the compile, beside those that all have.
    """

    checkpoint: Path
    bundle: Path
    printed: str
    parts: tuple[str, ...]
    flags: tuple[str, ...] = ()

    @property
    def manifest(self) -> Path:
        """Speech."""
        return self.checkpoint.parent / "manifest.json"


def refused(capsys: pytest.CaptureFixture[str], *command: object) -> str:
    """What a command says that ends with 2."""
    assert main([str(part) for part in command]) == 2
    return capsys.readouterr().err


def results(capsys: pytest.CaptureFixture[str], *command: object) -> list[dict[str, object]]:
    """The rows of a `bench`."""
    assert main(["bench", *map(str, command), "--json", *QUICK]) == 0
    return list(json.loads(capsys.readouterr().out))


def run(*command: object) -> tuple[int, str]:
    """Exit code and what is printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = main(list(map(str, command)))
    return code, printed.getvalue()


def compiling(checkpoint: Path, out: Path, *flags: object) -> tuple[int, str]:
    """The same of a compile that takes little time."""
    return run("compile", checkpoint, "-o", out, *CHEAP, *flags)


def compiled_ctc(folder: Path) -> Compiled:
    """A QuartzNet with a mel bank of its own; all layers that can be INT8 are, and scales of the CPU are static."""
    weights = state() | {"preprocessor.featurizer.fb": torch.from_numpy(mel_bank(FrontendConfig(highfreq=7000)))[None]}
    return compiled(
        write_members(folder / "tiny.nemo", config(), weights), ("model",), "--set", "quantization.fidelity=fast"
    )


def compiled_pair(folder: Path) -> Compiled:
    """A Whisper that hears two seconds."""
    return compiled(write_folder(folder / "tiny"), ("encoder", "decoder"))


def compiled(checkpoint: Path, parts: tuple[str, ...], *flags: str) -> Compiled:
    """A checkpoint compiled with two utterances."""
    out = checkpoint.parent / "out"
    code, printed = compiling(checkpoint, out, "--manifest", write_manifest(checkpoint.parent, 2), *flags)
    assert code == 0
    return Compiled(checkpoint, out, printed, parts, flags)


def read(bundle: Path, name: str) -> Any:
    """A JSON file of a bundle."""
    return json.loads((bundle / name).read_text(encoding="utf-8"))
