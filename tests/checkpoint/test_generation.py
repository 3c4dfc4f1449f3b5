"""Prompts, limits and suppressed tokens against transformers, and settings that are refused."""

from pathlib import Path

import numpy as np
import pytest
from golden import moonshine_configs, whisper_configs
from golden.whisper_configs import END, GENERATION, NO_TIMESTAMPS, START, TRANSCRIBE

from trtasr.checkpoint.generation import CODES, language_token, read_generation
from trtasr.errors import CheckpointError

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "whisper.npz")
CONFIG, VOCABULARY = whisper_configs.config(), whisper_configs.vocabulary()
OUTDATED = {key: GENERATION[key] for key in GENERATION if key not in ("lang_to_id", "task_to_id", "is_multilingual")}


def whisper(settings, **config):
    return read_generation("whisper", {**CONFIG, **config}, settings, VOCABULARY)


@pytest.mark.parametrize("case", whisper_configs.GENERATIONS)
def test_prompts_and_lengths_are_those_of_transformers(case):
    found = whisper(whisper_configs.GENERATIONS[case])
    for name in whisper_configs.SMALL:
        for row in GOLDEN[f"{name}/{case}/prompt"].tolist():
            without_language = [token for token in row if token not in found.languages]
            assert list(found.prompt) == without_language
            assert len(row) == len(found.prompt) + bool(found.languages)
        longest = GOLDEN[f"{name}/{case}/tokens"].shape[1] + len(row)
        assert longest == found.max_length or case == "ended"


def test_tokens_by_their_strings_and_lists():
    found = whisper(GENERATION | {"suppress_tokens": [5, -1, 3, 3], "begin_suppress_tokens": None, "eos_token_id": [7]})
    assert (found.start, found.end, found.no_speech) == (START, (7,), VOCABULARY.index("<|nospeech|>"))
    assert (found.suppress, found.begin_suppress) == ((3, 5), ())
    assert found.languages == whisper_configs.LANGUAGES
    assert found.tokens_per_second == 0
    older = tuple(piece.replace("nospeech", "nocaptions") for piece in VOCABULARY)
    assert read_generation("whisper", CONFIG, GENERATION, older).no_speech == found.no_speech
    none = tuple(piece.replace("nospeech", "x") for piece in VOCABULARY)
    assert read_generation("whisper", CONFIG, GENERATION, none).no_speech is None


@pytest.mark.parametrize(("language", "token"), [("<|de|>", 91), ("de", 91), ("German", 91), ("HAWAIIAN", 92)])
def test_languages_by_token_code_and_name(language, token):
    assert whisper(GENERATION | {"language": language}).prompt == (START, token, TRANSCRIBE, NO_TIMESTAMPS)


def test_a_turbo_like_file_without_task_transcribes():
    """transformers would write no task here; ``generate(task="transcribe")`` does."""
    found = whisper(GENERATION)
    assert found.prompt == (START, TRANSCRIBE, NO_TIMESTAMPS)
    assert found.languages == whisper_configs.LANGUAGES


def test_without_a_file_what_config_json_has_counts():
    config = {"forced_decoder_ids": [[1, 90], [2, 94], [3, 96]], "suppress_tokens": [1, 2], "max_length": 12}
    found = whisper(None, **config)
    assert (found.prompt, found.suppress, found.max_length) == ((START, 90, 94, 96), (1, 2), 16)
    assert found.begin_suppress == ()  # transformers' 220 and 50256 are not in this vocabulary
    assert whisper(None, begin_suppress_tokens=[4]).begin_suppress == (4,)
    large = read_generation("whisper", CONFIG, None, ("",) * 51865)
    assert large.begin_suppress == (220, 50256)
    assert large.prompt == (START,)
    assert large.max_length == CONFIG["max_target_positions"]


def test_with_a_file_config_json_only_fills_in():
    found = whisper({}, suppress_tokens=[1], begin_suppress_tokens=[2], forced_decoder_ids=[[1, 96]])
    assert (found.start, found.end, found.prompt) == (START, (END,), (START, 96))
    assert (found.suppress, found.begin_suppress) == ((), ())


