"""Settings of a folder that change nothing here are named, in one warning; those of published folders are not."""

import json
import logging

import pytest
from golden import whisper_configs
from whisper_folder import PREPROCESSOR, write_folder

from trtasr.checkpoint.read import read_checkpoint

SETTINGS = whisper_configs.GENERATIONS["named"]


def warnings(caplog, path, **files):
    """What reading a folder warns of."""
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        read_checkpoint(write_folder(path, **files))
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_beams", 5),
        ("num_beam_groups", 2),
        ("do_sample", True),
        ("temperature", 0.7),
        ("top_k", 10),
        ("top_p", 0.9),
        ("no_repeat_ngram_size", 3),
        ("repetition_penalty", 1.2),
        ("length_penalty", 0.5),
        ("return_timestamps", True),
        ("condition_on_prev_tokens", True),
        ("compression_ratio_threshold", 1.35),
        ("logprob_threshold", -1.0),
        ("no_speech_threshold", 0.3),
        ("bad_words_ids", [[1]]),
        ("min_length", 4),
        ("min_new_tokens", 1),
        ("forced_bos_token_id", 3),
        ("sequence_bias", [[[1], 2.0]]),
        ("max_time", 3.0),
        ("prompt_ids", [1, 2]),
        ("invented_next_year", 3),
        ("invented", True),
    ],
)
def test_a_setting_that_is_not_used_is_named(tmp_path, caplog, key, value):
    [warning] = warnings(caplog, tmp_path, generation_config={**SETTINGS, key: value})
    assert str(tmp_path) in warning
    assert f"generation_config.json: {key} = {value!r}"[:60] in warning
    assert warnings(caplog, tmp_path, generation_config={**SETTINGS, key: None}) == []


def test_all_of_them_stand_in_one_warning(tmp_path, caplog):
    generation, frontend = {"num_beams": 5, "temperature": 0.2}, {"pre_emphasis": 0.97}
    [warning] = warnings(
        caplog, tmp_path, generation_config={**SETTINGS, **generation}, preprocessor_config={**PREPROCESSOR, **frontend}
    )
    for setting in ("generation_config.json: num_beams = 5", "temperature = 0.2", "preprocessor_config.json: pre_emph"):
        assert setting in warning


@pytest.mark.parametrize(
    "neutral",
    [
        {
            "num_beams": 1,
            "do_sample": False,
            "temperature": 1.0,
            "top_k": 50,
            "top_p": 1.0,
            "repetition_penalty": 1.0,
            "length_penalty": 1.0,
            "no_repeat_ngram_size": 0,
            "return_timestamps": False,
            "diversity_penalty": 0.0,
        },
        {
            "temperature": 0.0,
            "early_stopping": False,
            "bad_words_ids": None,
            "forced_eos_token_id": None,
            "min_length": 0,
        },
        {
            "alignment_heads": [[1, 0]],
            "max_initial_timestamp_index": 50,
            "prev_sot_token_id": 5,
            "use_cache": True,
            "transformers_version": "4.48.0",
            "_from_model_config": True,
            "median_filter_width": 7,
            "invented": False,
        },
    ],
)
def test_neutral_values_are_not(tmp_path, caplog, neutral):
    assert warnings(caplog, tmp_path, generation_config={**SETTINGS, **neutral}) == []


def test_without_the_file_those_of_config_json_count(tmp_path, caplog):
    config = whisper_configs.config(num_beams=4, dropout=0.1, mask_time_prob=0.05, apply_spec_augment=True)
    [warning] = warnings(caplog, tmp_path / "none", config=config, generation_config=None)
    assert " config.json: num_beams = 4" in warning
    assert "dropout" not in warning
    assert warnings(caplog, tmp_path / "file", config=config) == []


def test_hostile_settings_stay_short_and_on_one_line(tmp_path, caplog):
    many = {f"key{index}": index + 1 for index in range(500)}
    odd = {"\x1b[31m\nred": "\x1b[0m" + "x" * 10_000, "k" * 5000: [1] * 5000}
    [warning] = warnings(caplog, tmp_path, generation_config={**SETTINGS, **odd, **many})
    assert "and 490 more" in warning
    assert warning.isprintable()
    assert len(warning) < 2000


@pytest.mark.parametrize("name", ["whisper-tiny.en", "moonshine-tiny"])
def test_published_folders_have_none(caplog, published, name):
    folder = published(name)
    with caplog.at_level(logging.WARNING):
        read_checkpoint(folder)
    assert not caplog.records
    assert json.loads((folder / "generation_config.json").read_bytes())
