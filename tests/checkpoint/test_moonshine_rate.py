"""How many tokens a second a Moonshine of each language may write, and where a folder names its language."""

import pytest
import torch
from golden import moonshine_configs
from whisper_folder import refused, write_folder

from trtasr.checkpoint.read import read_checkpoint
from trtasr.models.moonshine import Moonshine

CONFIG = {**moonshine_configs.config(vocab_size=97), "architectures": ["MoonshineForConditionalGeneration"]}


def rate(path, readme=None, **files):
    """Tokens per second of a Moonshine folder."""
    torch.manual_seed(0)
    state = {f"model.{name}": tensor for name, tensor in Moonshine(CONFIG).state_dict().items()}
    files = {"config": CONFIG, "generation_config": {}, "preprocessor_config": {"sampling_rate": 16000}, **files}
    write_folder(path, state, **files)
    if readme is not None:
        (path / "README.md").write_bytes(readme if isinstance(readme, bytes) else readme.encode())
    return read_checkpoint(path).generation.tokens_per_second


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("ar", 13),
        ("zh", 13),
        ("ja", 13),
        ("ko", 13),
        ("vi", 13),
        ("uk", 8),
        ("en", 6.5),
        ("es", 6.5),
        ("de", 13),
    ],
)
def test_each_language_has_its_limit_wherever_it_stands(tmp_path, language, expected):
    assert rate(tmp_path / f"moonshine-tiny-{language}") == expected
    cached = tmp_path / f"models--UsefulSensors--moonshine-base-{language}" / "snapshots" / "0123abc"
    assert rate(cached) == expected
    assert rate(tmp_path / "readme", f"---\nlicense: other\nlanguage:\n- {language}\nx: y\n---\n# Model") == expected
    assert rate(tmp_path / "config", config={**CONFIG, "language": language}) == expected


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("language: ko", 13),
        ("language: [uk]", 8),
        ("language: ['en', \"uk\"]", 8),
        ("language:\n  - en\n  - ko\ntags:", 13),
        ("language: Ukrainian # yes", 8),
        ("language: multilingual", 13),
        ("language: en-GB", 6.5),
        ("language:", 6.5),
        ("languages: ko", 6.5),
        ("tags:\n- ko", 6.5),
        ("", 6.5),
    ],
)
def test_the_head_of_a_readme(tmp_path, head, expected):
    assert rate(tmp_path / "folder", f"---\n{head}\n---\nlanguage: ar\n") == expected


@pytest.mark.parametrize(
    "readme",
    [
        None,
        "",
        "# Moonshine\nlanguage: ko\n",
        "---\nlanguage: ko",
        b"---\n\xff\xfe\n---\n",
        "---\n" + "language: ko\n" * 9 + "x" * 2**20,
    ],
)
def test_a_readme_without_a_head_names_none(tmp_path, readme):
    assert rate(tmp_path / "folder", readme) == 6.5


@pytest.mark.parametrize(
    "name", ["moonshine-tiny", "moonshine-tiny-ft", "moonshine-base-v2", "my-ko", "ko", "moonshine-tiny-korean"]
)
def test_names_that_end_in_no_language(tmp_path, name):
    assert rate(tmp_path / name) == 6.5


def test_the_configuration_wins_over_the_readme_and_that_over_the_name(tmp_path):
    folder = tmp_path / "moonshine-tiny-ko"
    assert rate(folder, "---\nlanguage: uk\n---\n") == 8
    assert rate(folder, "---\nlanguage: uk\n---\n", generation_config={"language": "english"}) == 6.5


def test_whisper_has_no_such_limit_and_no_readme(tmp_path):
    folder = write_folder(tmp_path / "moonshine-tiny-ko")
    plain = read_checkpoint(folder)
    (folder / "README.md").symlink_to("/etc/passwd")
    assert plain.generation.tokens_per_second == 0
    assert read_checkpoint(folder).sha256 == plain.sha256


def test_a_readme_that_leads_out_of_the_folder(tmp_path):
    rate(tmp_path / "folder")
    (tmp_path / "folder" / "README.md").symlink_to("/etc/passwd")
    refused(tmp_path / "folder", "a link that leads out of the folder")
