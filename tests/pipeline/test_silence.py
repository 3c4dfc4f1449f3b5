"""Silence and noise without speech give an empty transcript, in every precision of the bundled Whisper."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from exported import exported, placed
from stored_table import read_table

from trtasr.audio.frontend import frontend
from trtasr.audio.prepare import features_of
from trtasr.recipe import EngineShapes
from trtasr.targets import CPU, T4_RTX, targets_of

ROOT = Path(__file__).parents[2]
LEVELS = (0.0, 1e-4, 1e-2)  # of white noise: none, barely audible, loud
SECONDS = (0.5, 3.0, 12.0)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The network, and its graphs by precision."""
    folder = tmp_path_factory.mktemp("silence")
    table = read_table(ROOT / "calib" / "whisper.json")
    graphs = exported(ROOT / "trtasr" / "zoo" / "whisper", folder)
    files = {target.name: placed(graphs, table, target, folder / target.name) for target in targets_of(EngineShapes())}
    return graphs.network, {"fp32": graphs.files, **files}


def heard(recognizer, samples, front):
    """Transcript of float32 samples."""
    features, frames = features_of(samples, front)
    return recognizer.decode(*recognizer.run(features[None], np.array([frames], np.int64)))[0]


@pytest.mark.parametrize("kind", ["fp32", T4_RTX.name, CPU.name])
def test_nothing_is_heard_where_nothing_is_said(built, kind):
    network, files = built
    noise, front = np.random.default_rng(0), frontend(network.frontend)
    with network.open(files[kind]) as recognizer:
        for level in LEVELS:
            for seconds in SECONDS:
                samples = (level * noise.standard_normal(round(16000 * seconds))).astype(np.float32)
                assert heard(recognizer, samples, front) == "", (level, seconds)


def test_speech_is_heard(built):
    network, files = built
    samples, _ = soundfile.read(ROOT / "trtasr" / "zoo" / "eval" / "000.ogg", dtype="float32")
    with network.open(files["fp32"]) as recognizer:
        assert heard(recognizer, samples, frontend(network.frontend))
