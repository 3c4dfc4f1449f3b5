"""What every reader of checkpoints gives."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from trtasr.audio.frontend import Frontend
from trtasr.audio.log_mel import LogMelConfig
from trtasr.text.generate import Generation
from trtasr.text.tokens import Tokenizer


@dataclass(frozen=True)
class Checkpoint:
    """A trained acoustic model, independent of the toolkit that saved it.

    Attributes:
        family: which module of `trtasr.models` computes it: ``jasper``, ``conformer``, ``whisper`` or ``moonshine``.
        target: class it was saved from, as NeMo or Hugging Face names it.
        config: CTC families: the configuration sections in use, interpolations resolved, ``decoder.vocabulary`` filled
            in. The others: ``config.json``.
        weights: state dict on the CPU, as stored; for ``whisper`` and ``moonshine`` without the leading ``model.``.
        tokenizer: ids -> text. Its vocabulary has, for CTC, no blank (which is the last class); for the others,
            special tokens too.
        frontend: parameters of the front-end.
        sha256: of the archive file, or of all files of a folder that are used, hexadecimal.
        path: of the archive file or the folder.
        generation: how tokens are generated; None for CTC families.
    """

    family: str
    target: str
    config: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    tokenizer: Tokenizer
    frontend: Frontend
    sha256: str
    path: Path
    generation: Generation | None = None

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Token strings in id order."""
        return self.tokenizer.vocabulary

    @property
    def most_frames(self) -> float:
        """Feature frames that the encoder has positions for; Moonshine's rotary ones have no end, nor have CTC's."""
        return 2.0 * int(self.config["max_source_positions"]) if isinstance(self.frontend, LogMelConfig) else math.inf
