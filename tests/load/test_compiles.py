"""What a compile costs its neighbours: on one CPU it is one thread."""

from load.__main__ import compiles
from tiny_archive import write_archive

QUICK = ["calibration.batches=1", "calibration.steps=3", "calibration.seconds=1.0", "evaluation.bench_seconds=[0.3]"]


def test_a_compile_on_one_cpu_has_one_thread(tmp_path):
    flags = ["--target", "cpu", *(part for setting in QUICK for part in ("--set", setting))]
    (run,) = compiles(write_archive(tmp_path / "tiny.nemo"), 1, flags, cpus=1)
    assert run.threads == 1
    assert run.seconds > 0
