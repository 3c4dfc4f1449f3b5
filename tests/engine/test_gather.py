"""What an image that runs plans gets of TensorRT, over folders that stand for site-packages of both layouts."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trtasr.engine.gather import loaded_libraries

ROOT = Path(__file__).resolve().parents[2]
VERSION = '__version__ = "10.16.1.11"\n'
LOAD = "import ctypes, pathlib\nfor name in {names}: ctypes.CDLL(str(pathlib.Path({folder}) / name))\n"
MAPS = """\
7f00-7f01 r-xp 00000000 08:01 11 /usr/lib/x86_64-linux-gnu/libnvinfer.so.10.16.1
7f01-7f02 r--p 00000000 08:01 11 /usr/lib/x86_64-linux-gnu/libnvinfer.so.10.16.1
7f02-7f03 r-xp 00000000 08:01 12 /usr/lib/x86_64-linux-gnu/libnvinfer_builder_resource_sm75.so.10.16.1
7f03-7f04 r-xp 00000000 08:01 13 /usr/local/cuda-13.2/targets/x86_64-linux/lib/libcudart.so.13.2.51
7f04-7f05 r-xp 00000000 08:01 14 /opt/a folder/tensorrt_libs/libnvonnxparser.so.10
7f05-7f06 r-xp 00000000 08:01 15 /usr/lib/x86_64-linux-gnu/libc.so.6
7f06-7f07 rw-p 00000000 00:00 0
7f07-7f08 rw-p 00000000 00:00 0 [heap]
"""


def test_libraries_are_those_that_are_mapped_but_for_the_builders():
    assert [str(path) for path in loaded_libraries(MAPS)] == [
        "/opt/a folder/tensorrt_libs/libnvonnxparser.so.10",
        "/usr/lib/x86_64-linux-gnu/libnvinfer.so.10.16.1",
        "/usr/local/cuda-13.2/targets/x86_64-linux/lib/libcudart.so.13.2.51",
    ]


def library(path):
    """An empty shared library, and the name that the linker asks for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["gcc", "-shared", "-o", str(path), "-x", "c", "/dev/null"], check=True)
    link = path.with_name(f"{path.name.partition('.so.')[0]}.so.{path.name.partition('.so.')[2].split('.')[0]}")
    if link != path:
        link.symlink_to(path.name)


def package(folder, text):
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(text)


def one_package(site, system):
    """As in NVIDIA's images: the libraries are the system's."""
    for name in ("libnvinfer.so.10.16.1", "libnvonnxparser.so.10.16.1"):
        library(system / name)
    load = LOAD.format(names=["libnvinfer.so.10", "libnvonnxparser.so.10"], folder=repr(str(system)))
    package(site / "tensorrt", f"{load}{VERSION}from tensorrt.plugin import KINDS\n")
    package(site / "tensorrt" / "plugin", "KINDS = 1\n")


def three_packages(site, system):
    """As pip installs it: one of them holds the libraries, the builder's among them."""
    package(site / "tensorrt", "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n")
    package(site / "tensorrt_bindings", f"import tensorrt_libs\n{VERSION}")
    files = "[path.name for path in pathlib.Path(__file__).parent.glob('*.so*')]"
    package(site / "tensorrt_libs", LOAD.format(names=files, folder="pathlib.Path(__file__).parent"))
    for name in ("libnvinfer.so.10", "libnvinfer_builder_resource_sm75.so.10.16.1"):
        library(site / "tensorrt_libs" / name)


def python(path, *command):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    done = subprocess.run([sys.executable, "-P", *command], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not shutil.which("gcc"), reason="needs a C compiler")
@pytest.mark.parametrize(
    ("layout", "packages", "libraries"),
    [
        (one_package, {"tensorrt"}, {"libnvinfer.so.10.16.1", "libnvonnxparser.so.10.16.1"}),
        (three_packages, {"tensorrt", "tensorrt_bindings", "tensorrt_libs"}, set()),
    ],
)
def test_what_is_gathered_can_be_imported_elsewhere(tmp_path, layout, packages, libraries):
    site, system, out = tmp_path / "site", tmp_path / "system", tmp_path / "export"
    layout(site, system)
    python([site, ROOT], "-m", "trtasr.engine.gather", str(out))
    assert {path.name for path in (out / "python").iterdir()} == packages
    held = {path.name for path in out.rglob("*.so*") if not path.is_symlink()}
    assert not any("builder_resource" in name for name in held)
    assert libraries <= held
    links = {path.name: str(path.readlink()) for path in out.rglob("*.so*") if path.is_symlink()}
    assert links == {f"{name.partition('.so.')[0]}.so.10": name for name in libraries}
    shutil.rmtree(site)
    for package_init in (out / "python").rglob("__init__.py"):  # the system's libraries are elsewhere there
        package_init.write_text(package_init.read_text().replace(str(system), str(out / "lib")))
    shutil.rmtree(system, ignore_errors=True)
    code = "import tensorrt; print(tensorrt.__version__, tensorrt.__file__)"
    assert python([out / "python"], "-c", code).split() == ["10.16.1.11", str(out / "python/tensorrt/__init__.py")]


def test_without_tensorrt_there_is_nothing_to_gather(tmp_path):
    done = subprocess.run(
        [sys.executable, "-P", "-m", "trtasr.engine.gather", str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "TensorRT is not installed" in done.stderr
    assert not (tmp_path / "out").exists()
