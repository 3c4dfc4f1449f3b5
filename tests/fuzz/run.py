"""Runs mutated inputs through readers, each reader in a process that is watched from outside.

An input may be read or refused with one of the product's own errors. Anything else is a finding: another exception, a
crash, more than 20 s, more than 2 GB, a file written outside the folder that the input lies in, or something on
standard output.
"""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fuzz.target import Target

if TYPE_CHECKING:
    from trtasr.errors import TrtasrError

SECONDS, PREPARATION, MEMORY_KB, ADDRESS_SPACE = 20.0, 300.0, 2_000_000, 24 * 2**30
WATCH = 0.25
INPUT, BEAT, FOUND = "input.bin", "beat", "found.jsonl"  # in a worker's folder
OURS = ("TORCHINDUCTOR_CACHE_DIR",)  # what a process that runs torch hands to its children: no choice of a user's
PLACE, HOME, TEMPORARY = "place", "home", "tmpdir"  # folders in it
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
HERE = Path(__file__).resolve().parent


@dataclass
class Tally:
    """What one target gave.

    Attributes:
        accepted: inputs that were read; refused: by the product's own errors.
        findings: place or reason -> number of an input that shows it.
        peak_kb: of the process, resident.
    """

    accepted: int = 0
    refused: int = 0
    findings: dict[str, int] = field(default_factory=dict)
    peak_kb: int = 0


def input_of(target: Target, seeds: list[bytes], number: int) -> bytes:
    """Input of a number: the same on every machine. Input 0 to len(seeds) - 1 are the seeds themselves."""
    if number < len(seeds):
        return seeds[number]
    draw = random.Random(f"{target.name} {number}")
    try:
        return target.mutate(draw, draw.choice(seeds))
    except RecursionError:  # nested more deeply than it can be written
        return b"[" * 5000


def work(target: Target, first: int, count: int, folder: Path) -> None:
    """Read inputs ``first`` to ``first + count - 1`` and write down what happens to each (in a child process)."""
    from trtasr.errors import TrtasrError  # noqa: PLC0415 - only in the child

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    place = folder / PLACE
    shutil.rmtree(place, ignore_errors=True)  # of the child before
    for name in (PLACE, HOME, TEMPORARY):
        (folder / name).mkdir(exist_ok=True)
    seeds = target.seeds(place)
    left(folder)
    printed()
    outside = watched_writes(folder)
    with (folder / FOUND).open("a", encoding="utf-8") as found:

        def note(number: int, what: str) -> None:
            found.write(json.dumps([number, what]) + "\n")
            found.flush()

        note(-1, "ready")
        for number in range(first, first + count):
            content = input_of(target, seeds, number)
            (folder / INPUT).write_bytes(content)
            (folder / BEAT).write_text(str(number))
            try:
                target.read(content, place)
                note(number, "accepted")
            except TrtasrError as error:
                note(number, refusal(error, unspoiled=number < len(seeds)))
            except (Exception, SystemExit) as error:
                note(number, place_of(error))
            for name in (*outside, *left(folder)):
                note(number, f"wrote {name}")
            outside.clear()
            if text := printed():
                note(number, f"printed {text}")
            if peak_kb() > MEMORY_KB:
                note(number, f"more than {MEMORY_KB / 1e6:g} GB")
                break  # the peak never falls: go on in another process
        note(-1, f"peak {peak_kb()}")


def refusal(error: "TrtasrError", *, unspoiled: bool) -> str:
    """What an error of the product is: a valid input that is refused shows that its reader tests nothing."""
    if unspoiled:
        return f"a valid input is refused: {' '.join(str(error).split())[:200]}"
    return "refused" if error.repair and error.exit_code != 1 else f"no repair: {error!s:.200}"


