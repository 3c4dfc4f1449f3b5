"""The fake tensorrt and CUDA driver (tests/fakes) in the place of real ones, in this process."""

import importlib
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

FAKES = Path(__file__).parent / "fakes"
NAMES = ("tensorrt", "pycuda", "pycuda.driver")


@contextmanager
def fake_gpu():
    """Patches that last as long as the block, the fake tensorrt, and the fake driver; real ones are back afterwards."""
    kept = {name: sys.modules.pop(name) for name in NAMES if name in sys.modules}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FAKES))
        yield patch, importlib.import_module("tensorrt"), importlib.import_module("pycuda.driver")
    for name in NAMES:
        sys.modules.pop(name, None)
    sys.modules.update(kept)
