"""Kernels that inference engines bring or choose themselves, timed by others."""
