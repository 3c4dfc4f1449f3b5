"""The fidelity stage: every target's quantized graphs against FP32 on probe signals, without any audio."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trtasr.bench.fidelity import Tally, tally, total
from trtasr.network.network import Exported, Files, Network, dictated, outputs
from trtasr.network.probes import Kinds, brief, probes
from trtasr.recipe import Calibration
from trtasr.results import Fidelity
from trtasr.text.ctc import greedy
from trtasr.values import Example, FloatArray


@dataclass(frozen=True)
class Probed:
    """What FP32 makes of the probes.

    Attributes:
        network: of all engines; it generates few tokens.
        kinds: kind -> utterances, with FP32's text where a decoder reads it.
        exact: kind -> FP32's scores of every utterance, [positions, tokens]; said: -> its greedy transcripts.
    """

    network: Network
    kinds: Kinds
    exact: Mapping[str, Sequence[FloatArray]]
    said: Mapping[str, Sequence[Sequence[int]]]

    def judge(self, files: Files) -> tuple[Fidelity, ...]:
        """An engine's fidelity: over all probes, then kind by kind."""
        tallies = {kind: self.tally(kind, files) for kind in self.kinds}
        return total(tallies.values()).fidelity(""), *(item.fidelity(kind) for kind, item in tallies.items())

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
    return Probed(network, kinds, exact, said)


def transcripts(examples: Sequence[Example], scores: Sequence[FloatArray]) -> list[list[int]]:
    """Greedy token ids: what was generated, else the best path through the scores, whose last token is the blank."""
    return [
        item.tokens.tolist()
        if item.tokens is not None
        else greedy(row[None], np.array([len(row)]), row.shape[1] - 1)[0]
        for item, row in zip(examples, scores, strict=True)
    ]
