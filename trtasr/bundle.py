"""The output folder: written aside and moved into place whole, described and sealed by ``bundle.json``."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtasr.errors import BundleError, UsageError

SIDECAR = "bundle.json"
FORMAT = 1


@dataclass(frozen=True)
class Bundle:
    """A finished bundle on disk.

    Attributes:
        path: its folder.
        sidecar: the content of ``bundle.json``.
    """

    path: Path
    sidecar: Mapping[str, Any]

    def file(self, name: str) -> Path:
        """Path of one of its files, after its sha256 was compared with the sidecar's.

        Raises:
            BundleError: not part of the bundle, missing, or changed since it was written.
        """
        known = self.sidecar["files"]
        if name not in known:
            raise BundleError(f"{self.path}: has no {name}", f"compile again; it holds {', '.join(sorted(known))}")
        path = self.path / name
        if not path.is_file():
            raise BundleError(f"{path}: missing", "compile again")
        found = sha256_file(path)
        if found != known[name]:
            raise BundleError(f"{path}: sha256 {found[:12]} does not match {known[name][:12]} in {SIDECAR}",
                              "the file changed after the build; compile again")  # fmt: skip
        return path


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A temporary folder beside ``out`` that takes its place when the block ends well, and vanishes otherwise.

    Raises:
        UsageError: ``out`` cannot be written, or is a folder that is not a bundle.
    """
    check_replaceable(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise UsageError(f"{out}: cannot be written ({error.strerror})", "choose another folder with -o") from error
    try:
        yield folder
        folder.chmod(0o755)
        replace_folder(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_replaceable(out: Path) -> None:
    """Refuse to overwrite what is not a bundle.

    Raises:
        UsageError: ``out`` is a file, the current folder, a mount point, or has content but no ``bundle.json``.
    """
    if out.is_file():
        raise UsageError(f"{out}: is a file", "choose a folder with -o")
    if out.resolve() == Path.cwd() or out.is_mount():
        raise UsageError(f"{out}: is the current folder or a mount point and cannot be replaced as a whole",
                         f"choose a folder inside it: -o {out / 'bundle'}")  # fmt: skip
    if out.is_dir() and any(out.iterdir()) and not (out / SIDECAR).is_file():
        raise UsageError(f"{out}: holds files that are not a bundle", "choose an empty folder with -o")


def replace_folder(folder: Path, out: Path) -> None:
    """Move ``folder`` to ``out``; an old bundle there steps aside first, comes back on a failure, is removed last."""
    if not out.exists():
        folder.rename(out)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
    try:
        out.rename(aside / out.name)
        folder.rename(out)
    finally:
        if not out.exists():
            (aside / out.name).rename(out)
        shutil.rmtree(aside, ignore_errors=True)


def seal(folder: Path, description: Mapping[str, Any]) -> None:
    """Write ``bundle.json``: the description, the format number and the sha256 of every file in the folder."""
    files = {
        path.relative_to(folder).as_posix(): sha256_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != SIDECAR
    }
    write_json(folder / SIDECAR, {"format": FORMAT, **description, "files": files})


def open_bundle(path: Path) -> Bundle:
    """Read a bundle's sidecar; files are checked when they are asked for.

    Raises:
        BundleError: no bundle there, or a sidecar of another format.
    """
    try:
        sidecar = json.loads((path / SIDECAR).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleError(f"{path}: no bundle here", "build it: `make engine MODEL=...` or `trtasr compile`") from error
    except json.JSONDecodeError as error:
        raise BundleError(f"{path / SIDECAR}: not JSON ({error})", "compile again") from error
    if not isinstance(sidecar, dict) or sidecar.get("format") != FORMAT or "files" not in sidecar:
        raise BundleError(f"{path / SIDECAR}: not a bundle of format {FORMAT}", "compile again with this version")
    return Bundle(path, sidecar)


def write_json(path: Path, data: Any) -> None:
    """Write JSON for people: two spaces, UTF-8, a newline at the end; NaN is refused."""
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def sha256_file(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
