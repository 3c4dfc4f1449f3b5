"""Failures planted in the acceptance run: what was finished is in the result, and a later run completes the rest."""

import errno
import json
import os
import resource
import shutil
import signal
import sys
from contextlib import suppress

import numpy as np
import pytest
from acceptance_host import accepted, fork_steps, only

from trtasr.engine.builder_probe import require_builder
from trtasr.engine.trt_run import TrtRunner
from trtasr.errors import DiskError, UsageError
from trtasr.pipeline.acceptance import process, run, step
from trtasr.pipeline.acceptance.steps import BASELINES, Request, planned, slug
from trtasr.recipe import Recipe

RUNS_A_PLAN = ("latency", "WER", "comparison", "layer times")
ONE = ["explicit"], ["Q/DQ convolution, 2-D"]
PLAN = "explicit/t4/model.plan"


@pytest.fixture
def alone():
    """One variant, one first question."""
    with only(*ONE):
        yield


@pytest.fixture(scope="module")
def finished(host, tmp_path_factory):
    """A finished run of them, to be copied."""
    out = tmp_path_factory.mktemp("finished") / "all"
    with pytest.MonkeyPatch.context() as patch, only(*ONE):
        fork_steps(patch)
        code, _ = accepted(host, out)
    assert code == 0
    return out


@pytest.fixture
def without(finished, alone, tmp_path):
    """Makes a copy in which steps of the variant are still to be run."""

    def copied(*kinds):
        out = tmp_path / "all"
        shutil.copytree(finished, out)
        for kind in kinds:
            shutil.rmtree(out / "steps" / slug(f"explicit: {kind}"))
        return out

    return copied


def states(found):
    return {item["name"]: item["state"] for item in found["steps"]}


def check_finished_numbers(found, *missing):
    """Everything but some steps of the variant is done, and its figures are in the result."""
    expected = {item.name for item in planned(True)} - {f"explicit: {kind}" for kind in missing}
    assert {name for name, state in states(found).items() if state == "done"} == expected
    (variant,) = found["variants"]
    if "build" not in missing:
        assert len(variant["layers"]) == 9
        assert variant["layer_classes"] == {"CaskConvolution": 9}
    for baseline, milliseconds in zip(found["baselines"], (2.0, 6.0), strict=True):
        assert {item["p50_ms"] for item in baseline["bench"][0]["latencies"]} == {milliseconds}
        assert baseline["bench"][0]["wer"] is not None
        assert baseline["layers"]
    assert {"fp32", *BASELINES} <= {row["target"] for row in variant.get("bench", [{"target": "fp32"}])} | set(
        BASELINES
    )


def is_the_plan(runner):
    return PLAN in str(runner._plans[0].path)


def plant_scores(monkeypatch, change):
    """Change the scores that the variant's plan gives."""
    real = TrtRunner.__call__

    def call(self, features, lengths):
        scores, counts = real(self, features, lengths)
        return (change(scores) if is_the_plan(self) else scores), counts

    monkeypatch.setattr(TrtRunner, "__call__", call)


def plant_call(monkeypatch, effect):
    """Have something happen before the variant's plan runs."""
    real = TrtRunner.__call__

    def call(self, features, lengths):
        if is_the_plan(self):
            effect()
        return real(self, features, lengths)

    monkeypatch.setattr(TrtRunner, "__call__", call)


def not_a_number(scores):
    return np.full_like(scores, np.nan)


def silence(scores):
    """The blank, which is the last token, everywhere."""
    quiet = np.full_like(scores, -20)
    quiet[..., -1] = 0
    return quiet


@pytest.mark.parametrize(("spoilt", "words"), [(not_a_number, "NaN"), (silence, "empty")])
def test_a_plan_with_unusable_output_keeps_its_layers_and_all_latencies(host, without, monkeypatch, spoilt, words):
    out = without("WER", "bundle")
    plant_scores(monkeypatch, spoilt)
    ran = fork_steps(monkeypatch)
    code, found = accepted(host, out)
    assert code == 3
    check_finished_numbers(found, "WER")
    (variant,) = found["variants"]
    assert variant["outcome"] == "FAILED"
    assert words in variant["error"]
    assert [row["latencies"][0]["p50_ms"] for row in variant["bench"][1:]] == [2.0, 6.0, 1.0]
    assert [kind for kind, _ in ran] == ["WER", "bundle"]
    again = fork_steps(monkeypatch)
    assert accepted(host, out)[0] == 3
    assert again == []  # that the plan is no good is a finding, not a failure of the run


