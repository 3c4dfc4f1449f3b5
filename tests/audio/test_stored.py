"""Mel banks and windows that a model brings along."""

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from trtasr.audio.features import FrontendConfig, MelFrontend, mel_bank, window
from trtasr.audio.frontend import frontend_from_json, frontend_json
from trtasr.audio.stored import FILE, StoredBuffers, read_stored, write_stored
from trtasr.errors import BundleError, CheckpointError

PLAIN = FrontendConfig(normalize=None, preemph=None, pad_to=0)


def features(config):
    audio = torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))
    return MelFrontend(config)(audio, torch.tensor([8000]))[0][..., :50]


def with_stored(**buffers):
    return FrontendConfig(normalize=None, preemph=None, pad_to=0, stored=StoredBuffers(**buffers))


def test_a_stored_bank_replaces_the_computed_one():
    doubled = features(with_stored(bank=2 * mel_bank(PLAIN)))
    np.testing.assert_allclose(doubled, features(PLAIN) + np.log(2), atol=1e-4)


def test_a_stored_window_replaces_the_computed_one():
    halved = features(with_stored(window=window(PLAIN) / 2))
    np.testing.assert_allclose(halved, features(PLAIN) - np.log(4), atol=1e-3)


def test_buffers_equal_to_the_computed_ones_change_nothing():
    assert torch.equal(features(with_stored(bank=mel_bank(PLAIN), window=window(PLAIN))), features(PLAIN))


@pytest.mark.parametrize(
    ("buffers", "words"),
    [
        ({"bank": np.ones((80, 257), np.float32)}, r"fb: .*\[80, 257\].*\[64, 257\]"),
        ({"window": np.ones(400, np.float32)}, r"window: .*\[400\].*\[320\]"),
        ({"bank": np.full((64, 257), np.nan, np.float32)}, "fb: .*not finite"),
        ({"bank": np.full((64, 257), 1e30, np.float32)}, "fb: .*above 1e"),
        ({"window": np.full(320, np.inf, np.float32)}, "window: .*not finite"),
        ({"bank": np.full((64, 257), -1, np.float32)}, "fb: holds negative values"),
    ],
)
def test_what_no_front_end_can_use(buffers, words):
    with pytest.raises(CheckpointError, match=words):
        MelFrontend(with_stored(**buffers))


@pytest.mark.parametrize("names", [("bank",), ("window",), ("bank", "window")])
def test_a_bundles_file_gives_them_back(tmp_path, names):
    whole = {"bank": 2 * mel_bank(PLAIN), "window": window(PLAIN) / 2}
    given = {name: whole[name] for name in names}
    write_stored(tmp_path, StoredBuffers(**given))
    found = read_stored(tmp_path / FILE)
    for name in whole:
        if name in names:
            np.testing.assert_array_equal(getattr(found, name), given[name])
        else:
            assert getattr(found, name) is None


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0{}junk"])
def test_a_damaged_file(tmp_path, content):
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(BundleError, match=FILE) as error:
        read_stored(tmp_path / FILE)
    assert "compile the bundle again" in error.value.repair


@pytest.mark.parametrize("arrays", [{"other": np.ones(3, np.float32)}, {"fb": np.ones((64, 257))}])
def test_a_file_of_other_arrays(tmp_path, arrays):
    save_file(arrays, tmp_path / FILE)
    with pytest.raises(BundleError, match="other arrays"):
        read_stored(tmp_path / FILE)


def test_the_parameters_as_json_leave_them_out():
    data = frontend_json(with_stored(bank=mel_bank(PLAIN)))
    assert "stored" not in data
    assert frontend_from_json(data) == PLAIN
    with pytest.raises(CheckpointError, match="own keys"):
        frontend_from_json(data | {"stored": {"bank": []}})
