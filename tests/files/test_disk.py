"""What the system says of a disk becomes the environment's fault, with the place, the bytes and the repair."""

import errno
import os
import resource
from pathlib import Path

import pytest

from trtasr.errors import DiskError, UsageError
from trtasr.files import disk
from trtasr.files.disk import disk_error, disk_faults, free_bytes, needing, size, write_error, writing


def refusal(number: int, path: Path | None = None) -> OSError:
    return OSError(number, os.strerror(number), *([str(path)] if path else []))


@pytest.mark.parametrize("number", sorted(disk.DISK))
def test_faults_of_the_disk_name_the_file_of_the_system(tmp_path, number) -> None:
    with pytest.raises(DiskError, match=f"{tmp_path}/x: .*{os.strerror(number)}") as caught, disk_faults():
        raise refusal(number, tmp_path / "x")
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("error", [refusal(errno.EACCES), KeyError("x")])
def test_other_errors_pass(error) -> None:
    with pytest.raises(type(error)) as caught, disk_faults():
        raise error
    assert caught.value is error


def test_what_the_user_chose_wrongly_is_a_fault_of_use(tmp_path) -> None:
    repair = "choose another"
    with (
        pytest.raises(UsageError, match=f"{tmp_path}.*{os.strerror(errno.EACCES)}") as caught,
        writing(tmp_path, repair),
    ):
        raise refusal(errno.EACCES)
    assert caught.value.repair == repair
    assert isinstance(write_error(tmp_path, refusal(errno.EROFS), repair), DiskError)


def test_a_full_disk_says_what_is_needed_written_and_free(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(disk, "free_bytes", lambda _: 5_000_000)
    monkeypatch.setattr(disk, "living", [tmp_path])
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "half").write_bytes(bytes(2_000_000))
    needed = disk_error(refusal(errno.ENOSPC), tmp_path, 7_000_000).problem
    assert "7 MB" in needed
    assert "5 MB" in needed
    unknown = disk_error(refusal(errno.ENOSPC)).problem
    assert unknown.startswith(f"{tmp_path}: ")  # nobody named a place: the fullest one that this run writes in
    assert "2 MB" in unknown


def test_a_limit_on_file_sizes_is_told_with_the_limit(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1000, 1000))
    monkeypatch.setattr(disk, "living", [tmp_path])
    (tmp_path / "small").write_bytes(bytes(10))
    (tmp_path / "large").write_bytes(bytes(1000))
    error = disk_error(refusal(errno.EFBIG))
    assert error.problem.startswith(f"{tmp_path}/large: ")
    assert "1000 bytes" in error.problem
    assert "ulimit -f" in error.repair


def test_libraries_with_words_of_their_own_are_understood(tmp_path, monkeypatch) -> None:
    def save() -> None:
        raise RuntimeError("basic_ios::clear")

    with pytest.raises(RuntimeError), needing(tmp_path, 100):
        save()
    monkeypatch.setattr(disk, "free_bytes", lambda _: 99)
    with pytest.raises(DiskError, match=os.strerror(errno.ENOSPC)), needing(tmp_path, 100):
        save()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (50, 50))
    with pytest.raises(DiskError, match=os.strerror(errno.EFBIG)), needing(tmp_path, 100):
        save()


def test_bytes_below_a_folder_and_of_its_disk(tmp_path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(bytes(30))
    before = size(tmp_path)
    (tmp_path / "y").write_bytes(bytes(12))
    assert size(tmp_path) == before + 12
    assert size(tmp_path / "none") == 0
    there = free_bytes(tmp_path)
    assert free_bytes(tmp_path / "not" / "there") == pytest.approx(there, rel=0.1)
