import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtasr.text.normalize import NORMALIZER, basic_en_v1


@pytest.mark.parametrize(("text", "plain"), [
    ("Don't STOP,  now!", "don't stop now"),
    ("don\u2019t", "don't"),
    ("twenty-one; \u201cyes\u201d", "twenty one yes"),
    ("\tCaf\u00e9\n\u2014 3.5_x", "caf\u00e9 3 5 x"),
    ("...", ""),
])  # fmt: skip
def test_examples(text, plain):
    assert basic_en_v1(text) == plain


@given(st.text())
def test_is_idempotent(text):
    assert basic_en_v1(basic_en_v1(text)) == basic_en_v1(text)


def test_is_named():
    assert NORMALIZER == "basic-en-v1"
