"""A reader with every fault that the fuzzer knows."""

import os
import time
from pathlib import Path

from fuzz import run
from fuzz.target import Target

from trtasr.errors import UsageError

SEEDS = [b"fine", b"refused", b"exception", b"hang", b"memory", b"outside", b"home", b"temporary", b"crash", b"print"]


def read_planted(content, place):
    """Do what the input says."""
    if content == b"refused":
        raise UsageError("no", "do it again")
    if content == b"exception":
        raise KeyError("planted")
    if content == b"hang":
        time.sleep(60)
    if content == b"memory":
        return len(b"x" * 600_000_000)
    if content == b"outside":
        Path(os.environ["OUTSIDE"]).write_text("x", encoding="utf-8")
    if content == b"home":
        (place.parent / run.HOME / "x").mkdir()
    if content == b"temporary":
        (place.parent / run.TEMPORARY / "x").write_text("x", encoding="utf-8")
    if content == b"print":
        print("x")  # noqa: T201
    if content == b"crash":
        os.abort()
    return None


PLANTED = Target("planted", lambda place: SEEDS, read_planted, lambda draw, content: b"refused")
