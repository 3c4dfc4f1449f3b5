"""The front-ends of all families: which configuration belongs to which."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from trtasr.audio.features import FrontendConfig, MelFrontend
from trtasr.audio.log_mel import LogMelConfig, LogMelFrontend
from trtasr.audio.waveform import WaveformConfig, WaveformFrontend
from trtasr.errors import CheckpointError

Frontend = FrontendConfig | LogMelConfig | WaveformConfig
KINDS: Mapping[str, type[Frontend]] = {"mel": FrontendConfig, "log_mel": LogMelConfig, "waveform": WaveformConfig}


def frontend(config: Frontend) -> MelFrontend | LogMelFrontend | WaveformFrontend:
    """The front-end of a configuration.

    Returns:
        a callable of audio float32 [B, samples] and valid samples int64 [B] that gives features float32 [B, rows, T]
        and valid frames int64 [B].

    Raises:
        CheckpointError: a parameter out of bounds, naming its key.
    """
    if isinstance(config, WaveformConfig):
        return WaveformFrontend(config)
    return LogMelFrontend(config) if isinstance(config, LogMelConfig) else MelFrontend(config)


def frontend_json(config: Frontend) -> dict[str, Any]:
    """A configuration as JSON types, with its kind; without stored buffers, which have a file of their own."""
    kind = next(name for name, known in KINDS.items() if isinstance(config, known))
    return {"kind": kind} | {item.name: getattr(config, item.name) for item in fields(config) if item.name != "stored"}


def frontend_from_json(data: Mapping[str, Any]) -> Frontend:
    """The inverse of `frontend_json`; without a kind it is NeMo's.

    Raises:
        CheckpointError: a kind or key that is not known, or a value out of bounds.
    """
    values = dict(data)
    name = values.pop("kind", "mel")
    kind = KINDS.get(name) if isinstance(name, str) else None
    known = {field.name for field in fields(kind)} - {"stored"} if kind else set()
    if kind is None or not known >= set(values):
        raise CheckpointError(
            f"front-end: {name!r:.80} with the keys {', '.join(values):.200}",
            f"use one of {', '.join(KINDS)} with its own keys",
        )
    found = kind(**values)
    found.check()
    return found


def frames_of(seconds: float, config: Frontend) -> int:
    """Feature frames of so many seconds of audio; a front-end that pads has always the same."""
    padded = getattr(config, "pad_seconds", 0)
    return max(1, round((padded or seconds) * config.frames_per_second))
