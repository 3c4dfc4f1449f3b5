"""WER and CER of whole bundles in many scripts, by networks that say one sentence whatever they hear."""

import json

import pytest
from tiny_archive import LETTERS, state, write_manifest, write_members
from tiny_archive import config as tiny_config

from trtasr.cli import main

FAST = [
    "--set",
    "calibration.batches=1",
    "--set",
    "calibration.steps=1",
    "--set",
    "evaluation.bench_seconds=[0.5]",
    "--set",
    "calibration.seconds=1.0",
    "--target",
    "cpu",
    "-q",
]


def saying(path, sentence):
    """An archive of a network whose first token is a whole sentence, the most probable one in every frame."""
    settings, weights = tiny_config(), state()
    vocabulary = [sentence, *LETTERS[1:]]
    settings |= {"labels": vocabulary, "decoder": settings["decoder"] | {"vocabulary": vocabulary}}
    weights["decoder.decoder_layers.0.bias"][0] = 1000.0
    return write_members(path, settings, weights)


@pytest.mark.parametrize(
    ("reference", "heard", "figures"),
    [
        ("लड़की की किताब", "लड़का का कताब", {"wer": 100.0, "measure": "WER", "normalizer": "unicode-v1"}),  # Hindi
        ("தமிழ் நாடு", "தமழ் நடு", {"wer": 100.0, "measure": "WER", "normalizer": "unicode-v1"}),  # Tamil
        ("caf\u00e9", "cafe\u0301", {"wer": 0.0, "cer": 0.0, "normalizer": "unicode-v1"}),  # composed, decomposed
        ("ไม่ไป", "ไมไป", {"cer": 20.0, "measure": "CER", "normalizer": "unicode-v1"}),  # Thai, without the tone mark
        ("今天天气好", "今天天气坏", {"cer": 20.0, "measure": "CER", "normalizer": "unicode-v1"}),  # Chinese
        ("It's five.", "it's nine", {"wer": 50.0, "cer": 100 * 2 / 9, "measure": "WER", "normalizer": "basic-en-v1"}),
    ],
)
def test_error_rates_of_a_bundle_in_its_language(tmp_path, capsys, reference, heard, figures):
    """NFC first, vowel signs kept, characters counted where there are no spaces, transcripts as given in wer.json."""
    model, manifest = saying(tmp_path / "m.nemo", heard), write_manifest(tmp_path, 2, text=reference)
    out = tmp_path / "out"
    assert main(["compile", str(model), "--manifest", str(manifest), "-o", str(out), *FAST, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["results"]["fp32"]
    assert {key: found[key] for key in figures} == {
        key: pytest.approx(value) if isinstance(value, float) else value for key, value in figures.items()
    }
    rows = json.loads((out / "wer.json").read_text(encoding="utf-8"))["fp32"]["utterances"]
    assert {(row["text"], row["pred_text"]) for row in rows} == {(reference, heard)}
