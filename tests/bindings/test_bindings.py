"""TensorRT's real bindings (10.16, 11.4) over stub libraries, pycuda over a mock driver: `make check-tensorrt`.

Nothing can be built or run on them, but every name, argument, base class and copy is the real library's.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECK = Path(os.environ.get("TRTASR_CHECK", "nowhere"))
# Names that a library lacks, since only another one ever meets them.
CAPABILITIES = {"ComputeCapability", "num_compute_capabilities", "set_compute_capability"}
IMPLICIT = {"FP16", "INT8", "PREFER_PRECISION_CONSTRAINTS", "int8_calibrator", "precision", "set_calibration_profile"}
ABSENT = {"10": CAPABILITIES, "11": CAPABILITIES | IMPLICIT, "rtx": IMPLICIT}

pytestmark = pytest.mark.skipif(not CHECK.is_dir(), reason="no TensorRT bindings prepared: run `make check-tensorrt`")


def mypy(library, *files):
    environment = {**os.environ, "MYPYPATH": str(CHECK / library / "stubs")}
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        str(Path(__file__).with_name("types.ini")),
        "--cache-dir",
        str(CHECK / library / "mypy"),
        *map(str, files),
    ]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def script(major, code, cuda=True):
    """Run code under the bindings of one version; it prints JSON."""
    if cuda and not (CHECK / "pycuda").is_dir():
        pytest.skip("pycuda could not be compiled: nvcc is not installed")
    paths = [str(CHECK / major / "bindings"), str(CHECK / "pycuda"), str(ROOT)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "LD_LIBRARY_PATH": f"{CHECK / major / 'lib'}:{CHECK / 'mock'}",
    }
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("library", ["10", "11", "rtx"])
def test_every_call_in_the_engine_room_fits_the_library(library):
    answer = mypy(library, *sorted((ROOT / "trtasr" / "engine").glob("*.py")))
    absent = re.findall(r' error: .* has no attribute "(\w+)"', answer.stdout)
    assert set(absent) == ABSENT[library], answer.stdout
    assert answer.stdout.count(" error: ") == len(absent), answer.stdout


@pytest.mark.parametrize(
    ("file", "right", "wrong", "complaint"),
    [
        ("builder.py", "config.set_memory_pool_limit(", "config.set_memory_limit(", "set_memory_limit"),
        ("builder.py", "trt.MemoryPoolType.WORKSPACE", "trt.MemoryPoolType.WORKSPACES", "WORKSPACES"),
        ("builder.py", "builder.create_network(typed", "builder.create_network(flag=typed", 'argument "flag"'),
        ("builder.py", "parser.parse(request.onnx.read_bytes())", "parser.parse(request.onnx)", "incompatible type"),
        ("build_child.py", "config.avg_timing_iterations", "config.timing_iterations", "timing_iterations"),
        ("parsed.py", "network.num_layers", "network.nb_layers", "nb_layers"),
        ("parsed.py", "layer.metadata", "layer.meta_data", "meta_data"),
        ("implicit.py", "layer.precision =", "layer.preferred_precision =", "preferred_precision"),
        ("build_child.py", "engine.create_engine_inspector()", "engine.create_inspector()", "create_inspector"),
        ("plan.py", "context.set_optimization_profile_async(", "context.set_profile(", "set_profile"),
        ("plan.py", "self.context.set_input_shape(", "self.context.set_binding_shape(", "set_binding_shape"),
        ("plan.py", "context.set_device_memory(", "context.set_memory(", "set_memory"),
        ("plan.py", "Strategy.USER_MANAGED", "Strategy.USER", "USER"),
        ("plan.py", "engine.device_memory_size_v2", "engine.device_memory_size_v3", "device_memory_size_v3"),
    ],
)
def test_a_wrong_name_keyword_or_argument_fails_the_check(tmp_path, file, right, wrong, complaint):
    text = (ROOT / "trtasr" / "engine" / file).read_text()
    assert right in text
    broken = tmp_path / f"broken_{file}"
    broken.write_text(text.replace(right, wrong))
    answer = mypy("10", broken)
    assert answer.returncode == 1
    assert complaint in answer.stdout


@pytest.mark.parametrize("name", ["implicit.py"])
def test_implicit_quantization_does_not_pass_the_check_of_version_11(name):
    answer = mypy("11", ROOT / "trtasr" / "engine" / name)
    assert answer.returncode == 1
    assert 'BuilderFlag]" has no attribute "INT8"' in answer.stdout


CALIBRATE = """
import json
import numpy as np
import tensorrt as trt
from trtasr.engine.cache import format_cache, parse_cache
from trtasr.engine.calibrator import Source, at_opt_shape, cache_header, make_calibrator
from trtasr.engine.device import primary_context
from trtasr.values import CalibrationSet

