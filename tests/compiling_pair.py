"""Compiles of a tiny Whisper folder through the command line, for the tests of the pipeline and of the verbs."""

import contextlib
import io
import json

from tiny_archive import write_manifest
from whisper_folder import write_folder

from trtasr.cli import main

# What random weights say has any WER.
CHANGES = [
    "calibration.batches=1",
    "calibration.batch_size=2",
    "calibration.seconds=1.5",
    "evaluation.bench_seconds=[0.5]",
    "evaluation.max_wer_increase=100000",
]
CHEAP = ["-q", *(part for change in CHANGES for part in ("--set", change))]
HALVES = ("encoder", "decoder")


def run(*command):
    """Exit code and what is printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = main(list(map(str, command)))
    return code, printed.getvalue()


def compiling(folder, out, *flags):
    return run("compile", folder / "tiny", "-o", out, *CHEAP, *flags)


def speech_folder(path):
    """A tiny Whisper that hears two seconds, and two utterances."""
    write_folder(path / "tiny")
    write_manifest(path, 2)
    return path


def compiled_bundle(folder):
    """The folder compiled with its speech; what is printed lies in ``printed``."""
    code, printed = compiling(folder, folder / "out", "--manifest", folder / "manifest.json")
    assert code == 0
    (folder / "printed").write_text(printed, encoding="utf-8")
    return folder / "out"


def read(bundle, name):
    return json.loads((bundle / name).read_text(encoding="utf-8"))
