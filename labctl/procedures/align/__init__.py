"""Aligning a bench: one file for each step, and the whole."""

from labctl.procedures.align.adjusting import Row
from labctl.procedures.align.whole import STEPS, Align, Alignment

__all__ = ["STEPS", "Align", "Alignment", "Row"]
