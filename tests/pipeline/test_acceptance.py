"""The acceptance run: that it runs every step on a T4 host made of fakes, and what it says of each."""

import json
import tarfile

import pytest
from acceptance_host import QUICK, accepted, fork_steps, only

from trtasr.cli import main
from trtasr.errors import MissingError
from trtasr.pipeline.acceptance import run
from trtasr.pipeline.acceptance.archive import pack
from trtasr.pipeline.acceptance.steps import BASELINES, TRIALS, VARIANTS, planned, slug

FEW = ["explicit", "explicit, depthwise too"], ["FP16 depthwise, [k, 1]", "INT8 depthwise"]
DEPTHWISE = "/encoder/encoder.0/mconv.0/conv/Conv"  # the first of three


@pytest.fixture(scope="module")
def two(host, tmp_path_factory):
    """A run of two variants and two first questions."""
    out = tmp_path_factory.mktemp("two") / "all"
    with pytest.MonkeyPatch.context() as patch, only(*FEW):
        patch.setenv("FAKE_TRT_NO_INT8", f"{DEPTHWISE},convolution")
        ran = fork_steps(patch)
        steps = planned(True)
        code, found = accepted(host, out)
    return out, code, found, [(step.kind, step.subject) for step in steps], ran


def test_steps_run_once_and_in_order(two):
    _, code, found, steps, ran = two
    assert code == 0
    assert ran == steps
    assert [kind for kind, _ in ran[:6]] == ["trial", "trial", "prepare", "WER", "baseline", "baseline"]
    assert found["missing"] == []
    assert found["outcome"] == "PASSED"
    assert found["host"] == {"gpu": "Tesla T4 (fake)", "capability": [7, 5], "tensorrt": "10.16.1.11"}


def test_every_variant_has_its_figures(two):
    _, _, found, _, _ = two
    plain, depthwise = found["variants"]
    assert [row["name"] for row in found["baselines"]] == list(BASELINES)
    assert all(row["bench"][0]["latencies"] for row in found["baselines"])
    assert [row["target"] for row in plain["bench"]] == ["fp32", "t4-fp16", "t4-fp32", "t4"]
    assert [row["latencies"][0]["p50_ms"] for row in plain["bench"][1:]] == [2.0, 6.0, 1.0]
    assert all(row["wer"] is not None for row in plain["bench"])
    assert sum(row["int8"] for row in plain["layers"]) == 5
    assert sum(row["time_share"] for row in plain["layers"]) == pytest.approx(1)
    assert plain["layer_classes"] == {"CaskConvolution": 9}
    assert plain["kernels"] == {"INT8 (kernel unknown)": 5, "FP16": 4}
    assert len(plain["layer_sqnr_db"]) == 9
    assert plain["gpu"][0]["sm_mhz"] == 1590
    assert depthwise["fallback"] == [
        DEPTHWISE,  # one without a kernel takes the others with it
        "/encoder/encoder.1/mconv.0/conv/Conv",
        "/encoder/encoder.1/mconv.5/conv/Conv",
    ]


def test_a_first_question_is_answered_by_the_builder_and_the_card(two):
    out, _, found, _, _ = two
    half, int8 = found["trials"]
    assert half["name"] == "FP16 depthwise, [k, 1]"
    assert half["error"] is None
    assert half["layers"][0]["operands"] == ["Half", "Half"]
    assert (half["ms_batch_1"], half["ms_batch_8"]) == (2.0, 2.0)
    assert half["against_onnxruntime"]["max_abs"] == 0.0
    assert list(half["layer_ms"].values()) == [0.5]
    assert "Could not find any implementation for node convolution" in int8["error"]["problem"]  # a finding, no more
    assert (out / "steps" / "trial-INT8-depthwise" / "1" / "verbose.log.gz").is_file()


def test_evidence_of_every_build_is_kept(two):
    out, _, _, _, _ = two
    place = out / "steps" / "explicit-depthwise-too-build" / "model"
    assert (place / "model.lowered.onnx").is_file()
    logs = sorted(path.relative_to(place).as_posix() for path in place.glob("*/verbose.log.gz"))
    assert logs == ["1/verbose.log.gz", "2/verbose.log.gz"]  # with depthwise in INT8, and without
    raw = json.loads((place / "2" / "inspector.json").read_text())
    assert raw["Layers"][0]["Inputs"][0]["Format/Datatype"] == "Row major linear Half format"
    assert not (place / "1" / "inspector.json").exists()


def test_a_variant_becomes_a_bundle(two, capsys):
    out, _, _, _, _ = two
    assert "PASSED" in (out / "explicit" / "bundle.json").read_text()
    assert (out / "explicit" / "report.html").is_file()
    assert main(["inspect", str(out / "explicit"), "--roofline"]) == 0
    assert main(["inspect", str(out / "explicit")]) == 0
    assert "5 of 9" in capsys.readouterr().out


def names(archive):
    with tarfile.open(archive) as packed:
        return {name.partition("/")[2] for name in packed.getnames()}


