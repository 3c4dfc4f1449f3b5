"""The progress bar, driven by a real builder: TensorRT for RTX calls the same interface as TensorRT."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_graphs

from trtasr.engine.build import rtx_version

BUILD = """
import json, sys
from pathlib import Path
import tensorrt_rtx as trt
from trtasr.engine import builder
from trtasr.engine.builder import NetworkRequest, build_network, use_capabilities

bars = []

class Bar:
    def __init__(self, total, desc, file, disable):
        self.total, self.desc, self.n, self.closed = total, desc, 0, False
        bars.append(self)
    def update(self, steps):
        self.n += steps
    def close(self):
        self.closed = True

builder.tqdm = Bar

def customize(network, config, profile):
    use_capabilities(trt, config, ["SM75"])
    config.progress_monitor = builder.make_monitor(trt)

shapes = {"features": [[1, 16, 10], [1, 16, 50], [1, 16, 100]], "lengths": [[1], [1], [1]]}
built = build_network(trt, trt.Logger(trt.Logger.ERROR), NetworkRequest(Path(sys.argv[1]), shapes), customize)
print(json.dumps({"built": built.plan is not None, "bars": [[b.desc, b.total, b.n, b.closed] for b in bars]}))
"""


@pytest.mark.skipif(rtx_version() is None, reason="TensorRT for RTX is not installed")
def test_a_real_build_moves_the_bar_to_its_end(tmp_path):
    graph = tiny_graphs.lowered(tmp_path / "tiny.onnx")
    root = str(Path(__file__).resolve().parents[2])
    run = subprocess.run(
        [sys.executable, "-c", BUILD, str(graph)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["built"]
    assert found["bars"]
    for name, total, done, closed in found["bars"]:
        assert name
        assert total > 0
        assert done == total
        assert closed
