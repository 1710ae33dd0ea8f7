"""Calls and a calibration to tables: kernels, launches replayed, memory, reach."""