def test_the_archive_has_findings_and_logs_but_neither_weights_nor_words(two, capsys):
    out, _, found, _, _ = two
    assert main(["acceptance", "any", "--pack", "-o", str(out)]) == 0
    packed = names(capsys.readouterr().out.strip())
    assert {"t4-acceptance.json", "nvidia-smi.txt", "steps/explicit-build/model/1/verbose.log.gz"} <= packed
    assert {"steps/explicit-build/model/1/inspector.json", "steps/explicit-latency/outcome.json"} <= packed
    assert {name.rpartition(".")[2] for name in packed} == {"json", "txt", "gz"}
    spoken = [name for name in packed if name.endswith("-WER/outcome.json")]
    assert spoken == []
    assert "pred_text" not in json.dumps(found)
    assert not any(name.startswith(("explicit/", "baselines/")) for name in packed)
    everything = names(pack(out, everything=True))
    assert packed < everything
    assert {"explicit/t4/model.plan", "baselines/model.fp32.onnx", "steps/explicit-WER/outcome.json"} <= everything


def test_there_is_nothing_to_pack_before_a_run(tmp_path, capsys):
    assert main(["acceptance", "any", "--pack", "-o", str(tmp_path)]) == 2
    assert "holds no findings" in capsys.readouterr().err


def test_a_finished_run_runs_nothing_again(host, two, monkeypatch):
    out, _, found, _, _ = two
    ran = fork_steps(monkeypatch)
    with only(*FEW):
        assert accepted(host, out) == (0, found)
    assert ran == []


def test_findings_of_other_settings_are_made_anew_only_where_the_folder_is_named(host, two, tmp_path, monkeypatch):
    out, _, _, _, _ = two
    ran = fork_steps(monkeypatch, before=lambda request: pytest.fail("no step was to run"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "engines").symlink_to(out.parent)
    out.rename(out.parent / "t4-acceptance")
    try:
        assert main(["acceptance", str(host / "tiny.nemo"), *QUICK]) == 2  # without speech
    finally:
        (out.parent / "t4-acceptance").rename(out)
    assert ran == []


@pytest.mark.slow
def test_all_variants(host, tmp_path, monkeypatch, capsys):
    ran = fork_steps(monkeypatch)
    code, found = accepted(host, tmp_path / "all")
    printed = capsys.readouterr().out
    assert code == 0
    assert ran == [(step.kind, step.subject) for step in planned(True)]
    assert [row["name"] for row in found["trials"]] == list(TRIALS)
    assert [row["name"] for row in found["variants"]] == list(VARIANTS)
    assert [line.split("  ")[0] for line in printed.splitlines()[1:8]] == list(VARIANTS)
    assert "PASSED" in printed.splitlines()[-1]
    engines = {row["name"]: row["engine"] for row in found["variants"]}
    kinds = [item["parts"][0]["quantization"] for item in engines.values()]
    assert kinds == [*["explicit"] * 5, "implicit", "implicit"]
    assert [row["layer_sqnr_db"] == {} for row in found["variants"]] == [*[False] * 5, True, True]
    counts = [engines[name]["forms"][0]["counts"]["written"] for name in ("explicit", "explicit, chains")]
    assert counts == [0, 2]
    assert [name for name, item in engines.items() if "unmasked" in item["parts"][0]] == ["explicit, without masks"]


def test_folders_of_variants_and_steps_differ():
    for steps in ([*VARIANTS], [step.name for step in planned(True)]):
        assert len({slug(name) for name in steps}) == len(steps)
        assert all(slug(name).replace("-", "").replace(".", "").isalnum() for name in steps)


def test_acceptance_begins_with_a_builder(host, tmp_path, monkeypatch, capsys):
    def refuse():
        raise MissingError("TensorRT gives no builder here", "update the driver")

    monkeypatch.setattr(run, "require_builder", refuse)
    code, found = accepted(host, tmp_path / "all")
    assert code == 4
    assert "TensorRT gives no builder here" in capsys.readouterr().err
    assert found["host"]["problem"] == "TensorRT gives no builder here"  # what is sent back says why
    assert found["outcome"] == "INCOMPLETE"


@pytest.mark.slow
def test_a_whisper_is_built_and_measured_too(host, tmp_path, monkeypatch):
    """Two graphs: both plans of every engine, layers of neither are timed, implicit quantization is refused."""
    fork_steps(monkeypatch)
    few = "--set", "calibration.batches=1", "--set", "calibration.batch_size=2", "--set", "evaluation.allow_slower=true"
    with only(["explicit", "implicit, our scales"], []):
        code, found = accepted(host, tmp_path / "all", *few, model="whisper")
    explicit, implicit = found["variants"]
    assert code == 0
    assert [part["path"] for part in explicit["engine"]["parts"]] == ["t4/encoder.plan", "t4/decoder.plan"]
    assert "encoder-decoders are quantized explicitly only" in implicit["error"]
    assert {step["state"] for step in found["steps"] if not step["name"].startswith("implicit")} == {"done"}
