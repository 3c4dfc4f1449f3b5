"""The whole FP32 path on real speech."""

from pathlib import Path

import numpy as np
import pytest
import torch
from recognizers import recognizer

from trtasr.audio.features import MelFrontend
from trtasr.audio.manifest import read_manifest
from trtasr.audio.prepare import prepare
from trtasr.audio.read import read_audio
from trtasr.bench.wer import measure_wer
from trtasr.checkpoint.nemo import read_nemo
from trtasr.models.load import build_model
from trtasr.text.ctc import greedy
from trtasr.text.normalize import basic_en_v1

pytestmark = pytest.mark.usefixtures("one_thread")


def built(shared, name):
    """A published checkpoint and its network."""
    checkpoint = read_nemo(shared / "data" / "models" / f"{name}.nemo")
    return checkpoint, build_model(checkpoint.family, checkpoint.config, checkpoint.weights)


@pytest.fixture(scope="module", params=["quartznet15x5", "conformer_ctc_small"])
def real(request, shared):
    return request.param, *built(shared, request.param)


def test_real_checkpoint_transcribes_librispeech(shared, real):
    _, checkpoint, model = real
    tokens, blank = checkpoint.tokenizer, len(checkpoint.vocabulary)
    frontend = MelFrontend(checkpoint.frontend)
    entries = read_manifest(shared / "data" / "librispeech" / "dev.json")[:3]
    waves = [torch.from_numpy(read_audio(entry.audio_filepath, 16000, *entry.segment)) for entry in entries]
    audio = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    log_probs, lengths = model(*frontend(audio, torch.tensor([len(wave) for wave in waves])))
    texts = [tokens.decode(ids) for ids in greedy(log_probs.numpy(), lengths.numpy(), blank)]
    heard, spoken = " ".join(texts).split(), " ".join(basic_en_v1(entry.text) for entry in entries).split()
    wrong = set(spoken) - set(heard)
    assert len(wrong) / len(set(spoken)) < 0.15
    for wave, text in zip(waves, texts, strict=True):
        alone, count = model(*frontend(wave[None], torch.tensor([len(wave)])))
        assert tokens.decode(greedy(alone.numpy(), count.numpy(), blank)[0]) == text


def test_log_probabilities_of_speech_equal_nemos(shared, real):
    """Archive, front-end and network together; `golden/compare_nemo.py` compares twenty utterances."""
    name, checkpoint, model = real
    frontend = MelFrontend(checkpoint.frontend)
    golden = np.load(Path(__file__).parents[1] / "golden" / "speech.npz")
    for index, entry in enumerate(read_manifest(shared / "data" / "librispeech" / "dev.json")[:2]):
        wave = torch.from_numpy(read_audio(entry.audio_filepath, 16000, *entry.segment))
        log_probs, lengths = model(*frontend(wave[None], torch.tensor([len(wave)])))
        found = log_probs[0, : int(lengths)].numpy()[::50]
        np.testing.assert_allclose(found, golden[f"{name}/{index}"], atol=1e-3)


@pytest.mark.slow
def test_conformer_reaches_the_word_error_rate_of_nemo(shared):
    """NeMo 3.0.0 itself: 11.16 % on the same utterances, one by one; here in batches."""
    checkpoint, model = built(shared, "conformer_ctc_small")

    def run(features, lengths):
        log_probs, frames = model(torch.from_numpy(features), torch.from_numpy(lengths))
        return log_probs.numpy(), frames.numpy()

    utterances = prepare(read_manifest(shared / "data" / "librispeech" / "dev.json"), checkpoint.frontend)
    result = measure_wer(recognizer(checkpoint, run), utterances, "basic-en-v1", batch=8)
    assert result.wer == pytest.approx(11.16, abs=0.2)
