"""Two tiny networks, of one graph and of two, exported once; a T4 host made of fakes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import whisper_pair
from exported import Tiny, exported
from t4_host import t4_host
from tiny_archive import write_archive

from trtasr.pipeline.features import calibration_features
from trtasr.recipe import Calibration, Quantization, Recipe


@pytest.fixture(scope="session")
def ctc(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A QuartzNet on synthesized features."""
    folder = tmp_path_factory.mktemp("ctc")
    graphs = exported(write_archive(folder / "tiny.nemo"), folder)
    recipe = Recipe("tiny", "tiny", calibration=Calibration(batches=2, batch_size=4, seconds=1.2, steps=3))
    return Tiny(graphs, calibration_features("synthetic", recipe, graphs), Quantization(correction="none"))


@pytest.fixture(scope="session")
def attention(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A Whisper on noise, with tokens."""
    return Tiny(
        whisper_pair.exported(tmp_path_factory.mktemp("attention")),
        whisper_pair.tiny_features(),
        Quantization(correction="none", exclude=(whisper_pair.CONVOLUTIONS,)),
    )


@pytest.fixture(params=["ctc", "attention"])
def tiny(request: pytest.FixtureRequest) -> Tiny:
    """Each of them in turn."""
    found: Tiny = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Its folder."""
    with t4_host(tmp_path_factory.mktemp("host")) as folder:
        yield folder