rng = np.random.default_rng(0)
data = CalibrationSet((rng.normal(size=(5, 4, 30)).astype(np.float32),), (np.array([30, 30, 7, 30, 30]),), "synthetic")
feeds, dropped = at_opt_shape(data, 2, 20)
seen, bases = [], []
with primary_context() as cuda:
    free, _ = cuda.mem_get_info()
    for algorithm in ("entropy", "minmax"):
        calibrator = make_calibrator(trt, Source(algorithm, feeds), cuda)
        bases.append(type(calibrator).__mro__[1].__name__)
        equal = 0
        while (pointers := calibrator.get_batch(["lengths", "features"])) is not None:
            for pointer, array in zip(pointers, reversed(feeds[equal]), strict=True):
                back = np.empty_like(array)
                cuda.memcpy_dtoh(back, pointer)
                assert (back == array).all()
            equal += 1
        text = format_cache({"features": np.float32(0.1)}, cache_header(trt.__version__, algorithm))
        calibrator.write_calibration_cache(memoryview(text.encode()))
        served = make_calibrator(trt, Source(algorithm, cache=calibrator.written.decode()), cuda)
        header, scales = parse_cache(bytes(served.read_calibration_cache()).decode())
        assert calibrator.read_calibration_cache() is None
        calibrator.check(True)
        seen.append([equal, calibrator.get_batch_size(), header, scales["features"].hex()])
    leak = free - cuda.mem_get_info()[0]
print(json.dumps({"feeds": len(feeds), "dropped": dropped, "seen": seen, "bases": bases, "leak": leak}))
""".replace('scales["features"].hex()', 'float(scales["features"]).hex()')


def test_the_calibrators_deliver_every_batch_and_read_their_own_cache():
    found = script("10", CALIBRATE)
    assert (found["feeds"], found["dropped"]) == (4, 1)  # 2 + 2 + 1 + 2 + 2 pieces of 20 frames, in batches of 2
    scale = float.hex(0.10000000149011612)
    headers = ["TRT-101601-EntropyCalibration2", "TRT-101601-MinMaxCalibration"]
    assert found["seen"] == [[4, 2, header, scale] for header in headers]
    assert found["bases"] == ["IInt8EntropyCalibrator2", "IInt8MinMaxCalibrator"]
    assert found["leak"] == 0


OUT_OF_MEMORY = """
import json
import numpy as np
import tensorrt as trt
from trtasr.engine.calibrator import Source, make_calibrator
from trtasr.engine.device import primary_context
from trtasr.errors import BuildError

feed = np.zeros((1, 64, 1024), np.float32), np.array([1024])
with primary_context() as cuda:
    calibrator = make_calibrator(trt, Source("entropy", (feed, feed)), cuda)
    first = calibrator.get_batch(["features", "lengths"])
    try:
        calibrator.check(True)
        message = ""
    except BuildError as error:
        message = error.problem
print(json.dumps({"first": first, "message": message}))
"""


def test_an_exception_in_get_batch_fails_the_build_instead_of_ending_the_data(monkeypatch):
    monkeypatch.setenv("MOCK_CUDA_MEM", "100000")
    found = script("10", OUT_OF_MEMORY)
    assert found["first"] is None
    assert "0 batches" in found["message"]
    assert "no GPU memory for features (1, 64, 1024)" in found["message"]


CONTEXTS = """
import json
import pycuda.driver as plain
from trtasr.engine.device import primary_context
plain.init()
before = plain.Context.get_current() is None
with primary_context():
    inside = plain.Context.get_current() is not None
    with primary_context():
        pass
    still = plain.Context.get_current() is not None
