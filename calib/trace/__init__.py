"""Any torch module, or configuration of ``transformers``, to calls."""

from calib.trace.formulas import formula
from calib.trace.module import trace, unknown

__all__ = ["formula", "trace", "unknown"]
