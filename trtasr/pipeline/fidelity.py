"""The fidelity stage: every target's quantized graphs against FP32 on probe signals, without any audio."""

import glob
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trtasr.bench.fidelity import LIMITS, Tally, loss, tally, total
from trtasr.files.keep import sha256_file
from trtasr.network.network import Exported, Files, Network, dictated, outputs
from trtasr.network.probes import Kinds, brief, like_calibration, probes, transcripts
from trtasr.recipe import Calibration
from trtasr.results import Engine, Fidelity, Judged
from trtasr.values import Example, FloatArray

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Probed:
    """What FP32 makes of the probes.

    Attributes:
        network: of all engines; it generates few tokens.
        kinds: kind -> utterances, with FP32's text where a decoder reads it.
        exact: kind -> FP32's scores of every utterance, [positions, tokens]; said: -> its greedy transcripts.
        few: a few short utterances that are like the calibration, for what is tried often.
        known: hashes of graphs -> what was found: graphs are judged before an engine is built, and after.
    """

    network: Network
    kinds: Kinds
    exact: Mapping[str, Sequence[FloatArray]]
    said: Mapping[str, Sequence[Sequence[int]]]
    few: Sequence[Example]
    known: dict[str, tuple[Fidelity, ...]] = field(default_factory=dict)

    def judge(self, files: Files) -> tuple[Fidelity, ...]:
        """An engine's fidelity: over all probes, then kind by kind."""
        whole = [path for file in files for path in sorted(file.parent.glob(f"{glob.escape(file.name)}*"))]
        key = " ".join(map(sha256_file, whole))
        if key not in self.known:
            tallies = {kind: self.tally(kind, files) for kind in self.kinds}
            together = total(tallies.values()).fidelity("")
            self.known[key] = together, *(item.fidelity(kind) for kind, item in tallies.items())
        return self.known[key]

    def used(self, files: Files, limit: float) -> float:
        """An engine's loss over a limit: 1 and less is within it."""
        together = self.judge(files)[0]
        found = loss(together)
        logger.info("fidelity: %.4f nats, %.2f %% of positions agree", found, 100 * together.agreement)
        return found / limit

    def tally(self, kind: str, files: Files) -> Tally:
        """The sums over the utterances of one kind."""
        examples = self.kinds[kind]
        found = outputs(self.network, files, examples)
        heard = transcripts(dictated(self.network, files, examples), found)
        pairs = zip(self.exact[kind], found, self.said[kind], heard, strict=True)
        return total(tally(*pair) for pair in pairs)


def probed(exported: Exported, calibration: Calibration) -> Probed:
    """The probes and what FP32 makes of them.

    Args:
        exported: FP32 graphs.
        calibration: the recipe's section, whose features they are not.
    """
    network = brief(exported.network)
    kinds = {kind: dictated(network, exported.files, items) for kind, items in probes(exported, calibration).items()}
    exact = {kind: outputs(network, exported.files, items) for kind, items in kinds.items()}
    said = {kind: transcripts(items, exact[kind]) for kind, items in kinds.items()}
    few = dictated(network, exported.files, like_calibration(exported, calibration))
    return Probed(network, kinds, exact, said, few)


def judged(
    probes: Probed, level: str, engines: Sequence[Engine], folder: Path, harm: Mapping[str, Mapping[str, float]]
) -> tuple[Judged, ...]:
    """The fidelity of every engine, by its quantized graphs.

    Args:
        probes: and what FP32 makes of them.
        level: of the recipe.
        engines: of the targets.
        folder: of the bundle.
        harm: target -> the layers that were left in floating point, and what each does alone.
    """
    found = []
    for engine in engines:
        together, *kinds = probes.judge([folder / name for name in engine.graphs])
        limit, left = LIMITS[level], harm.get(engine.target, {})
        found.append(Judged(engine.target, level, loss(together), limit, together, tuple(kinds), left))
    return tuple(found)
