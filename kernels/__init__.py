"""Triton kernels of the operators that dominate a model: each file is a page to be read."""
