"""Measuring: probes of the device, a clock, operators to run, the sweep, the reference model."""
