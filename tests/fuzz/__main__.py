"""``make fuzz``: ``python -m fuzz [--inputs N] [--only NAME ...]``; ``--show NAME NUMBER`` prints one input."""

import argparse
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fuzz.readers import TARGETS
from fuzz.run import Tally, fuzz, input_of, work
from fuzz.target import Target

BY_NAME = {target.name: target for target in TARGETS}


def main() -> int:
    """Fuzz, print a table, and end with 1 when anything was found."""
    top = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    top.add_argument("--inputs", type=int, default=100_000, help="in all, shared out among the readers")
    top.add_argument("--only", nargs="+", choices=sorted(BY_NAME), help="these readers alone")
    top.add_argument("--jobs", type=int, default=2, help="readers at a time")
    top.add_argument("--first", type=int, default=0, help="number of the first input of each reader")
    top.add_argument("--show", nargs=2, metavar=("NAME", "NUMBER"), help="write one input to standard output")
    top.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    given = top.parse_args()
    if given.worker:
        name, first, count, folder = given.worker
        work(BY_NAME[name], int(first), int(count), Path(folder))
        return 0
    if given.show:
        show(BY_NAME[given.show[0]], int(given.show[1]))
        return 0
    return run([BY_NAME[name] for name in given.only or BY_NAME], given)


def show(target: Target, number: int) -> None:
    """Write one input to standard output."""
    with tempfile.TemporaryDirectory() as folder:
        sys.stdout.buffer.write(input_of(target, target.seeds(Path(folder)), number))


def run(targets: list[Target], given: argparse.Namespace) -> int:
    """Fuzz several readers, some at a time."""
    whole = sum(target.share for target in targets)
    started, findings, inputs = time.monotonic(), 0, 0
    with tempfile.TemporaryDirectory(prefix="trtasr-fuzz-") as scratch, ThreadPoolExecutor(given.jobs) as pool:
        waiting = {}
        for target in targets:
            count = -(-given.inputs * target.share // whole)
            inputs += count
            waiting[target.name] = pool.submit(fuzz, target, count, Path(scratch) / target.name, given.first)
        print(f"{'reader':18s} {'read':>7s} {'refused':>8s} {'peak MB':>8s}  found")
        for name, future in waiting.items():
            tally: Tally = future.result()
            findings += len(tally.findings)
            print(
                f"{name:18s} {tally.accepted:7d} {tally.refused:8d} {tally.peak_kb / 1000:8.0f}  {len(tally.findings)}",
                flush=True,
            )
            for what, number in sorted(tally.findings.items()):
                print(f"    input {number}: {what}")
    outcome = "FAILED" if findings else "PASSED"
    print(f"{outcome} | {time.monotonic() - started:.0f} s | inputs={inputs} | found={findings}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
