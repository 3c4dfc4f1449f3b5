"""How many CPUs this process may use and what they can do, its control groups, how its threads wait for each other."""

import math
import os
import platform
from collections.abc import Iterator, MutableMapping
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
# Turns of libgomp's waiting loop before a thread sleeps. By default they are 300,000, about 10 ms, in which the thread
# that is waited for cannot run where CPUs are shared. A thousand take about as long as waking up does. Measured on two
# CPUs with a step like synthesis: a twentieth slower than the default when quiet, a third faster beside a busy program.
SPINS = "1000"
SPINNING = "session.intra_op.allow_spinning"  # setting of an ONNX Runtime session
FLOAT = "session.disable_quant_qdq"  # likewise: Q/DQ pairs and what is between them are computed in floating point
CPUINFO = Path("/proc/cpuinfo")
DOT_PRODUCTS = {"avx512_vnni", "avx_vnni"}


def settle(environment: MutableMapping[str, str]) -> None:
    """Prepare this process and its children, before torch, numpy or ONNX Runtime are loaded.

    ONNX Runtime's telemetry (1.31: a device id and a queue under ``~/.cache``, look-ups of a host, a file in the
    temporary folder) is off; OpenMP's threads are as many as CPUs may be used, and sleep soon when they wait. What the
    user has set stays, except for telemetry.

    Args:
        environment: ``os.environ``; changed.
    """
    environment["ORT_DISABLE_TELEMETRY"] = "1"
    environment.setdefault("OMP_NUM_THREADS", str(usable_cpus()))
    if "OMP_WAIT_POLICY" not in environment:  # GOMP_SPINCOUNT would overrule it
        environment.setdefault("GOMP_SPINCOUNT", SPINS)


def threads() -> int:
    """Threads for one operator where nobody asked for a number: ``OMP_NUM_THREADS``, else the usable CPUs."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(wanted) if wanted.isdecimal() and 0 < int(wanted) <= 4096 else usable_cpus()


def multiplies_codes_exactly() -> bool:
    """Whether ONNX Runtime's products of int8 codes are exact here.

    On x86 without VNNI it adds products of uint8 and int8 in pairs in 16 bits, which overflow: a Q/DQ graph of
    QuartzNet15x5 had an SQNR of 19.8 instead of 28.8 dB. Where that cannot be told, it is assumed.
    """
    return platform.machine() not in ("x86_64", "AMD64") or not DOT_PRODUCTS.isdisjoint(words(CPUINFO).split())


def usable_cpus() -> int:
    """CPUs this process may use: its affinity mask, and the quota of its control groups, rounded up."""
    mask = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(mask, math.ceil(min(quotas(OWN_CGROUPS, CGROUPS), default=mask))))


def quotas(own: Path, root: Path) -> Iterator[float]:
    """CPU quotas, in CPUs, of the control groups of a process and of the groups above them.

    Version 2 has ``cpu.max`` (``max`` or quota, and period, in microseconds), version 1 ``cpu.cfs_quota_us`` (-1: none)
    beside ``cpu.cfs_period_us`` (Linux, Documentation/admin-guide/cgroup-v2.rst and scheduler/sched-bwc.rst).

    Args:
        own: file that lists the groups, as ``/proc/self/cgroup``.
        root: where control groups are mounted.
    """
    for group in control_groups("cpu", own, root):
        yield from quota(group)


def control_groups(controller: str, own: Path, root: Path) -> Iterator[Path]:
    """Folders of the control groups of a process, and of the groups above them, that a controller may belong to.

    Args:
        controller: ``cpu`` or ``memory``.
        own: file that lists the groups, as ``/proc/self/cgroup``.
        root: where control groups are mounted.
    """
    for line in words(own).splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and controller not in controllers.split(","):
            continue
        base, group = root / controller if controllers else root, Path(path.lstrip("/"))
        yield from (base / folder for folder in (group, *group.parents))


def quota(group: Path) -> Iterator[float]:
    """The quota of one control group, if it has one."""
    both = words(group / "cpu.max") or f"{words(group / 'cpu.cfs_quota_us')} {words(group / 'cpu.cfs_period_us')}"
    numbers = both.split()
    if len(numbers) == 2 and all(number.isdecimal() and int(number) for number in numbers):
        yield int(numbers[0]) / int(numbers[1])


def words(file: Path) -> str:
    """Text of a file of the kernel; empty where there is none."""
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
