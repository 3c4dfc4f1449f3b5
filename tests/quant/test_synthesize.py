from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from trtasr.errors import CheckpointError
from trtasr.quant.synthesize import SynthesisSettings, gaussian_kl, matching_loss, synthesize

SMALL = SynthesisSettings(batches=2, batch_size=2, frames=48, steps=25, bfloat16=False)


class TwoNorms(nn.Module):
    """Two convolutions with batch norm whose stored statistics come from known data."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(
            nn.Conv1d(8, 16, 3, padding=1, bias=False),
            nn.BatchNorm1d(16, eps=1e-3),
            nn.ReLU(),
            nn.Conv1d(16, 12, 5, padding=2, bias=False),
            nn.BatchNorm1d(12, eps=1e-3),
        )
        self.train()
        for _ in range(60):
            self.layers(torch.randn(16, 8, 64) * 1.5 + 0.4)
        self.eval().requires_grad_(False)

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return self.layers(features)


def norms(model: nn.Module) -> list[nn.BatchNorm1d]:
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm1d)]


def test_divergence_is_zero_for_equal_gaussians_and_positive_otherwise() -> None:
    mean, std = torch.randn(32), torch.rand(32) + 0.1
    assert gaussian_kl(mean, std, mean, std).abs().max() < 1e-6
    assert (gaussian_kl(mean, std, mean + 0.5, std * 1.7) > 0).all()


def test_divergence_matches_torch_distributions() -> None:
    torch.manual_seed(0)
    mu, s, m, t = torch.randn(9), torch.rand(9) + 0.1, torch.randn(9), torch.rand(9) + 0.1
    expected = torch.distributions.kl_divergence(torch.distributions.Normal(mu, s), torch.distributions.Normal(m, t))
    assert torch.allclose(gaussian_kl(mu, s, m, t), expected, atol=1e-5)


def test_synthetic_features_match_the_stored_statistics_better_than_noise() -> None:
    model = TwoNorms()
    lengths = torch.full((2,), 48)
    made = synthesize(model, 8, SMALL)
    noise = torch.rand(2, 8, 48) * 0.6 - 0.3
    before = matching_loss(model, norms(model), lengths, False, noise).item()
    after = matching_loss(model, norms(model), lengths, False, torch.from_numpy(made.batches[0])).item()
    assert after < 0.2 * before


def test_same_seed_same_features_other_seed_other_features() -> None:
    model = TwoNorms()
    first, again = synthesize(model, 8, SMALL), synthesize(model, 8, SMALL)
    other = synthesize(model, 8, SynthesisSettings(**{**SMALL.__dict__, "seed": 1}))
    assert all(np.array_equal(a, b) for a, b in zip(first.batches, again.batches, strict=True))
    assert not np.array_equal(first.batches[0], other.batches[0])


def test_shapes_lengths_and_model_are_left_as_promised() -> None:
    model = TwoNorms()
    stored = [norm.running_mean.clone() for norm in norms(model)]
    made = synthesize(model, 8, SMALL)
    assert [b.shape for b in made.batches] == [(2, 8, 48)] * 2
    assert all((n == 48).all() for n in made.lengths)
    assert made.method == "synthetic"
    assert all(torch.equal(a, norm.running_mean) for a, norm in zip(stored, norms(model), strict=True))
    assert not any(norm._forward_pre_hooks for norm in norms(model))


def test_model_without_batch_norm_is_refused() -> None:
    with pytest.raises(CheckpointError, match="no batch norm"):
        synthesize(nn.Sequential(nn.Conv1d(8, 8, 1)), 8, SMALL)


def test_broken_statistics_are_refused() -> None:
    model = TwoNorms()
    norms(model)[1].running_var[3] = float("nan")
    with pytest.raises(CheckpointError, match="batch norm 1"):
        synthesize(model, 8, SMALL)


@pytest.mark.parametrize(("instructions", "expected"), [({"avx512_bf16": True}, True), ({"avx2": True}, False)])
def test_bfloat16_is_for_processors_that_have_it(
    monkeypatch: pytest.MonkeyPatch, instructions: dict[str, bool], expected: bool
) -> None:
    seen: list[bool] = []

    class Watched(TwoNorms):
        def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().forward(features, lengths)

    model = Watched()
    seen.clear()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    synthesize(model, 8, replace(SMALL, batches=1, steps=1, bfloat16=True))
    assert seen == [expected]
