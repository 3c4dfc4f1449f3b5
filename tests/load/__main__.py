"""``make load``: seconds of one compile alone, of several at once, and of another version of the package in turn.

    python -m load MODEL [--at-once 3] [--before CHECKOUT --pairs 2] [-- FLAGS OF COMPILE]

Ends with 1 when the slowest of several at once takes longer than `LIMIT` times one alone, or when one alone is slower
than the other version beyond the scatter of pairs. Run it on a quiet machine: it measures by the clock.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENTRY = "import sys; from trtasr.cli import main; sys.exit(main())"
LIMIT = 4.0  # several at once against one alone
NOISE = 1.1  # after against before, median of pairs
SAMPLE = 0.05  # seconds between two looks at a process
OURS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # what the package sets itself


@dataclass
class Run:
    """One compile that is under way.

    Attributes:
        process: of it; started: by the clock, s.
        seconds: it took, once it has ended; threads: at most seen in it at one time.
    """

    process: "subprocess.Popen[bytes]"
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    threads: int = 0

    def look(self) -> bool:
        """Whether it has ended; notes its threads and its time."""
        if self.seconds:
            return True
        self.threads = max(self.threads, threads_of(self.process.pid))
        if self.process.poll() is not None:
            self.seconds = time.monotonic() - self.started
        return bool(self.seconds)


def threads_of(pid: int) -> int:
    """Threads of a process; 0 when it is gone."""
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return 0


def compiles(model: Path, count: int, flags: Sequence[str], package: Path = ROOT, cpus: int = 0) -> list[Run]:
    """Compile a model several times at once, without a committed table, and wait for all.

    Args:
        model: archive or folder.
        count: of compiles at once.
        flags: of ``compile``.
        package: checkout whose package is used.
        cpus: that they may use; 0: all.

    Raises:
        SystemExit: one ended with another code than 0 or 3 (a missed gate took as long).
    """
    with tempfile.TemporaryDirectory() as folder:
        runs = [Run(start(model, Path(folder) / str(index), flags, package, cpus)) for index in range(count)]
        waiting = list(runs)
        while waiting:
            time.sleep(SAMPLE)
            waiting = [run for run in waiting if not run.look()]
        for index, run in enumerate(runs):
            if run.process.returncode not in (0, 3):
                sys.exit((Path(folder) / f"{index}.log").read_text(encoding="utf-8", errors="replace")[-2000:])
    return runs


def start(model: Path, out: Path, flags: Sequence[str], package: Path, cpus: int) -> "subprocess.Popen[bytes]":
    """Start one compile in a process of its own."""
    variables = {name: value for name, value in os.environ.items() if name not in OURS}
    limit = f"import os; os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:{cpus}]); " if cpus else ""
    command = [
        sys.executable,
        "-c",
        limit + ENTRY,
        "compile",
        str(model),
        "-o",
        str(out),
        "--recalibrate",
        "--calib-dir",
        str(out.with_suffix(".calib")),
        *flags,
    ]
    with out.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(
            command,
            env={**variables, "PYTHONPATH": str(package)},
            stdout=log,
            stderr=log,
            cwd=package,
        )


def main() -> int:
    """Measure, print, judge."""
    top = argparse.ArgumentParser(prog="load", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    top.add_argument("model", type=Path)
    top.add_argument("--at-once", type=int, default=3)
    top.add_argument("--before", type=Path, help="checkout of another version, timed in turn")
    top.add_argument("--pairs", type=int, default=2)
    words = [*sys.argv[1:], "--"]
    cut = words.index("--")
    given, flags = top.parse_args(words[:cut]), words[cut + 1 : -1]
    model, failed = given.model.resolve(), False
    alone = [compiles(model, 1, flags)[0].seconds]
    print(f"alone: {alone[0]:.1f} s", flush=True)
    if given.before:
        ratios = []
        for _ in range(given.pairs):
            before = compiles(model, 1, flags, given.before.resolve())[0].seconds
            alone.append(compiles(model, 1, flags)[0].seconds)
            ratios.append(alone[-1] / before)
            print(f"before {before:.1f} s, after {alone[-1]:.1f} s: {ratios[-1]:.2f} x", flush=True)
        failed |= statistics.median(ratios) > NOISE
    together = [run.seconds for run in compiles(model, given.at_once, flags)]
    ratio = max(together) / statistics.median(alone)
    print(
        f"{given.at_once} at once: {', '.join(f'{one:.1f}' for one in together)} s: {ratio:.2f} x one alone", flush=True
    )
    failed |= ratio > LIMIT
    (one,) = compiles(model, 1, flags, cpus=1)
    print(f"on one CPU: {one.seconds:.1f} s, at most {one.threads} threads in the process")
    print("FAILED" if failed else "PASSED")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