def test_moonshine():
    config = moonshine_configs.config()
    found = read_generation("moonshine", config, {"_from_model_config": True}, ("",) * 61, 6.5)
    assert (found.start, found.prompt, found.end, found.max_length) == (1, (1,), (2,), 194)
    assert (found.tokens_per_second, found.languages, found.no_speech) == (6.5, (), None)
    assert read_generation("moonshine", config, {"max_length": 30}, ("",) * 61).max_length == 30
    assert read_generation("moonshine", config, {"max_new_tokens": 30}, ("",) * 61).max_length == 31
    del config["max_position_embeddings"]
    assert read_generation("moonshine", config, {}, ("",) * 61).max_length == 512


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"decoder_start_token_id": 97}, "decoder_start_token_id = 97"),
        ({"decoder_start_token_id": True}, "decoder_start_token_id = True"),
        ({"eos_token_id": []}, "no eos_token_id"),
        ({"eos_token_id": 1000}, "eos_token_id has 1000"),
        ({"eos_token_id": "x"}, "eos_token_id has 'x'"),
        ({"suppress_tokens": [1.0]}, "suppress_tokens has 1.0"),
        ({"suppress_tokens": {"a": 1}}, "suppress_tokens has"),
        ({"begin_suppress_tokens": [-2]}, "begin_suppress_tokens has -2"),
        ({"lang_to_id": [1]}, "lang_to_id is"),
        ({"lang_to_id": {"<|en|>": "1"}}, "lang_to_id: <|en|> = '1'"),
        ({"task_to_id": {"transcribe": 97}}, "task_to_id: transcribe = 97"),
        ({"language": "klingon"}, "'klingon' .*lang_to_id"),
        ({"language": "french"}, "'french' .*lang_to_id"),
        ({"language": ["en", "de"]}, "language .*lang_to_id"),
        ({"task": "summarize"}, "'summarize' .*task_to_id"),
        ({"task": ["transcribe"]}, "task .*task_to_id"),
        ({"no_timestamps_token_id": -1}, "no_timestamps_token_id = -1"),
        ({"forced_decoder_ids": [[2, 94]]}, "forced_decoder_ids"),
        ({"forced_decoder_ids": [[1, 94], [3, 95]]}, "forced_decoder_ids"),
        ({"forced_decoder_ids": [[1, 94], [2, None]]}, "forced_decoder_ids has None"),
        ({"forced_decoder_ids": [[1, 97]]}, "forced_decoder_ids has 97"),
        ({"forced_decoder_ids": [1, 2]}, "forced_decoder_ids"),
        ({"forced_decoder_ids": "12"}, "forced_decoder_ids"),
        ({"max_length": 0}, "max_length = 0"),
        ({"max_new_tokens": "5"}, "max_new_tokens = '5'"),
    ],
)
def test_settings_that_cannot_be_used(change, words):
    with pytest.raises(CheckpointError, match=words):
        whisper(GENERATION | change)


@pytest.mark.parametrize("places", [4, None, 2**30, "24"])
def test_positions_that_leave_no_room(places):
    with pytest.raises(CheckpointError, match=r"no room|max_target_positions = "):
        whisper(GENERATION, max_target_positions=places)


@pytest.mark.parametrize(
    ("change", "prompt"),
    [
        ({"language": "german"}, (START, 91, TRANSCRIBE, NO_TIMESTAMPS)),
        ({"language": "de", "task": "translate"}, (START, 91, 93, NO_TIMESTAMPS)),
        ({"language": "<|haw|>", "forced_decoder_ids": [[1, 90], [2, 93]]}, (START, 92, TRANSCRIBE, NO_TIMESTAMPS)),
        ({"language": "german", "lang_to_id": {}, "task_to_id": None}, (START, 91, TRANSCRIBE, NO_TIMESTAMPS)),
    ],
)
def test_a_language_without_a_table_is_looked_up_in_the_vocabulary(change, prompt):
    assert whisper(OUTDATED | change).prompt == prompt
    without = {key: value for key, value in OUTDATED.items() if key != "no_timestamps_token_id"}
    assert whisper(without | change).prompt == prompt


def test_a_task_of_null_is_none():
    pieces = tuple(
        piece if piece not in ("<|transcribe|>", "<|translate|>") else f"x{index}"
        for index, piece in enumerate(VOCABULARY)
    )
    found = read_generation("whisper", CONFIG, OUTDATED | {"language": "german", "task": None}, pieces)
    assert found.prompt == (START, 91, NO_TIMESTAMPS)


def test_a_task_without_tables_lets_the_language_be_detected():
    found = whisper(OUTDATED | {"task": "translate"})
    assert (found.prompt, found.languages) == ((START, 93, NO_TIMESTAMPS), whisper_configs.LANGUAGES)


def test_a_language_of_its_own_is_found_too():
    pieces = tuple("<|tlh|>" if piece == "<|haw|>" else piece for piece in VOCABULARY)
    found = read_generation("whisper", CONFIG, OUTDATED | {"language": "tlh"}, pieces)
    assert found.prompt == (START, 92, TRANSCRIBE, NO_TIMESTAMPS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"language": "hindi"}, "'hindi' .*lang_to_id.*vocabulary"),
        ({"language": 3}, "language 3 .*lang_to_id"),
        ({"language": "de", "task": "summarize"}, "'summarize' .*task_to_id"),
    ],
)
def test_what_the_vocabulary_lacks_is_no_language(change, words):
    with pytest.raises(CheckpointError, match=words):
        whisper(OUTDATED | change)


def test_a_vocabulary_without_any_language():
    pieces = tuple(piece if piece.startswith("\u0120") else f"x{index}" for index, piece in enumerate(VOCABULARY))
    with pytest.raises(CheckpointError, match=r"'german'.*vocabulary"):
        read_generation("whisper", CONFIG, OUTDATED | {"language": "german"}, pieces)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"language": "german"}, "'german' .*is_multilingual = false"),
        ({"language": ["en"]}, "language"),
        ({"task": "translate"}, "'translate' .*is_multilingual"),
    ],
)
def test_an_english_model_has_no_other_language_and_task(change, words):
    english = whisper_configs.GENERATIONS["english"]
    assert whisper(english | {"language": "english", "task": "transcribe"}) == whisper(english)
    with pytest.raises(CheckpointError, match=words):
        whisper(english | change)


def test_positions_of_a_moonshine_are_bounded_where_no_weight_bounds_them():
    config = moonshine_configs.config(max_position_embeddings=2**13 + 1)
    with pytest.raises(CheckpointError, match=r"max_position_embeddings = 8193\n.*8192"):
        read_generation("moonshine", config, {}, ("",) * 61)


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
