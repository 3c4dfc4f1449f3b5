"""Recognizers over whatever runs: scripts, torch modules, sessions."""

from typing import Any

from trtasr.checkpoint.checkpoint import Checkpoint
from trtasr.network.attention import AttentionRecognizer
from trtasr.network.ctc import CtcRecognizer
from trtasr.network.network import Recognizer


def recognizer(checkpoint: Checkpoint, runs: Any) -> Recognizer:
    """Text of a checkpoint's own tokens and rules.

    Args:
        checkpoint: as read.
        runs: of a CTC model, features and lengths -> log-probabilities and valid frames; else a `Decoding`.
    """
    tokens, rules = checkpoint.tokenizer, checkpoint.generation
    if rules is None:
        return CtcRecognizer(runs, tokens)
    return AttentionRecognizer(runs, tokens, rules, checkpoint.frontend.frames_per_second)
