"""The front-ends of all families: which configuration belongs to which."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from trtasr.audio.features import FrontendConfig, MelFrontend
from trtasr.audio.log_mel import LogMelConfig, LogMelFrontend
from trtasr.audio.waveform import WaveformConfig, WaveformFrontend

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
    """A configuration as JSON types, with its kind."""
    kind = next(name for name, known in KINDS.items() if isinstance(config, known))
    return {"kind": kind, **asdict(config)}


def frontend_from_json(data: Mapping[str, Any]) -> Frontend:
    """The inverse of `frontend_json`; without a kind it is NeMo's."""
    values = dict(data)
    return KINDS[values.pop("kind", "mel")](**values)
