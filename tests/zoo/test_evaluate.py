import numpy as np
import pytest
import torch

from trtasr.zoo.corpus import Clip
from trtasr.zoo.evaluate import pad_batch, transcribe
from trtasr.zoo.network import NETWORKS, untrained


def test_pad_batch_keeps_lengths():
    audio, lengths = pad_batch([np.ones(3, np.float32), np.ones(5, np.float32)])
    assert lengths.tolist() == [3, 5]
    assert audio.sum(1).tolist() == [3, 5]


@pytest.mark.parametrize("name", NETWORKS)
def test_batching_never_changes_a_transcript(name):
    torch.manual_seed(0)
    recognizer = untrained(name)
    rng = np.random.default_rng(0)
    clips = [Clip(rng.standard_normal(n).astype(np.float32) * 0.1, "x", "y") for n in (4000, 16000, 9000)]
    alone = transcribe(recognizer, clips, batch=1)
    assert transcribe(recognizer, clips, batch=3) == alone
    assert any(alone)
