"""What is asked of a model of ``transformers``: the passes of a workload, traced."""

from calib.trace.passes.forms import Pass
from calib.trace.passes.kinds import passes_of
from calib.trace.passes.phases import Traced, traced_phases

__all__ = ["Pass", "Traced", "passes_of", "traced_phases"]
