"""Greedy CTC against the definition."""

from itertools import groupby

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trtasr.text.ctc import greedy


def one_hot(ids, classes):
    return np.log(np.eye(classes, dtype=np.float32)[ids] + 1e-3)


def test_repeats_merge_and_blanks_separate():
    ids = np.array([[0, 0, 2, 0, 1, 1, 2, 2], [2, 2, 1, 1, 1, 0, 0, 0]])
    assert greedy(one_hot(ids, 3), np.array([8, 5]), 2) == [[0, 0, 1], [1]]


def test_no_valid_frames_give_no_tokens():
    assert greedy(one_hot(np.zeros((1, 4), int), 3), np.array([0]), 2) == [[]]


@settings(deadline=None)
@given(arrays(np.int64, st.tuples(st.integers(1, 4), st.integers(1, 20)), elements=st.integers(0, 4)), st.data())
def test_equals_the_definition(ids, data):
    lengths = np.array(data.draw(st.lists(st.integers(0, ids.shape[1]), min_size=len(ids), max_size=len(ids))))
    expected = [
        [key for key, _ in groupby(row[:length].tolist()) if key != 4] for row, length in zip(ids, lengths, strict=True)
    ]
    assert greedy(one_hot(ids, 5), lengths, 4) == expected
