"""The same for an NVIDIA card."""
