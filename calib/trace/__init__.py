"""Any torch module, or configuration of ``transformers``, to calls."""

from calib.trace.module import trace, unknown

__all__ = ["trace", "unknown"]
