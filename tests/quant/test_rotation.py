import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtasr.quant.rotation import butterflies, order, rotated, rotated_covariance


@pytest.mark.parametrize(("channels", "size"), [(512, 4), (64, 4), (6, 2), (29, 1), (1, 1)])
def test_as_many_channels_are_mixed_as_divide_them(channels, size):
    assert order(channels) == size


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_butterflies_are_a_hadamard_matrix(size):
    matrix = np.stack(butterflies(list(np.eye(size)), np.add, np.subtract))
    assert set(np.unique(matrix)) <= {-1.0, 1.0}
    np.testing.assert_array_equal(matrix @ matrix.T, size * np.eye(size))
    np.testing.assert_array_equal(matrix, matrix.T)


@given(st.integers(0, 999), st.sampled_from([4, 6, 12, 29, 64]), st.integers(0, 2))
def test_it_is_orthogonal_and_its_own_inverse(seed, channels, axis):
    shape = [3, 5]
    shape.insert(axis, channels)
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    turned = rotated(values, axis)
    assert turned.shape == values.shape
    np.testing.assert_allclose(rotated(turned, axis), values, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(turned, axis=axis), np.linalg.norm(values, axis=axis), rtol=1e-5)


@given(st.integers(0, 999), st.sampled_from([8, 30, 31]))
def test_a_product_is_the_same_where_both_sides_are_rotated(seed, channels):
    draw = np.random.default_rng(seed)
    weight, x = (draw.normal(size=(rows, channels)).astype(np.float32) for rows in (7, 11))
    np.testing.assert_allclose(rotated(x, 1) @ rotated(weight, 1).T, x @ weight.T, atol=1e-4)


@given(st.integers(0, 999), st.sampled_from([8, 30, 31]))
def test_a_covariance_is_that_of_the_rotated_channels(seed, channels):
    x = np.random.default_rng(seed).normal(size=(200, channels)).astype(np.float32)
    expected = np.cov(rotated(x, 1).astype(np.float64).T)
    np.testing.assert_allclose(rotated_covariance(np.cov(x.astype(np.float64).T)), expected, atol=1e-5)


def test_one_channel_is_spread_over_those_a_quarter_of_all_apart():
    values = np.zeros((1, 8), np.float32)
    values[0, 1] = 2.0
    np.testing.assert_array_equal(rotated(values, 1)[0], [0, 1, 0, 1, 0, 1, 0, 1])


@given(st.integers(0, 999), st.floats(2, 50))
def test_an_outlier_sets_half_the_scale(seed, size):
    """It is spread over four channels with half of it each, beside at most 1.5 of the three ordinary numbers."""
    values = np.random.default_rng(seed).uniform(-1, 1, (1, 64)).astype(np.float32)
    values[0, 3] = 4 * size
    assert np.abs(rotated(values, 1)).max() <= np.abs(values).max() / 2 + 1.5 + 1e-5
