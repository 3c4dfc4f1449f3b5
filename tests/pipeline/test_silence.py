"""Silence and noise without speech give an empty transcript, in every precision of the bundled Whisper."""

from pathlib import Path

import numpy as np
import pytest
import torch
from placed_pair import placed_pair
from trtasr.pipeline.compile_pair import exported_pair

from trtasr.audio.frontend import frontend
from trtasr.audio.prepare import features_of
from trtasr.checkpoint.read import read_checkpoint
from trtasr.models.load import build_model
from trtasr.network.pair_run import texts_of
from trtasr.pipeline.evaluate import decoder, running
from trtasr.pipeline.lock import read_table
from trtasr.targets import CPU, T4_RTX

ROOT = Path(__file__).parents[2]
LEVELS = (0.0, 1e-4, 1e-2)  # of white noise: none, barely audible, loud
SECONDS = (0.5, 3.0, 12.0)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Encoder graphs by precision, with their decoders beside them."""
    folder = tmp_path_factory.mktemp("silence")
    checkpoint = read_checkpoint(ROOT / "trtasr" / "zoo" / "whisper")
    table = read_table(ROOT / "calib" / "whisper.json")
    graphs = exported_pair(build_model(checkpoint.family, checkpoint.config, checkpoint.weights), checkpoint, folder)
    paths = {target.name: placed_pair(graphs, table, target, folder / target.name) for target in (T4_RTX, CPU)}
    return checkpoint, {"fp32": graphs.encoder, **paths}


@pytest.mark.parametrize("kind", ["fp32", T4_RTX.name, CPU.name])
def test_nothing_is_heard_where_nothing_is_said(built, kind):
    checkpoint, paths = built
    texts, front = texts_of(checkpoint), frontend(checkpoint.frontend)
    noise = np.random.default_rng(0)
    with running(paths[kind], texts) as run:
        for level in LEVELS:
            for seconds in SECONDS:
                samples = (level * noise.standard_normal(round(16000 * seconds))).astype(np.float32)
                features, frames = features_of(samples, front)
                found = run(features[None], np.array([frames], np.int64))
                assert decoder(texts)(*found) == [""], (level, seconds)


def test_speech_is_heard(built):
    checkpoint, paths = built
    import soundfile  # noqa: PLC0415

    samples, _ = soundfile.read(ROOT / "trtasr" / "zoo" / "eval" / "000.ogg", dtype="float32")
    features, frames = frontend(checkpoint.frontend)(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
    with running(paths["fp32"], texts_of(checkpoint)) as run:
        heard = decoder(texts_of(checkpoint))(*run(features.numpy(), frames.numpy()))
    assert heard[0]
