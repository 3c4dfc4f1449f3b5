"""Fixtures for every room."""

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True)  # the same examples on every machine and in every run
settings.load_profile("repeatable")

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real speech and checkpoints beside the repository; tests that want them skip where they are not."""
    if not (SHARED / "data").is_dir():
        pytest.skip("real data (../shared/data) is not on this machine")
    return SHARED
