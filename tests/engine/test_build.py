import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_graphs

from trtasr.engine import build, child
from trtasr.engine.build import build_rtx, require_rtx
from trtasr.engine.profile import Profile
from trtasr.errors import BuildError, MissingError, TrtasrError, UsageError

PROFILE = Profile(batches=(1, 1, 2), seconds=(0.2, 2.0, 4.0), frames_per_second=100, mel_bins=tiny_graphs.MELS)
PRODUCT = child.Product("TensorRT for RTX", "tensorrt_rtx", "install it again", "sm75")
MACS = {"dw": 16 * 3 * 100, "pw": 16 * 32 * 100, "head": 32 * 8 * 100}

needs_rtx = pytest.mark.skipif(build.rtx_version() is None, reason="TensorRT for RTX is not installed")


@needs_rtx
def test_int8_matmul_runs_in_int8_and_the_depthwise_convolution_does_not(tmp_path: Path) -> None:
    graph = tiny_graphs.lowered(tmp_path / "tiny.onnx")
    plan = tmp_path / "t4-rtx" / "model.plan"
    engine = build_rtx(graph, plan, PROFILE, MACS)

    verdicts = {layer.onnx_nodes[0]: layer.int8 for layer in engine.layers if layer.macs}
    assert verdicts == {"dw": False, "pw_MatMul": True, "head": False}
    assert {layer.macs for layer in engine.layers if layer.int8} == {MACS["pw"]}
    assert engine.path == "t4-rtx/model.plan"
    assert engine.size_bytes == plan.stat().st_size
    assert engine.details["capability"] == "sm75"
    assert engine.details["sha256"] == hashlib.sha256(plan.read_bytes()).hexdigest()
    assert engine.details["activation_bytes"] > 0
    assert engine.details["weights_bytes"] > 0
    assert [entry.name for entry in plan.parent.iterdir()] == ["model.plan"]


@needs_rtx
def test_a_second_build_gives_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        graph = tiny_graphs.lowered(tmp_path / folder / f"{folder}.onnx")
        engine = build_rtx(graph, tmp_path / folder / "model.plan", PROFILE, {})
        if not engine.details["reproducible"]:
            pytest.skip("this system does not allow a process without address randomization")
    assert (tmp_path / "a" / "model.plan").read_bytes() == (tmp_path / "b" / "model.plan").read_bytes()


@needs_rtx
def test_a_refused_graph_names_the_reason_and_keeps_the_old_plan(tmp_path: Path) -> None:
    graph = tiny_graphs.fp32_gemm(tmp_path / "gemm.onnx")
    plan = tmp_path / "model.plan"
    plan.write_bytes(b"the engine of an earlier build")
    with pytest.raises(BuildError, match=r"pw_MatMul.*FP32 GEMM is not supported") as caught:
        build_rtx(graph, plan, PROFILE, {})
    assert caught.value.exit_code == 5
    assert caught.value.behind == ("pw_MatMul",)  # type: ignore[attr-defined]
    assert plan.read_bytes() == b"the engine of an earlier build"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["gemm.onnx", "model.plan"]


@needs_rtx
def test_a_file_that_is_no_graph_is_a_build_error(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no protobuf")
    with pytest.raises(BuildError, match=r"broken\.onnx"):
        build_rtx(broken, tmp_path / "model.plan", PROFILE, {})
    assert not (tmp_path / "model.plan").exists()


@needs_rtx
def test_a_crash_of_the_builder_process_is_a_build_error(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"ended with status 1: .*missing\.onnx"):
        build_rtx(tmp_path / "missing.onnx", tmp_path / "model.plan", PROFILE, {})


@pytest.mark.parametrize("error", ["ImportError", "OSError"])
def test_a_library_that_cannot_be_loaded_is_missing(
    error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "tensorrt_rtx.py").write_text(f"raise {error}('libtensorrt_rtx.so.1: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", str(broken))
    monkeypatch.setattr(build, "rtx_version", lambda: "1.7.1.116")
    with pytest.raises(MissingError, match=r"cannot be loaded: libtensorrt_rtx\.so\.1: cannot open") as caught:
        build_rtx(tmp_path / "model.onnx", tmp_path / "out" / "model.plan", PROFILE, {})
    assert caught.value.exit_code == 4
    assert "--force-reinstall" in caught.value.repair
    assert list((tmp_path / "out").iterdir()) == []


def test_address_randomization_is_off_only_for_the_child() -> None:
    before = Path("/proc/self/personality").read_text()
    with child.fixed_addresses() as fixed:
        assert (Path("/proc/self/personality").read_text() != before) is fixed or int(before, 16) & 0x40000
    assert Path("/proc/self/personality").read_text() == before


def test_a_plan_for_another_capability_is_refused() -> None:
    with pytest.raises(BuildError, match="sm80, not for sm75"):
        child.check_capability(b"..accelerators={sm80 }..", Path("model.onnx"), PRODUCT)
    with pytest.raises(BuildError, match="sm75 sm80, not for sm75"):
        child.check_capability(b"accelerators={sm75 }..accelerators={sm80 }", Path("model.onnx"), PRODUCT)
    child.check_capability(b"..accelerators={sm75 }..accelerators={*}..", Path("model.onnx"), PRODUCT)
    with pytest.raises(BuildError, match="unknown device"):
        child.check_capability(b"nothing here", Path("model.onnx"), PRODUCT)


@pytest.mark.parametrize(("version", "problem"), [(None, "not installed"), ("1.5.0.114", r"1\.5\.0\.114 builds wrong")])
def test_missing_library(version: str | None, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "rtx_version", lambda: version)
    with pytest.raises(MissingError, match=problem):
        require_rtx()
    with pytest.raises(MissingError, match=problem) as caught:
        build_rtx(tmp_path / "model.onnx", tmp_path / "model.plan", PROFILE, {})
    assert "pip install 'tensorrt-rtx-cu12>=1.7.1'" in caught.value.repair


def test_an_interrupt_ends_the_builder_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parent gets SIGINT while its child would run for a minute: both are gone, and no file is left."""
    script = f"""
import signal, subprocess, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
from pathlib import Path
from trtasr.engine import build
from trtasr.engine.profile import Profile
build.rtx_version = lambda: "1.7.1"
real = subprocess.run
sleeper = "import os, time; open({str(tmp_path / "pid")!r}, 'w').write(str(os.getpid())); time.sleep(60)"
subprocess.run = lambda command, **options: real([sys.executable, "-c", sleeper], **options)
profile = Profile((1, 1, 1), (1.0, 1.0, 1.0), 100, 16)
build.build_rtx(Path("none.onnx"), Path({str(tmp_path / "out" / "model.plan")!r}), profile, {{}})
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    marker = tmp_path / "pid"
    for _ in range(600):
        if marker.exists() and marker.read_text():
            break
        time.sleep(0.05)
    parent.send_signal(2)
    _, stderr = parent.communicate(timeout=30)
    assert "KeyboardInterrupt" in stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(marker.read_text()), 0)
    assert list((tmp_path / "out").iterdir()) == []


