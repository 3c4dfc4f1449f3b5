"""The flags of every verb."""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from trtasr import __version__
from trtasr.errors import UsageError

EPILOG = """exit codes: 0 ok, 1 unexpected, 2 wrong usage or input, 3 quality gate missed, 4 environment,
5 engine build failed, 130 interrupted (Ctrl-C, SIGTERM, SIGHUP). Only open bundles you trust: a TensorRT plan
is code; the hashes of a bundle prove that it is whole, not who made it."""
LONGEST_PATH, LONGEST_PART = 4096, 255  # bytes, as Linux has it
LEAVE_OUT = "leave it out"
TRTEXEC: Mapping[str, tuple[str, str]] = {
    "--int8": ("every engine of trtasr is INT8", LEAVE_OUT),
    "--fp16": ("what is not INT8 in a GPU engine is FP16", LEAVE_OUT),
    "--bf16": ("GPU engines are INT8 and FP16; a T4 has no bfloat16", LEAVE_OUT),
    "--fp8": ("GPU engines are INT8 and FP16; a T4 has no FP8", LEAVE_OUT),
    "--best": ("engines are INT8, and FP16 where the T4 has no INT8 kernel", LEAVE_OUT),
    "--stronglyTyped": ("explicit engines always are", LEAVE_OUT),
    "--onnx": ("trtasr exports the network itself", "give the checkpoint: a .nemo archive or a Hugging Face folder"),
    "--calib": (
        "trtasr makes its own calibration cache and leaves it in the bundle as calibration.cache",
        "leave it out; --calib-dir names the folder of committed scale tables",
    ),
    "--workspace": ("the builder's memory is a value of the recipe", "use --set engine.workspace_mb=MIB"),
    "--memPoolSize": ("the builder's memory is a value of the recipe", "use --set engine.workspace_mb=MIB"),
    "--shapes": ("an engine has a smallest, a usual and a largest shape", "use --minShapes, --optShapes, --maxShapes"),
    "--loadEngine": ("engines are run from their bundle", "use trtasr bench BUNDLE"),
}


class Parser(argparse.ArgumentParser):
    """Raises instead of leaving the process, so that every failure is told in one way."""

    def error(self, message: str) -> NoReturn:
        """Refuse the command line.

        Raises:
            UsageError: always.
        """
        raise UsageError(message, f"see {self.prog} --help")


