"""Whether the driver fits the TensorRT that is installed, over a driver library of our own."""

from importlib import metadata

import pytest

from trtasr.engine import driver
from trtasr.engine.driver import check_driver, driver_cuda, tensorrt_cuda
from trtasr.errors import MissingError


class Libcuda:
    """A driver that runs CUDA up to so much, in the driver's own form (12020 for 12.2)."""

    def __init__(self, version, status=0):
        self.version, self.status = version, status

    def cuDriverGetVersion(self, version):
        version._obj.value = self.version
        return self.status


@pytest.fixture
def packages(monkeypatch):
    """Names of the Python packages that are installed; no image of NVIDIA's around."""
    names = set()

    def version(name):
        if name not in names:
            raise metadata.PackageNotFoundError(name)
        return "10.16.1.11"

    monkeypatch.setattr(metadata, "version", version)
    for name in ("CUDA_VERSION", *driver.IMAGE_OF_TENSORRT):
        monkeypatch.delenv(name, raising=False)
    return names


@pytest.mark.parametrize(("version", "cuda"), [(12020, (12, 2)), (13000, (13, 0)), (11080, (11, 8)), (12110, (12, 11))])
def test_the_drivers_cuda(version, cuda):
    assert driver_cuda(Libcuda(version)) == cuda


def test_a_driver_that_does_not_answer_is_refused():
    with pytest.raises(MissingError, match="CUDA error 999"):
        driver_cuda(Libcuda(0, status=999))


@pytest.mark.parametrize(
    ("installed", "cuda"),
    [
        ({"tensorrt-cu13", "tensorrt-cu13-libs", "tensorrt-cu13-bindings"}, 13),
        ({"tensorrt-cu12"}, 12),
        ({"tensorrt-cu12-bindings"}, 12),
        ({"tensorrt-cu12", "tensorrt-cu13"}, 12),
        ({"tensorrt", "tensorrt-rtx-cu12"}, None),
        (set(), None),
    ],
)
def test_the_cuda_of_a_package_is_in_its_name(packages, installed, cuda):
    packages.update(installed)
    assert tensorrt_cuda() == cuda


def test_in_nvidias_image_it_is_that_of_the_image(packages, monkeypatch):
    packages.add("tensorrt")
    monkeypatch.setenv("CUDA_VERSION", "13.2.1.009")
    assert tensorrt_cuda() is None  # any CUDA image sets it: it need not be TensorRT's
    monkeypatch.setenv("TENSORRT_VERSION", "10.16.1.11")
    assert tensorrt_cuda() == 13
    monkeypatch.setenv("CUDA_VERSION", "unknown")
    assert tensorrt_cuda() is None


def test_a_driver_older_than_tensorrts_cuda_is_refused_with_both_repairs(packages):
    packages.add("tensorrt-cu13")
    with pytest.raises(
        MissingError, match=r"runs CUDA up to 12\.8, but the TensorRT here was built for CUDA 13"
    ) as caught:
        check_driver(Libcuda(12080))
    assert caught.value.exit_code == 4
    assert "580 or newer" in caught.value.repair
    assert "pip install tensorrt-cu12==10.16.1.11" in caught.value.repair


@pytest.mark.parametrize(
    ("package", "version"), [("tensorrt-cu13", 13000), ("tensorrt-cu12", 13020), ("tensorrt-cu12", 12000)]
)
def test_a_driver_of_the_same_major_version_or_a_newer_one_will_do(packages, package, version):
    packages.add(package)
    check_driver(Libcuda(version))


def test_where_nothing_tells_tensorrts_cuda_the_driver_is_not_asked(packages):
    check_driver(None)
