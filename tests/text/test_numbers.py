"""Which pieces of a vocabulary are numbers and what stands between them."""

import pytest

from trtasr.text.numbers import digit_tokens, separator_tokens


@pytest.mark.parametrize("piece", ["0", "\u01207", "\u25812024", "00", " 5", "\u0665"])
def test_digits(piece):
    assert digit_tokens(("a", piece)) == (1,)
    assert separator_tokens(("a", piece)) == ()


@pytest.mark.parametrize("piece", [",", "\u0120-", "\u2581", "\u0120", ".", " /", ":"])
def test_separators(piece):
    assert separator_tokens(("a", piece)) == (1,)
    assert digit_tokens(("a", piece)) == ()


@pytest.mark.parametrize("piece", ["", "zero", "4th", "\u0120a1", "<|0.00|>", "<0x30>", "--", ",,", "\u00bd", "!", "'"])
def test_neither(piece):
    assert digit_tokens(("a", piece)) == separator_tokens(("a", piece)) == ()
