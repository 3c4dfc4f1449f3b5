"""The mel bank and the window among an archive's weights: NeMo restores them, whatever the configuration gives."""

import logging

import numpy as np
import pytest
import torch
from nemo_archive import archive, config, refused, weights

from trtasr.audio.features import FrontendConfig, MelFrontend, mel_bank
from trtasr.checkpoint.nemo import read_nemo

BANK, WINDOW = "preprocessor.featurizer.fb", "preprocessor.featurizer.window"


def front(tmp_path, **buffers):
    names = {"bank": BANK, "window": WINDOW}
    stored = {names[key]: values for key, values in buffers.items()}
    return MelFrontend(read_nemo(archive(tmp_path, state=weights() | stored)).frontend)


def heard(frontend):
    audio = torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))
    return frontend(audio, torch.tensor([8000]))[0]


def test_the_archives_bank_and_window_win(tmp_path, caplog):
    """As after init_from_nemo_model: weights of a model with another bank than this configuration's."""
    narrow = torch.from_numpy(mel_bank(FrontendConfig(highfreq=4000)))
    found = front(tmp_path, bank=narrow[None], window=torch.hamming_window(320, periodic=False))
    expected = MelFrontend(FrontendConfig(highfreq=4000, window="hamming"))
    assert torch.equal(heard(found), heard(expected))
    for name in (BANK, WINDOW):
        assert f"{name}: the archive's own values" in caplog.text


def test_buffers_saved_in_half_precision(tmp_path):
    bank = torch.from_numpy(mel_bank(FrontendConfig()))[None].half()
    assert torch.equal(front(tmp_path, bank=bank).bank, bank[0].float())


def test_buffers_as_computed_are_not_kept_twice(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    plain = MelFrontend(FrontendConfig())
    found = front(tmp_path, bank=plain.bank[None], window=plain.window)
    assert found.config == FrontendConfig()
    assert not caplog.text


def test_rounding_is_no_news(tmp_path, caplog):
    rounded = np.nextafter(mel_bank(FrontendConfig()), np.float32(1))
    found = front(tmp_path, bank=torch.from_numpy(rounded)[None])
    np.testing.assert_array_equal(found.bank, rounded)
    assert "differ" not in caplog.text


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        (BANK, torch.ones(1, 80, 257), r"fb: .*\[80, 257\].*\[64, 257\]"),
        (BANK, torch.ones(64, 257), r"fb: torch.float32, shape \[64, 257\]"),
        (BANK, torch.tensor(1.0), r"fb: torch.float32, shape \[\]"),
        (BANK, torch.ones(1, 64, 257, dtype=torch.int64), "fb: torch.int64"),
        (BANK, torch.full((1, 64, 257), torch.inf), "fb: .*not finite"),
        (BANK, -torch.ones(1, 64, 257), "fb: holds negative values"),
        (WINDOW, torch.ones(400), r"window: .*\[400\].*\[320\]"),
        (WINDOW, torch.full((320,), torch.nan), "window: .*not finite"),
    ],
)
def test_unusable_buffers(tmp_path, name, values, words):
    refused(archive(tmp_path, state=weights() | {name: values}), words)


def test_buffers_of_other_front_ends_are_named(tmp_path, caplog):
    name = "preprocessor.featurizer.stft.forward_basis"
    read_nemo(archive(tmp_path, config(), weights() | {name: torch.ones(3)}))
    assert f"{name}: buffers" in caplog.text