def test_a_segmentation_fault_in_the_runner_costs_one_step_each(host, without, monkeypatch):
    out = without(*RUNS_A_PLAN, "bundle")
    with pytest.MonkeyPatch.context() as patch:
        plant_call(patch, lambda: os.kill(os.getpid(), signal.SIGSEGV))
        fork_steps(patch)
        code, found = accepted(host, out)
    assert code == 3
    check_finished_numbers(found, *RUNS_A_PLAN, "bundle")
    broken = {item["name"]: item["error"]["problem"] for item in found["steps"] if item["state"] == "broken"}
    assert broken == {f"explicit: {kind}": "the process ended with SIGSEGV" for kind in RUNS_A_PLAN}
    folder = out / "steps" / "explicit-latency"
    assert "Fatal Python error: Segmentation fault" in (folder / "crash.txt").read_text()
    assert "Tesla T4" in (folder / "nvidia-smi.txt").read_text()
    kept = out / "steps" / "explicit-build" / "model"
    assert (out / PLAN).is_file()
    assert all((kept / name).is_file() for name in ("model.lowered.onnx", "1/inspector.json", "1/verbose.log.gz"))
    ran = fork_steps(monkeypatch)
    assert accepted(host, out)[0] == 0
    assert [kind for kind, _ in ran] == [*RUNS_A_PLAN, "bundle"]


def test_a_sticky_cuda_error_reaches_no_other_step(host, without, monkeypatch):
    """From the first illegal access on, every call of that process fails; of the next one none does."""
    out = without("latency", "WER", "layer times")
    planted, cuda = {"latency": True}, sys.modules["pycuda.driver"]

    def stick():
        if planted["now"]:
            raise cuda.LogicError("cuStreamSynchronize failed: an illegal memory access was encountered")

    with pytest.MonkeyPatch.context() as patch:
        plant_call(patch, stick)
        fork_steps(patch, before=lambda request: planted.update(now=request["kind"] in planted))
        code, found = accepted(host, out)
    assert code == 3
    check_finished_numbers(found, "latency")
    assert "illegal memory access" in found["variants"][0]["error"]
    assert [row["latencies"][0]["p50_ms"] for row in found["variants"][0]["bench"][1:3]] == [2.0, 6.0]
    ran = fork_steps(monkeypatch)
    assert accepted(host, out)[0] == 0
    assert ran == [("latency", "explicit")]


def test_a_builder_that_is_null_ends_the_run_and_loses_nothing(host, without, monkeypatch, capsys):
    out = without("build", "latency", "WER")
    with pytest.MonkeyPatch.context() as patch:
        fork_steps(patch, before=lambda request: patch.setenv("FAKE_TRT_NO_BUILDER", "1"))
        code, found = accepted(host, out)
    assert code == 4
    assert "gives no builder here" in capsys.readouterr().err
    check_finished_numbers(found, "build", "latency", "WER")
    assert states(found)["explicit: build"] == "broken"
    assert states(found)["explicit: WER"] == "missing"  # the run has ended
    ran = fork_steps(monkeypatch)
    assert accepted(host, out)[0] == 0
    assert [kind for kind, _ in ran] == ["variant", "latency", "WER"]


def test_a_builder_that_is_null_from_the_start_keeps_what_an_earlier_run_found(host, without, monkeypatch):
    out = without("WER")
    monkeypatch.setenv("FAKE_TRT_NO_BUILDER", "1")
    require_builder.cache_clear()
    try:
        code, found = accepted(host, out)
    finally:
        require_builder.cache_clear()
    assert code == 4
    assert "error: 35" in found["host"]["problem"]
    check_finished_numbers(found, "WER")


def test_a_builder_that_refuses_the_graph_is_a_finding(host, without, monkeypatch):
    out = without("build", "latency", "WER")
    monkeypatch.setenv("FAKE_TRT_NO_MEMORY", "1")
    ran = fork_steps(monkeypatch)
    code, found = accepted(host, out)
    assert code == 3
    check_finished_numbers(found, "build", "latency", "WER")
    assert states(found)["explicit: build"] == "refused"
    assert "insufficient workspace" in found["variants"][0]["error"]
    assert ran == [("variant", "explicit")]  # without a plan there is nothing to measure
    assert (out / "steps" / "explicit-build" / "model" / "model.lowered.onnx").is_file()


def test_a_full_disk_in_a_step_ends_the_run(host, without, monkeypatch, capsys):
    """What a process may write at most stands for a disk: the plan does not fit, the words about it do."""
    out, real = without("build", "WER"), step.KINDS["variant"]

    def full(request, tell):
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        real(request, tell)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(step.KINDS, "variant", full)
        fork_steps(patch)
        code, found = accepted(host, out)
    assert code == 4
    assert "File too large" in capsys.readouterr().err
    check_finished_numbers(found, "build", "WER")
    ran = fork_steps(monkeypatch)
    assert accepted(host, out)[0] == 0
    assert [kind for kind, _ in ran] == ["variant", "WER"]


def test_a_disk_that_takes_not_even_the_result_leaves_the_last_one(host, without, monkeypatch, capsys):
    out, real, left = without("latency", "WER"), run.write_json, [2]

    def full(path, data):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(path, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "write_json", full)
        fork_steps(patch)
        code, found = accepted(host, out)
    assert code == 4
    assert "No space left on device" in capsys.readouterr().err
    check_finished_numbers(found, "WER")  # the latency was written before
    ran = fork_steps(monkeypatch)
    assert accepted(host, out)[0] == 0
    assert ran == []  # WER was measured, and is on disk: only the result lacked it


