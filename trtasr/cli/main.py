"""One run of the command line: the exit code, and what is said when a verb fails.

Exit codes: 0 ok, 1 unexpected (traceback), 2 wrong usage, recipe or input, 3 quality gate missed, 4 environment,
5 engine build failed, 130 interrupted (SIGINT, SIGTERM, SIGHUP). Results go to stdout; logs, errors and bars to stderr.
"""

import logging
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tqdm import tqdm

from trtasr.cli.flags import parser
from trtasr.cli.streams import Log, put, standard_streams, tell
from trtasr.errors import DiskError, TrtasrError
from trtasr.files.disk import disk_faults
from trtasr.files.signals import interrupt_on_signals
from trtasr.files.write import landed
from trtasr.recipe.find import find_bundle
from trtasr.text.printable import json_text, printable

INTERRUPTED, UNEXPECTED = 130, 1
ALARM, RED, PLAIN = "INT8 IS SLOWER", "\033[31m", "\033[0m"


@dataclass(frozen=True)
class Failure:
    """A failure for machines.

    Attributes:
        name: of its class; problem: what is wrong; repair: what the user can do; exit_code: of the process.
    """

    name: str
    problem: str
    repair: str
    exit_code: int


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, run one verb, return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    with standard_streams():
        try:
            return run(words)
        except TrtasrError as error:
            return failed(error, words)
        except KeyboardInterrupt:
            return interrupted(words)
        except Exception as error:
            put_failure(words, Failure(type(error).__name__, str(error), "report it: this is a bug", UNEXPECTED))
            raise


def run(words: Sequence[str]) -> int:
    """One verb, and its result on stdout.

    Raises:
        TrtasrError: as the verb has it. KeyboardInterrupt: stopped by SIGINT, SIGTERM or SIGHUP.
    """
    arguments = parser().parse_args(words)
    prepare(arguments)
    from trtasr.cli.verbs import VERBS  # noqa: PLC0415 - torch and onnxruntime load here, not for --help

    if "bundle" in arguments:
        arguments.bundle = find_bundle(arguments.bundle)
    with disk_faults():
        summary = VERBS[arguments.verb](arguments)
        if arguments.json:
            put(as_json(summary.data))
            return summary.exit_code
        for text in [summary.text] if isinstance(summary.text, str) else summary.text:
            if not put(in_colour(printable(text))):
                break  # nobody reads any more
        return summary.exit_code


def prepare(arguments: Namespace) -> None:
    """Logging, and signals."""
    level = logging.DEBUG if arguments.verbose else logging.WARNING if arguments.quiet else logging.INFO
    logging.basicConfig(level=level, handlers=[Log(level)])
    logging.captureWarnings(True)  # what libraries warn their callers of is no news for users
    logging.getLogger("py.warnings").setLevel(logging.DEBUG if arguments.verbose else logging.ERROR)
    tqdm.monitor_interval = 0  # no thread that watches bars which are updated all the time
    interrupt_on_signals()
    landed.clear()


def failed(error: TrtasrError, words: Sequence[str]) -> int:
    """Say what is wrong and how to repair it."""
    name = type(error).__name__
    tell(f"error: {error}")
    tell(f"FAILED | exit {error.exit_code} | {name}")
    put_failure(words, Failure(name, error.problem, error.repair, error.exit_code))
    return error.exit_code


def interrupted(words: Sequence[str]) -> int:
    """Say what a stopped verb leaves."""
    done = f"written before: {', '.join(map(str, landed))}" if landed else "nothing was written"
    tell(f"interrupted: {done}")
    put_failure(words, Failure("KeyboardInterrupt", f"interrupted: {done}", "run it again", INTERRUPTED))
    return INTERRUPTED


def put_failure(words: Sequence[str], failure: Failure) -> None:
    """With ``--json``, a failure is JSON on stdout beside the words on stderr."""
    if "--json" not in words:
        return
    told = asdict(failure)
    try:
        put(as_json({"error": {"class": told.pop("name"), **told}}))
    except DiskError as error:  # the exit code stays that of the failure
        tell(f"error: {error}")


def as_json(data: object) -> str:
    """A result for machines, in characters that stdout can write."""
    return json_text(data, (sys.stdout.encoding or "utf-8").lower().replace("-", "") != "utf8")


def in_colour(text: str) -> str:
    """Alarming lines in red, where a terminal reads them."""
    if not sys.stdout.isatty():
        return text
    return "\n".join(f"{RED}{line}{PLAIN}" if line.endswith(ALARM) else line for line in text.split("\n"))
