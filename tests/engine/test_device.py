"""Lines that nvidia-smi prints, and what is done where there is none."""

import math

import pytest

from trtasr.engine import device
from trtasr.engine.device import STATE_FIELDS, parse_state
from trtasr.errors import MissingError

T4 = "Tesla T4, 580.95.05, P0, 1590, 1590, 5000, 68.31, 70.00, 61, 0x0000000000000004\n"
IDLE = "Tesla T4, 580.95.05, P8, 300, 1590, 405, 9.12, 70.00, 31, 0x0000000000000001\n"
VIRTUAL = "GRID T4-16Q, 535.54.03, P0, 1590, 1590, 5000, [N/A], [N/A], [N/A], [Not Supported]\n"


def test_a_card_at_its_power_cap_is_throttled():
    state = parse_state(T4)
    assert (state.name, state.pstate, state.sm_mhz, state.power_w) == ("Tesla T4", "P0", 1590.0, 68.31)
    assert state.throttled


def test_an_idle_card_is_not_throttled():
    assert not parse_state(IDLE).throttled


def test_numbers_that_are_not_reported_are_nan():
    state = parse_state(VIRTUAL)
    assert math.isnan(state.power_w)
    assert not state.throttled


def test_another_answer_is_refused():
    with pytest.raises(MissingError, match="unexpected answer"):
        parse_state("No devices were found\n")


def test_without_nvidia_smi_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setattr(device.shutil, "which", lambda name: None)
    with pytest.raises(MissingError, match="nvidia-smi"):
        device.gpu_state("0")


def test_a_failing_nvidia_smi_is_quoted(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match="has failed"):
        device.gpu_state("0")


def test_the_program_is_asked_for_every_field(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho \"$@\" > {tmp_path}/asked\necho '{T4.strip()}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert device.gpu_state("0000:00:1E.0").name == "Tesla T4"
    asked = (tmp_path / "asked").read_text()
    assert "--id=0000:00:1E.0" in asked
    assert all(field in asked for field in STATE_FIELDS)