def test_without_nvidia_smi_all_is_measured_but_clocks(host, without, monkeypatch):
    out = without("latency")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    if shutil.which("nvidia-smi"):
        pytest.skip("there is one among the system's programs")
    fork_steps(monkeypatch)
    code, found = accepted(host, out)
    assert code == 0
    check_finished_numbers(found)
    assert found["nvidia_smi"] == "nvidia-smi: program not found"
    assert found["variants"][0]["gpu"] == []


REFUSING = """#!/bin/sh
case "$*" in
  *clocks_event_reasons*) echo 'Field "clocks_event_reasons.active" is not a valid field to query.'; exit 2;;
  *clocks_throttle_reasons*) echo 'Field "clocks_throttle_reasons.active" is not a valid field to query.'; exit 2;;
  *query-gpu=name,*) echo "never asked: one of the fields is refused"; exit 2;;
  *query-gpu=name*) echo "Tesla T4 (fake)";;
  *driver_version*) echo "580.1";;
  *) echo "1590";;
esac
"""


def test_one_field_that_nvidia_smi_refuses_costs_no_clocks(host, without, monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    answer = 'echo "Tesla T4 (fake), 580.1, P0, 1590, 1590, 5001, 60.1, 70.0, 50"'
    program.write_text(REFUSING.replace('echo "never asked: one of the fields is refused"; exit 2', answer))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    out = without("latency")
    fork_steps(monkeypatch)
    code, found = accepted(host, out)
    assert code == 0
    before, *_ = found["variants"][0]["gpu"]
    assert (before["sm_mhz"], before["driver"], before["throttle"]) == (1590, "580.1", 0)


def test_ctrl_c_keeps_what_is_finished(host, without, monkeypatch, capsys):
    out = without("latency", "WER", "comparison")

    def interrupt(request):
        if request["kind"] == "WER":
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        fork_steps(patch, before=interrupt)
        code, found = accepted(host, out)
    assert code == 130
    check_finished_numbers(found, "WER", "comparison")
    assert found["missing"] == ["explicit: WER", "explicit: comparison"]
    ran = fork_steps(monkeypatch)
    assert accepted(host, out)[0] == 0
    assert [kind for kind, _ in ran] == ["WER", "comparison"]


def test_an_interrupt_that_reaches_the_step_alone_ends_the_run_too(host, without, monkeypatch):
    out, real = without("WER"), step.KINDS["WER"]

    def interrupted(request, tell):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(step.KINDS, "WER", interrupted)
        fork_steps(patch)
        assert accepted(host, out)[0] == 130
    assert step.KINDS["WER"] is real


def test_what_a_step_had_found_before_it_failed_counts(host, without, monkeypatch):
    """The build tells its layers before the graphs are judged."""
    out, real = without("build", "latency"), step.KINDS["variant"]

    def broken(request, tell):
        real(request, tell)
        raise RuntimeError("the probes fell off the table")

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(step.KINDS, "variant", broken)
        ran = fork_steps(patch)
        code, found = accepted(host, out)
    assert code == 3
    assert [kind for kind, _ in ran] == ["variant", "latency"]  # there is a plan to measure
    assert "fell off the table" in found["variants"][0]["error"]
    assert len(found["variants"][0]["layers"]) == 9


def request_in(folder, kind="trial", subject="Q/DQ convolution, 2-D"):
    return Request(kind, subject, Recipe("any", "any.nemo"), folder, folder, folder / "step")


def test_a_step_is_a_process_of_its_own(tmp_path, monkeypatch):
    """The command that is really used: without a T4 host here its trial ends with what is missing."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with suppress(UsageError):
        outcome = process.attempt("trial", request_in(tmp_path))
    assert outcome.state == "broken"
    assert (outcome.error.kind, outcome.error.exit_code) == ("MissingError", 4)
    assert "T4 host" in outcome.error.problem
    assert {path.name for path in (tmp_path / "step").iterdir()} <= {"trial.onnx", "nvidia-smi.txt"}


@pytest.mark.parametrize(
    ("command", "limit", "problem"),
    [
        (["sh", "-c", "kill -SEGV $$"], 60, "the process ended with SIGSEGV"),
        (["sh", "-c", "exit 7"], 60, "the process ended with status 7"),
        (["sleep", "60"], 0.1, "no end within"),
    ],
)
def test_a_process_that_ends_badly_is_a_finding(tmp_path, monkeypatch, command, limit, problem):
    monkeypatch.setattr(process, "COMMAND", command)
    monkeypatch.setattr(process, "LIMIT", limit)
    outcome = process.attempt("trial", request_in(tmp_path))
    assert outcome.state == "broken"
    assert problem in outcome.error.problem


def test_a_process_that_cannot_even_say_so_means_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "COMMAND", ["sh", "-c", f"exit {os.EX_IOERR}"])
    with pytest.raises(DiskError, match="could not write"):
        process.attempt("trial", request_in(tmp_path))


def test_the_result_is_json_without_nan(finished):
    json.loads((finished / "t4-acceptance.json").read_text(), parse_constant=pytest.fail)