class OfTrtexec(argparse.Action):
    """A flag that trtexec has and trtasr does not need: says what takes its place."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> NoReturn:
        """Refuse the flag.

        Raises:
            UsageError: always.
        """
        del parser, namespace, values
        reason, repair = TRTEXEC[self.option_strings[0]]
        raise UsageError(f"{option_string}: {reason}", repair)


def path(text: str) -> Path:
    """A path that the system takes; `name` says what it does not."""
    return Path(name(text))


def name(text: str) -> str:
    """A name that a file can have.

    Raises:
        argparse.ArgumentTypeError: empty, with NUL, or too long.
    """
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r:.80} is no path")
    long = max(map(len, os.fsencode(text).split(b"/"))) > LONGEST_PART
    if long or len(os.fsencode(text)) >= LONGEST_PATH:
        raise argparse.ArgumentTypeError(f"{text[:40]!r}... is longer than a path can be")
    return text


def manifests(text: str) -> list[str]:
    """Paths of manifests: commas separate them, unless the text as it stands names something.

    Raises:
        argparse.ArgumentTypeError: one that is no path.
    """
    return [text] if os.path.lexists(text) else list(map(name, text.split(",")))


def add_manifests(sub: argparse.ArgumentParser, text: str) -> None:
    """The flag that names speech."""
    sub.add_argument("--manifest", type=manifests, action="extend", metavar="FILE[,FILE...]", help=text)


def parser() -> Parser:
    """The whole command line."""
    top = Parser(prog="trtasr", epilog=EPILOG, description="A TensorRT deployment compiler for speech recognition.")
    top.add_argument("--version", action="version", version=f"trtasr {__version__}")
    verbs = top.add_subparsers(required=True, metavar="VERB")
    add_compile(verb(verbs, "compile", "checkpoint or recipe -> measured INT8 engine"))
    add_model(verb(verbs, "calibrate", "make the committed scale table of a recipe anew"))
    add_bench(verb(verbs, "bench", "measure latency and WER of a bundle"))
    add_compare(verb(verbs, "compare", "compare FP32 and INT8 through Polygraphy"))
    add_inspect(verb(verbs, "inspect", "print the layer table of a bundle's engines"))
    add_transcribe(verb(verbs, "transcribe", "transcribe audio files with a bundle"))
    add_ablation(verb(verbs, "ablation", "compare corrections of quantization error over seeds and weight widths"))
    add_acceptance(verb(verbs, "acceptance", "on a T4 host: build, measure and compare every variant, write one file"))
    verb(verbs, "doctor", "say what this machine can build and run")
    return top


def verb(verbs: "argparse._SubParsersAction[Parser]", word: str, text: str) -> argparse.ArgumentParser:
    """One subcommand with the flags all of them share."""
    sub = verbs.add_parser(word, help=text, description=text, epilog=EPILOG)
    sub.set_defaults(verb=word)
    sub.add_argument("--json", action="store_true", help="print the result as JSON")
    loud = sub.add_mutually_exclusive_group()
    loud.add_argument("-v", "--verbose", action="store_true", help="more log lines")
    loud.add_argument("-q", "--quiet", action="store_true", help="warnings and results only")
    return sub


def add_model(sub: argparse.ArgumentParser) -> None:
    """Flags that choose and change a recipe."""
    sub.add_argument(
        "model", type=name, help="bundled name (engines/NAME.toml), recipe.toml, .nemo file, Hugging Face folder"
    )
    sub.add_argument(
        "--set",
        dest="assignments",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override one recipe value; may be repeated",
    )
    add_manifests(sub, "speech to measure WER on: NeMo JSON lines or LibriSpeech folders; may be repeated")
    sub.add_argument("--correction", help="of quantization errors: none, bias (default), qep or fade")
    sub.add_argument("--calib-dir", type=path, help="folder of committed scale tables (default: calib)")
    for flag in TRTEXEC:
        sub.add_argument(flag, action=OfTrtexec, nargs="?", help=argparse.SUPPRESS)


def add_compile(sub: argparse.ArgumentParser) -> None:
    """Flags of ``compile``."""
    add_model(sub)
    sub.add_argument("-o", "--out", type=path, help="bundle folder (default: engines/NAME)")
    sub.add_argument("--target", help="auto, t4, t4-rtx or cpu (default: the recipe's)")
    sub.add_argument("--compute-capability", metavar="X.Y", help="GPU of a t4-rtx plan: 7.5 (default), 8.6, 8.9, 12.0")
    sub.add_argument("--quantize-depthwise", action="store_true", help="depthwise convolutions in INT8 too")
    sub.add_argument("--quantization", help="of target t4: explicit (default), or implicit (TensorRT 10 only)")
    sub.add_argument("--allow-slower", action="store_true", help="accept INT8 that is no faster than FP16 on the GPU")
    sub.add_argument(
        "--min-sqnr",
        type=float,
        metavar="DB",
        help="leave the worst layers in FP16 until the output reaches this SQNR; no audio",
    )
    sub.add_argument(
        "--max-wer-drop",
        type=float,
        metavar="POINTS",
        help="leave the worst layers in FP16 until WER rises by at most this",
    )
    sub.add_argument("--controls", action="store_true", help="also calibrate by noise and by real audio")
    sub.add_argument("--recalibrate", action="store_true", help="ignore the committed scale table")
    sub.add_argument("--dry-run", action="store_true", help="print the resolved recipe and the stages only")
    add_trtexec(sub)


def add_trtexec(sub: argparse.ArgumentParser) -> None:
    """Flags of ``compile`` in trtexec's spelling."""
    for which in ("min", "opt", "max"):
        sub.add_argument(
            f"--{which}Shapes",
            dest=f"{which}_shapes",
            metavar="features:BxMELxT",
            help=f"trtexec's spelling of the {which} shape",
        )
    sub.add_argument("--saveEngine", type=path, metavar="FILE", dest="save_engine", help="copy the plan here as well")
    sub.add_argument(
        "--timingCacheFile",
        type=name,
        metavar="FILE",
        dest="timing_cache",
        help="TensorRT's timings (default: one file per GPU and version in ~/.cache/trtasr)",
    )
    sub.add_argument(
        "--exportProfile",
        type=path,
        metavar="FILE",
        dest="export_profile",
        help="write the layer times of a t4 engine in trtexec's form",
    )
    sub.add_argument(
        "--exportLayerInfo",
        type=path,
        metavar="FILE",
        dest="export_layers",
        help="write the layer table in trtexec's form",
    )


