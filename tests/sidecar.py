"""The least that a ``bundle.json`` must say."""

from typing import Any

from trtasr.audio.features import FrontendConfig
from trtasr.audio.frontend import frontend_json
from trtasr.recipe import Recipe, to_dict


def description(*files: str, **changes: Any) -> dict[str, Any]:
    """What `seal` is given for a CTC bundle whose graphs are these files, one per part; ``changes`` replace keys."""
    parts = [{"path": file, "size_bytes": 1} for file in files]
    return {
        "name": "x",
        "family": "jasper",
        "checkpoint": {"file": "x.nemo", "sha256": "0" * 64, "class": "EncDecCTCModel"},
        "recipe": to_dict(Recipe("x", "x.nemo")),
        "frontend": frontend_json(FrontendConfig()),
        "vocabulary": ["a", "b"],
        "tokenizer": {"kind": "characters", "file": ""},
        "graphs": {"fp32": list(files), "cpu": list(files)},
        "engines": {"cpu": {"label": "int8 cpu", "precision": "int8", "parts": parts}},
        "generation": None,
        **changes,
    }
