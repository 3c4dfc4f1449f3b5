"""Faults while compiling: whatever ends a run, the old bundle or the new one is there, whole, and nothing else.

    python tests/chaos/chaos.py [--rounds 40] [--seed 0]

A tiny network is compiled over and over by children that are forked after the imports. Their end comes at seeded random
moments of the measured duration. Prints a table; exit 1 when any check failed. Linux.
"""

import argparse
import ctypes
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from running import FAST, NOTE, Place, Row, Run, check_bundle, check_strays, compiling, judge, seal_of, strays
from stored_table import read_table
from tiny_archive import write_archive

from trtasr.engine.cache import cache_text
from trtasr.files.workspace import sweep

NEW_NAMESPACES = 0x00020000 | 0x10000000  # mounts and users, of unshare(2)


def signalled(row: Row, place: Place, number: int, moments: list[float]) -> None:
    """One run per moment, each ended by a signal."""
    for index, moment in enumerate(moments):
        before, seed = seal_of(place.out), 1000 * number + index
        run = Run(compiling(place, seed), place.temporary)
        time.sleep(max(0.0, run.started + moment - time.monotonic()))
        with suppress(ProcessLookupError):
            os.kill(run.pid, number)
        judge(row, place, before, seed, run.end(), {0, -9 if number == signal.SIGKILL else 130})


def calibrations(row: Row, place: Place, parts: list[float]) -> None:
    """`calibrate`, killed: the next run finds the old table or the new one, and its cache is of the same table."""
    folder = place.around / "calib"
    words = ["calibrate", str(place.model), "--calib-dir", str(folder), "-q", *FAST[:4]]
    run = Run(words, place.temporary)
    run.end()
    whole = time.monotonic() - run.started
    table = next(folder.glob("*.json"))
    for index, moment in enumerate(part * whole for part in parts):
        before = table.read_bytes()
        run = Run([*words, "--set", f"calibration.seed={index + 1}"], place.temporary)
        time.sleep(max(0.0, run.started + moment - time.monotonic()))
        with suppress(ProcessLookupError):
            os.kill(run.pid, signal.SIGKILL)
        code, _ = run.end()
        sweep(folder)
        row.rounds += 1
        row.codes[code] += 1
        row.old, row.new = row.old + (table.read_bytes() == before), row.new + (table.read_bytes() != before)
        if table.with_suffix(".cache").read_text(encoding="utf-8") != cache_text(read_table(table)):
            row.wrong.append("the cache is of another table")
        biases = table.with_suffix(".safetensors").read_bytes()
        if json.loads(table.read_bytes())["corrected_sha256"] != hashlib.sha256(biases).hexdigest():
            row.wrong.append("the corrected biases are of another table")
        if len(list(folder.iterdir())) != 3:
            row.wrong.append(f"left: {sorted(folder.iterdir())}")
        check_strays(row, place, killed=True)


