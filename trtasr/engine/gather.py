"""What importing TensorRT needs, gathered in one folder: for an image that runs plans and has nothing else of it.

    python -m trtasr.engine.gather FOLDER

writes ``FOLDER/python`` (for PYTHONPATH) and ``FOLDER/lib`` (for LD_LIBRARY_PATH). What is needed is what the import
has loaded: TensorRT comes as one package, ``tensorrt``, or as ``tensorrt``, ``tensorrt_bindings`` and
``tensorrt_libs``; its libraries lie among the system's, or in the last of these. Builder resources, which are
gigabytes, are left out.
"""

import importlib
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from trtasr.engine.build_tensorrt import load_tensorrt

MAPPED = Path("/proc/self/maps")  # a line per mapped range; the last column is the file
LIBRARY = re.compile(r"lib(nvinfer|nvonnxparser|cudart)[\w.]*\.so")
BUILDER = re.compile(r"libnvinfer_builder_resource")
PACKAGE = re.compile(r"tensorrt(_bindings|_libs)?")


def main() -> None:
    """Gather into the folder that the command line names."""
    folder = Path(sys.argv[1])
    load_tensorrt()
    packages = loaded_packages()
    for package in packages:
        copy_package(package, folder / "python")
    inside = [package.resolve() for package in packages]
    for library in loaded_libraries(MAPPED.read_text(encoding="utf-8")):
        if not held(library, inside):
            copy_library(library, folder / "lib")


def loaded_packages() -> list[Path]:
    """Folders of TensorRT's packages that this process has imported."""
    names = sorted(name for name in sys.modules if PACKAGE.fullmatch(name))
    files = (getattr(importlib.import_module(name), "__file__", None) for name in names)
    return [Path(file).parent for file in files if file]


def loaded_libraries(maps: str) -> list[Path]:
    """TensorRT's and CUDA's libraries among the files that a process has mapped.

    Args:
        maps: content of ``/proc/PID/maps``.
    """
    columns = (line.split(maxsplit=5) for line in maps.splitlines())
    files = {Path(found[5]) for found in columns if len(found) == 6}
    return sorted(file for file in files if LIBRARY.match(file.name) and not BUILDER.match(file.name))


def held(file: Path, folders: Iterable[Path]) -> bool:
    """Whether a file lies below one of these folders."""
    return any(file.is_relative_to(folder) for folder in folders)


def copy_package(package: Path, target: Path) -> None:
    """Copy a package without what only building needs."""

    def left_out(_folder: str, names: list[str]) -> list[str]:
        return [name for name in names if BUILDER.match(name) or name == "__pycache__"]

    shutil.copytree(package, target / package.name, symlinks=True, ignore=left_out, dirs_exist_ok=True)


def copy_library(library: Path, target: Path) -> None:
    """Copy a library once, with every name that leads to it: the linker asks for one, programs for another."""
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy2(library, target / library.name)
    for name in library.parent.iterdir():
        if name.is_symlink() and name.resolve() == library and not (target / name.name).is_symlink():
            (target / name.name).symlink_to(library.name)


if __name__ == "__main__":
    main()
