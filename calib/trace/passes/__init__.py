"""What is asked of a model of ``transformers``: the passes of a workload, traced."""

from calib.trace.passes.forms import Pass
from calib.trace.passes.images import pixel_forms
from calib.trace.passes.inputs import Inputs
from calib.trace.passes.kinds import passes_of
from calib.trace.passes.phases import Buildable, Traced, traced_phases

__all__ = ["Buildable", "Inputs", "Pass", "Traced", "passes_of", "pixel_forms", "traced_phases"]
