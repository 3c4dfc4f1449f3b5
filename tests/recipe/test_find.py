"""What a model argument means: a recipe, an archive, a folder, a bundled name; and whose bundle a path is."""

from pathlib import Path

import pytest

from trtasr.errors import RecipeError
from trtasr.files.look import SIDECAR
from trtasr.recipe.find import find_bundle, find_recipe, model_name


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder, with two bundled recipes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "engines").mkdir()
    for name in ("small", "large"):
        (tmp_path / "engines" / f"{name}.toml").write_text(f'checkpoint = "{name}.nemo"\n', encoding="utf-8")
    return tmp_path


def checkpoint(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}", encoding="utf-8")
    return path


def bundle(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / SIDECAR).touch()
    return path


def test_a_bundled_name_is_its_recipe(folder):
    recipe = find_recipe("small")
    assert (recipe.name, recipe.checkpoint) == ("small", "engines/small.nemo")


def test_an_archive_is_read_whether_it_is_there_or_not():
    recipe = find_recipe("some/model.v2.nemo")
    assert (recipe.name, recipe.checkpoint) == ("model.v2", "some/model.v2.nemo")


def test_a_recipe_file_is_loaded(folder):
    (folder / "mine.toml").write_text('name = "ours"\ncheckpoint = "m.nemo"\n', encoding="utf-8")
    assert find_recipe("mine.toml").name == "ours"


def test_a_folder_with_a_configuration_is_a_checkpoint_also_under_a_bundled_name(folder):
    checkpoint(folder / "small")
    assert find_recipe("small").checkpoint == "small"


def test_a_finished_bundle_is_no_checkpoint(folder):
    bundle(folder / "done")
    with pytest.raises(RecipeError, match="done: a finished bundle"):
        find_recipe("done")
    (checkpoint(folder / "both") / SIDECAR).touch()
    assert find_recipe("both").checkpoint == "both"


def test_what_is_not_there_lists_the_bundled_names(folder):
    with pytest.raises(RecipeError) as error:
        find_recipe("none")
    assert "large, small" in error.value.repair
    for path in (folder / "engines").iterdir():
        path.unlink()
    with pytest.raises(RecipeError):
        find_recipe("small")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("models--openai--whisper-tiny.en/snapshots/0123", "whisper-tiny.en"),
        ("models--gpt2/snapshots/main", "gpt2"),
        ("snapshots/0123", "0123"),
        ("plain.v2", "plain.v2"),
    ],
)
def test_a_snapshot_of_the_hub_is_called_as_its_model(folder, monkeypatch, path, name):
    found = checkpoint(folder / path)
    assert model_name(Path(path)) == model_name(found) == name
    monkeypatch.chdir(found)
    assert model_name(Path()) == name


def test_a_link_gives_its_own_name_not_that_of_what_it_leads_to(folder):
    checkpoint(folder / "blob")
    (folder / "mine").symlink_to("blob")
    assert model_name(Path("mine")) == "mine"


def test_the_bundle_of_a_path_or_of_the_model_that_it_names(folder):
    finished = bundle(folder / "engines" / "small")
    assert find_bundle(finished) == finished
    assert find_bundle(Path("small")) == find_bundle(Path("elsewhere/small.nemo")) == Path("engines/small")
    for path in (Path("large"), Path("none"), Path("engines")):  # not compiled, no model, a folder
        assert find_bundle(path) == path