def test_profile_shapes_leave_room_for_padding() -> None:
    shapes = Profile((1, 4, 16), (0.1, 15.0, 30.0), 100, 64).shapes()
    assert shapes == {
        "features": [[1, 64, 10], [4, 64, 1504], [16, 64, 3008]],
        "lengths": [[1], [4], [16]],
    }


@pytest.mark.parametrize(
    ("batches", "seconds", "key"),
    [
        ((1, 8, 4), (1.0, 2.0, 3.0), "batches"),
        ((0, 1, 1), (1.0, 2.0, 3.0), "batches"),
        ((1, 1, 1), (5.0, 2.0, 9.0), "seconds"),
    ],
)
def test_profile_order(batches: tuple[int, int, int], seconds: tuple[float, float, float], key: str) -> None:
    with pytest.raises(UsageError, match=key):
        Profile(batches, seconds, 100, 64)


def wait_for(condition, seconds: float = 120.0) -> bool:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.05)
    return bool(condition())


def gone(pid: int) -> bool:
    """True for a process that has ended, whether or not somebody has asked for its status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_killed_parent_takes_the_builder_process_along(tmp_path: Path) -> None:
    marker, fake = tmp_path / "pid", tmp_path / "fake"
    fake.mkdir()
    (fake / "tensorrt_rtx.py").write_text(
        f"import os, time\nopen({str(marker)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)\n"
    )
    script = f"""
from pathlib import Path
from trtasr.engine import build
from trtasr.engine.profile import Profile
build.rtx_version = lambda: "1.7.1"
profile = Profile((1, 1, 1), (1.0, 1.0, 1.0), 100, 16)
build.build_rtx(Path("none.onnx"), Path({str(tmp_path / "out" / "model.plan")!r}), profile, {{}})
"""
    path = os.pathsep.join([str(fake), str(Path(__file__).parents[2])])
    parent = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": path})
    assert wait_for(lambda: marker.is_file() and marker.read_text())
    builder = int(marker.read_text())
    assert not gone(builder)
    parent.kill()
    parent.wait()
    assert wait_for(lambda: gone(builder))


def test_a_builder_that_cannot_write_its_plan_is_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan comes from a stand-in of the library; the limit on file sizes is one that its log and report keep."""
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "tensorrt_rtx.py").write_text("")
    plan = tmp_path / "out" / "model.plan"
    run = subprocess.run
    code = (
        "import resource; from trtasr.engine import build_child as b\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000,) * 2)\n"
        "b.build_requested = lambda trt, request: b.write_plan(b.Path(request['plan']), bytes(50_000))\n"
        "b.main()\n"
    )
    monkeypatch.setattr(subprocess, "run", lambda command, **options: run([sys.executable, "-c", code], **options))
    monkeypatch.setattr(build, "rtx_version", lambda: "1.7.1")
    monkeypatch.setenv("PYTHONPATH", str(fake))
    with pytest.raises(TrtasrError, match="at most 20000 bytes") as caught:
        build_rtx(tmp_path / "model.onnx", plan, PROFILE, {})
    assert caught.value.exit_code == 4
    assert list(plan.parent.iterdir()) == []
