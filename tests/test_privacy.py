"""What the product leaves behind and whom it calls: nothing and nobody, whatever its libraries would like to do.

Every verb runs in a process of its own under an empty HOME, followed by strace where it is installed, by hooks of the
interpreter and a look at the folders where it is not.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny_archive import write_archive, write_manifest

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = [
    "calibration.batches=1",
    "calibration.steps=3",
    "calibration.seconds=1.5",
    "evaluation.bench_seconds=[1.0]",
    "evaluation.max_wer_increase=100",
]
CALLS = "socket,connect,sendto,sendmsg,bind"
MAKERS = "open,openat,creat,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,symlink,symlinkat,mknod,mknodat"
MADE = re.compile(r"O_CREAT|(?:creat|mkdir|rename|link|mknod)\w*\(")
QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
NETWORK = re.compile(rf"\b({CALLS.replace(',', '|')})\(")
LOCAL = re.compile(r"socket\(AF_UNIX|/nscd/socket")  # getpwuid asks the name-service cache for the user's name
UNSET = ("ORT_DISABLE_TELEMETRY", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "TORCHINDUCTOR_CACHE_DIR")

HOOKS = """
import os, sys
MADE = {"os.mkdir": 0, "os.rename": 1, "os.link": 1, "os.symlink": 1}  # which argument is the new name
_found = os.open(os.environ["FOUND"], os.O_WRONLY | os.O_APPEND)
def hook(event, arguments):
    if event.startswith("socket.") and event != "socket.gethostname":
        os.write(_found, f"network: {event} {arguments!r:.200}\\n".encode())
    elif event == "open" and isinstance(arguments[0], str) and arguments[2] & os.O_CREAT:
        os.write(_found, f"file: {os.path.abspath(os.fsdecode(arguments[0]))}\\n".encode())
    elif event in MADE:
        os.write(_found, f"file: {os.path.abspath(os.fsdecode(arguments[MADE[event]]))}\\n".encode())
