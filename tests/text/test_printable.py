import json

import pytest

from trtasr.text.printable import json_text, message, one_line, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;owned\x07", "\\x1b[2J\\x1b]0;owned\\x07"),
        ("\x9b31m", "\\x9b31m"),  # CSI in one character
        ("a\rb\bc\x7f", "a\\x0db\\x08c\\x7f"),
        ("wav.\u202egpj", "wav.\\u202egpj"),
        ("\udcff.wav", "\\udcff.wav"),
        ("\ufefftext\u2028", "\\ufefftext\\u2028"),
    ],
)
def test_what_a_terminal_would_act_on_is_spelled_out(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "tab\tand\nline",
        "модель",
        "नमस्ते",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "שלום\u200f",
        "café",
        "e\u0301",
        "👩\u200d🚀",
    ],
)
def test_text_of_any_script_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


def test_a_field_has_no_tabs_and_newlines() -> None:
    assert one_line("a\tb\nc") == "a\\tb\\nc"


def test_a_message_keeps_its_beginning_and_its_repair() -> None:
    shown = message("error: " + "x" * 10**6 + "\n  repair: this")
    assert len(shown) <= 4000
    assert shown.startswith("error: xxx")
    assert shown.endswith("repair: this")


def test_json_keeps_the_data_and_is_safe_for_a_terminal() -> None:
    data = {"text": "\x1b[2J\u202e\x9b \udcff модель", "infinite": float("inf"), "rows": (1.5, float("nan"))}
    shown = json_text(data)
    assert "модель" in shown
    assert printable(shown) == shown
    assert json.loads(shown) == {**data, "infinite": None, "rows": [1.5, None]}
    assert json.loads(json_text(data, ascii_only=True)) == json.loads(shown)
    assert json_text(data, ascii_only=True).isascii()
