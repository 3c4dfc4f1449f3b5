"""A few rounds of every fault; `make chaos` runs them all."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_few_faults_of_every_kind_leave_the_old_bundle_or_the_new_one() -> None:
    script = Path(__file__).with_name("chaos.py")
    done = subprocess.run([sys.executable, str(script), "--rounds", "2"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
