"""Measuring an NVIDIA card: its stream and clock, its telemetry, kernels timed, host costs."""
