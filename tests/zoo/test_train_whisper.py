"""What the bundled Whisper is taught: targets, silence, and that a few clips can be learnt."""

import random
from itertools import islice

import numpy as np
import pytest
import torch

from trtasr.zoo.corpus import Clip
from trtasr.zoo.speech import SAMPLE_RATE
from trtasr.zoo.train import Speech, optimizer_of
from trtasr.zoo.train_whisper import IGNORED, SCHEDULE, SILENCE, Dictation, forced, joint_loss, noise_only
from trtasr.zoo.whisper import END, ENGLISH, NO_SPEECH, NO_TIMESTAMPS, PIECES, PROMPT, START, TRANSCRIBE, beginner

pytestmark = pytest.mark.usefixtures("one_thread")
TEXTS = ("one", "go left", "o'clock", "stop")


def clip(index, text, seconds=0.5):
    sounds = np.random.default_rng(index)
    samples = round(seconds * SAMPLE_RATE) + 800 * (index % 4)
    return Clip((0.1 * sounds.standard_normal(samples)).astype(np.float32), text, "x+y")


@pytest.fixture(scope="module")
def recognizer():
    torch.manual_seed(0)
    return beginner()


@pytest.fixture
def material(recognizer):
    """Fifty noises."""
    return Dictation([clip(index, TEXTS[index % 4]) for index in range(50)], None, recognizer, 0)


def test_every_token_of_the_text_and_its_end_is_asked_for_behind_the_one_before():
    tokens, wanted = forced([[7, 8], [], [9]])
    none = IGNORED
    assert tokens.tolist() == [
        [START, ENGLISH, TRANSCRIBE, NO_TIMESTAMPS, 7, 8],
        [START, ENGLISH, TRANSCRIBE, NO_TIMESTAMPS, END, END],
        [START, ENGLISH, TRANSCRIBE, NO_TIMESTAMPS, 9, END],
    ]
    assert wanted.tolist() == [
        [ENGLISH, none, none, 7, 8, END],
        [NO_SPEECH, none, none, END, none, none],
        [ENGLISH, none, none, 9, END, none],
    ]
    assert tokens.dtype == wanted.dtype == torch.int64


def test_only_silence_has_no_text():
    tokens, wanted = forced([[]])
    assert tokens.tolist() == [list(PROMPT)]
    assert wanted.tolist() == [[NO_SPEECH, IGNORED, IGNORED, END]]


def test_noise_has_power_one_or_is_nothing():
    rng = random.Random(0)
    powers = [float(np.mean(noise_only(4000, rng).astype(np.float64) ** 2)) for _ in range(200)]
    nothing = [power for power in powers if power == 0]
    assert 30 < len(nothing) < 70
    assert [power for power in powers if power] == pytest.approx([1.0] * (200 - len(nothing)), abs=1e-3)
    assert noise_only(100, rng).dtype == np.float32
    assert not np.array_equal(noise_only(100, random.Random(1)), noise_only(100, random.Random(2)))


def test_an_epoch_has_every_clip_and_some_silence(material):
    groups = material.epoch()
    clips = [item for group in groups for item in group]
    silent = [item for item in clips if item.voice == SILENCE]
    assert len(silent) == 2  # four in a hundred
    assert sorted(id(item) for item in clips if item.voice != SILENCE) == sorted(map(id, material.clips))
    for group in groups:
        for item in group:
            if item.voice == SILENCE:
                assert item.text == ""
                assert item.seconds == pytest.approx(group[0].seconds, abs=1e-3)
                assert not item.audio.any()


def test_silence_is_heard_as_noise_of_any_level_and_speech_as_for_ctc(material, monkeypatch):
    silent = Clip(np.zeros(1600, np.float32), "", SILENCE)
    levels = [float(np.sqrt(np.mean(material.waveform(silent) ** 2))) for _ in range(200)]
    assert 60 < sum(level == 0 for level in levels) < 100  # a fifth, and a quarter of the rest
    loud = [level for level in levels if level]
    assert min(loud) < 1e-4
    assert 0.03 < max(loud) <= 0.1001
    monkeypatch.setattr(Speech, "waveform", lambda self, item: item.audio + 1)
    np.testing.assert_array_equal(material.waveform(material.clips[0]), material.clips[0].audio + 1)


def test_a_batch_has_the_targets_of_both_losses(material, recognizer):
    clips = [clip(0, "go left"), Clip(np.zeros(8000, np.float32), "", SILENCE), clip(1, "one")]
    batch, ids = material.sequence(clips), [recognizer.encoder()(item.text) for item in clips]
    tokens, wanted = forced(ids)
    assert torch.equal(batch.tokens, tokens)
    assert torch.equal(batch.wanted, wanted)
    assert batch.target_lengths.tolist() == [len(ids[0]), 0, len(ids[2])]
    assert batch.targets.tolist() == [*ids[0], *ids[2]]
    assert int(batch.targets.max()) < PIECES
    assert batch.features.shape[:2] == (3, 80)
    assert batch.frames.shape == (3,)


def test_features_are_masked(material, monkeypatch):
    seen = []
    monkeypatch.setattr("trtasr.zoo.train_whisper.mask", lambda *given: seen.append(given[2]))
    material.sequence([clip(0, "one")])
    assert seen == [SCHEDULE.masks] == [2]


def test_the_first_epoch_begins_with_the_shortest(recognizer):
    clips = [clip(index, "one", seconds) for index, seconds in enumerate((9.0, 1.0, 5.0, 13.0, 3.0, 7.0, 11.0))]
    material = Dictation(clips, None, recognizer, 0)
    lengths = [int(batch.frames.max()) for batch in islice(material.sequences(), len(material.epoch(True)))]
    assert len(lengths) > 1
    assert lengths == sorted(lengths)


def test_a_few_clips_can_be_learnt(material):
    torch.manual_seed(0)
    network = beginner().model
    head = torch.nn.Linear(network.encoder.layer_norm.weight.numel(), PIECES + 1)
    silent = Clip(np.zeros(8000, np.float32), "", SILENCE)
    batch = material.sequence([*material.clips[:2], silent])
    both = torch.nn.ModuleList([network, head])
    optimizer = optimizer_of([parameter for parameter in both.parameters() if parameter.requires_grad])
    losses = []
    for _ in range(16):
        loss = joint_loss(network.train(), head, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.5 * losses[1]
    assert all(parameter.grad is None for parameter in both.parameters())
    features, frames = batch.features, batch.frames
    with torch.no_grad():
        start = network(features, frames, torch.tensor([[START]] * 3))[:, 0].argmax(1)
    assert start.tolist()[:2] == [ENGLISH, ENGLISH]
