"""What is fuzzed: a reader of the product, valid inputs, and how they are spoiled."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fuzz.mutate import Mutation, bytes_of_any_file


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        name: for people and for seeds.
        seeds: valid inputs, made in an empty folder.
        read: reads one input through the product, in a folder of its own that holds what `seeds` left; raises a
            `TrtasrError`, or nothing.
        mutate: spoils a seed.
        share: of all inputs, in parts.
    """

    name: str
    seeds: Callable[[Path], list[bytes]]
    read: Callable[[bytes, Path], object]
    mutate: Mutation = bytes_of_any_file
    share: int = 1
