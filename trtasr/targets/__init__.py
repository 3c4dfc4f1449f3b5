"""Targets: the places where engines run, and everything that is particular about each; one file per place."""

from trtasr.targets.choose import AUTO, TARGETS, check_target, place_named, resolve, targets_of
from trtasr.targets.cpu import CPU
from trtasr.targets.t4 import T4
from trtasr.targets.t4_rtx import T4_RTX
from trtasr.targets.target import Target

__all__ = ["AUTO", "CPU", "T4", "T4_RTX", "TARGETS", "Target", "check_target", "place_named", "resolve", "targets_of"]
