"""What transformers itself hears with the bundled Whisper, for utterances of the committed set padded to 15 s.

Command, in an environment of its own (never a dependency of this project), in the folder above ``tests``:

    pip install "transformers==5.23.0" "torch==2.13.0" soundfile
    python tests/golden/make_bundled_whisper_goldens.py

`bundled_whisper.npz` holds for each utterance the tokens of ``generate``, prompt included, and the logits of its
forward pass on them at every fourth token of the vocabulary.
"""

import json
from pathlib import Path

import numpy as np
import soundfile
import torch
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

ROOT = Path(__file__).parents[2]
ZOO = ROOT / "trtasr" / "zoo"
UTTERANCES = (0, 1, 40, 81, 120, 199)
EVERY = 4


def main() -> None:
    model = WhisperForConditionalGeneration.from_pretrained(ZOO / "whisper", torch_dtype=torch.float32).eval()
    extract = WhisperFeatureExtractor.from_pretrained(ZOO / "whisper")
    names = [json.loads(line)["audio_filepath"] for line in (ZOO / "eval" / "manifest.json").read_text().splitlines()]
    found = {}
    for index in UTTERANCES:
        samples, rate = soundfile.read(ZOO / "eval" / names[index], dtype="float32")
        features = extract(samples, sampling_rate=rate, return_tensors="pt").input_features
        with torch.no_grad():
            tokens = model.generate(features, language="en", task="transcribe", return_timestamps=False)
            prompt = torch.tensor([[513, 514, 516, 519]])
            tokens = tokens if tokens[0, 0] == 513 else torch.cat((prompt, tokens), 1)
            logits = model(input_features=features, decoder_input_ids=tokens).logits
        found |= {f"tokens/{index}": tokens[0].numpy(), f"logits/{index}": logits[0, :, ::EVERY].numpy()}
    np.savez_compressed(Path(__file__).with_name("bundled_whisper.npz"), **found)


if __name__ == "__main__":
    main()
