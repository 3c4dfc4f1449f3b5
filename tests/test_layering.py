"""The arrows between the rooms, read from the imports of every file.

cli -> compile -> {checkpoint, models, quant, graph, targets, engine, bench, report}
    -> {audio, text, files, recipe, bundle, errors, values, roofline, fixed_point, integer_only}
"""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "trtasr"
FILES = sorted(PACKAGE.rglob("*.py"))
STAGES = {"checkpoint", "models", "quant", "graph", "targets", "engine", "bench", "report"}
GROUND = {
    "audio",
    "text",
    "files",
    "recipe",
    "bundle",
    "errors",
    "values",
    "roofline",
    "fixed_point",
    "integer_only",
}
GPU_LIBRARIES = {"tensorrt", "tensorrt_rtx", "pycuda", "polygraphy"}
WITHOUT_TORCH = {"engine", "bench", "report"} | GROUND - {"audio"}
MAX_PARAMETERS, MAX_LINES = 6, 400


def room(path):
    """First name below the package: a folder, or a top-level module."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree):
    """(module, inside a function) of every import."""
    lazy = {
        id(node)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import at line {node.lineno}"
            inside = node.module == "trtasr"  # from trtasr import <room>
            names = [f"trtasr.{alias.name}" for alias in node.names] if inside else [node.module]
            yield from ((name, id(node) in lazy) for name in names)


# the set-up of a process: threads and telemetry, without a library
PROCESS = "trtasr.engine.cpus"
SET_UP_BY = {"__init__", "graph"}


def allowed(here):
    """Rooms that a room may import, besides itself."""
    if here == "zoo":
        return STAGES | GROUND | {"compile", "cli"}
    if here == "cli":
        return {"text", "files", "recipe"} | {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    if here in STAGES or here in GROUND:
        return GROUND
    if here == "__init__":
        return set()
    return STAGES | GROUND | {path.stem for path in PACKAGE.glob("*.py")} - {"cli"}


@pytest.fixture(params=FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def source(request):
    return request.param, ast.parse(request.param.read_text())


def test_rooms_import_only_along_the_arrows(source):
    path, tree = source
    here = room(path)
    for name, _ in imports(tree):
        parts = name.split(".")
        if name == PROCESS and here in SET_UP_BY:
            continue
        if parts[0] == "trtasr" and len(parts) > 1 and parts[1] not in (here, "__version__"):
            assert parts[1] in allowed(here), f"{here} must not import {name}"


def test_gpu_libraries_stay_in_the_engine_room_and_are_imported_lazily(source):
    path, tree = source
    for name, lazy in imports(tree):
        if name.split(".")[0] in GPU_LIBRARIES:
            assert room(path) == "engine", f"{name} outside engine/"
            assert lazy, f"{name} at module level"


def test_torch_stays_out_of_what_runs_without_it(source):
    path, tree = source
    if room(path) in WITHOUT_TORCH:
        assert not [name for name, _ in imports(tree) if name.split(".")[0] == "torch"]


def test_files_and_signatures_stay_small(source):
    path, tree = source
    assert len(path.read_text().splitlines()) <= MAX_LINES
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            named = [argument for argument in arguments if argument.arg not in ("self", "cls")]
            assert len(named) <= MAX_PARAMETERS, f"{node.name} takes {len(named)} parameters"
