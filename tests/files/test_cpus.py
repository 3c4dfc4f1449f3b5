"""CPUs this process may use, and what `import trtasr` sets before anything heavy loads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trtasr.files import cpus

ROOT = Path(__file__).parents[2]


def group(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_quota_of_version_2_is_the_smallest_on_the_way_up(tmp_path):
    own = tmp_path / "cgroup"
    own.write_text("0::/a/b\n")
    group(tmp_path / "sys" / "a" / "b", cpu__max="max 100000\n")
    group(tmp_path / "sys" / "a", cpu__max="150000 100000\n")
    group(tmp_path / "sys", cpu__max="400000 100000\n")
    assert sorted(cpus.quotas(own, tmp_path / "sys")) == [1.5, 4.0]


def test_quota_of_version_1(tmp_path):
    own = tmp_path / "cgroup"
    own.write_text("3:memory:/x\n2:cpu,cpuacct:/job\n")
    group(tmp_path / "cpu" / "job", cpu__cfs_quota_us="50000", cpu__cfs_period_us="100000")
    group(tmp_path / "cpu", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    assert list(cpus.quotas(own, tmp_path)) == [0.5]


@pytest.mark.parametrize("text", ["", "nonsense", "0::", "0::/../..", "\0"])
def test_strange_groups_have_no_quota(tmp_path, text):
    own = tmp_path / "cgroup"
    own.write_text(text)
    assert list(cpus.quotas(own, tmp_path / "nothing")) == []


def test_usable_cpus_are_the_mask_within_the_quota_rounded_up(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for given, expected in (([], 8), ([0.2], 1), ([1.5], 2), ([3.0, 2.5], 3), ([64.0], 8)):
        monkeypatch.setattr(cpus, "quotas", lambda own, root, given=given: iter(given))
        assert cpus.usable_cpus() == expected


@pytest.mark.parametrize(("value", "expected"), [("3", 3), ("2,1", 2), ("", 5), ("0", 5), ("many", 5), ("9" * 99, 5)])
def test_threads_follow_what_the_user_set(monkeypatch, value, expected):
    monkeypatch.setattr(cpus, "usable_cpus", lambda: 5)
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert cpus.threads() == expected


def test_settings_of_the_user_win_except_for_telemetry():
    environment = {"OMP_NUM_THREADS": "7", "OMP_WAIT_POLICY": "ACTIVE", "ORT_DISABLE_TELEMETRY": "0"}
    cpus.settle(environment)
    assert environment == {"OMP_NUM_THREADS": "7", "OMP_WAIT_POLICY": "ACTIVE", "ORT_DISABLE_TELEMETRY": "1"}
    environment = {"GOMP_SPINCOUNT": "5"}
    cpus.settle(environment)
    assert environment["GOMP_SPINCOUNT"] == "5"


def told(code, **variables):
    """What a process prints that was started on one CPU without our variables."""
    ours = {"OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "ORT_DISABLE_TELEMETRY"}
    environment = {name: value for name, value in os.environ.items() if name not in ours} | variables
    one = min(os.sched_getaffinity(0))
    done = subprocess.run(
        [sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{one}}})\n{code}"],
        capture_output=True,
        text=True,
        check=True,
        env={**environment, "PYTHONPATH": str(ROOT)},
    )
    return done.stdout.strip()


THREADS = """
import trtasr, torch, numpy, onnxruntime
a = torch.randn(400, 400); (a @ a).sum().item()
import onnx
from pathlib import Path
from onnx import TensorProto as T, helper as h
from trtasr.engine.sessions import open_session
shape = h.make_tensor_value_info("x", T.FLOAT, [300, 300]), h.make_tensor_value_info("y", T.FLOAT, [300, 300])
graph = h.make_graph([h.make_node("MatMul", ["x", "x"], ["y"])], "g", shape[:1], shape[1:])
session = open_session(h.make_model(graph, ir_version=9, opset_imports=[h.make_opsetid("", 20)]).SerializeToString())
session.run(None, {"x": numpy.ones((300, 300), numpy.float32)})
print(torch.get_num_threads(), len(os.listdir("/proc/self/task")))
"""


def test_on_one_cpu_there_is_one_thread():
    assert told(THREADS) == "1 1"


def test_openmp_threads_sleep_soon_when_they_wait():
    assert told("import trtasr; print(os.environ['GOMP_SPINCOUNT'])") == cpus.SPINS
    assert told("import trtasr; print('GOMP_SPINCOUNT' in os.environ)", OMP_WAIT_POLICY="PASSIVE") == "False"


@pytest.mark.parametrize(
    ("machine", "flags", "exact"),
    [
        ("x86_64", "flags : fpu avx2 avx512f avx512_vnni\n", True),
        ("x86_64", "flags : fpu avx2 avx_vnni\n", True),
        ("AMD64", "flags : fpu avx2 avx512f\n", False),
        ("x86_64", "", False),
        ("aarch64", "", True),
    ],
)
def test_products_of_codes_overflow_on_x86_without_vnni(monkeypatch, tmp_path, machine, flags, exact):
    (tmp_path / "cpuinfo").write_text(flags)
    monkeypatch.setattr(cpus, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(cpus.platform, "machine", lambda: machine)
    assert cpus.multiplies_codes_exactly() is exact
