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
