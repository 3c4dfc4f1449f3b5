"""The table of peers on a tiny model: every tool's graphs run and are judged like ours."""

from peers import __main__ as peers

SMALL = {"batches": 1, "steps": 2, "seconds": 1.5}


def test_every_peer_and_every_engine_of_ours_has_a_row(tiny_folder, tmp_path, capsys):
    manifest = str(tiny_folder / "manifest.json")
    command = [str(tiny_folder / "tiny.nemo"), "--manifest", manifest, "--audio", manifest]
    command += ["--keep", str(tmp_path / "ours")]
    assert peers.main(command, calibration=SMALL) == 0
    assert (tmp_path / "ours/report.html").is_file()
    *_, last = capsys.readouterr().out.split("\n\n")
    *rows, note = [line for line in last.splitlines()[1:] if line]
    assert note == "left out, no --modelopt PYTHON: modelopt max, modelopt entropy"
    ours = ["trtasr, t4-rtx", "trtasr, cpu", *["trtasr, static scales by "] * 3]
    names = [*ours, *peers.CALIBRATORS, "ort dynamic"]
    assert [next(name for name in names if row.startswith(name)) for row in rows] == names
    figures = [row for row in rows if "nothing recognized" not in row]
    assert figures[:2] == rows[:2]
    assert len(figures) > 2  # random weights, rounded otherwise, may say nothing
    assert len({row.split("  ", 1)[1].strip() for row in figures}) > 1


def test_a_missing_manifest_is_told(tiny_folder, tmp_path, capsys):
    model = str(tiny_folder / "tiny.nemo")
    assert peers.main([model, "--manifest", str(tmp_path / "no.json"), "--audio", "no.json"]) == 2
    assert "no.json" in capsys.readouterr().err
