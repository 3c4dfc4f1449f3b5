"""WER and latency of what was built, from one run; WER and CER of whole bundles in many scripts."""

import json
import logging
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_archive import LETTERS, state, write_manifest, write_members
from tiny_archive import config as tiny_config

from trtasr.cli import main
from trtasr.errors import AudioError, QualityError
from trtasr.network.network import accepted
from trtasr.pipeline.measure import Row, Subject, measure_rows, rows_of, transcriber, usable_rate, word_error_rate
from trtasr.recipe import EngineShapes, Evaluation
from trtasr.results import BenchResult, Built, Engine, Prepared

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


TEXTS = ("one two", "three", "four five six")
SETTINGS = Evaluation(manifest=("m",), bench_seconds=(0.5,), threads=1, normalizer="none")


class Says:
    """A recognizer that says texts in turn, whatever it hears; None: its outputs are no numbers."""

    cut, captured, tokens = (), True, 0

    def __init__(self, *texts):
        self.texts, self.left = texts, iter(texts)

    def use_graphs(self, wanted):
        self.captured = wanted

    def run(self, features, lengths):
        text = next(self.left)
        if text == "too long":
            raise AudioError("60 s are too long", "cut it")
        self.text = text
        return np.full((1, 1), np.nan if text is None else 0.0), np.ones(1, np.int64)

    def decode(self, found, counts):
        return [self.text]

    def doubt(self, seconds):
        return "it may lack its end" if seconds > 10 else ""

    def whole_run(self, features, seconds):
        return self

    def __call__(self):
        return 1.0

    def encoder_ms(self, runs):
        return 0.0


def utterance(text, name="0.wav", seconds=1.0, frames=4):
    return Prepared(name, seconds, text, np.zeros((2, 4), np.float32), frames)


@pytest.fixture
def subject(ctc, tmp_path):
    """Engines that say what their files are called by."""

    @contextmanager
    def opened(files, threads=0, timed=False):
        yield Says(*files[0].stem.split("+"))

    network = replace(ctc.exported.network, open=opened)
    return Subject(tmp_path, network, SETTINGS, accepted(EngineShapes(), network.described), "T4")


def row(target, *texts, note="", suffix=".onnx", precision="int8"):
    return Row(BenchResult(target, target, 7, precision=precision, note=note), (Path("+".join(texts) + suffix),))


SPEECH = [utterance(text) for text in TEXTS]
EXACT = row("fp32", *TEXTS, precision="fp32")


def test_every_row_has_its_wer_and_what_runs_as_itself_its_latency(subject):
    wrong = ("one two", "three", "four five")
    rows = [EXACT, row("cpu", *wrong), row("t4-rtx", *wrong, note="Q/DQ graph, ONNX Runtime")]
    found = measure_rows(subject, rows, SPEECH)
    assert [item.target for item in found.results] == ["fp32", "cpu", "t4-rtx"]
    assert [item.wer.wer for item in found.results] == [0, pytest.approx(100 / 6), pytest.approx(100 / 6)]
    assert [[x.p50_ms for x in item.latencies] for item in found.results] == [[1.0], [1.0], []]
    assert [item.note for item in found.results] == ["", "", "Q/DQ graph, ONNX Runtime"]
    assert {item.size_bytes for item in found.results} == {7}
    assert found.gpu == ()


def test_every_engine_is_held_against_fp32_over_all_sets_and_on_each(subject):
    speech = [replace(item, dataset=name) for item, name in zip(SPEECH, ("dev", "an4", "dev"), strict=True)]
    rows = [EXACT, row("t4-fp16", *TEXTS, precision="fp16"), row("cpu", "one two", "three", "four five")]
    fp32, fp16, cpu = measure_rows(subject, rows, speech).results
    assert fp32.differences == ()
    assert {item.delta for item in fp16.differences} == {0}
    shown = [(item.dataset, item.units, item.delta, item.disagreement) for item in cpu.differences]
    assert shown == [
        ("", 6, pytest.approx(100 / 6), pytest.approx(100 / 6)),
        ("dev", 5, pytest.approx(20), pytest.approx(20)),
        ("an4", 1, 0, 0),
    ]


def test_plans_are_timed_by_the_gpus_shapes_and_graphs_by_the_cpus(subject, monkeypatch):
    monkeypatch.setattr("trtasr.pipeline.speed.WARM_SECONDS", 0.0)
    settings = replace(SETTINGS, gpu_seconds=(1.0,), gpu_batches=(1, 2))
    plan = row("t4", *TEXTS, suffix=".plan")
    found = measure_rows(replace(subject, evaluation=settings), [EXACT, plan], SPEECH)
    fp32, t4 = found.results
    assert [(x.batch, x.audio_seconds, x.threads) for x in fp32.latencies] == [(1, 0.5, 1)]
    assert [(x.batch, x.audio_seconds, x.threads) for x in t4.latencies] == [(1, 1.0, 0), (2, 2.0, 0)]
    assert {x.device for x in t4.latencies} == {"T4, CUDA graphs"}
    assert {x.plain_launches.device for x in t4.latencies} == {"T4, plain launches"}


