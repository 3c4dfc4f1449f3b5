import ctypes
import importlib
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from trtasr.engine import probe as probe_module


def test_probe_names_everything_and_says_how_to_repair() -> None:
    found = probe_module.probe()
    assert [capability.name for capability in found] == [
        "ONNX Runtime, CPU",
        "TensorRT for RTX",
        "TensorRT",
        "NVIDIA GPU",
        "pycuda",
        "Polygraphy",
    ]
    assert all(capability.detail and capability.enables for capability in found)
    assert all(bool(capability.repair) != capability.available for capability in found)
    assert found[0].available


def test_probe_survives_a_machine_without_any_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", refuse)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError(name)))
    found = probe_module.probe()
    assert not any(capability.available for capability in found)
    assert all(capability.repair for capability in found)
    gpu_only = [item for item in found if item.name in ("TensorRT", "NVIDIA GPU", "pycuda")]
    assert {item.enables for item in gpu_only} == {"building and running target t4"}
    assert not any("trtasr" in item.repair for item in found)


def test_a_folder_named_tensorrt_is_no_tensorrt(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    found = next(item for item in probe_module.probe() if item.name == "TensorRT")
    assert not found.available
    assert "folder of that name" in found.detail
    sys.modules.pop("tensorrt", None)


@pytest.mark.parametrize(("version", "able"), [("1.7.1.116", True), ("1.6.1.12", False), ("2.0.0", True)])
def test_rtx_version_decides(version: str, able: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(__version__=version, ComputeCapability=SimpleNamespace(SM75=75))
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", module)
    assert probe_module.tensorrt_rtx_here().available is able


class FakeDriver:
    """The part of libcuda that names devices."""

    def __init__(self, status: int, count: int) -> None:
        self.status, self.count = status, count

    def cuInit(self, flags: int) -> int:
        return self.status

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self.count
        return 0

    def cuDeviceGet(self, handle: Any, ordinal: int) -> int:
        handle._obj.value = ordinal
        return 0

    def cuDeviceGetName(self, name: Any, size: int, handle: Any) -> int:
        name.value = b"Tesla T4"
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, handle: Any) -> int:
        value._obj.value = {75: 7, 76: 5}[attribute]
        return 0


def test_devices_of_the_driver() -> None:
    assert probe_module.cuda_devices(FakeDriver(0, 2)) == (True, "Tesla T4, sm_75; Tesla T4, sm_75")
    assert probe_module.cuda_devices(FakeDriver(100, 0)) == (
        False,
        "the driver is installed but gives no device (CUDA error 100)",
    )
