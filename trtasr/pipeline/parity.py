"""The parity stage: the FP32 graphs compute what the checkpoint computes."""

import logging

import numpy as np
import torch

from trtasr.graph.check import assert_parity, run_graph
from trtasr.network.network import Exported, Network, Outputs
from trtasr.values import Array

logger = logging.getLogger(__name__)

FACTOR = 4  # times torch's own float32 rounding: so far may the graphs be off where that is more than usual


def prove_parity(exported: Exported) -> float:
    """Prove that the FP32 graphs, batch norm folded, channels centered, compute together what the checkpoint computes.

    The reference is the module in float64, on a batch of mixed lengths. The graphs may be off by `Original.tolerance`,
    or by `FACTOR` times what torch itself is off in float32 where the network amplifies rounding more than that.

    Returns:
        largest difference of the last part's output, over valid positions.

    Raises:
        QualityError: it is larger, or the counts of positions differ.
    """
    network, original = exported.network, exported.original
    example, (usual, most) = original.trial, original.tolerance
    exact, single = (original.reference(example, dtype) for dtype in (torch.float64, torch.float32))
    found: dict[str, Array] = {}
    for part, file in zip(network.parts, exported.files, strict=True):
        found |= run_graph(file, part.inputs(example, found))
    judged = network.last.judged
    assert_parity({name: exact[name] for name in exact if name != judged}, found, 0)
    true, torch32, graph = (valid_rows(network, outputs) for outputs in (exact, single, found))
    rounding, difference = (float(np.abs(values - true).max()) for values in (torch32, graph))
    assert_parity({judged: true}, {judged: graph}, max(usual, min(FACTOR * rounding, most)))
    if difference > usual:
        logger.warning(
            "the FP32 graphs are off by %.1e in %s (torch in float32: %.1e): this network amplifies float32 rounding",
            difference,
            judged,
            rounding,
        )
    return difference


def valid_rows(network: Network, outputs: Outputs) -> Array:
    """The last part's output of a batch over valid positions, [sum of positions, tokens]."""
    names = (network.last.judged, network.last.counts)
    items = [
        {name: outputs[name][index : index + 1] for name in filter(None, names)}
        for index in range(len(outputs[names[0]]))
    ]
    return np.concatenate([network.last.valid(item) for item in items])
