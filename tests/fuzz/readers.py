"""Every reader of the product that takes a file from outside."""

from fuzz.bundles import BUNDLES
from fuzz.checkpoints import CHECKPOINTS
from fuzz.inputs import INPUTS
from fuzz.target import Target

TARGETS: tuple[Target, ...] = (*CHECKPOINTS, *INPUTS, *BUNDLES)
