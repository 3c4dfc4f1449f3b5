"""How many tokens a second of speech may give in Moonshine, by language.

Moonshine's authors limit the tokens so that a decoder that runs into a loop ends. Its tokens are those of English text,
so that other languages take more of them for a word: moonshine_onnx has 6 for English and Spanish, 8 for Ukrainian, 13
for Arabic, Chinese, Japanese, Korean and Vietnamese (moonshine, pull request 103); the model card of the English one
has 6.5. A language that is not among them has the most, which cuts nothing.
"""

import logging
import re
from collections.abc import Mapping
from typing import Any

from trtasr.checkpoint.folder import Folder
from trtasr.checkpoint.generation import CODES, language_token

logger = logging.getLogger(__name__)

README, MAX_README, FRONT_MATTER = "README.md", 2**25, 2**16
ENGLISH, MOST = 6.5, 13.0
RATES: Mapping[str, float] = {
    "en": ENGLISH,
    "es": ENGLISH,
    "uk": 8.0,
    **dict.fromkeys(("ar", "zh", "ja", "ko", "vi"), MOST),
}
NAME = re.compile(r"moonshine-[a-z0-9-]+-([a-z]{2,3})")


def tokens_per_second(folder: Folder, *settings: Mapping[str, Any]) -> float:
    """The limit of the language that a folder names; English's where it names none.

    A language stands in one of the settings (``language``), in the head of README.md, or at the end of the model's
    name, as in ``moonshine-tiny-ko``.

    Raises:
        CheckpointError: a README.md that leads out of the folder.
    """
    for source, languages in sources(folder, settings):
        if languages:
            rate = max(RATES.get(code_of(language), MOST) for language in languages)
            listed = ", ".join(map(repr, languages))[:80]
            logger.info("%s: at most %g tokens per second, for %s in %s", folder.path, rate, listed, source)
            return rate
    logger.info("%s: at most %g tokens per second, as for English; the folder names no language", folder.path, ENGLISH)
    return ENGLISH


def sources(folder: Folder, settings: tuple[Mapping[str, Any], ...]) -> list[tuple[str, list[str]]]:
    """Where a language may stand, and those that stand there."""
    given = [file["language"] for file in settings if isinstance(file.get("language"), str)]
    whole = folder.path.resolve()
    name = (whole.parents[1] if whole.parent.name == "snapshots" else whole).name
    found = NAME.search(name.lower().rpartition("--")[2] + "\n")
    ending = [found[1]] if found and found[1] in CODES.values() else []
    return [("its configuration", given), (README, readme_languages(folder)), ("its name", ending)]


def code_of(language: str) -> str:
    """``<|ko|>``, ``Korean``, ``ko-KR`` -> ``ko``."""
    return language_token(language).strip("<|>").partition("-")[0]


def readme_languages(folder: Folder) -> list[str]:
    """Languages in the head of README.md, ``language: ko`` or a list, as the Hugging Face Hub has them."""
    if not folder.has(README):
        return []
    with folder.file(README, MAX_README).open("rb") as stream:
        lines = stream.read(FRONT_MATTER).decode(errors="replace").splitlines()
    end = next((place for place, line in enumerate(lines[1:], 1) if line.rstrip() == "---"), 0)
    head = lines[1:end] if lines and lines[0].rstrip() == "---" else []
    place = next((place for place, line in enumerate(head) if line.startswith("language:")), len(head))
    return listed_values(head[place:])


def listed_values(lines: list[str]) -> list[str]:
    """Values of the key in the first line: behind it, in brackets, or one a line behind hyphens."""
    if not lines:
        return []
    inline = lines[0].partition(":")[2].partition(" #")[0].strip().strip("[]")
    items = inline.split(",") if inline else []
    for line in lines[1:] if not inline else []:
        if not line.lstrip().startswith("- "):
            break
        items.append(line.lstrip()[2:])
    return [text for item in items if (text := item.strip().strip("\"'"))]
