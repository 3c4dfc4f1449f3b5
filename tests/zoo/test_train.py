from itertools import islice

import numpy as np
import pytest
import torch

from trtasr.zoo.corpus import Clip
from trtasr.zoo.network import NETWORKS, untrained
from trtasr.zoo.train import (
    SCHEDULES,
    WARM_UP,
    Speech,
    ctc_loss,
    learning_rate,
    optimizer_of,
    parse_arguments,
    settle_batch_norm,
)

TEXTS = ("one", "go left", "o'clock", "stop")


@pytest.fixture(params=NETWORKS)
def trained(request):
    """An untrained network and four noises to train it on."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    sounds = np.random.default_rng(0)
    clips = [
        Clip((0.1 * sounds.standard_normal(8000 + 800 * index)).astype(np.float32), text, "x+y")
        for index, text in enumerate(TEXTS)
    ]
    recognizer = untrained(request.param)
    return recognizer, Speech(clips, None, recognizer, 0)


def test_batches_hold_features_and_targets_of_every_clip(trained):
    recognizer, material = trained
    encode = recognizer.encoder()
    batch = next(iter(islice(material.batches(), 1)))
    assert batch.features.shape[:2] == (4, recognizer.frontend.config.features)
    assert sorted(batch.target_lengths.tolist()) == sorted(len(encode(text)) for text in TEXTS)
    assert batch.target_lengths.sum() == len(batch.targets)
    assert int(batch.targets.max()) < len(recognizer.tokens.vocabulary)


def test_a_few_clips_can_be_learnt(trained):
    recognizer, material = trained
    batch = material.batch(material.clips[:2])
    optimizer = optimizer_of(list(recognizer.model.parameters()))
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.01}
    losses = []
    for _ in range(8):
        loss = ctc_loss(recognizer.model.train(), batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_settled_statistics_are_plain_averages(trained):
    recognizer, material = trained
    settle_batch_norm(recognizer.model, material, batches=2)
    assert not recognizer.model.training
    norms = [module for module in recognizer.model.modules() if isinstance(module, torch.nn.BatchNorm1d)]
    assert norms
    for norm in norms:
        assert int(norm.num_batches_tracked) == len(material.epoch()[:2])
        assert torch.isfinite(norm.running_var).all()


def test_learning_rate_rises_then_falls_to_zero():
    assert learning_rate(0, 2e-3) < learning_rate(WARM_UP, 2e-3) == pytest.approx(2e-3)
    assert learning_rate(1.0, 2e-3) == pytest.approx(0)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_its_schedule(name, monkeypatch):
    command = ["train", "--network", name, "--out", "x.nemo"]
    monkeypatch.setattr("sys.argv", command)
    assert (parse_arguments().minutes, parse_arguments().peak) == (SCHEDULES[name].minutes, SCHEDULES[name].peak)
    monkeypatch.setattr("sys.argv", [*command, "--minutes", "3"])
    assert (parse_arguments().minutes, parse_arguments().peak) == (3, SCHEDULES[name].peak)
