import ctypes
import importlib
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from trtasr.engine import probe as probe_module
from trtasr.errors import MissingError


def test_probe_names_everything_and_says_how_to_repair() -> None:
    found = probe_module.probe()
    assert [capability.name for capability in found] == [
        "ONNX Runtime, CPU",
        "TensorRT for RTX",
        "TensorRT",
        "NVIDIA GPU",
        "NVIDIA driver",
        "TensorRT's builder",
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
    gpu_only = [item for item in found if item.name.startswith(("TensorRT's", "NVIDIA", "pycuda"))]
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


def test_an_old_driver_and_a_builder_that_is_null_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Any:
        raise MissingError("no builder (factory function returned nullptr)", "update the driver")

    monkeypatch.setattr(probe_module, "load_tensorrt", lambda: SimpleNamespace(__version__="10.16.1.11"))
    monkeypatch.setattr(probe_module, "load_checked_driver", lambda: FakeDriver(0, 1))
    monkeypatch.setattr(probe_module, "tensorrt_cuda", lambda: 13)
    monkeypatch.setattr(probe_module, "require_builder", refuse)
    assert probe_module.tensorrt_here().detail == "10.16.1.11, built for CUDA 13"
    assert probe_module.driver_here().detail == "runs CUDA up to 12.2"
    builder = probe_module.builder_here()
    assert (builder.available, builder.repair) == (False, "update the driver")
    assert builder.detail == "no builder (factory function returned nullptr)"
    monkeypatch.setattr(probe_module, "require_builder", lambda: None)
    assert probe_module.builder_here().available
    monkeypatch.setattr(probe_module, "load_checked_driver", refuse)
    assert not probe_module.driver_here().available
    assert not probe_module.builder_here().available  # it would only say the same, later


class FakeDriver:
    """The part of libcuda that names devices and versions."""

    def __init__(self, status: int, count: int) -> None:
        self.status, self.count = status, count

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = 12020
        return 0

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
