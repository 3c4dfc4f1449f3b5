"""docs/polygraphy.md tells the truth: blocks for any machine run here, Polygraphy understands those for a GPU."""

import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from tiny_archive import write_archive

from trtasr.cli import main
from trtasr.engine.cache import parse_cache

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "polygraphy.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```bash (\w+) (\S+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = {(kind, label): body for kind, label, body in FENCE.findall(PAGE)}
FAST = [
    "--set",
    "calibration.batches=1",
    "--set",
    "calibration.steps=3",
    "--set",
    "calibration.seconds=1.5",
    "--set",
    "evaluation.bench_seconds=[0.5]",
    "--target",
    "t4-rtx",
]
LAYERS, INT8_LAYERS, CENTERED = 9, 6, 3  # of the tiny network


def cpu(label: str) -> str:
    return BLOCKS["cpu", label]


def commands(block: str) -> list[list[str]]:
    """The Polygraphy commands of a block, split into words."""
    lines = block.replace("\\\n", " ").splitlines()
    found = [re.search(r"polygraphy (run|convert|inspect) .*", line) for line in lines]
    return [shlex.split(match[0]) for match in found if match]


class Shell:
    """Runs blocks of the page after its setup block, in one folder, on the tiny bundle."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bundle = folder / "out"
        self.setup = cpu("setup").replace("engines/quartznet", str(self.bundle))
        path = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        self.environment = {
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }

    def run(self, block: str, **environment: str) -> subprocess.CompletedProcess[str]:
        script = f"set -eo pipefail\n{self.setup}\n{block}"
        variables = os.environ | self.environment | environment
        return subprocess.run(
            ["bash", "-c", script], cwd=self.folder, capture_output=True, text=True, check=False, env=variables
        )

    def passes(self, block: str, **environment: str) -> str:
        done = self.run(block, **environment)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout


@pytest.fixture(scope="module")
def shell(tmp_path_factory) -> Shell:
    folder = tmp_path_factory.mktemp("polygraphy")
    model = write_archive(folder / "tiny.nemo")
    assert main(["compile", str(model), "-o", str(folder / "out"), "-q", *FAST]) == 0
    shell = Shell(folder)
    printed = shell.passes(cpu("features"))
    assert "features.npz: 4 utterances" in printed
    assert "150 frames" in printed
    return shell


def test_every_block_is_labelled_and_tested() -> None:
    assert PAGE.count("```bash") == len(BLOCKS)
    assert PAGE.count("\n```") == 2 * len(BLOCKS)
    source = Path(__file__).read_text(encoding="utf-8")
    assert all(f'cpu("{label}")' in source for kind, label in BLOCKS if kind == "cpu")
    assert {kind for kind, _ in BLOCKS} == {"cpu", "gpu"}


@pytest.fixture(scope="module")
def outputs(shell) -> str:
    return shell.passes(cpu("outputs"))


def test_outputs_agree(outputs) -> None:
    assert outputs.count("PASSED | Runtime") == 2
    assert "Passed: 4/4 iterations | Pass Rate: 100.00%" in outputs
    ratios = [float(snr) for snr in re.findall(r"SNR: ([\d.]+) dB", outputs)]
    assert len(ratios) == 4
    assert all(20 < ratio < 80 for ratio in ratios)


def test_an_impossible_threshold_fails(shell, outputs) -> None:
    second = cpu("outputs").split("\n", 1)[1]
    assert second.startswith("polygraphy run $BUNDLE/model.qdq.onnx")
    done = shell.run(second.replace("--snr-threshold 20", "--snr-threshold 200"))
    assert done.returncode == 1
    assert "FAILED | Runtime" in done.stdout
    assert "Passed: 0/4 iterations" in done.stdout


def test_a_missing_file_stops_polygraphy_with_the_repair(shell) -> None:
    done = shell.run("rm -f gone.npz; export TRTASR_FEATURES=gone.npz\n" + cpu("outputs"))
    assert done.returncode == 1
    assert "gone.npz: " in done.stderr
    assert "repair: " in done.stderr


def test_layers_agree_in_both_graphs(shell) -> None:
    compared = LAYERS - CENTERED + 1
    printed = shell.passes(cpu("layers"))
    assert printed.count("SNR | Comparing Output") == compared
    assert "Passed: 1/1 iterations" in printed
    shell.passes(cpu("lower"))
    printed = shell.passes(cpu("lowered-outputs"))
    assert printed.count("SNR | Comparing Output") == compared


def test_polygraphy_builds_an_int8_plan_for_the_t4(shell) -> None:
    shell.passes(cpu("lower"))
    printed = shell.passes(cpu("rtx"))
    assert printed.splitlines()[-1] == str(INT8_LAYERS)
    assert b"accelerators={sm75 }" in (shell.folder / "lowered.plan").read_bytes()


@cache
def known_flags(tool: tuple[str, ...], rtx: bool) -> frozenset[str]:
    program = Path(sys.executable).parent / "polygraphy"
    environment = os.environ | ({"POLYGRAPHY_USE_TENSORRT_RTX": "1"} if rtx else {})
    done = subprocess.run([program, *tool, "-h"], capture_output=True, text=True, check=True, env=environment)
    return frozenset(re.findall(r"--[a-z0-9][a-z0-9-]*", done.stdout))


GPU_BLOCKS = [label for kind, label in BLOCKS if kind == "gpu" and commands(BLOCKS[kind, label])]


@pytest.mark.parametrize("label", GPU_BLOCKS)
def test_flags_of_gpu_commands_exist(label) -> None:
    block = BLOCKS["gpu", label]
    for words in commands(block):
        tool = tuple(words[1:3] if words[1] == "inspect" else words[1:2])
        flags = {word for word in words if word.startswith("--")}
        if "${SHAPES[@]}" in words:
            flags |= set(re.findall(r"--trt-[a-z-]+", cpu("setup")))
        assert flags
        assert flags <= known_flags(tool, "POLYGRAPHY_USE_TENSORRT_RTX=1" in block)


def test_an_invented_flag_would_be_found() -> None:
    assert "--snr-threshold" in known_flags(("run",), False)
    assert "--snr-treshold" not in known_flags(("run",), False)
    assert "--compute-capabilities" in known_flags(("convert",), True) - known_flags(("convert",), False)


def generated(shell: Shell, label: str) -> str:
    """The Python that `polygraphy run` would execute for the run command of a GPU block."""
    block = BLOCKS["gpu", label]
    words = next(words for words in commands(block) if words[1] == "run")
    quoted = " ".join(f'"{word}"' for word in words)  # as on the page: variables expand, patterns do not
    rtx = {"POLYGRAPHY_USE_TENSORRT_RTX": "1"} if "POLYGRAPHY_USE_TENSORRT_RTX=1" in block else {}
    shell.passes(f"{quoted} --gen-script generated.py", **rtx)
    return (shell.folder / "generated.py").read_text(encoding="utf-8")


def test_polygraphy_understands_the_gpu_comparisons(shell) -> None:
    for label, plan in (("plan", "t4/model.plan"), ("rtx-plan", "t4-rtx/model.plan"), ("implicit", "implicit.plan")):
        script = generated(shell, label)
        assert "TrtRunner" in script
        assert f"{plan}')" in script
        assert "snr_threshold={'': 20}" in script
    layers = generated(shell, "layers")
    assert "strongly_typed=True" in layers
    assert "outputs=['*Conv_output_0', 'log_probs']" in layers  # --onnx-outputs would be dropped here
    assert "opt=[1, 64, 400]" in layers
    implicit = generated(shell, "implicit-layers")
    assert re.search(r"int8=True, calibrator=Calibrator\(data_loader=data_loader\(\), cache='\S*used.cache'", implicit)
    assert "outputs=['*Conv_output_0', 'log_probs']" in implicit


def test_the_header_becomes_that_of_the_installed_tensorrt(shell) -> None:
    stub = shell.folder / "stub"
    stub.mkdir()
    (stub / "tensorrt.py").write_text('__version__ = "10.3.0.26"\n', encoding="utf-8")
    shell.passes(BLOCKS["gpu", "header"], PYTHONPATH=f"{stub}{os.pathsep}{shell.environment['PYTHONPATH']}")
    ours = parse_cache((shell.bundle / "calibration.cache").read_text(encoding="utf-8"))
    header, scales = parse_cache((shell.folder / "t4.cache").read_text(encoding="utf-8"))
    assert header == "TRT-100300-EntropyCalibration2"
    assert scales == ours[1]
    assert "features" in scales
