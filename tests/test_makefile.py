"""make hands every name to the command as the user wrote it, and the command alone says what the engine is called."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_archive import write_archive, write_manifest

ROOT = Path(__file__).resolve().parents[1]
NAMES = [
    "quartznet",
    "my model.nemo",
    'it\'s "mine".nemo',
    "модель.nemo",
    "folder with blanks/",
    "a;b&c.nemo",
    "*.nemo",
]


def make(folder: Path, command: str, *words: str) -> subprocess.CompletedProcess[str]:
    """``make`` in a folder whose virtual environment has a certain trtasr."""
    binary = folder / ".venv" / "bin" / "trtasr"
    binary.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"#!{sys.executable}", f"import sys\nsys.path.insert(0, {str(ROOT)!r})", command]
    binary.write_text("\n".join(lines), encoding="utf-8")
    binary.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    (folder / ".venv" / ".installed").touch()
    variables = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # of `make test`
    return subprocess.run(
        ["make", *words], cwd=folder, env=variables, capture_output=True, text=True, check=False, timeout=300
    )


def received(folder: Path, *words: str) -> list[str]:
    """The arguments that trtasr gets."""
    done = make(folder, "import json; print(json.dumps(sys.argv[1:]))", *words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", NAMES)
def test_names_reach_the_command_as_they_are(tmp_path, name) -> None:
    assert received(tmp_path, "engine", f"MODEL={name}") == ["compile", name]
    assert received(tmp_path, "calib", f"MODEL={name}") == ["calibrate", name]
    assert received(tmp_path, "bench", f"MODEL={name}", f"MANIFEST={name}") == ["bench", name, "--manifest", name]
    assert received(tmp_path, "inspect", f"MODEL={name}", "TARGET=cpu") == ["inspect", name, "--target", "cpu"]
    assert received(tmp_path, "inspect", f"OUT={name}", "TARGET=auto") == ["inspect", name]
    assert received(tmp_path, "compare", f"MODEL={name}") == ["compare", name]


@pytest.mark.parametrize("name", NAMES)
def test_every_variable_of_an_engine_is_handed_on(tmp_path, name) -> None:
    words = [f"MODEL={name}", f"OUT={name}", f"MANIFEST={name}", "TARGET=cpu"]
    assert received(tmp_path, "engine", *words) == ["compile", name, "-o", name, "--manifest", name, "--target", "cpu"]


def test_several_manifests_are_handed_on_as_one_list(tmp_path) -> None:
    expected = ["compile", "quartznet", "--manifest", "dev.json,my set/an4.json"]
    assert received(tmp_path, "engine", "MANIFEST=dev.json,my set/an4.json") == expected


def test_without_variables_it_is_the_bundled_model(tmp_path) -> None:
    assert received(tmp_path, "engine") == ["compile", "quartznet"]
    assert received(tmp_path, "t4-acceptance") == ["acceptance", "quartznet"]


def test_the_archive_to_send_back_is_of_the_same_run(tmp_path) -> None:
    assert received(tmp_path, "t4-acceptance-bundle") == ["acceptance", "quartznet", "--pack"]
    words = ["OUT=my runs/t4", "PACK=--everything"]
    expected = ["acceptance", "quartznet", "-o", "my runs/t4", "--pack", "--everything"]
    assert received(tmp_path, "t4-acceptance-bundle", *words) == expected


def test_an_archive_with_blanks_becomes_an_engine_that_make_finds_again(tmp_path) -> None:
    real = "from trtasr.cli import main\nsys.exit(main())"
    write_archive(tmp_path / "my модель.nemo")
    write_manifest(tmp_path)
    model, cpu = "MODEL=my модель.nemo", "TARGET=cpu"
    done = make(tmp_path, real, "engine", model, cpu)
    assert done.returncode == 0, done.stderr
    assert "engine=engines/my_модель/cpu/model.int8.onnx" in done.stdout
    assert [path.name for path in (tmp_path / "engines").iterdir()] == ["my_модель"]
    assert "layers INT8" in make(tmp_path, real, "inspect", model, cpu).stdout
