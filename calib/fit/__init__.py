"""Samples to an efficiency of any operator, with an interval and how it is known."""

from calib.fit.fitting import fit

__all__ = ["fit"]
