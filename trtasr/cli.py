"""Command line: verbs, flags and exit codes; nothing else.

Exit codes: 0 ok, 1 unexpected (traceback), 2 wrong usage, recipe or input, 3 quality gate missed, 4 environment,
5 engine build failed, 130 interrupted. Results go to stdout, logs and progress bars to stderr.
"""

import argparse
import json
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from trtasr import __version__
from trtasr.errors import TrtasrError

INTERRUPTED = 130
EPILOG = """exit codes: 0 ok, 1 unexpected, 2 wrong usage or input, 3 quality gate missed, 4 environment,
5 engine build failed, 130 interrupted"""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, run one verb, return the exit code."""
    arguments = parser().parse_args(argv)
    level = logging.DEBUG if arguments.verbose else logging.WARNING if arguments.quiet else logging.INFO
    logging.basicConfig(level=level, stream=sys.stderr, format="[%(levelname).1s] %(message)s")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stopped container cleans up like Ctrl-C
    try:
        from trtasr.commands import VERBS  # noqa: PLC0415 - torch and onnxruntime load here, not for --help

        summary = VERBS[arguments.verb](arguments)
        print(json.dumps(summary.data, indent=2, ensure_ascii=False) if arguments.json else summary.text)
        return summary.exit_code
    except TrtasrError as error:
        print(f"error: {error}", file=sys.stderr)
        print(f"FAILED | exit {error.exit_code} | {type(error).__name__}")
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return INTERRUPTED


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="trtasr", epilog=EPILOG, description="A TensorRT deployment compiler for speech recognition.")  # fmt: skip
    top.add_argument("--version", action="version", version=f"trtasr {__version__}")
    verbs = top.add_subparsers(required=True, metavar="VERB")
    add_compile(verb(verbs, "compile", "checkpoint or recipe -> measured INT8 engine"))
    add_calibrate(verb(verbs, "calibrate", "make the committed scale table of a recipe anew"))
    add_bench(verb(verbs, "bench", "measure latency and WER of a bundle"))
    add_compare(verb(verbs, "compare", "compare FP32 and INT8 through Polygraphy"))
    add_inspect(verb(verbs, "inspect", "print the layer table of a bundle's engines"))
    add_transcribe(verb(verbs, "transcribe", "transcribe audio files with a bundle"))
    add_ablation(verb(verbs, "ablation", "compare corrections of quantization error over seeds and weight widths"))
    add_acceptance(verb(verbs, "acceptance", "on a T4 host: build, measure and compare every variant, write one file"))
    verb(verbs, "doctor", "say what this machine can build and run")
    return top


def verb(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str) -> argparse.ArgumentParser:
    """One subcommand with the flags all of them share."""
    sub = verbs.add_parser(name, help=text, description=text, epilog=EPILOG)
    sub.set_defaults(verb=name)
    sub.add_argument("--json", action="store_true", help="print the result as JSON")
    loud = sub.add_mutually_exclusive_group()
    loud.add_argument("-v", "--verbose", action="store_true", help="more log lines")
    loud.add_argument("-q", "--quiet", action="store_true", help="warnings and results only")
    return sub


def add_model(sub: argparse.ArgumentParser) -> None:
    """Flags that choose and change a recipe."""
    sub.add_argument("model", help="bundled name (engines/NAME.toml), recipe.toml, .nemo file or Hugging Face folder")
    sub.add_argument("--set", dest="assignments", action="append", default=[], metavar="SECTION.KEY=VALUE",
                     help="override one recipe value; may be repeated")  # fmt: skip
    sub.add_argument("--manifest", help="speech to measure WER on: NeMo JSON lines or a LibriSpeech folder")
    sub.add_argument("--correction", help="of weights for earlier layers' errors: none (default), bias, qep or fade")
    sub.add_argument("--calib-dir", type=Path, default=Path("calib"), help="folder of committed scale tables")


def add_compile(sub: argparse.ArgumentParser) -> None:
    """Flags of ``compile``."""
    add_model(sub)
    sub.add_argument("-o", "--out", type=Path, help="bundle folder (default: engines/NAME)")
    sub.add_argument("--target", help="auto, t4, t4-rtx or cpu (default: the recipe's)")
    sub.add_argument("--compute-capability", metavar="X.Y", help="GPU of a t4-rtx plan: 7.5 (default), 8.6, 8.9, 12.0")
    sub.add_argument("--quantize-depthwise", action="store_true", help="depthwise convolutions in INT8 too")
    sub.add_argument("--quantization", help="of target t4: explicit (default), or implicit (TensorRT 10 only)")
    sub.add_argument("--allow-slower", action="store_true", help="accept INT8 that is no faster than FP16 on the GPU")
    sub.add_argument("--min-sqnr", type=float, metavar="DB",
                     help="leave the worst layers in FP16 until the output reaches this SQNR; no audio")  # fmt: skip
    sub.add_argument("--max-wer-drop", type=float, metavar="POINTS",
                     help="leave the worst layers in FP16 until WER rises by at most this")  # fmt: skip
    sub.add_argument("--controls", action="store_true", help="also calibrate by noise and by real audio")
    sub.add_argument("--recalibrate", action="store_true", help="ignore the committed scale table")
    sub.add_argument("--dry-run", action="store_true", help="print the resolved recipe and the stages only")
    for which in ("min", "opt", "max"):
        sub.add_argument(f"--{which}Shapes", dest=f"{which}_shapes", metavar="features:BxMELxT",
                         help=f"trtexec's spelling of the {which} shape")  # fmt: skip
    sub.add_argument("--saveEngine", type=Path, metavar="FILE", dest="save_engine", help="copy the plan here as well")
    sub.add_argument("--timingCacheFile", metavar="FILE", dest="timing_cache",
                     help="TensorRT's timings (default: one file per GPU and version in ~/.cache/trtasr)")  # fmt: skip
    sub.add_argument("--exportProfile", type=Path, metavar="FILE", dest="export_profile",
                     help="write the layer times of a t4 engine in trtexec's form")  # fmt: skip
    sub.add_argument("--exportLayerInfo", type=Path, metavar="FILE", dest="export_layers",
                     help="write the layer table in trtexec's form")  # fmt: skip


def add_calibrate(sub: argparse.ArgumentParser) -> None:
    """Flags of ``calibrate``."""
    add_model(sub)


def add_ablation(sub: argparse.ArgumentParser) -> None:
    """Flags of ``ablation``."""
    add_model(sub)
    sub.add_argument("--seeds", type=int, default=5, help="seeds of synthetic features (default 5)")
    sub.add_argument("--bits", type=int, action="append", help="weight bits; may be repeated (default 8, 6 and 4)")
    sub.add_argument("--only", action="append", metavar="NAME",
                     help="one setting, for instance fade or 'qep 0.5'; may be repeated")  # fmt: skip


def add_acceptance(sub: argparse.ArgumentParser) -> None:
    """Flags of ``acceptance``."""
    add_model(sub)
    sub.add_argument("-o", "--out", type=Path, default=Path("t4-acceptance"), help="folder of bundles and findings")


def add_bench(sub: argparse.ArgumentParser) -> None:
    """Flags of ``bench``."""
    sub.add_argument("bundle", type=Path, help="folder made by compile")
    sub.add_argument("--manifest", type=Path, help="speech to measure WER on (default: the recipe's)")
    sub.add_argument("--threads", type=int, help="CPU threads (default: the recipe's; 0: all usable CPUs)")
    sub.add_argument("--seconds", type=float, action="append", help="seconds of audio per utterance; may be repeated")
    sub.add_argument("--batch", type=int, action="append", help="utterances per run on a GPU; may be repeated")
    sub.add_argument("--allow-slower", action="store_true", help="accept INT8 that is no faster than FP16 on the GPU")


def add_compare(sub: argparse.ArgumentParser) -> None:
    """Flags of ``compare``."""
    sub.add_argument("bundle", type=Path, help="folder made by compile")
    sub.add_argument("--target", help="engine to compare with FP32 (default: cpu)")
    sub.add_argument("--manifest", type=Path, help="speech to compare on (default: the recipe's)")
    sub.add_argument("--layers", action="store_true", help="SQNR of every layer's output instead")
    sub.add_argument("--integer", action="store_true",
                     help="FP32, Q/DQ and integer-only side by side instead (CTC models)")  # fmt: skip
    sub.add_argument("--all", action="store_true", help="with --integer: every layer")
    sub.add_argument("--utterances", type=int, help="how many (default 8; with --integer all)")
    sub.add_argument("-o", "--out", type=Path, default=Path("comparison"), help="folder for Polygraphy's files")


def add_inspect(sub: argparse.ArgumentParser) -> None:
    """Flags of ``inspect``."""
    sub.add_argument("bundle", type=Path, help="folder made by compile")
    sub.add_argument("--target", help="one engine only")
    sub.add_argument("--all", action="store_true", help="pointwise and shape layers too")
    sub.add_argument("--integer", action="store_true",
                     help="prove the integer-only graph: no float tensor, no overflow (CTC models)")  # fmt: skip
    sub.add_argument("--roofline", action="store_true", help="estimate where time would go on a Tesla T4 instead")
    sub.add_argument("--batch", type=int, default=1, help="utterances per run of the estimate (default 1)")
    sub.add_argument("--seconds", type=float, default=7.0, help="seconds of audio per utterance (default 7)")


def add_transcribe(sub: argparse.ArgumentParser) -> None:
    """Flags of ``transcribe``."""
    sub.add_argument("bundle", type=Path, help="folder made by compile")
    sub.add_argument("audio", type=Path, nargs="+", help="wav, flac or ogg files")
    sub.add_argument("--target", help="engine to run (default: cpu)")

