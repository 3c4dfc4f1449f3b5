from itertools import islice

import numpy as np
import pytest
import torch

from trtasr.zoo.corpus import Clip
from trtasr.zoo.network import build
from trtasr.zoo.train import WARM_UP, Speech, ctc_loss, learning_rate, optimizer_of, settle_batch_norm


@pytest.fixture
def speech():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    sounds = np.random.default_rng(0)
    clips = [Clip((0.1 * sounds.standard_normal(8000 + 800 * index)).astype(np.float32), text, "x+y")
             for index, text in enumerate(["one", "go left", "o'clock", "stop"])]  # fmt: skip
    model, frontend = build()
    return model, Speech(clips, None, frontend, 0)


def test_batches_hold_features_and_targets_of_every_clip(speech):
    _, material = speech
    batch = next(iter(islice(material.batches(), 1)))
    assert batch.features.shape[:2] == (4, 64)
    assert batch.target_lengths.sum() == len(batch.targets) == len("one" + "go left" + "o'clock" + "stop")
    assert int(batch.targets.max()) < 28


def test_one_clip_can_be_learnt(speech):
    model, material = speech
    batch = material.batch(material.clips[:2])
    optimizer = optimizer_of(model)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.01}
    losses = []
    for _ in range(8):
        loss = ctc_loss(model.train(), batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_settled_statistics_are_plain_averages(speech):
    model, material = speech
    settle_batch_norm(model, material, batches=2)
    norm = model.encoder.encoder[0].mconv[2]
    assert not model.training
    assert int(norm.num_batches_tracked) == len(material.epoch()[:2])
    assert torch.isfinite(norm.running_var).all()


def test_learning_rate_rises_then_falls_to_zero():
    assert learning_rate(0, 2e-3) < learning_rate(WARM_UP, 2e-3) == pytest.approx(2e-3)
    assert learning_rate(1.0, 2e-3) == pytest.approx(0)
