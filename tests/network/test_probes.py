import numpy as np
import pytest
import torch
import whisper_pair
from exported import exported
from tiny_archive import write_archive

from trtasr.network.probes import CALIBRATION, MOST_TOKENS, brief, probes, transcripts
from trtasr.quant.probes import PROBES
from trtasr.recipe import Calibration
from trtasr.values import Example

FEW = Calibration(batches=1, batch_size=2, steps=2, seconds=1.0)


@pytest.fixture(scope="module")
def ctc(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ctc")
    return exported(write_archive(folder / "tiny.nemo"), folder)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return whisper_pair.exported(tmp_path_factory.mktemp("pair"))


def test_every_kind_goes_through_the_models_own_front_end(ctc):
    found = probes(ctc, FEW)
    assert list(found) == [CALIBRATION, *PROBES]
    rows, rate = ctc.network.frontend.rows, ctc.network.frontend.frames_per_second
    for kind, (_, seconds) in PROBES.items():
        assert [item.features.shape[1] for item in found[kind]] == [rows] * len(seconds)
        for item, length in zip(found[kind], seconds, strict=True):
            assert item.features.shape[2] == item.lengths[0] == pytest.approx(length * rate, abs=2)


def test_what_the_calibration_has_seen_is_not_asked_again(ctc):
    mine = ctc.original.synthetic(FEW).examples()[0]
    assert not np.array_equal(mine.features[:, :, :50], probes(ctc, FEW)[CALIBRATION][0].features[:, :, :50])


def test_a_model_that_hears_little_is_given_little(pair):
    longest = pair.network.described.most_frames
    assert all(item.features.shape[2] <= longest for items in probes(pair, FEW).values() for item in items)


def test_a_decoder_says_little_to_a_probe(pair, ctc):
    described = brief(pair.network).described
    assert described.generation.max_length <= len(described.generation.prompt) + 1 + MOST_TOKENS
    assert brief(ctc.network) is ctc.network


def test_transcripts_are_the_best_path_or_what_was_generated():
    scores = torch.nn.functional.one_hot(torch.tensor([0, 0, 2, 1, 1, 2]), 3).float().numpy()
    heard = Example(np.zeros((1, 1, 6), np.float32), np.array([6]))
    said = Example(heard.features, heard.lengths, np.array([5, 7]))
    assert transcripts([heard, said], [scores, scores]) == [[0, 1], [5, 7]]
