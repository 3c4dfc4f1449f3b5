import json
from pathlib import Path

import pytest

from trtasr.errors import RecipeError
from trtasr.recipe import Recipe, from_dict, load_recipe, override, to_dict

ROOT = Path(__file__).resolve().parents[2]


def written(folder: Path, text: str) -> Path:
    path = folder / "model.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_fill_what_a_recipe_leaves_out(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, 'checkpoint = "m.nemo"\n[quantization]\nranges = "mse"\n'))
    assert recipe.name == "model"
    assert recipe.checkpoint == str(tmp_path / "m.nemo")
    assert recipe.quantization.ranges == "mse"
    assert recipe.calibration.method == "synthetic"


def test_paths_are_relative_to_the_recipe(tmp_path: Path) -> None:
    text = (
        'checkpoint = "m.nemo"\n[engine]\ntiming_cache = "t.cache"\n[evaluation]\nmanifest = "/abs/m.json"\n'
        '[calibration]\nmanifest = "c.json"\n'
    )
    recipe = load_recipe(written(tmp_path, text))
    assert recipe.engine.timing_cache == str(tmp_path / "t.cache")
    assert recipe.calibration.manifest == str(tmp_path / "c.json")
    assert recipe.evaluation.manifest == ("/abs/m.json",)


@pytest.mark.parametrize(
    ("manifest", "names"),
    [('["a.json", "/b.json"]', ["a.json", "/b.json"]), ('"a,b.json"', ["a,b.json"]), ('""', []), ("[]", [])],
)
def test_a_recipe_names_one_evaluation_set_or_several(tmp_path: Path, manifest: str, names: list[str]) -> None:
    recipe = load_recipe(written(tmp_path, f'checkpoint = "m.nemo"\n[evaluation]\nmanifest = {manifest}\n'))
    assert recipe.evaluation.manifest == tuple(str(tmp_path / name) for name in names)
    assert override(Recipe("a", "b"), [f"evaluation.manifest={manifest}"]).evaluation.manifest == tuple(names)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('checkpoint = "m"\nchekpoint = 1', "chekpoint"),
        ('checkpoint = "m"\n[quantization]\nrange = "max"', "did you mean 'ranges'"),
        ('checkpoint = "m"\n[calibration]\nsteps = "many"', "expected an integer"),
        ('checkpoint = "m"\n[calibration]\nsteps = true', "expected an integer"),
        ('checkpoint = "m"\n[calibration]\nmethod = "real"', "use one of synthetic"),
        ('checkpoint = "m"\n[calibration]\nbatches = 0', "at least 1"),
        ('checkpoint = "m"\n[quantization]\nexclude = "a"', "expected a list"),
        ('checkpoint = "m"\ncalibration = 3', "expected a section"),
        ('checkpoint = "m"\n[evaluation]\nmax_wer_increase = nan', "finite"),
        ('checkpoint = "m"\n[evaluation]\nbench_seconds = [-1.0]', "bench_seconds"),
        ('checkpoint = "m"\n[evaluation]\ngpu_seconds = []', "gpu_seconds"),
        ('checkpoint = "m"\n[evaluation]\ngpu_seconds = [0.0]', "gpu_seconds"),
        ('checkpoint = "m"\n[evaluation]\ngpu_batches = []', "gpu_batches"),
        ('checkpoint = "m"\n[evaluation]\ngpu_batches = [0]', "at least 1"),
        ('checkpoint = "m"\n[engine]\nworkspace_mb = -1', "at least 0"),
        ('checkpoint = "m"\n[engine]\nunfold_channels = 0', "at least 1"),
        ('checkpoint = "m"\n[engine]\ncompute_capability = 8.6', "put it in quotes"),
        ('checkpoint = "m"\n[engine]\ncompute_capability = "8.7"', "use one of 7.5"),
        ('checkpoint = "m"\n[engine]\nquantization = "none"', "use one of explicit"),
        ('checkpoint = "m"\n[engine]\nmax_seconds = 1.0', "min <= opt <= max"),
        ('checkpoint = "m"\n[quantization]\nweight_group = 1\nweight_only = true', "at least 2, or 0"),
        ('checkpoint = "m"\n[quantization]\nweight_group = -1', "at least 0"),
        ('checkpoint = "m"\n[quantization]\nweight_group = 128', "add quantization.weight_only = true"),
        ('checkpoint = "m"\n[engine]\nopt_batch = -3', "at least 1"),
        ('name = "x"', "missing key 'checkpoint'"),
        ("checkpoint = ", "not valid TOML"),
    ],
)
def test_bad_recipes_name_the_key(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        load_recipe(written(tmp_path, text))


def test_missing_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such recipe"):
        load_recipe(tmp_path / "none.toml")


def test_overrides_apply_in_order_and_keep_the_rest() -> None:
    recipe = override(
        Recipe("a", "b"),
        [
            "calibration.seed=3",
            "calibration.seed=4",
            "quantization.ranges=mse",
            'quantization.exclude=["/decoder/*"]',
            "engine.max_seconds=30",
        ],
    )
    assert recipe.calibration.seed == 4
    assert recipe.quantization.ranges == "mse"
    assert recipe.quantization.exclude == ("/decoder/*",)
    assert recipe.engine.max_seconds == 30.0
    assert recipe.calibration.batches == Recipe("a", "b").calibration.batches


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("calibration.sede=1", "did you mean 'seed'"),
        ("calibratoin.seed=1", "did you mean 'calibration'"),
        ("calibration.seed", "no '='"),
        ("name.x=1", "unknown section"),
    ],
)
def test_bad_overrides(text: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        override(Recipe("a", "b"), [text])


def test_a_resolved_recipe_survives_json() -> None:
    recipe = override(Recipe("a", "b"), ['quantization.exclude=["x"]'])
    assert from_dict(Recipe, json.loads(json.dumps(to_dict(recipe))), "json") == recipe


def test_bundled_recipes_load_and_their_files_exist() -> None:
    for path in (ROOT / "engines").glob("*.toml"):
        recipe = load_recipe(path)
        assert Path(recipe.checkpoint).exists(), path
        assert recipe.evaluation.manifest, path
        assert all(Path(name).is_file() for name in recipe.evaluation.manifest), path
