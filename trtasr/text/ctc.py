"""Greedy CTC decoding."""

import numpy as np

from trtasr.values import FloatArray, IntArray


def greedy(log_probs: FloatArray, lengths: IntArray, blank: int) -> list[list[int]]:
    """Best path: argmax per frame, repeats merged, blanks dropped (Graves et al. 2006, section 3.2).

    Args:
        log_probs: [B, T, V + 1].
        lengths: valid frames [B]; later frames are ignored.
        blank: id of the blank.

    Returns:
        token ids of each utterance.
    """
    ids = log_probs.argmax(axis=-1)
    starts = np.ones(ids.shape, dtype=bool)
    starts[:, 1:] = ids[:, 1:] != ids[:, :-1]
    valid = np.arange(ids.shape[1]) < lengths[:, None]
    kept = starts & valid & (ids != blank)
    return [row[mask].tolist() for row, mask in zip(ids, kept, strict=True)]
