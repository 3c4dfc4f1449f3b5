"""A new place to run is one file: this one registers a toy and compiles for it as anybody would."""

import json

import pytest

from trtasr.cli import main
from trtasr.graph.qdq import insert_qdq
from trtasr.targets import TARGETS, Target
from trtasr.targets.rules import REASONS

FAST = [
    "calibration.batches=1",
    "calibration.steps=1",
    "calibration.seconds=1.0",
    "evaluation.bench_seconds=[0.5]",
    "evaluation.max_wer_increase=1000",
]


def odd(site):
    """Of nodes with more than one group of channels the toy has no kernel."""
    return "odd" if site.groups > 1 else None


TOY = Target(
    "toy",
    label="int8 toy",
    graph="toy/{}.onnx".format,
    quantize=insert_qdq,
    rules=(odd,),
    reasons=REASONS | {"odd": "the toy takes no groups"},
)


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(TARGETS, "toy", TOY)


def flags(folder, out):
    changes = [word for change in FAST for word in ("--set", change)]
    return [
        str(folder / "tiny.nemo"),
        "--manifest",
        str(folder / "manifest.json"),
        "-o",
        str(out),
        "--target",
        "toy",
        *changes,
    ]


def test_a_registered_target_is_compiled_measured_and_named_for_what_it_is(toy, tiny_folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["compile", *flags(tiny_folder, out)]) == 0
    printed = capsys.readouterr().out
    (row,) = [line for line in printed.splitlines() if line.startswith("int8 toy  ")]
    assert " cpu " in row
    assert "not " not in row
    assert "kept FP32: 3 odd (the toy takes no groups)" in printed
    assert "sm_75" not in printed
    sidecar = json.loads((out / "bundle.json").read_text())
    assert sidecar["engines"]["toy"]["label"] == "int8 toy"
    assert sidecar["graphs"] == {"fp32": ["model.fp32.onnx"], "toy": ["toy/model.onnx"]}
    assert sidecar["results"]["toy"]["p50_ms"] > 0
    assert [path.name for path in (out / "toy").iterdir()] == ["model.onnx"]
    assert not (out / "model.qdq.onnx").exists()
    assert "FP16" not in json.dumps(sidecar["fp16_subnormal_scales"])
    page = (out / "report.html").read_text()
    assert "the toy takes no groups" in page
    assert "sm_75" not in page


def test_its_bundle_is_used_as_itself(toy, tiny_folder, tmp_path, capsys, caplog):
    out = tmp_path / "out"
    assert main(["compile", *flags(tiny_folder, out)]) == 0
    capsys.readouterr()
    assert main(["bench", str(out), "--seconds", "0.5"]) == 0
    assert "int8 toy: 0.5 s of audio" in capsys.readouterr().out
    assert main(["transcribe", str(out), str(next(tiny_folder.glob("*.wav")))]) == 0
    assert "is not here" not in caplog.text


def test_unknown_targets_are_refused_with_the_known_ones(toy, tiny_folder, tmp_path, capsys):
    for dry in ([], ["--dry-run"]):
        command = [
            word.replace("toy", "joy") if word == "toy" else word for word in flags(tiny_folder, tmp_path / "out")
        ]
        assert main(["compile", *command, *dry]) == 2
        assert "use one of auto, t4, t4-rtx, cpu, toy" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
