"""The acceptance run on a T4 host made of fakes: its steps run in forks of the test, with all that a test plants."""

import json
import os
import sys
from contextlib import contextmanager

import torch
from t4_host import FAST

from trtasr.cli import main
from trtasr.pipeline.acceptance import process, step, trial
from trtasr.pipeline.acceptance.steps import TRIALS, VARIANTS

QUICK = [*FAST, "--set", "quantization.fidelity=fast"]  # random weights are easily harmed


def fork_steps(monkeypatch, before=lambda request: None):
    """Run every step in a fork of this process, and first questions about little.

    Args:
        monkeypatch: of the test.
        before: called with the request, in this process; its errors are raised here.

    Returns:
        list of (kind, subject) that fills as the steps run.
    """
    ran = []

    def launch(request):
        request = json.loads(json.dumps(request))
        ran.append((request["kind"], request["subject"]))
        before(request)
        sys.stdout.flush()
        child = os.fork()
        if not child:
            torch.set_num_threads(1)  # the threads of torch's pool are not forked: whoever waits for them waits forever
            status = 99
            try:
                status = step.answered(request)
            finally:
                os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    monkeypatch.setattr(process, "launch", launch)
    monkeypatch.setattr(trial, "FRAMES", 64)
    monkeypatch.setattr(trial, "RUNS", 2)
    return ran


@contextmanager
def only(variants, trials):
    """All other variants and first questions are left out; afterwards they are back, in order."""
    tables = {id(table): (table, dict(table), names) for table, names in ((VARIANTS, variants), (TRIALS, trials))}
    for table, before, names in tables.values():
        table.clear()
        table.update({name: before[name] for name in names})
    try:
        yield
    finally:
        for table, before, _ in tables.values():
            table.clear()
            table.update(before)


def accepted(host, out, *flags, model="tiny.nemo"):
    """The exit code of a run, and its result."""
    speech = ["--manifest", str(host / "manifest.json")]
    code = main(["acceptance", str(host / model), *speech, "-o", str(out), "-q", *QUICK, *flags])
    return code, json.loads((out / "t4-acceptance.json").read_text())