@contextmanager
def mounted(folder: Path, kilobytes: int) -> Iterator[None]:
    """A small disk at `folder`, in the private namespace of this process."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k,mode=700", "none", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def private_mounts() -> bool:
    """Give this process mounts of its own; False where the system does not allow that."""
    libc = ctypes.CDLL(None, use_errno=True)
    flags = NEW_NAMESPACES if os.geteuid() else NEW_NAMESPACES & 0x00020000
    if libc.unshare(flags) != 0:
        return False
    return subprocess.run(["mount", "--make-rprivate", "/"], check=False, capture_output=True).returncode == 0


def apart(rows: list[Row], task: Callable[[], None]) -> None:
    """Run a task in a child with mounts of its own, and take over what it found."""
    with tempfile.TemporaryFile("w+") as answer:
        pid = os.fork()
        if pid == 0:
            try:
                if private_mounts():
                    task()
                else:
                    for row in rows:
                        row.skipped = "no private mounts here"
                json.dump([vars(row) for row in rows], answer)
                answer.flush()
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        answer.seek(0)
        for row, found in zip(rows, json.loads(answer.read() or "[]"), strict=True):
            vars(row).update(found | {"codes": Counter({int(key): n for key, n in found["codes"].items()})})


def full_disks(rows: list[Row], place: Place, sizes: list[int]) -> None:
    """Output, then temporary files, on disks too small for them; then an output that cannot be written at all."""
    on_output, on_temporary, read_only = rows
    disk = place.around.parent / "disk"
    disk.mkdir()
    for index, size in enumerate(sizes):
        with mounted(disk, size + 600):  # the old bundle fits
            shutil.copytree(place.out, disk / "out")
            small = Place(place.temporary, disk, place.model)
            before = seal_of(small.out)
            judge(on_output, small, before, index + 1, Run(compiling(small, index + 1), place.temporary).end(), {0, 4})
        with mounted(disk, size):
            small, before = Place(disk, place.around, place.model), seal_of(place.out)
            judge(on_temporary, small, before, index + 9001, Run(compiling(small, index + 9001), disk).end(), {0, 4})
    with mounted(disk, 4000):
        shutil.copytree(place.out, disk / "out")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        small = Place(place.temporary, disk, place.model)
        judge(read_only, small, seal_of(small.out), 7, Run(compiling(small, 7), place.temporary).end(), {4})


def limited(row: Row, place: Place, sizes: list[int]) -> None:
    """A limit on the size of files (`ulimit -f`)."""
    for index, size in enumerate(sizes):
        before, seed = seal_of(place.out), index + 5000
        limit = (size * 1024, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
        prepare = partial(resource.setrlimit, resource.RLIMIT_FSIZE, limit)
        run = Run(compiling(place, seed), place.temporary, prepare)
        judge(row, place, before, seed, run.end(), {0, 4})


def closed_outputs(row: Row, place: Place) -> None:
    """A standard output that is closed, full, or read by nobody: the work is done all the same."""

    def full() -> None:
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)

    def unread() -> None:
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, 1)

    for index, prepare in enumerate([lambda: os.close(1), full, unread]):
        before, seed = seal_of(place.out), index + 6000
        run = Run(compiling(place, seed), place.temporary, prepare)
        judge(row, place, before, seed, run.end(), {0, 4})
        if seal_of(place.out) == before:
            row.wrong.append("the bundle is not there, though only the output was closed")


def at_once(row: Row, place: Place, offsets: list[float], kill: bool) -> None:
    """Two compiles into one bundle: one of the two, whole; with `kill`, the first is killed meanwhile."""
    for index, offset in enumerate(offsets):
        before, seeds = seal_of(place.out), [20000 + 2 * index, 20001 + 2 * index]
        first = Run(compiling(place, seeds[0]), place.temporary)
        time.sleep(offset)
        second = Run(compiling(place, seeds[1]), place.temporary)
        if kill:
            time.sleep(offset)
            with suppress(ProcessLookupError):
                os.kill(first.pid, signal.SIGKILL)
        ends = [first.end(), second.end()]
        row.rounds += 1
        for code, text in ends:
            row.codes[code] += 1
            if code not in ({0, -9} if kill else {0}) or "Traceback" in text:
                row.wrong.append(f"exit code {code}: {text[-300:]}")
        found = check_bundle(row, place.out, before, seeds)
        row.old, row.new = row.old + (found == "old"), row.new + (found == "new")
        if found == "old":
            row.wrong.append("the second run ended well, and the old bundle is there")
        check_strays(row, place, killed=kill)


def fresh_process(row: Row, place: Place) -> None:
    """A run of its own, imports included: the next run, which clears what killed ones left; torch leaves nothing."""
    before = seal_of(place.out)
    environment = {**os.environ, "TMPDIR": str(place.temporary)}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
    for folder in (place.temporary, place.around):  # as a killed run leaves it
        task = (
            f"import os, sys; from pathlib import Path; from trtasr.files.workspace import claimed; "
            f"claimed(Path({str(folder)!r})); os.kill(os.getpid(), 9)"
        )
        subprocess.run([sys.executable, "-c", task], check=False)
    left = len(strays(place))
    command = [sys.executable, "-c", "import sys; from trtasr.cli import main; sys.exit(main())"]
    done = subprocess.run(
        [*command, *compiling(place, 8000)], env=environment, check=False, capture_output=True, text=True
    )
    judge(row, place, before, 8000, (done.returncode, done.stderr), {0})
    if left != 2:
        row.wrong.append(f"{left} folders were to be cleared, not 2")


def duration(place: Place) -> float:
    """Seconds that an undisturbed run takes; leaves a bundle with a note in it."""
    taken = []
    for seed in (1, 2, 3):
        run = Run(compiling(place, seed), place.temporary)
        code, text = run.end()
        assert code == 0, text
        taken.append(time.monotonic() - run.started)
    (place.out / "notes.txt").write_text(NOTE, encoding="utf-8")
    return sorted(taken)[1]


def chaos(folder: Path, rounds: int, seed: int) -> list[Row]:
    """Every kind of fault, ``rounds`` times where its moment is random."""
    import torch._dynamo  # noqa: F401, PLC0415 - once, not in every child

    import trtasr.cli.verbs  # noqa: F401, PLC0415

    place = Place(folder / "tmp", folder / "around", write_archive(folder / "tiny.nemo"))
    place.temporary.mkdir()
    place.around.mkdir()
    whole, chance = duration(place), random.Random(seed)
    sys.stderr.write(f"an undisturbed run takes {whole:.2f} s\n")
    few = max(2, rounds // 4)
    sizes = [int(8 * 50 ** chance.random()) for _ in range(few)]  # kB

    def moments(count: int, part: float = 1.1) -> list[float]:
        return [chance.uniform(0, part) * whole for _ in range(count)]

    rows = []

    def series(name: str, task: Callable[[Row], None]) -> None:
        rows.append(Row(name))
        task(rows[-1])
        sys.stderr.write(f"{name}: {rows[-1].rounds} rounds\n")

    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        count = few if number == signal.SIGHUP else rounds
        series(number.name, lambda row, it=number, n=count: signalled(row, place, it, moments(n)))
    parts = [chance.uniform(0, 1.1) for _ in range(rounds)]
    series("SIGKILL of calibrate", lambda row: calibrations(row, place, parts))
    series("two at once", lambda row: at_once(row, place, moments(few), kill=False))
    series("two at once, one killed", lambda row: at_once(row, place, moments(few, 0.5), kill=True))
    series("ulimit -f", lambda row: limited(row, place, sizes))
    series("stdout closed, full, unread", lambda row: closed_outputs(row, place))
    disks = [Row("disk full: output"), Row("disk full: temporary"), Row("read-only output")]
    apart(disks, lambda: full_disks(disks, place, sizes))
    rows += disks
    series("next run, fresh process", lambda row: fresh_process(row, place))
    return rows


def table(rows: list[Row]) -> str:
    """A line per fault, then what was wrong."""
    lines = [f"{'fault':30s} {'rounds':>6s} {'old':>4s} {'new':>4s} {'wrong':>5s}  exit codes"]
    for row in rows:
        codes = ", ".join(f"{code}: {count}" for code, count in sorted(row.codes.items()))
        counts = f"{row.rounds:6d} {row.old:4d} {row.new:4d} {len(row.wrong):5d}"
        lines.append(f"{row.name:30s} {counts}  {row.skipped or codes}")
    return "\n".join([*lines, *(f"{row.name}: {wrong}" for row in rows for wrong in row.wrong)])


def run() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(folder) / "torch")
        rows = chaos(Path(folder), arguments.rounds, arguments.seed)
    sys.stdout.write(f"{table(rows)}\n{time.monotonic() - started:.0f} s\n")
    return 1 if any(row.wrong for row in rows) else 0


if __name__ == "__main__":
    sys.exit(run())