sys.addaudithook(hook)
"""


@dataclass(frozen=True)
class Trace:
    """What one process and its children did."""

    output: str
    network: list[str]
    files: list[Path]


def strace_works() -> bool:
    name = shutil.which("strace")
    return (
        bool(name)
        and subprocess.run([name, "-o", os.devnull, "true"], capture_output=True, check=False).returncode == 0
    )


def environment(folder: Path) -> dict[str, str]:
    for name in ("home", "temporary", "elsewhere"):
        (folder / name).mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if name not in UNSET and not name.startswith("XDG_")}
    return {**kept, "HOME": str(folder / "home"), "TMPDIR": str(folder / "temporary"), "PYTHONPATH": str(ROOT)}


def straced(command: list[str], folder: Path) -> Trace:
    log = folder / "trace.txt"
    tracer = ["strace", "-f", "-qq", "--seccomp-bpf", "-s", "4096", "-e", f"trace={CALLS},{MAKERS}", "-o", str(log)]
    done = subprocess.run(
        [*tracer, *command],
        cwd=folder / "elsewhere",
        env=environment(folder),
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    done_well = [line for line in lines if " = -1 " not in line]
    made = [QUOTED.findall(line)[-1] for line in done_well if MADE.search(line) and QUOTED.search(line)]
    network = [line for line in lines if NETWORK.search(line) and not LOCAL.search(line)]
    return Trace(done.stdout, network, [folder / "elsewhere" / name for name in made])


def hooked(command: list[str], folder: Path) -> Trace:
    hooks, found = folder / "hooks", folder / "found.txt"
    hooks.mkdir(exist_ok=True)
    (hooks / "sitecustomize.py").write_text(HOOKS, encoding="utf-8")
    found.write_text("", encoding="utf-8")
    variables = environment(folder)
    variables |= {"PYTHONPATH": f"{hooks}{os.pathsep}{variables['PYTHONPATH']}", "FOUND": str(found)}
    done = subprocess.run(command, cwd=folder / "elsewhere", env=variables, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = found.read_text(encoding="utf-8").splitlines()
    left = [path for name in ("home", "elsewhere") for path in (folder / name).rglob("*")]  # native code's too
    files = [Path(line.removeprefix("file: ")) for line in lines if line.startswith("file: ")]
    return Trace(done.stdout, [line for line in lines if line.startswith("network: ")], files + left)


TRACERS = [
    pytest.param(hooked, id="hooks"),
    pytest.param(straced, id="strace", marks=pytest.mark.skipif(not strace_works(), reason="no strace")),
]


def strays(trace: Trace, folder: Path, *allowed: str) -> list[Path]:
    """Files made elsewhere than in the allowed folders; byte code beside the sources does not count."""
    fine = [folder / name for name in ("temporary", "trace.txt", "found.txt", *allowed)]
    return [
        path
        for path in trace.files
        if not any(path.is_relative_to(place) for place in (*fine, Path("/dev"), Path("/proc")))
        and "__pycache__" not in path.parts
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("privacy")
    write_archive(folder / "tiny.nemo")
    write_manifest(folder)
    return folder


@pytest.fixture(scope="module")
def compiled(folder):
    """A bundle, and what making it did: as strace sees it, which sees all that the hooks see, where it is installed."""
    tracer, out = straced if strace_works() else hooked, folder / "compiled"
    command = [
        "compile",
        str(folder / "tiny.nemo"),
        "--manifest",
        str(folder / "manifest.json"),
        "-o",
        str(out / "tiny"),
        *(part for setting in SETTINGS for part in ("--set", setting)),
    ]
    return tracer, out, tracer(run(*command), folder)


def run(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "import sys; from trtasr.cli import main; sys.exit(main())", *arguments]


def test_compile_writes_its_bundle_and_calls_nobody(compiled, folder) -> None:
    _, out, trace = compiled
    assert "PASSED" in trace.output
    assert out / "tiny" in trace.files  # the trace sees what is made
    assert (trace.network, strays(trace, folder, out.name)) == ([], [])


def test_bench_writes_nothing_and_calls_nobody(compiled, folder) -> None:
    tracer, out, _ = compiled
    trace = tracer(run("bench", str(out / "tiny"), "--seconds", "0.5"), folder)
    assert "int8 cpu" in trace.output
    assert (trace.network, strays(trace, folder)) == ([], [])


def test_transcribe_writes_nothing_and_calls_nobody(compiled, folder) -> None:
    tracer, out, _ = compiled
    trace = tracer(run("transcribe", str(out / "tiny"), str(folder / "0.wav")), folder)
    assert (trace.network, strays(trace, folder)) == ([], [])


@pytest.mark.parametrize("tracer", TRACERS)
def test_the_trace_sees_a_connection_and_a_file(tracer, tmp_path) -> None:
    code = (
        "import contextlib, os, socket\nwith contextlib.suppress(OSError):\n"
        "    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('127.0.0.1', 9))\n"
        "open(os.path.expanduser('~/left'), 'w').close()"
    )
    trace = tracer([sys.executable, "-c", code], tmp_path)
    assert trace.network
    assert tmp_path / "home" / "left" in strays(trace, tmp_path)


@pytest.mark.parametrize("entry", [["-c", "import trtasr"], ["-m", "trtasr.engine.build_child"], ["-m", "trtasr.cli"]])
def test_every_entry_turns_telemetry_off_before_onnxruntime_loads(entry, tmp_path) -> None:
    hook = tmp_path / "sitecustomize.py"
    hook.write_text("import atexit, os\natexit.register(lambda: print('off', os.environ.get('ORT_DISABLE_TELEMETRY')))")
    variables = environment(tmp_path)
    variables["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{variables['PYTHONPATH']}"
    done = subprocess.run(
        [sys.executable, *entry], input="{}", env=variables, capture_output=True, text=True, check=False
    )
    assert "off 1" in done.stdout


def test_makefile_and_docker_turn_telemetry_off() -> None:
    assert re.search(r"^export ORT_DISABLE_TELEMETRY := 1$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    stages = (ROOT / "Dockerfile").read_text().split("\nFROM ")
    for stage in (stages[1], stages[-1]):  # compiler and runtime
        assert re.search(r"^ENV .*\bORT_DISABLE_TELEMETRY=1\b", stage, re.MULTILINE)


def test_readme_says_what_is_sent() -> None:
    assert re.search(r"sends?\b.{0,40}\bnothing\b", (ROOT / "README.md").read_text(), re.IGNORECASE | re.DOTALL)