def peak_kb() -> int:
    """Largest resident size of this process so far, kB; `getrusage` would count what its parent had when it forked."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))


def watched_writes(folder: Path) -> list[str]:
    """A list that grows by every file opened for writing, made, moved or removed where no reader has anything to do.

    Fine are the folder of the inputs and that for temporary files; the home is not.
    """
    seen: list[str] = []
    fine = tuple(f"{name}{os.sep}" for name in (folder / PLACE, folder / TEMPORARY, "/dev", "/proc"))
    own = [str(folder / name) for name in (INPUT, BEAT, FOUND)]

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            writes = isinstance(arguments[2], int) and arguments[2] & WRITES
            written = arguments[:1] if writes else ()
        elif event in CHANGES:
            written = arguments[:2]
        else:
            return
        for argument in written:
            if isinstance(argument, str | bytes | os.PathLike):
                name = os.path.abspath(os.fsdecode(argument))  # noqa: PTH100 - a link counts where it lies
                if not f"{name}{os.sep}".startswith(fine) and name not in own and "__pycache__" not in name:
                    seen.append(name)

    sys.addaudithook(hook)
    return seen


def left(folder: Path) -> list[str]:
    """Removes what a reader left among the temporary files or in the home, and names it: libraries can leave it too."""
    found = [*(folder / HOME).iterdir(), *(folder / TEMPORARY).iterdir()]
    for path in found:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return [str(path.relative_to(folder)) for path in found]


def printed() -> str:
    """What came on standard output, a file here, since this was last asked: no reader and no library prints there."""
    sys.stdout.flush()
    size = os.lseek(1, 0, os.SEEK_END)
    found = os.pread(1, 200, 0) if size else b""
    os.ftruncate(1, 0)
    os.lseek(1, 0, os.SEEK_SET)
    return " ".join(found.decode(errors="replace").split())


def place_of(error: BaseException) -> str:
    """An exception by its class and the last line of ours that it came through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/trtasr/" in frame.filename]
    last = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    return f"{type(error).__name__} at {last}: {' '.join(str(error).split())[:100]}"


def fuzz(target: Target, count: int, folder: Path, first: int = 0) -> Tally:
    """Read ``count`` inputs of a target in child processes; a child that hangs, dies or grows is replaced."""
    tally, number = Tally(), first
    while number < first + count:
        number = watch(target, number, first + count - number, folder, tally)
    return tally


def watch(target: Target, first: int, count: int, folder: Path, tally: Tally) -> int:
    """Run one child until it ends or must be ended; returns the number of the next input."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (BEAT, FOUND):
        (folder / name).unlink(missing_ok=True)
    with (folder / "stdout.txt").open("w+b") as stdout, (folder / "stderr.txt").open("wb") as stderr:
        child = start(target, first, count, folder, (stdout.fileno(), stderr.fileno()))
        beat, since = "", time.monotonic()
        while child.poll() is None:
            time.sleep(WATCH)
            now = read(folder / BEAT)
            if now != beat:
                beat, since = now, time.monotonic()
            elif time.monotonic() - since > (SECONDS if beat else PREPARATION):
                child.kill()
                child.wait()
                tally.findings.setdefault(f"hang of over {SECONDS:g} s", int(beat or first))
    last, ready = gather(folder / FOUND, tally)
    if not ready:
        raise RuntimeError(f"{target.name}: {read(folder / 'stderr.txt')[-2000:]}")
    began = int(read(folder / BEAT) or first)
    if child.returncode and began > last and child.returncode != -signal.SIGKILL:
        reason = " ".join(read(folder / "stderr.txt").split())[-100:]
        tally.findings.setdefault(f"the process ended with {child.returncode}: {reason}", began)
    return max(last, began) + 1


def start(target: Target, first: int, count: int, folder: Path, streams: tuple[int, int]) -> "subprocess.Popen[bytes]":
    """A child that works on some inputs, with an empty home and a temporary folder of its own.

    Args:
        target: what it reads; first: number of its first input; count: of inputs.
        folder: of its own.
        streams: descriptors of files for its standard output and error.
    """
    variables = {name: value for name, value in os.environ.items() if name not in OURS}
    for variable, name in (("HOME", HOME), ("TMPDIR", TEMPORARY)):
        (folder / name).mkdir(exist_ok=True)
        variables[variable] = str(folder / name)
    variables["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), str(HERE.parents[1]), variables.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "fuzz", "--worker", target.name, str(first), str(count), str(folder)]
    return subprocess.Popen(command, cwd=folder, env=variables, stdout=streams[0], stderr=streams[1])


def gather(file: Path, tally: Tally) -> tuple[int, bool]:
    """Add a child's notes to a tally; returns its last input (-1: none), and whether it began at all."""
    last, ready = -1, False
    for number, what in notes(file):
        last = max(last, number)
        ready = ready or what == "ready"
        if what == "accepted":
            tally.accepted += 1
        elif what == "refused":
            tally.refused += 1
        elif what.startswith("peak "):
            tally.peak_kb = max(tally.peak_kb, int(what.split()[1]))
        elif what != "ready":
            tally.findings.setdefault(what, number)
    return last, ready


def notes(file: Path) -> Iterator[tuple[int, str]]:
    """The lines that a child completed."""
    for line in read(file).split("\n")[:-1]:
        number, what = json.loads(line)
        yield number, what


def read(file: Path) -> str:
    """Text of a file; empty where there is none yet."""
    return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
