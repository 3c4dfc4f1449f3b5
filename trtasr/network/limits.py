"""What a model hears: longer audio would be cut, or end in an error of the runtime; and what is benchmarked of it."""

import logging
from collections.abc import Sequence
from pathlib import Path

from trtasr.audio.frontend import Frontend
from trtasr.audio.read import Refuse
from trtasr.engine.profile import Profile
from trtasr.errors import AudioError, RecipeError, path_text
from trtasr.network.network import Described, shortest_frames
from trtasr.recipe import Evaluation

logger = logging.getLogger(__name__)


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


def benchmarked(settings: Evaluation, profile: Profile, config: Frontend) -> list[tuple[int, float]]:
    """(batch, seconds) pairs of the recipe that the plans accept; all that a front-end pads to may be speech.

    Raises:
        RecipeError: there is none, so that nothing could be said about speed.
    """
    pairs = [(batch, length) for batch in settings.gpu_batches for length in settings.gpu_seconds]
    padded: float = getattr(config, "pad_seconds", 0)
    (low, _, high), (short, _, long) = profile.batches, (0.0, padded, padded) if padded else profile.seconds
    fitting = [(batch, length) for batch, length in pairs if low <= batch <= high and short <= length <= long]
    if not fitting:
        raise RecipeError(
            f"evaluation.gpu_seconds = {list(settings.gpu_seconds)}, gpu_batches = "
            f"{list(settings.gpu_batches)}: no such shape fits the engine ({short:g} to {long:g} s, "
            f"{low} to {high} utterances)",
            "benchmark shorter or fewer utterances, or widen the engine",
        )
    if len(fitting) < len(pairs):
        logger.info(
            "%d of %d benchmarked shapes are outside the profile and left out", len(pairs) - len(fitting), len(pairs)
        )
    return fitting
