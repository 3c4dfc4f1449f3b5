"""The acceptance run: that it runs every step on a T4 host made of fakes, and what it says of each."""

import json
import tarfile

import pytest
from forked_steps import fork_steps
from t4_host import FAST

from trtasr.cli import main
from trtasr.errors import MissingError
from trtasr.pipeline.acceptance import run
from trtasr.pipeline.acceptance.steps import BASELINES, VARIANTS, planned

QUICK = [*FAST, "--set", "quantization.fidelity=fast"]  # random weights are easily harmed


def command(host, out, *flags):
    return ["acceptance", str(host / "tiny.nemo"), "--manifest", str(host / "manifest.json"), "-o", str(out), *flags]


@pytest.fixture(scope="module")
def whole(host, tmp_path_factory):
    """A whole run, its result and what was printed."""
    out = tmp_path_factory.mktemp("whole") / "all"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAKE_TRT_NO_INT8", "/encoder/encoder.0/mconv.0/conv/Conv")  # the first depthwise convolution
        ran = fork_steps(patch)
        code = main([*command(host, out, "-q"), *QUICK])
    return out, json.loads((out / "t4-acceptance.json").read_text()), code, ran


def test_every_step_runs_once_and_in_order(whole):
    out, found, code, ran = whole
    assert code == 0
    assert [(step.kind, step.subject) for step in planned(True)] == ran
    assert [kind for kind, _ in ran[:6]] == ["trial"] * 5 + ["prepare"]
    assert found["missing"] == []
    assert {step["state"] for step in found["steps"]} == {"done"}