def test_without_speech_there_is_no_wer(subject):
    found = measure_rows(subject, [EXACT, row("cpu", *TEXTS)], [])
    assert [item.wer for item in found.results] == [None, None]
    assert [item.differences for item in found.results] == [(), ()]
    assert all(item.latencies for item in found.results)


def test_a_baseline_that_says_nothing_usable_is_a_finding_and_an_engine_is_an_error(subject, caplog):
    alike = ("one", "one", "one")
    found = measure_rows(subject, [EXACT, row("t4-fp16", *alike, precision="fp16")], SPEECH)
    assert found.results[1].wer is None
    assert "the same" in found.results[1].note
    assert "t4-fp16" in caplog.text
    for broken in (row("cpu", *alike), replace(EXACT, files=row("fp32", *alike).files)):
        with pytest.raises(QualityError, match="the same"):
            measure_rows(subject, [broken], SPEECH)


def test_a_reference_that_recognizes_nothing_ends_the_run(subject):
    speech = [utterance(f"completely different words number {index}") for index in range(3)]
    with pytest.raises(QualityError, match="recognizes too little"):
        measure_rows(subject, [EXACT], speech)
    assert measure_rows(subject, [row("cpu", *TEXTS)], speech).results[0].wer.wer >= 95


def test_a_control_without_a_usable_transcript_has_no_rate(subject, caplog):
    files = row("x", "one", "one", "one").files
    assert usable_rate(subject.network, files, SPEECH, SETTINGS) is None
    assert "control: " in caplog.text
    assert usable_rate(subject.network, EXACT.files, SPEECH, SETTINGS) == 0


def test_languages_without_spaces_are_judged_by_characters(subject):
    speech = [utterance(text) for text in ("今天天气好", "你好")]
    settings = replace(SETTINGS, normalizer="unicode-v1")
    found = word_error_rate(subject.network, row("x", "今天天气坏", "你好").files, speech, settings)
    assert (found.measure, found.rate) == ("CER", pytest.approx(100 / 7))
    assert usable_rate(subject.network, row("x", "今天天气坏", "你好").files, speech, settings) == found.rate


def test_a_transcript_names_its_file_in_every_trouble(caplog):
    caplog.set_level(logging.WARNING)
    heard = transcriber(Says("one", "two", "too long"))
    assert heard(utterance("", "short.wav", frames=0)) == ""
    assert [record.getMessage() for record in caplog.records] == ["short.wav: shorter than one feature frame"]
    caplog.clear()
    assert heard(utterance("", "usual.wav")) == "one"
    assert not caplog.records
    assert heard(utterance("", "long.wav", 11.0)) == "two"
    assert [record.getMessage() for record in caplog.records] == ["long.wav: it may lack its end"]
    with pytest.raises(AudioError, match=r"longest\.wav: 60 s are too long") as caught:
        heard(utterance("", "longest.wav"))
    assert caught.value.repair == "cut it"


def built(target, size, **facts):
    return Engine(target, f"int8 {target}", (Built(f"{target}/model.plan", size),), **facts)


def test_what_does_not_run_here_is_measured_through_its_graphs_and_baselines_come_first(tmp_path):
    for name, size in (("model.fp32.onnx", 5), ("model.fp32.onnx.data", 8), ("other.onnx", 99)):
        (tmp_path / name).write_bytes(bytes(size))
    engines = [
        built("t4-rtx", 70, graphs=("model.qdq.onnx",), stand_in="Q/DQ graph, ONNX Runtime", absent="no T4 here"),
        built("cpu", 30, graphs=("cpu/model.int8.onnx",)),
        replace(built("t4-fp16", 50), precision="fp16", label="fp16 t4"),
        replace(built("t4-fp32", 90, stand_in="nothing"), precision="fp32"),
    ]
    fp32, *rows = rows_of(tmp_path, (tmp_path / "model.fp32.onnx",), engines)
    assert (fp32.known.engine, fp32.known.target, fp32.known.size_bytes) == ("fp32 (reference)", "fp32", 5 + 8)
    assert [(item.known.target, item.known.size_bytes, item.known.precision) for item in rows] == [
        ("t4-fp16", 50, "fp16"),
        ("t4-rtx", 70, "int8"),
        ("cpu", 30, "int8"),
    ]
    names = "t4-fp16/model.plan", "model.qdq.onnx", "cpu/model.plan"
    assert [item.files for item in rows] == [(tmp_path / name,) for name in names]
    assert [item.known.note for item in rows] == ["", "Q/DQ graph, ONNX Runtime", ""]
    assert rows[1].known.absent == "no T4 here"
