"""A model on several cards: which card computes what, and what they tell each other."""

from model.parallel.layout import Layout, LayoutError, share
from model.parallel.placed import Parallel

__all__ = ["Layout", "LayoutError", "Parallel", "share"]
