"""Targets: what each accepts and how its graph is lowered."""

from trtasr.targets.choose import TARGETS, choose
from trtasr.targets.cpu import CPU
from trtasr.targets.t4 import T4
from trtasr.targets.t4_rtx import T4_RTX
from trtasr.targets.target import REASONS, Target

__all__ = ["CPU", "REASONS", "T4", "T4_RTX", "TARGETS", "Target", "choose"]
