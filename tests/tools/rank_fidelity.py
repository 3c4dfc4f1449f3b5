"""Shows how well the measures on probe signals rank engines as speech does.

    python tests/tools/rank_fidelity.py MODEL SPEECH.json[,SPEECH.json...] [-o FILE.json]

Quantizes a model for ``t4-rtx`` in fifteen ways, from spoilt to nearly FP32, and measures each on the probe signals,
without audio, and by word disagreement with FP32 on speech. Prints a line for each way as it comes, at the end the rank
correlation (Spearman's) of every measure with the disagreement: 1 or -1 where it ranks the ways as speech does.
"""

import argparse
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np

from trtasr.audio.prepare import prepare
from trtasr.bench.paired import word_disagreement
from trtasr.files.scratch import scratch
from trtasr.network.network import Exported, outputs
from trtasr.pipeline.budget import FIDELITY, Goal, Trial, affordable
from trtasr.pipeline.export import centered, export
from trtasr.pipeline.features import calibration_features
from trtasr.pipeline.fidelity import Probed, probed
from trtasr.pipeline.job import Options, read_utterances, wired
from trtasr.pipeline.job import checkpoint_of as read_checkpoint
from trtasr.pipeline.measure import word_error_rate
from trtasr.pipeline.scales import make_table
from trtasr.recipe import Quantization, Recipe
from trtasr.recipe.find import find_recipe
from trtasr.targets import T4_RTX
from trtasr.values import CalibrationSet, FloatArray

MEASURES = ("divergence", "margin_noise", "thin", "agreement", "sqnr_db", "token_errors")
LEFT = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7)  # shares of the INT8 multiply-accumulates that go back to floating point
STATIC = {  # ways with one scale per tensor
    "static": {},
    "static, half the ranges": {"headroom": 0.5},
    "static, 0.8 of the ranges": {"headroom": 0.8},
    "static, percentile": {"ranges": "percentile"},
    "static, no centering": {"center": False},
}


def ways(
    exported: Exported, features: CalibrationSet, recipe: Recipe, probes: Probed
) -> Iterator[tuple[str, Trial, Sequence[str]]]:
    """Name of every way, what makes its graphs, and the layers that are in floating point."""
    made = partial(tried, exported, features, recipe, probes)
    for name, change in STATIC.items():
        yield name, made(replace(recipe.quantization, **change)), ()
    dynamic = T4_RTX.scaled("dynamic")
    yield "to nearest", replace(made(replace(recipe.quantization, rounding="nearest")), target=dynamic), ()
    trial = replace(made(recipe.quantization), target=dynamic)
    yield "default", trial, ()
    yield "default, the second half of every part left", trial, late(trial)
    for share in LEFT:
        yield f"default, {share:.0%} left", trial, first(trial, share)
    static = replace(trial, target=T4_RTX, known={})
    yield "static, 10% left", static, first(static, 0.1)


def first(trial: Trial, share: float) -> Sequence[str]:
    """The layers of most harm that a share of the work pays for."""
    return affordable(trial, Goal(FIDELITY, lambda _: 0.0, share), ())


def tried(
    exported: Exported, features: CalibrationSet, recipe: Recipe, probes: Probed, quantization: Quantization
) -> Trial:
    """What makes graphs with a table of these settings, and static scales."""
    table = make_table(exported, features, quantization, {})
    folder = Path(tempfile.mkdtemp(dir=exported.files[0].parent))
    return Trial(centered(exported, table, folder), table, recipe, T4_RTX, probes.few)


def late(trial: Trial) -> list[str]:
    """The second half of the INT8 layers of every part."""
    return [name for part in trial.macs for name in list(part)[len(part) // 2 :]]


def measured(trial: Trial, left: Sequence[str], probes: Probed, folder: Path) -> dict[str, float]:
    """The measures of one way on the probes."""
    files = trial.written(left, folder)
    together = asdict(probes.judge(files)[0])
    few = probes.few
    noise = margin_noise(outputs(probes.network, trial.exported.files, few), outputs(probes.network, files, few))
    return {name: float(together[name]) for name in MEASURES if name != "margin_noise"} | {"margin_noise": noise}


def margin_noise(exact: Iterable[FloatArray], found: Iterable[FloatArray]) -> float:
    """How far an engine moves the decisions that are near: mean square error of the margin in nats^2, 0..1.

        sum_t w_t min(1, d_t^2) / sum_t w_t,    w_t = 1 / (1 + exp(m_t))

    with m_t the margin between FP32's two most likely tokens at a position t, and d_t the engine's error of it. A token
    changes where -d_t exceeds m_t, so a wide margin counts for little, and beyond 1 nat it is all the same how far.
    The mean KL divergence is the sum of a few large moves (a token one frame earlier, which no transcript shows);
    this is what all small ones do to words, and of different layers it adds up.

    Args:
        exact: FP32's scores (logits or log-probabilities) of every utterance, [positions, tokens].
        found: the engine's.
    """
    weights, moved = 0.0, 0.0
    for reference, scores in zip(exact, found, strict=True):
        second, first = np.argpartition(reference, -2, axis=-1)[:, -2:].T
        rows = np.arange(len(reference))
        margin = (reference[rows, first] - reference[rows, second]).astype(np.float64)
        error = scores[rows, first].astype(np.float64) - scores[rows, second] - margin
        near = 1 / (1 + np.exp(np.abs(margin)))
        weights += float(near.sum())
        moved += float((near * np.minimum(1, np.square(error))).sum())
    return moved / weights if weights else 0.0


def correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's rank correlation; equal values share the mean of their ranks."""
    return float(np.corrcoef(ranks(one), ranks(other))[0, 1])


def ranks(values: Sequence[float]) -> list[float]:
    """Rank of each value, from 0."""
    return [float(np.mean([index for index, other in enumerate(sorted(values)) if other == value])) for value in values]


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("speech", type=lambda text: text.split(","))
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    recipe = find_recipe(given.model)
    recipe = replace(recipe, evaluation=replace(recipe.evaluation, manifest=tuple(given.speech)))
    with scratch() as folder:
        rows = list(rows_of(recipe, folder))
    found = {name: correlation([row[name] for row in rows], [row["disagreement"] for row in rows]) for name in MEASURES}
    print(*(f"{name} {value:+.2f}" for name, value in found.items()), sep="\n")
    if given.output:
        given.output.write_text(json.dumps({"correlation": found, "ways": rows}, indent=1) + "\n", encoding="utf-8")


def rows_of(recipe: Recipe, folder: Path) -> Iterator[Mapping[str, float]]:
    """A row for every way: measures on the probes, disagreement on speech in percent."""
    network, original = wired(read_checkpoint(recipe))
    (raw := folder / "raw").mkdir()
    exported = export(network, original, raw)
    utterances = read_utterances(recipe, network.described, Options(folder / "none"), prepare)
    exact = word_error_rate(network, exported.files, utterances, recipe.evaluation)
    features, probes = calibration_features("synthetic", recipe, exported), probed(exported, recipe.calibration)
    for name, trial, left in ways(exported, features, recipe, probes):
        with scratch() as place:
            row = measured(trial, left, probes, place)
            files = [place / file.name for file in network.files(place, "onnx")]
            heard = word_error_rate(network, files, utterances, recipe.evaluation)
        row["disagreement"] = word_disagreement(exact, heard)
        print(name, *(f"{key} {value:.4f}" for key, value in row.items()), sep=" | ", flush=True)
        yield row


if __name__ == "__main__":
    main()
