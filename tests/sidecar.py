"""The least that a ``bundle.json`` must say."""

from typing import Any

from trtasr.audio.features import FrontendConfig
from trtasr.audio.frontend import frontend_json
from trtasr.recipe import Recipe, to_dict


def description(file: str, **changes: Any) -> dict[str, Any]:
    """What `seal` is given for a CTC bundle whose graphs are one file; ``changes`` replace keys."""
    return {
        "name": "x",
        "family": "jasper",
        "checkpoint": {"file": "x.nemo", "sha256": "0" * 64, "class": "EncDecCTCModel"},
        "recipe": to_dict(Recipe("x", "x.nemo")),
        "frontend": frontend_json(FrontendConfig()),
        "vocabulary": ["a", "b"],
        "tokenizer": {"kind": "characters", "file": ""},
        "graphs": {"fp32": [file], "cpu": [file]},
        "engines": {"cpu": {"label": "int8 cpu", "precision": "int8", "parts": [{"path": file, "size_bytes": 1}]}},
        "generation": None,
        **changes,
    }
