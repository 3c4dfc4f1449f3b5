"""The house: six floors, arrows that go down, and limits on what one file, function or signature holds.

A room is a folder of the package, or a module at its top. An arrow A -> B says that a file of A imports one of B.
"""

import ast
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "trtasr"
FILES = sorted(PACKAGE.rglob("*.py"))
FLOORS = (
    {"values", "errors"},
    {"files", "text", "quant", "results"},
    {"audio", "graph", "engine", "models", "recipe", "bundle"},
    {"network", "targets", "report", "checkpoint", "bench"},
    {"pipeline"},
    {"cli"},
)
APART = {"zoo"}  # the bundled checkpoints and the scripts that trained them: nothing imports it
FLAT = {"__init__", "values", "errors", "bundle"}  # modules at the top: nothing else joins them
MOST_ARROWS, MOST_FLAT = 80, 6
# What runs the pipeline: `compile` and `calibrate`, the table of corrections, the run on a borrowed T4. They may call
# every stage; a stage calls another only where `SIBLINGS` says so.
DRIVERS = {"compile", "ablation", "acceptance"}
# Arrows between stages.
SIBLINGS = {
    ("budget", "measure"),
    ("compare", "opened"),
    ("controls", "measure"),
    ("integer", "compare"),
    ("integer", "integer_codes"),
    ("integer", "measure"),
    ("integer", "opened"),
    ("measure", "speed"),
    ("record", "job"),
    ("scales", "correct"),
    ("use", "measure"),
    ("use", "opened"),
}
MOST_SIBLINGS = 12
GPU_LIBRARIES = {"tensorrt", "tensorrt_rtx", "pycuda", "polygraphy"}
WITHOUT_TORCH = {"values", "errors", "files", "text", "results", "engine", "recipe", "bundle", "bench", "report"}
MAX_PARAMETERS, MAX_LINES, MAX_FUNCTION = 6, 400, 50


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
            inside = node.module.startswith("trtasr") and (PACKAGE.parent / node.module.replace(".", "/")).is_dir()
            names = [f"{node.module}.{alias.name}" for alias in node.names] if inside else [node.module]
            yield from ((name, id(node) in lazy) for name in names)


@cache
def parsed(path):
    """Syntax tree of a file."""
    return ast.parse(path.read_text())


@cache
def own_imports(path):
    """Modules of the package that a file imports, as tuples of names below the package."""
    names = [tuple(name.split(".")) for name, _ in imports(parsed(path))]
    return [parts[1:] for parts in names if parts[0] == "trtasr" and len(parts) > 1 and parts[1] != "__version__"]


def arrows():
    """(room, room) of every import from one room to another."""
    found = {(room(path), parts[0]) for path in FILES for parts in own_imports(path)}
    return {(here, there) for here, there in found if here != there and here not in APART}


def floor(name):
    """Which floor a room is on; the package itself stands above all."""
    return next((number for number, rooms in enumerate(FLOORS) if name in rooms), len(FLOORS))


def siblings():
    """(stage, stage) of every import of one stage by another."""
    for path in sorted((PACKAGE / "pipeline").rglob("*.py")):
        stage = path.relative_to(PACKAGE / "pipeline").parts[0].removesuffix(".py")  # a folder is one driver
        for parts in own_imports(path):
            if stage not in DRIVERS and parts[0] == "pipeline" and len(parts) > 1:
                yield stage, parts[1]


@pytest.fixture(params=FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def source(request):
    return request.param, parsed(request.param)


def test_every_room_has_its_floor():
    assert {room(path) for path in FILES} == set().union(*FLOORS) | APART | {"__init__"}
    assert len(FLOORS) <= 6


def test_arrows_go_down_and_are_few():
    found = arrows()
    assert [f"{here} -> {there}" for here, there in sorted(found) if floor(here) <= floor(there)] == []
    assert len(found) <= MOST_ARROWS


def test_nothing_imports_what_stands_apart():
    assert [path for path in FILES if room(path) not in APART for parts in own_imports(path) if parts[0] in APART] == []


def test_the_top_of_the_package_is_closed():
    flat = {path.stem for path in PACKAGE.glob("*.py")}
    assert flat == FLAT
    assert len(flat) <= MOST_FLAT


def test_files_of_the_pipeline_import_only_the_siblings_that_are_listed():
    assert set(siblings()) == SIBLINGS
    assert len(SIBLINGS) <= MOST_SIBLINGS


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


def test_names_of_modules_have_no_underscore(source):
    """Everything a module defines may be called and is described; only classes keep something to themselves."""
    _, tree = source
    bound = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    names = [getattr(node, "name", getattr(node, "id", "")) for node in (*tree.body, *bound)]
    assert [name for name in names if name.startswith("_") and not name.startswith("__")] == []


def test_files_functions_and_signatures_stay_small(source):
    path, tree = source
    assert len(path.read_text().splitlines()) <= MAX_LINES
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            named = [argument for argument in arguments if argument.arg not in ("self", "cls")]
            assert len(named) <= MAX_PARAMETERS, f"{node.name} takes {len(named)} parameters"
            assert body_lines(node) <= MAX_FUNCTION, f"{node.name} has {body_lines(node)} lines"


def body_lines(node):
    """Lines of a function without its docstring."""
    first = node.body[0]
    described = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    return node.end_lineno - node.lineno + 1 - (first.end_lineno - first.lineno + 1 if described else 0)
