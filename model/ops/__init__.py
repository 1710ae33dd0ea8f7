"""The operators: what one step of a model computes and moves, as exact formulas over its shape.

An operator is a frozen record of scalars. Its properties are plain arithmetic, so one line of
formula serves three readers: an ``int`` (one operator), an ``int64`` array (a grid of millions,
see :func:`grid`) and a sympy symbol (the formula in the documents).

Conventions, for every class here:

- a multiply-add is 2 FLOP; bytes are bytes of main memory, each tensor touched once;
- ``tensor_core_flops``: the products that matrix units execute, exactly what
  ``torch.utils.flop_counter`` counts (no causal halving);
- ``cuda_core_flops``: the arithmetic beside them (softmax, activation, norm), which that counter
  leaves out. It is a count of elementary operations, not a measurement;
- ``flops``: the first where there is one, else the second;
- ``min_flops``: ``flops`` without the work that a mask makes superfluous; the roofline uses it;
- ``link_bytes``: what one card sends to others (:mod:`model.ops.collective`);
- a flag enters as ``+flag`` (an int), since sympy multiplies no bool;
- ``backward()``: the operators that the gradient of this one executes, the gradient of its input
  before those of its weights. An operator whose gradient has no formula of its own is ``Other``.
"""

from __future__ import annotations

from model.ops.attention import Attention, AttentionBackward, LatentAttention
from model.ops.collective import (
    AllGather,
    AllReduce,
    AllToAll,
    Collective,
    ReduceScatter,
    SendRecv,
)
from model.ops.convolution import Conv2d, Convolution
from model.ops.dtypes import ITEM_BYTES, is_floating, item_bytes
from model.ops.grids import grid, grid_points, is_grid
from model.ops.norms import ChannelNorm, Norm, Softmax
from model.ops.operator import Operator, TensorCoreOperator
from model.ops.pointwise import POOLS, REST, Copy, Elementwise, Gather, Other, Reduction
from model.ops.products import (
    Counted,
    GroupedMatmul,
    GroupedMatmulWeightGradient,
    Matmul,
    MoeMlp,
)
from model.ops.routing import agreement, distinct_experts, expert_load, spread, whole_loads

OPERATORS: dict[str, type[Operator]] = {
    cls.operator: cls
    for cls in (
        Matmul,
        GroupedMatmul,
        GroupedMatmulWeightGradient,
        Counted,
        MoeMlp,
        Attention,
        AttentionBackward,
        LatentAttention,
        Conv2d,
        Convolution,
        Norm,
        ChannelNorm,
        Softmax,
        Reduction,
        Elementwise,
        Gather,
        Copy,
        Other,
        AllReduce,
        AllGather,
        ReduceScatter,
        AllToAll,
        SendRecv,
    )
}
"""Every operator class by the name of its kind: the one way from a stored row to an operator."""

__all__ = [
    "ITEM_BYTES",
    "OPERATORS",
    "POOLS",
    "REST",
    "AllGather",
    "AllReduce",
    "AllToAll",
    "Attention",
    "AttentionBackward",
    "ChannelNorm",
    "Collective",
    "Conv2d",
    "Convolution",
    "Copy",
    "Counted",
    "Elementwise",
    "Gather",
    "GroupedMatmul",
    "GroupedMatmulWeightGradient",
    "LatentAttention",
    "Matmul",
    "MoeMlp",
    "Norm",
    "Operator",
    "Other",
    "ReduceScatter",
    "Reduction",
    "SendRecv",
    "Softmax",
    "TensorCoreOperator",
    "agreement",
    "distinct_experts",
    "expert_load",
    "grid",
    "grid_points",
    "is_floating",
    "is_grid",
    "item_bytes",
    "spread",
    "whole_loads",
]
