"""A configuration of ``transformers`` as a model: read, built without weights, traced."""

from calib.trace.hf.model import HFModel
from calib.trace.hf.reading import load, name_of

__all__ = ["HFModel", "load", "name_of"]
