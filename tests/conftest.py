"""Fixtures for every room."""

import trtasr  # noqa: F401 - first: it sets threads and telemetry before torch and ONNX Runtime load

# isort: split
import shutil
import signal
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from compiling import Compiled, compiled_ctc, compiled_pair
from hypothesis import settings
from tiny_archive import write_archive, write_manifest

from trtasr.graph import check

# As a terminal has them: who starts the tests in the background may ignore these, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# the same examples on every machine and in every run, however busy it is
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real speech and checkpoints beside the repository; tests that want them skip where they are not."""
    if not (SHARED / "data").is_dir():
        pytest.skip("real data (../shared/data) is not on this machine")
    return SHARED


@pytest.fixture(scope="session")
def published(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a published model, unpacked once; nobody changes it."""
    place = tmp_path_factory.mktemp("published")

    @cache
    def unpacked(name: str) -> Path:
        shutil.unpack_archive(shared / "data" / "models" / f"{name}.tar.xz", place, filter="data")
        return place / name

    return unpacked


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """torch on one thread: small networks gain little from more, and on a busy machine these wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny QuartzNet, ``tiny.nemo``, and speech for it, ``manifest.json``."""
    folder = tmp_path_factory.mktemp("tiny")
    write_archive(folder / "tiny.nemo")
    write_manifest(folder)
    return folder


@pytest.fixture(scope="session")
def ctc_bundle(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """A bundle of one graph, to be read only."""
    return compiled_ctc(tmp_path_factory.mktemp("ctc"))


@pytest.fixture(scope="session")
def pair_bundle(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """A bundle of an encoder-decoder, to be read only."""
    return compiled_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def one_order_of_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime has blocked layouts for convolutions over two axes alone, and sums in another order there."""
    monkeypatch.setattr(check, "DISABLED_OPTIMIZERS", [*check.DISABLED_OPTIMIZERS, "NchwcTransformer"])
