"""Arrays of a scale table: what is written is what comes back, and nothing else is taken."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtasr.quant.stored import arrays_of, with_arrays
from trtasr.values import Product, ScaleTable, WeightScale

PRODUCT = Product(np.array([[1], [-127]], np.int8), np.array([0.5, 2.0], np.float32), np.array([1, -1], np.float32))
PLAIN = ScaleTable({}, {"w": WeightScale(np.array([0.25, 4.0], np.float32), 0)})
ARRAYS = {
    "/layer|codes": PRODUCT.codes,
    "/layer|scales": PRODUCT.scales,
    "/layer|bias": PRODUCT.bias,
    "/layer|smoothing": np.array([1], np.float32),
}


@given(st.integers(1, 6), st.integers(1, 9), st.booleans(), st.booleans(), st.integers(0, 99))
def test_it_comes_back_as_it_was(outputs, inputs, biased, smooth, seed):
    draw = np.random.default_rng(seed)
    scales = draw.uniform(0.01, 2, outputs).astype(np.float32)
    codes = draw.integers(-127, 128, (outputs, inputs, 1)).astype(np.int8)
    bias = draw.normal(size=outputs if biased else 0).astype(np.float32)
    smoothing = draw.uniform(1, 30, inputs if smooth else 0).astype(np.float32)
    plain = ScaleTable({}, {"w": WeightScale(scales, 0)})
    corrected = {"w": codes * scales[:, None, None], "b": draw.normal(size=outputs).astype(np.float32)}
    table = replace(plain, corrected=corrected, products={"/a": Product(codes, scales, bias, smoothing)})
    found = with_arrays(plain, arrays_of(table))
    assert found.corrected.keys() == table.corrected.keys()
    for name, values in table.corrected.items():
        np.testing.assert_array_equal(found.corrected[name], values)
    for field in ("codes", "scales", "bias", "smoothing"):
        np.testing.assert_array_equal(getattr(found.products["/a"], field), getattr(table.products["/a"], field))


def test_a_product_is_four_arrays():
    assert with_arrays(PLAIN, ARRAYS).products.keys() == {"/layer"}
    assert not with_arrays(PLAIN, ARRAYS).corrected


@pytest.mark.parametrize(
    "change",
    [
        {"/layer|codes": PRODUCT.codes.astype(np.int16)},
        {"/layer|codes": PRODUCT.codes[:, 0]},
        {"/layer|codes": np.zeros((3, 3), np.int8)},
        {"/layer|scales": PRODUCT.scales.astype(np.float64)},
        {"/layer|scales": np.array([0.5, 0], np.float32)},
        {"/layer|scales": np.array([0.5, np.inf], np.float32)},
        {"/layer|scales": PRODUCT.scales[:, None]},
        {"/layer|bias": np.array([1, np.nan], np.float32)},
        {"/layer|bias": np.ones(3, np.float32)},
        {"/layer|smoothing": np.ones((1, 1), np.float32)},
        {"/layer|scales": np.array([0.5, 3e38], np.float32)},
        {"/layer|smoothing": np.zeros(1, np.float32)},
        {"/layer|smoothing": np.array([np.nan], np.float32)},
    ],
)
def test_numbers_that_nobody_can_use_are_refused(change):
    with pytest.raises(ValueError, match="/layer: "):
        with_arrays(PLAIN, ARRAYS | change)


@pytest.mark.parametrize("name", ["/layer|scales", "/layer|bias", "/layer|smoothing"])
def test_a_product_without_one_of_them_is_refused(name):
    with pytest.raises(ValueError, match=rf"{name[:6]}.* is missing"):
        with_arrays(PLAIN, {key: values for key, values in ARRAYS.items() if key != name})
