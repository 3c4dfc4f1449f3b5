"""Makes what `make check-tensorrt` checks against: the real TensorRT bindings over stub libraries, and a mock GPU.

    python tests/bindings/prepare.py FOLDER

Nothing of TensorRT's 2 GB of libraries is needed: the bindings wheels (1.3 MB each, the versions in VERSIONS) link
nine C symbols, which stub.c defines. pycuda is compiled against mock_cuda.c, a driver library with host memory as
device memory; that needs gcc, nvcc's headers and a few minutes, and is left out where there is no nvcc.

FOLDER then holds, for each version in VERSIONS, ``<major>/bindings`` (importable as tensorrt), ``<major>/lib`` and
``<major>/stubs`` (types), ``rtx/stubs`` of the installed TensorRT for RTX, ``mock/libcuda.so.1`` and ``pycuda/``.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
VERSIONS = {"10": "10.16.1.11", "11": "11.4.0.106"}
STUBGEN, PYCUDA = "pybind11-stubgen==3.0.0", "pycuda==2025.1.2"
LIBRARIES = ("nvinfer", "nvonnxparser", "nvinfer_plugin")
SHIM = "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n"
# missing in the generated stub
BUFFER = "class IHostMemory:\n    def __buffer__(self, flags: int) -> memoryview: ...\n"
TYPES = {
    "Builder": "Builder",
    "BuilderConfig": "IBuilderConfig",
    "Context": "IExecutionContext",
    "Engine": "ICudaEngine",
    "Layer": "ILayer",
    "Logger": "ILogger",
    "Network": "INetworkDefinition",
    "OptimizationProfile": "IOptimizationProfile",
    "TimingCache": "ITimingCache",
}


def run(*command, **options):
    subprocess.run([str(part) for part in command], check=True, **options)


def pip(target, *requirements):
    run(
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--target",
        target,
        *requirements,
    )


def bindings(folder, major, version):
    """The bindings wheel, importable as `tensorrt`, and the libraries it asks for."""
    pip(folder / "bindings", "--no-deps", f"tensorrt-cu12-bindings=={version}")
    (folder / "bindings" / "tensorrt").mkdir(exist_ok=True)
    (folder / "bindings" / "tensorrt" / "__init__.py").write_text(SHIM)
    (folder / "lib").mkdir(exist_ok=True)
    for library in LIBRARIES:  # all symbols live in the first one, the others only have to exist
        name = f"lib{library}.so.{major}"
        source = HERE / "stub.c" if library == "nvinfer" else "/dev/null"
        run("gcc", "-w", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", folder / "lib" / name, "-x", "c", source)


def stubs(folder, module, tools, environment):
    """Type stubs of a bindings module, and a class `Trt` with its contents: what a parameter `trt` stands for."""
    code = f"import sys; sys.path.append({str(tools)!r}); from pybind11_stubgen import main; main()"
    package = module.partition(".")[0]
    command = [sys.executable, "-c", code, package, "-o", folder / "stubs", "--ignore-all-errors"]
    run(*command, env=environment, stderr=subprocess.DEVNULL)
    path = folder / "stubs" / f"{module.replace('.', '/')}.pyi"
    text = re.sub(r"\bin: ", "in_: ", path.read_text())  # a keyword as a parameter's name
    # a parameter without a default behind some that have one
    text = text.replace("channel_axis: typing.SupportsInt)", "channel_axis: typing.SupportsInt = ...)")
    path.write_text(text.replace("class IHostMemory:\n", BUFFER))
    names = re.findall(r"^class (\w+)", text, re.MULTILINE)
    lines = [f"import {module} as library", "", "class Trt:", "    __version__: str"]
    lines += [f"    {name} = library.{name}" for name in names]
    lines += ["    @staticmethod", "    def nptype(trt_type: library.DataType) -> type: ...", ""]
    lines += [f"{ours} = library.{theirs}" for ours, theirs in TYPES.items()]
    (folder / "stubs" / "trt_facade.pyi").write_text("\n".join(lines) + "\n")


def mock_driver(folder):
    """A libcuda that defines what mock_cuda.c implements; pycuda's other symbols answer NOT_SUPPORTED."""
    folder.mkdir(exist_ok=True)
    source = HERE / "mock_cuda" / "mock_cuda.c"
    done = set(re.findall(r"^API\((\w+)", source.read_text(), re.MULTILINE))
    missing = sorted(set((HERE / "mock_cuda" / "pycuda_symbols.txt").read_text().split()) - done)
    aliases = [f'int {name}(void) __attribute__((alias("mock_unsupported")));' for name in missing]
    (folder / "mock.c").write_text("\n".join([f'#include "{source.resolve()}"', *aliases, ""]))
    run(
        "gcc",
        "-O1",
        "-shared",
        "-fPIC",
        "-Wl,-soname,libcuda.so.1",
        "-o",
        folder / "libcuda.so.1",
        folder / "mock.c",
        "-ldl",
    )
    link = folder / "libcuda.so"  # the name the linker looks for when pycuda is compiled
    link.unlink(missing_ok=True)
    link.symlink_to("libcuda.so.1")


def pycuda(folder, mock, environment):
    """pycuda compiled against the mock driver library."""
    compiler = shutil.which("nvcc")
    if compiler is None:
        sys.stderr.write("nvcc not found: the calibrators are not checked with pycuda\n")
        return
    asked = [compiler, "--dryrun", "-x", "cu", "/dev/null"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False)
    root = Path(re.search(r"TOP=(\S+)", answer.stderr)[1]).resolve()
    with tempfile.TemporaryDirectory() as home:
        settings = f'CUDA_ENABLE_CURAND = False\nCUDA_ROOT = "{root}"\nLDFLAGS = ["-L{mock}"]\n'
        (Path(home) / ".aksetup-defaults.py").write_text(settings)
        path = f"{root / 'bin'}:{environment['PATH']}"
        run(
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--target",
            folder,
            PYCUDA,
            "numpy",
            env={**environment, "HOME": home, "PATH": path},
        )


def main():
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ)
    if not (folder / "tools").is_dir():
        pip(folder / "tools", STUBGEN)
    for major, version in VERSIONS.items():
        place = folder / major
        place.mkdir(exist_ok=True)
        if not (place / "bindings").is_dir():
            bindings(place, major, version)
        paths = {"PYTHONPATH": str(place / "bindings"), "LD_LIBRARY_PATH": str(place / "lib")}
        stubs(place, "tensorrt_bindings.tensorrt", folder / "tools", {**environment, **paths})
    (folder / "rtx").mkdir(exist_ok=True)
    stubs(folder / "rtx", "tensorrt_rtx_bindings.tensorrt_rtx", folder / "tools", environment)
    mock_driver(folder / "mock")
    if not (folder / "pycuda").is_dir():
        pycuda(folder / "pycuda", folder / "mock", environment)


if __name__ == "__main__":
    main()
