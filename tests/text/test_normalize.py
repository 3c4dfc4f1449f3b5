import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtasr.errors import RecipeError
from trtasr.recipe import Recipe, override
from trtasr.text.normalize import AUTO, NORMALIZERS, basic_en_v1, resolve, spaced, unicode_v1


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Don't STOP,  now!", "don't stop now"),
        ("don\u2019t", "don't"),
        ("twenty-one; \u201cyes\u201d", "twenty one yes"),
        ("\tCaf\u00e9\n\u2014 3.5_x", "caf\u00e9 3 5 x"),
        ("cafe\u0301", "caf\u00e9"),
        ("...", ""),
    ],
)
def test_basic_english(text, plain):
    assert basic_en_v1(text) == plain


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Don't STOP,  now!", "don't stop now"),
        ("cafe\u0301; CAF\u00c9", "caf\u00e9 caf\u00e9"),
        ("लड़की की किताब।", "लड़की की किताब"),
        ("தமிழ்!", "தமிழ்"),  # Tamil
        ("ไม่เป็นไร", "ไม่เป็นไร"),  # Thai
        ("क्\u200dषमा", "क्षमा"),  # a joiner, which changes how a cluster looks
        ("п'ять п\u02bcять п\u2019ять", " ".join(["п'ять"] * 3)),  # Ukrainian: five
        ("\u2018quoted\u2019 'too'", "quoted too"),
        ("Stra\u00dfe, STRASSE", "strasse strasse"),
        ("今天\uff0c天气好。", "今天 天气好"),
        ("ストラーセ", "ストラーセ"),  # the sign for a long vowel is a letter
        ("a\u200bb a\u00adb", "a b ab"),  # zero width space, soft hyphen
        ("\u2764\ufe0f \u0301 x", "x"),  # marks without a letter
        ("\uff21\uff22", "\uff41\uff42"),  # full-width stays full-width: NFC, not NFKC
    ],
)
def test_unicode(text, plain):
    assert unicode_v1(text) == plain
    assert unicode_v1(unicodedata.normalize("NFD", text)) == plain


@pytest.mark.parametrize("name", NORMALIZERS)
@given(st.text())
def test_is_idempotent(name, text):
    normalize = NORMALIZERS[name]
    assert normalize(normalize(text)) == normalize(text)


@given(st.text(st.characters(categories=["L", "Mn", "Mc", "Nd", "Zs"])))
def test_unicode_keeps_every_letter_digit_and_mark_of_a_word(text):
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold()).replace("\u02bc", "'")
    words = [word.strip("'") for word in folded.split()]
    assert unicode_v1(text).split() == [word for word in words if any(map(str.isalnum, word))]


@pytest.mark.parametrize(
    ("references", "name"),
    [
        (["It's 5 o'clock.", "\u201cYes\u201d \u2014 no"], "basic-en-v1"),
        (["hello", "caf\u00e9"], "unicode-v1"),
        (["привет"], "unicode-v1"),
        (["cafe\u0301"], "unicode-v1"),
    ],
)
def test_auto_goes_by_the_letters_of_the_references(references, name):
    assert resolve(AUTO, references) == name
    assert resolve("none", references) == "none"


def test_the_recipe_knows_every_normalizer():
    for name in (AUTO, *NORMALIZERS):
        assert override(Recipe("a", "b"), [f"evaluation.normalizer={name}"]).evaluation.normalizer == name
    with pytest.raises(RecipeError, match="use one of " + ", ".join((AUTO, *NORMALIZERS))):
        override(Recipe("a", "b"), ["evaluation.normalizer=basic-en-v2"])


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["hello world"], True),
        (["சரி சரி"], True),
        (["한국어 말"], True),  # Tamil, Korean
        (["今天 ok"], True),
        (["今天天气 ok"], False),
        (["ストあ"], False),
        (["ไม่"], False),
        (["မြန်"], False),
        (["ខ្មែរ"], False),
        (["ລາວ"], False),
        ([], True),
        (["..."], True),
    ],
)
def test_which_scripts_have_no_spaces_between_words(texts, expected):
    assert spaced(texts) is expected