outside = plain.Context.get_current() is None
import pycuda.autoprimaryctx
with primary_context() as cuda:
    shared = cuda.Context.get_current() is not None
    cuda.mem_alloc(16).free()
after = plain.Context.get_current() is not None
print(json.dumps([before, inside, still, outside, shared, after]))
"""


def test_the_primary_context_is_current_inside_the_block_only_and_shared():
    assert script("10", CONTEXTS) == [True] * 6


def test_the_import_of_the_engine_room_makes_no_context():
    code = """
import json, sys
import trtasr.engine.device, trtasr.engine.trt_run, trtasr.engine.calibrator, trtasr.engine.build_child
print(json.dumps([name for name in sys.modules if name.startswith(("pycuda", "tensorrt"))]))
"""
    assert script("10", code) == []


REFUSED = """
import json
import tensorrt as trt
from trtasr.engine.calibrator import Source, make_calibrator, require_calibrators
from trtasr.errors import MissingError
try:
    require_calibrators(trt, "entropy")
    message = ""
except MissingError as error:
    message = str(error)
print(json.dumps([trt.__version__, message]))
"""


def test_version_11_refuses_implicit_quantization_and_says_why():
    version, message = script("11", REFUSED, cuda=False)
    assert version == "11.4.0.106"
    problem, repair = message.split("repair: ")
    assert version in problem
    assert "--quantization explicit" in repair
    assert "pip install tensorrt-cu12==10.16" in repair


@pytest.mark.parametrize("major", ["10", "11"])
def test_logger_monitor_and_profiler_are_classes_of_the_library(major):
    """Their constructors and callbacks work; a builder over stub libraries does not, and that is the only refusal."""
    code = """
import json
import tensorrt as trt
from trtasr.engine import build_child
from trtasr.engine.builder import make_monitor
from trtasr.errors import MissingError
monitor = make_monitor(trt)
monitor.phase_start("Building engine", None, 2)
goes_on = monitor.step_complete("Building engine", 0)
monitor.phase_finish("Building engine")
try:
    build_child.build_requested(trt, {"library": "tensorrt_rtx", "onnx": "x", "shapes": {}, "capabilities": []})
    refusal = ""
except MissingError as error:
    refusal = error.problem
print(json.dumps([isinstance(monitor, trt.IProgressMonitor), goes_on, refusal]))
"""
    subclass, goes_on, refusal = script(major, code, cuda=False)
    assert subclass
    assert goes_on is True
    assert "nullptr" in refusal


PROBED = """
import json
import tensorrt as trt
from trtasr.engine.builder_probe import refusals
from trtasr.engine.device import load_libcuda
from trtasr.engine.driver import driver_cuda
print(json.dumps([refusals(trt), driver_cuda(load_libcuda())]))
"""


@pytest.mark.parametrize("major", ["10", "11"])
def test_null_in_place_of_a_builder_is_said_and_the_driver_tells_its_cuda(major):
    said, cuda = script(major, PROBED, cuda=False)
    assert "gives no builder here (pybind11::init(): factory function returned nullptr)" in said[-1]
    assert cuda == [13, 0]


DOCTOR = """
import json
from trtasr.engine.probe import probe
print(json.dumps({item.name: [item.available, item.detail, item.repair] for item in probe()}))
"""


@pytest.mark.parametrize(("major", "version"), [("10", "10.16.1.11"), ("11", "11.4.0.106")])
def test_doctor_finds_a_builder_that_is_null_and_a_driver_that_is_too_old(major, version, monkeypatch):
    found = script(major, DOCTOR, cuda=False)
    assert found["TensorRT"][:2] == [True, f"{version}, built for CUDA 12"]
    assert found["NVIDIA driver"][:2] == [True, "runs CUDA up to 13.0"]
    available, detail, repair = found["TensorRT's builder"]
    assert not available
    assert "factory function returned nullptr" in detail
    assert "update the NVIDIA driver" in repair
    monkeypatch.setenv("MOCK_CUDA_VERSION", "11080")
    available, detail, repair = script(major, DOCTOR, cuda=False)["NVIDIA driver"]
    assert not available
    assert detail == "the NVIDIA driver runs CUDA up to 11.8, but the TensorRT here was built for CUDA 12"
    assert "525 or newer" in repair
