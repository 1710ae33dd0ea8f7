"""Products of an MLP; a page each for one matrix, gate and up, experts, and a few rows."""

from kernels.mlp.activation import ACTIVATIONS
from kernels.mlp.experts import grouped_linear, grouped_reference
from kernels.mlp.gated import swiglu, swiglu_reference
from kernels.mlp.product import linear, linear_reference

__all__ = [
    "ACTIVATIONS",
    "grouped_linear",
    "grouped_reference",
    "linear",
    "linear_reference",
    "swiglu",
    "swiglu_reference",
]
