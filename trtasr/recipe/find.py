"""What the model argument of the command line means: a bundled name, a recipe, an archive or a folder."""

from pathlib import Path

from trtasr.errors import RecipeError, UsageError
from trtasr.files.look import SIDECAR, is_file, is_folder, is_there
from trtasr.recipe.check import shown
from trtasr.recipe.read import engine_name, load_recipe
from trtasr.recipe.sections import Recipe

ENGINES = Path("engines")


def find_recipe(model: str) -> Recipe:
    """The recipe behind a model argument, before any flag.

    Raises:
        RecipeError: nothing of that name, or a finished bundle.
    """
    path = Path(model)
    if path.suffix == ".toml":
        return load_recipe(path)
    bundled = ENGINES / f"{model}.toml"
    other = is_there(path) and not is_file(bundled)  # the reader says what it lacks
    if path.suffix == ".nemo" or is_file(path / "config.json") or other:
        if is_file(path / SIDECAR) and not is_file(path / "config.json"):
            raise RecipeError(f"{model}: a finished bundle", "give the checkpoint that it was compiled from")
        return Recipe(model_name(path), model)
    if is_file(bundled):
        return load_recipe(bundled)
    names = ", ".join(sorted(p.stem for p in ENGINES.glob("*.toml"))) or "none in this folder"
    raise RecipeError(
        f"model {shown(model)}: no such recipe, archive or folder with config.json",
        f"give a .nemo file, a Hugging Face folder or a bundled name ({names})",
    )


def model_name(path: Path) -> str:
    """What the engine of an archive or a folder is called.

    The name that the user wrote, not that of a link's target; of a snapshot in the cache of the Hugging Face Hub
    (``models--ORGANIZATION--NAME/snapshots/REVISION``) the model's name.
    """
    whole = (path if path.name not in ("", "..") else path.resolve()).absolute()
    if not is_folder(whole):
        return engine_name(whole.stem)
    repository = whole.parents[1].name if whole.parent.name == "snapshots" else ""
    return engine_name(repository.split("--", 2)[-1] if repository.startswith("models--") else whole.name)


def find_bundle(path: Path) -> Path:
    """The bundle at a path; where there is none, that of the model which the path names, in ``engines/``."""
    if is_there(path / SIDECAR):
        return path
    try:
        found = ENGINES / find_recipe(str(path)).name
    except UsageError:
        return path  # the verb says what is not there
    return found if is_file(found / SIDECAR) else path