def add_ablation(sub: argparse.ArgumentParser) -> None:
    """Flags of ``ablation``."""
    add_model(sub)
    sub.add_argument("--seeds", type=int, default=5, help="seeds of synthetic features (default 5)")
    sub.add_argument("--bits", type=int, action="append", help="weight bits; may be repeated (default 8, 6 and 4)")
    sub.add_argument(
        "--groups",
        type=int,
        action="append",
        metavar="N",
        help="input columns per weight scale, 0: one scale per output channel; may be repeated (default: the recipe's)",
    )
    sub.add_argument(
        "--only", action="append", metavar="NAME", help="one setting, for instance fade or 'qep 0.5'; may be repeated"
    )
    sub.add_argument(
        "-o", "--out", type=path, help="JSON of all figures, written after every line (default: NAME.ablation.json)"
    )
    sub.add_argument("--resume", action="store_true", help="take the lines that the file has, and go on")


def add_acceptance(sub: argparse.ArgumentParser) -> None:
    """Flags of ``acceptance``."""
    add_model(sub)
    sub.add_argument(
        "-o", "--out", type=path, help="folder of plans, graphs and findings (default: engines/t4-acceptance)"
    )
    sub.add_argument("--pack", action="store_true", help="run nothing: pack what was found into one archive to send")
    sub.add_argument("--everything", action="store_true", help="with --pack: plans, graphs, scales and transcripts too")


def add_bench(sub: argparse.ArgumentParser) -> None:
    """Flags of ``bench``."""
    sub.add_argument("bundle", type=path, help="folder made by compile, or the model it was made from")
    add_manifests(sub, "speech to measure WER on (default: the recipe's); may be repeated")
    sub.add_argument("--threads", type=int, help="CPU threads (default: the recipe's; 0: all usable CPUs)")
    sub.add_argument("--seconds", type=float, action="append", help="seconds of audio per utterance; may be repeated")
    sub.add_argument("--batch", type=int, action="append", help="utterances per run on a GPU; may be repeated")
    sub.add_argument("--allow-slower", action="store_true", help="accept INT8 that is no faster than FP16 on the GPU")


def add_compare(sub: argparse.ArgumentParser) -> None:
    """Flags of ``compare``."""
    sub.add_argument("bundle", type=path, help="folder made by compile, or the model it was made from")
    sub.add_argument("--target", help="engine to compare with FP32 (default: cpu)")
    add_manifests(sub, "speech to compare on (default: the recipe's); may be repeated")
    sub.add_argument("--layers", action="store_true", help="SQNR of every layer's output instead")
    sub.add_argument(
        "--integer", action="store_true", help="FP32, Q/DQ and integer-only side by side instead (CTC models)"
    )
    sub.add_argument("--all", action="store_true", help="with --integer: every layer")
    sub.add_argument("--utterances", type=int, help="how many (default 8; with --integer all)")
    sub.add_argument("-o", "--out", type=path, default=Path("comparison"), help="folder for Polygraphy's files")


def add_inspect(sub: argparse.ArgumentParser) -> None:
    """Flags of ``inspect``."""
    sub.add_argument("bundle", type=path, help="folder made by compile, or the model it was made from")
    sub.add_argument("--target", help="one engine only")
    sub.add_argument("--all", action="store_true", help="pointwise and shape layers too")
    sub.add_argument(
        "--integer", action="store_true", help="prove the integer-only graph: no float tensor, no overflow (CTC models)"
    )
    sub.add_argument("--roofline", action="store_true", help="estimate where time would go on a Tesla T4 instead")
    sub.add_argument("--batch", type=int, default=1, help="utterances per run of the estimate (default 1)")
    sub.add_argument("--seconds", type=float, default=7.0, help="seconds of audio per utterance (default 7)")


def add_transcribe(sub: argparse.ArgumentParser) -> None:
    """Flags of ``transcribe``."""
    sub.add_argument("bundle", type=path, help="folder made by compile, or the model it was made from")
    sub.add_argument("audio", type=path, nargs="+", help="audio files, folders of them, or - for standard input")
    sub.add_argument("--channel", type=int, metavar="N", help="the channel to hear, from 0 (default: the mean of all)")
    sub.add_argument("--target", help="engine to run (default: cpu)")
