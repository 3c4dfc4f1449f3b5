"""Checks of configuration values, which may come from anywhere."""

from collections.abc import Mapping, Sequence
from typing import Any

from trtasr.errors import CheckpointError


def check_integer(where: str, value: object, bounds: tuple[int, int]) -> None:
    """Refuse what is no integer within the bounds, both included.

    Raises:
        CheckpointError: naming the key ``where``.
    """
    if type(value) is not int or not bounds[0] <= value <= bounds[1]:
        raise CheckpointError(f"{where}: {value!r:.80}", f"use an integer from {bounds[0]} to {bounds[1]}")


def check_switches(where: str, section: Mapping[str, Any], keys: Sequence[str]) -> None:
    """Refuse switches other than true and false.

    Raises:
        CheckpointError: naming the key.
    """
    for key in keys:
        if not isinstance(section.get(key, False), bool):
            raise CheckpointError(f"{where}.{key}: {section[key]!r:.80}", "use true or false")


def check_table(config: Mapping[str, Any], integers: Mapping[str, tuple[int, int]], fixed: Mapping[str, Any]) -> None:
    """Refuse a ``config.json`` with integers out of bounds, or with other values than are computed.

    Args:
        config: as read.
        integers: key that must be there -> bounds, both included.
        fixed: key -> the value that is computed, if the key is there.

    Raises:
        CheckpointError: naming the key.
    """
    for key, bounds in integers.items():
        check_integer(f"config.json: {key}", config.get(key), bounds)
    for key, value in fixed.items():
        if config.get(key, value) != value:
            raise CheckpointError(f"config.json: {key} is {config[key]!r:.80}", f"only {value!r} is supported")
