"""The whole FP32 path on real speech."""

import torch

from trtasr.audio.features import MelFrontend
from trtasr.audio.manifest import read_manifest
from trtasr.audio.read import read_audio
from trtasr.checkpoint.nemo import read_nemo
from trtasr.models.load import build_model
from trtasr.text.ctc import greedy
from trtasr.text.normalize import basic_en_v1
from trtasr.text.tokens import CharTokenizer


def test_quartznet_transcribes_librispeech(shared):
    checkpoint = read_nemo(shared / "data" / "models" / "quartznet15x5.nemo")
    model = build_model(checkpoint.family, checkpoint.config, checkpoint.weights)
    tokens = CharTokenizer(checkpoint.vocabulary)
    frontend = MelFrontend(checkpoint.frontend)
    entries = read_manifest(shared / "data" / "librispeech" / "dev.json")[:3]
    waves = [torch.from_numpy(read_audio(entry.audio_filepath, 16000, *entry.segment)) for entry in entries]
    audio = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    log_probs, lengths = model(*frontend(audio, torch.tensor([len(wave) for wave in waves])))
    texts = [tokens.decode(ids) for ids in greedy(log_probs.numpy(), lengths.numpy(), tokens.blank)]
    heard, spoken = " ".join(texts).split(), " ".join(basic_en_v1(entry.text) for entry in entries).split()
    wrong = set(spoken) - set(heard)
    assert len(wrong) / len(set(spoken)) < 0.15
    for wave, text in zip(waves, texts, strict=True):
        alone, count = model(*frontend(wave[None], torch.tensor([len(wave)])))
        assert tokens.decode(greedy(alone.numpy(), count.numpy(), tokens.blank)[0]) == text
