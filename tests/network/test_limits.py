"""What a model cannot hear whole is refused: a recording by its name, a benchmark by its key."""

import math
from pathlib import Path

import pytest

from trtasr.audio.features import FrontendConfig
from trtasr.audio.log_mel import LogMelConfig
from trtasr.audio.waveform import WaveformConfig
from trtasr.errors import AudioError, RecipeError
from trtasr.network.limits import refuse_above, refuse_benchmarks
from trtasr.network.network import Described
from trtasr.text.tokens import CharTokenizer

TOKENS = CharTokenizer(("a", "b"))


def hearing(config, most=math.inf):
    return Described("any", config, TOKENS, None, most)


TWO_SECONDS = hearing(LogMelConfig(), 200.0)


@pytest.mark.parametrize("seconds", [0.0, 2.0, 2.004])
def test_what_fits_is_heard(seconds):
    refuse_above(TWO_SECONDS)(Path("a.wav"), seconds)


def test_a_longer_recording_is_refused_by_its_name():
    with pytest.raises(AudioError, match=r"long\.wav: 2\.011 s, .* 2 s") as error:
        refuse_above(TWO_SECONDS)(Path("long.wav"), 2.011)
    assert error.value.exit_code == 2
    assert "at most 2 s" in error.value.repair


@pytest.mark.parametrize("config", [FrontendConfig(), WaveformConfig()])
def test_without_an_end_every_length_is_heard(config):
    refuse_above(hearing(config))(Path("a.wav"), 1e6)
    refuse_benchmarks(hearing(config), [1e6])


@pytest.mark.parametrize("seconds", [[], [0.01], [1.0, 2.0]])
def test_benchmarks_that_fit(seconds):
    refuse_benchmarks(TWO_SECONDS, seconds)


@pytest.mark.parametrize("seconds", [[1.0, 2.5], [2.01], [0.009, 1.0], [0.0]])
def test_benchmarks_that_are_longer_than_the_model_hears_or_shorter_than_a_frame(seconds):
    with pytest.raises(RecipeError, match=r"bench_seconds.* 0\.01 to 2 s"):
        refuse_benchmarks(TWO_SECONDS, seconds)


def test_a_benchmark_of_waveforms_is_long_enough_for_one_position():
    refuse_benchmarks(hearing(WaveformConfig()), [0.06])
    with pytest.raises(RecipeError, match="bench_seconds"):
        refuse_benchmarks(hearing(WaveformConfig()), [0.05, 1.0])
