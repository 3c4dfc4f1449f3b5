from pathlib import Path

import pytest

from trtasr.bundle import open_bundle, seal, staged, write_json
from trtasr.errors import BundleError, UsageError


def make(out: Path, text: str = "one") -> None:
    with staged(out) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "file.txt").write_text(text, encoding="utf-8")
        seal(folder, {"name": "x"})


def fail(out: Path, error: type[BaseException]) -> None:
    with staged(out) as folder:
        (folder / "half").write_text("x", encoding="utf-8")
        raise error


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_bundle_appears_whole_and_alone(tmp_path: Path) -> None:
    make(tmp_path / "out")
    assert names(tmp_path) == ["out"]
    bundle = open_bundle(tmp_path / "out")
    assert bundle.sidecar["name"] == "x"
    assert bundle.file("sub/file.txt").read_text(encoding="utf-8") == "one"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_nothing_new_and_keeps_the_old(tmp_path: Path, error: type[BaseException]) -> None:
    make(tmp_path / "out")
    with pytest.raises(error):
        fail(tmp_path / "out", error)
    assert names(tmp_path) == ["out"]
    assert open_bundle(tmp_path / "out").file("sub/file.txt").is_file()


def test_a_new_bundle_replaces_the_old_one(tmp_path: Path) -> None:
    make(tmp_path / "out")
    make(tmp_path / "out", "two")
    assert names(tmp_path) == ["out"]
    assert open_bundle(tmp_path / "out").file("sub/file.txt").read_text(encoding="utf-8") == "two"


def test_folders_that_are_no_bundle_are_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious", encoding="utf-8")
    with pytest.raises(UsageError, match="not a bundle"):
        make(tmp_path)
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "precious"


def test_output_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(UsageError, match="cannot be written"):
        make(tmp_path / "file" / "out")


def test_changed_and_missing_files_are_refused(tmp_path: Path) -> None:
    make(tmp_path / "out")
    bundle = open_bundle(tmp_path / "out")
    (tmp_path / "out" / "sub" / "file.txt").write_text("tampered", encoding="utf-8")
    with pytest.raises(BundleError, match="does not match"):
        bundle.file("sub/file.txt")
    (tmp_path / "out" / "sub" / "file.txt").unlink()
    with pytest.raises(BundleError, match="missing"):
        bundle.file("sub/file.txt")
    with pytest.raises(BundleError, match="has no other"):
        bundle.file("other")


def test_no_bundle_and_broken_sidecar(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle here"):
        open_bundle(tmp_path)
    (tmp_path / "bundle.json").write_text("{", encoding="utf-8")
    with pytest.raises(BundleError, match="not JSON"):
        open_bundle(tmp_path)
    write_json(tmp_path / "bundle.json", {"format": 99})
    with pytest.raises(BundleError, match="not a bundle of format"):
        open_bundle(tmp_path)


def test_the_current_folder_cannot_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="current folder"):
        make(Path())
    assert names(tmp_path) == []


def test_a_failed_move_brings_the_old_bundle_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "out")
    rename = Path.rename

    def broken(self: Path, target: Path) -> Path:
        if self.name.startswith(".out.") and Path(target).name == "out":
            raise OSError("disk full")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", broken)
    with pytest.raises(OSError, match="disk full"):
        make(tmp_path / "out", "two")
    monkeypatch.undo()
    assert names(tmp_path) == ["out"]
    assert open_bundle(tmp_path / "out").file("sub/file.txt").read_text(encoding="utf-8") == "one"
