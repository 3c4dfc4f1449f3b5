"""Which wiring each family of models has. A new family is one more row, its module in `trtasr.models`, and a reader."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from trtasr.network.attention import attention, attention_original
from trtasr.network.ctc import ctc, ctc_original
from trtasr.network.network import Described, Network, Original


@dataclass(frozen=True)
class Wiring:
    """How the networks of a family are made.

    Attributes:
        network: what a checkpoint or a bundle says -> wired graphs.
        original: the trained module and its network -> what is exported, proved and calibrated.
        generates: whether it has rules of generation.
    """

    network: Callable[[Described], Network]
    original: Callable[[nn.Module, Network], Original]
    generates: bool = False


CTC = Wiring(ctc, ctc_original)
ATTENTION = Wiring(attention, attention_original, generates=True)
FAMILIES = {"jasper": CTC, "conformer": CTC, "whisper": ATTENTION, "moonshine": ATTENTION}


def network_of(described: Described) -> Network:
    """The network of a checkpoint or a bundle."""
    return FAMILIES[described.family].network(described)


def original_of(model: nn.Module, network: Network) -> Original:
    """The trained module behind a network."""
    return FAMILIES[network.described.family].original(model, network)
