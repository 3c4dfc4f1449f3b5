"""Buffers of the front-end that a NeMo archive stores among its weights, and that NeMo restores."""

import logging
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from trtasr.audio.features import FrontendConfig, mel_bank, window
from trtasr.audio.stored import StoredBuffers
from trtasr.errors import CheckpointError
from trtasr.values import FloatArray

logger = logging.getLogger(__name__)
SECTION = "preprocessor."
BANK, WINDOW = SECTION + "featurizer.fb", SECTION + "featurizer.window"
ROUNDING = 1e-6  # of the largest value: what float32 arithmetic in another order may differ by
REAL = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def restore(frontend: FrontendConfig, weights: Mapping[str, Tensor]) -> FrontendConfig:
    """The front-end with the mel bank and the window that the weights hold, where they are not the computed ones.

    NeMo 3.0 keeps these two buffers in every archive and loads them over what it computed. Archives saved in half
    precision, or made by ``init_from_nemo_model`` from a model with another bank, hold others than their configuration
    gives.

    Raises:
        CheckpointError: a buffer of another shape, or that no front-end can use.
    """
    stored = StoredBuffers(buffer(weights, BANK, (1,)), buffer(weights, WINDOW, ()))
    replace(frontend, stored=stored).check()
    if ignored := sorted(name for name in weights if name.startswith(SECTION) and name not in (BANK, WINDOW)):
        logger.warning("%s: buffers of a front-end that NeMo 3.0 does not have: ignored", ", ".join(ignored)[:200])
    kept = StoredBuffers(other(BANK, stored.bank, mel_bank(frontend)), other(WINDOW, stored.window, window(frontend)))
    return frontend if kept.bank is None and kept.window is None else replace(frontend, stored=kept)


def buffer(weights: Mapping[str, Tensor], name: str, lead: tuple[int, ...]) -> FloatArray | None:
    """A stored buffer as float32 without its leading dimensions ``lead``; None when the weights do not hold it.

    Raises:
        CheckpointError: no real numbers, or other leading dimensions.
    """
    if name not in weights:
        return None
    values = weights[name]
    if values.dtype not in REAL or values.shape[: len(lead)] != lead:
        raise CheckpointError(f"{name}: {values.dtype}, shape {list(values.shape)}", "use the buffers NeMo saves")
    found: FloatArray = values.reshape(values.shape[len(lead) :]).to(torch.float32).numpy()
    return found


def other(name: str, stored: FloatArray | None, computed: FloatArray) -> FloatArray | None:
    """The stored buffer, or None where it is exactly the computed one; says so where the difference is no rounding."""
    if stored is None or np.array_equal(stored, computed):
        return None
    difference = float(np.abs(stored - computed).max())
    if difference > ROUNDING * float(np.abs(computed).max()):
        logger.warning(
            "%s: the archive's own values are used; they differ from what its configuration gives by up to "
            "%.2g (largest value %.2g)",
            name,
            difference,
            float(np.abs(computed).max()),
        )
    return stored
