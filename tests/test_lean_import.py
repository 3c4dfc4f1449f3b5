"""Importing the package, or its command line, must not load the heavy libraries."""

import importlib.util
import subprocess
import sys

import pytest

HEAVY = ("torch", "onnxruntime", "tensorrt", "tensorrt_rtx", "pycuda", "polygraphy")


@pytest.mark.parametrize("module", ["trtasr", "trtasr.cli", "trtasr.errors", "trtasr.values"])
def test_import_is_lean(module):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} does not exist")
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
