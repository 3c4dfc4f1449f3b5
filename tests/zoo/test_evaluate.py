import numpy as np
import torch

from trtasr.zoo.corpus import Clip
from trtasr.zoo.evaluate import decode, pad_batch, transcribe
from trtasr.zoo.network import BLANK, LABELS, build


def one_hot(classes: list[int]) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(classes), BLANK + 1).float()


def test_decode_merges_repeats_and_drops_blanks():
    letters = [LABELS.index(letter) for letter in "threee"]
    letters.insert(4, BLANK)
    assert decode(one_hot(letters), len(letters)) == "three"
    assert decode(one_hot([BLANK, 0, 1, 1, 0, BLANK]), 6) == "a"
    assert decode(one_hot([1, 2, 3]), 2) == "ab"


def test_pad_batch_keeps_lengths():
    audio, lengths = pad_batch([np.ones(3, np.float32), np.ones(5, np.float32)])
    assert lengths.tolist() == [3, 5]
    assert audio.sum(1).tolist() == [3, 5]


def test_batching_never_changes_a_transcript():
    torch.manual_seed(0)
    model, frontend = build()
    rng = np.random.default_rng(0)
    clips = [Clip(rng.standard_normal(n).astype(np.float32) * 0.1, "x", "y") for n in (4000, 16000, 9000)]
    assert transcribe(model, frontend, clips, batch=3) == transcribe(model, frontend, clips, batch=1)
