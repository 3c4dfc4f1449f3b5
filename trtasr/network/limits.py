"""What a model cannot hear whole: it would be cut, or end in an error of the runtime."""

from collections.abc import Sequence
from pathlib import Path

from trtasr.audio.read import Refuse
from trtasr.errors import AudioError, RecipeError, path_text
from trtasr.network.network import Described, shortest_frames


def refuse_above(described: Described) -> Refuse:
    """What refuses audio that is longer than the model hears: a file and its seconds -> AudioError."""
    rate, most = described.frontend.frames_per_second, described.most_frames

    def refuse(path: Path, seconds: float) -> None:
        if int(seconds * rate + 1e-6) > most:
            raise AudioError(
                f"{path_text(path)}: {seconds:.3f} s, but the model hears at most {most / rate:g} s",
                f"cut it at pauses into files of at most {most / rate:g} s, or leave it out",
            )

    return refuse


def refuse_benchmarks(described: Described, seconds: Sequence[float]) -> None:
    """Refuse benchmarks that are longer than the model hears, or too short for a single position.

    Raises:
        RecipeError: there is one.
    """
    rate = described.frontend.frames_per_second
    longest, shortest = described.most_frames / rate, shortest_frames(described.frontend) / rate
    if any(not shortest <= length <= longest for length in seconds):
        raise RecipeError(
            f"evaluation.bench_seconds = {list(seconds)}: the model hears {shortest:g} to {longest:g} s",
            "leave out what is longer or shorter",
        )
