"""Lines that nvidia-smi prints, and what is done where there is none."""

import logging
import math
import sys
import threading

import pytest

from trtasr.engine import device
from trtasr.engine.device import REASONS, STATE_FIELDS, parse_state, summarized, watched
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


def put_smi(monkeypatch, folder, script):
    """A program of that name, the only one there is."""
    program = folder / "nvidia-smi"
    program.write_text(script)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_without_nvidia_smi_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setattr(device.shutil, "which", lambda name: None)
    with pytest.raises(MissingError, match="nvidia-smi"):
        device.gpu_state("0")


def test_a_failing_nvidia_smi_is_quoted(monkeypatch, tmp_path):
    put_smi(monkeypatch, tmp_path, "#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    with pytest.raises(MissingError, match="has failed"):
        device.gpu_state("0")


def test_the_program_is_asked_for_every_field(monkeypatch, tmp_path):
    put_smi(monkeypatch, tmp_path, f"#!/bin/sh\necho \"$@\" > {tmp_path}/asked\necho '{T4.strip()}'\n")
    assert device.gpu_state("0000:00:1E.0").name == "Tesla T4"
    asked = (tmp_path / "asked").read_text()
    assert "--id=0000:00:1E.0" in asked
    assert all(field in asked for field in STATE_FIELDS)


def smi_without(folder, monkeypatch, *refused):
    """An nvidia-smi that refuses a query with one of these fields, in nvidia-smi's own words."""
    values = dict(zip(STATE_FIELDS, T4.strip().split(", "), strict=True)) | {REASONS[1]: "0x0000000000000008"}
    program = folder / "nvidia-smi"
    program.write_text(
        f"""#!{sys.executable}
import sys
values, refused = {values!r}, {refused!r}
fields = sys.argv[2].partition("=")[2].split(",")
for field in fields:
    if field in refused:
        print(f'Field "{{field}}" is not a valid field to query.')
        sys.exit(2)
with open({str(folder / "asked")!r}, "a") as log:
    print(len(fields), file=log)
print(", ".join(values[field] for field in fields))
"""
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_an_older_driver_is_asked_by_the_older_name(monkeypatch, tmp_path):
    smi_without(tmp_path, monkeypatch, REASONS[0])
    state = device.gpu_state("0")
    assert (state.throttle, state.sm_mhz, state.driver) == (8, 1590.0, "580.95.05")


def test_one_field_that_is_refused_costs_no_other(monkeypatch, tmp_path, caplog):
    smi_without(tmp_path, monkeypatch, *REASONS, "power.limit")
    state = device.gpu_state("0")
    assert (state.name, state.driver, state.sm_mhz, state.power_w) == ("Tesla T4", "580.95.05", 1590.0, 68.31)
    assert math.isnan(state.limit_w)
    assert not state.throttled
    assert "does not answer: power.limit, clocks_event_reasons.active" in caplog.text
    asked = len((tmp_path / "asked").read_text().splitlines())
    device.gpu_state("0")
    assert len((tmp_path / "asked").read_text().splitlines()) == asked + 1  # what it understands is known by now


def test_an_nvidia_smi_that_never_ends_is_given_up(monkeypatch, tmp_path):
    put_smi(monkeypatch, tmp_path, "#!/bin/sh\nexec /bin/sleep 60\n")
    monkeypatch.setattr(device, "SMI_SECONDS", 0.1)
    with pytest.raises(MissingError, match="timed out"):
        device.gpu_state("0")


def test_the_whole_report_is_what_nvidia_smi_says(monkeypatch, tmp_path):
    put_smi(monkeypatch, tmp_path, '#!/bin/sh\necho "asked $1"\n')
    assert device.gpu_report() == "asked -q\n"


def states(*clocks_and_reasons):
    """Answers of a card at such clocks, for such reasons."""
    return [
        parse_state(f"Tesla T4, 580.95.05, P0, {clock}, 1590, 5000, 68.31, 70.00, 61, {reason:#018x}\n")
        for clock, reason in clocks_and_reasons
    ]


def test_the_busiest_moment_has_the_lowest_clock_and_all_reasons(caplog):
    before, busiest, after = summarized(states((300, 1), (1590, 4), (900, 0), (1200, 0x20), (585, 1)))
    assert (before.sm_mhz, busiest.sm_mhz, after.sm_mhz) == (300, 900, 585)
    assert busiest.throttle == 0x24
    assert "0x24" in caplog.text
    assert "900 of 1590 MHz" in caplog.text


def test_a_card_that_keeps_its_clocks_is_not_warned_about(caplog):
    assert [state.sm_mhz for state in summarized(states((300, 1), (1590, 0), (1590, 1), (585, 1)))] == [300, 1590, 585]
    assert not caplog.records


def test_a_clock_that_is_not_told_is_no_lowest_one():
    assert summarized(states((300, 1), ("[N/A]", 0), (1590, 0), (300, 1)))[1].sm_mhz == 1590


def test_of_few_answers_the_last_is_the_busiest():
    assert summarized([]) == []
    assert [state.sm_mhz for state in summarized(states((300, 1)))] == [300, 300, 300]
    assert [state.sm_mhz for state in summarized(states((300, 1), (900, 0)))] == [300, 900, 900]


def test_a_card_is_watched_while_it_works(monkeypatch):
    answers, asked, enough = iter(states((300, 1), (1590, 0), (1500, 0), *[(585, 1)] * 1000)), [], threading.Event()

    def gpu_state(bus):
        asked.append(bus)
        if len(asked) == 3:
            enough.set()
        return next(answers)

    monkeypatch.setattr(device, "pci_bus_id", lambda: "0000:00:1e.0")
    monkeypatch.setattr(device, "gpu_state", gpu_state)
    monkeypatch.setattr(device, "SAMPLE_SECONDS", 0.01)
    with watched() as found:
        assert enough.wait(5)
    assert [len(found), found[0].sm_mhz] == [3, 300]
    assert set(asked) == {"0000:00:1e.0"}


def test_a_card_that_cannot_be_watched_costs_no_result(monkeypatch, caplog):
    caplog.set_level(logging.WARNING)

    def missing():
        raise MissingError("pycuda is not installed", "install it")

    monkeypatch.setattr(device, "pci_bus_id", missing)
    with watched() as found:
        pass
    assert found == []
    assert "pycuda is not installed" in caplog.text
