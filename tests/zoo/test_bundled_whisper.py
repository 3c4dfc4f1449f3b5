"""The bundled Whisper against transformers, which hears it with every utterance padded to 15 s."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from trtasr.audio.log_mel import LogMelFrontend
from trtasr.zoo.evaluate import EVAL_MANIFEST, measure_wer
from trtasr.zoo.evaluate import read_manifest as clips_of
from trtasr.zoo.whisper import END, SECONDS, load_folder

GOLDEN = Path(__file__).parents[1] / "golden" / "bundled_whisper.npz"
EVERY = 4


@pytest.fixture(scope="module")
def padded():
    """The bundled recognizer with transformers' padding."""
    found = load_folder(Path(EVAL_MANIFEST).parents[1] / "whisper")
    return replace(found, frontend=LogMelFrontend(replace(found.frontend.config, pad_seconds=SECONDS)))


@pytest.mark.parametrize("name", [key.partition("/")[2] for key in np.load(GOLDEN) if key.startswith("tokens/")])
@torch.inference_mode()
def test_logits_and_greedy_tokens_are_those_of_transformers(padded, name):
    golden = np.load(GOLDEN)
    tokens, wanted = golden[f"tokens/{name}"], golden[f"logits/{name}"]
    line = json.loads(EVAL_MANIFEST.read_text().splitlines()[int(name)])
    samples, _ = soundfile.read(EVAL_MANIFEST.parent / line["audio_filepath"], dtype="float32")
    audio, lengths = torch.from_numpy(samples)[None], torch.tensor([len(samples)])
    logits = padded.model(*padded.frontend(audio, lengths), torch.from_numpy(tokens)[None])[0]
    assert np.abs(logits[:, ::EVERY].numpy() - wanted).max() < 1e-3
    prompt = len(padded.generation.prompt)
    assert tuple(tokens[:prompt]) == padded.generation.prompt
    said = logits.argmax(1)[prompt - 1 :].tolist()
    assert said == [*tokens[prompt:].tolist(), END]
    assert padded.transcribe(audio, lengths) == [padded.tokens.decode(tokens[prompt:].tolist())]


def test_word_error_rate_on_a_part_of_the_committed_set():
    """The whole set is the compile's; a fourth of it shows that weights, tokens and front-end belong together."""
    assert measure_wer(load_folder(EVAL_MANIFEST.parents[1] / "whisper"), clips_of(EVAL_MANIFEST)[::4]) < 8
