import pytest

from trtasr.checkpoint.languages import CODES, language_token


@pytest.mark.parametrize(
    ("given", "token"),
    [
        ("english", "<|en|>"),
        ("English", "<|en|>"),
        ("en", "<|en|>"),
        ("<|en|>", "<|en|>"),
        ("mandarin", "<|zh|>"),
        ("haitian creole", "<|ht|>"),
        ("cantonese", "<|yue|>"),
        ("xx", "<|xx|>"),
    ],
)
def test_tokens(given, token):
    assert language_token(given) == token


def test_there_are_whispers_hundred_languages_and_twelve_other_names():
    assert len(set(CODES.values())) == 100
    assert len(CODES) == 112
    assert all(name == name.strip() and code.isalpha() for name, code in CODES.items())
