"""The probe for a builder, in a process of its own: over the stand-in for TensorRT, and over modules that break."""

from pathlib import Path

import pytest

from trtasr.engine import builder_probe
from trtasr.engine.builder_probe import require_builder
from trtasr.errors import MissingError

FAKES = Path(__file__).parents[1] / "fakes"


@pytest.fixture(autouse=True)
def fresh():
    """No answer of an earlier test, and none for a later one."""
    require_builder.cache_clear()
    yield
    require_builder.cache_clear()


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module `tensorrt` that the probe imports."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return (tmp_path / "tensorrt.py").write_text


def refusal():
    with pytest.raises(MissingError) as caught:
        require_builder()
    assert caught.value.exit_code == 4
    assert "pip install tensorrt-cu12==10.16.1.11" in caught.value.repair
    return caught.value.problem


def test_a_machine_with_a_builder_is_asked_once(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(FAKES))
    require_builder()
    monkeypatch.setattr(builder_probe, "subprocess", None)
    require_builder()


def test_null_in_place_of_a_builder_is_told_in_tensorrts_words(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(FAKES))
    monkeypatch.setenv("FAKE_TRT_NO_BUILDER", "1")
    told = refusal()
    assert "CUDA initialization failure with error: 35" in told
    assert "TensorRT 10.16.1.11 gives no builder here (pybind11::init(): factory function returned nullptr)" in told


def test_a_library_that_cannot_be_loaded_is_told(module):
    module("raise OSError('libnvinfer.so.10: cannot open shared object file')")
    assert "libnvinfer.so.10: cannot open shared object file" in refusal()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended with status -11: no message"),
        ("raise RuntimeError('a bug')", "ended with status 1: RuntimeError: a bug"),
    ],
)
def test_a_crash_is_told_with_its_status(module, code, words):
    module(code)
    assert words in refusal()


def test_a_probe_that_hangs_is_given_up(module, monkeypatch):
    module("import time; time.sleep(60)")
    monkeypatch.setattr(builder_probe, "SECONDS", 1)
    assert "within 1 s" in refusal()
