from trtasr.text.tokens import CharTokenizer


def test_characters_are_joined_and_the_blank_is_the_last_class():
    tokens = CharTokenizer((" ", "a", "b", "'"))
    assert tokens.decode([0, 1, 0, 2, 3, 1, 0]) == "a b'a"
    assert tokens.decode([]) == ""
    assert tokens.blank == 4
