"""What only moves bytes: copies, selections by index, new tensors. And what has a name, no more."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from calib.trace.rules.layouts import axes, is_dense, turned
from calib.trace.rules.rows import Row, Rule, Size
from model import ops
from model.ops import POOLS, Operator

Operators = tuple[Operator, ...]


def copy(row: Row) -> Operators:
    """Distinct elements of all inputs in, all of the result out."""
    walk, across = walked(row)
    inputs = row.inputs[1:] if row.name == "copy_" else row.inputs
    dtype = inputs[0].dtype
    elements = sum(size.nbytes for size in inputs) / ops.item_bytes(dtype)
    written = row.out.numel
    return (
        ops.Copy(
            int(elements) or written,  # of nothing but padding
            dtype=dtype,
            out_dtype=row.out.dtype if row.out.dtype != dtype else None,
            out_elements=written if written != elements else None,
            transposed=across,
            axes=walk,
        ),
    )


def walked(row: Row) -> tuple[int, bool]:
    """The axes of a copy, and whether it reads across what it writes.

    Joined tensors: one run each where all are dense and none is empty (as a new cache is); else
    torch computes the place of each element in its input and in the result, one dimension after the
    other, merging none: 1.92 million dense elements joined to nothing took an H200 12.9 us, a dense
    copy of as many takes 3. What is read
    shifted, padded or repeated has the axes of what is written to, at least 2.
    """
    inputs, out = row.inputs[1:] if row.name == "copy_" else row.inputs, row.out
    if row.base in JOINS:
        if all(is_dense(size) and size.numel for size in inputs):
            return 1, False
        largest = max(inputs, key=lambda size: size.numel)
        return JOINED * max(len(out.shape), 1), turned(out, largest)
    same = [size for size in inputs if size.numel == out.numel and size.shape == out.shape]
    if not same:
        return 2, False
    return axes(out, same), turned(out, same[0])


def embedding(row: Row) -> Operators:
    rows = row.given["indices"].numel
    return (ops.Gather(rows, row.out.numel // rows, dtype=row.out.dtype),)


def index(row: Row) -> Operators:
    """Rows picked by one index are a gather; elements picked by several are not."""
    indices = [size for size in row.given["indices"] if isinstance(size, Size)]
    if len(indices) != 1 or indices[0].dtype == "bool":
        return other(row)
    return picked(row, indices[0])


def index_select(row: Row) -> Operators:
    return picked(row, row.given["index"])


def picked(row: Row, chosen: Size) -> Operators:
    return (ops.Gather(chosen.numel, row.out.numel // chosen.numel, dtype=row.out.dtype),)


def scattered(row: Row) -> Operators:
    """Values written into some of a tensor: read are the values and where they go, and where
    they are added, what was there; a functional operator copies the whole tensor before."""
    target = row.given["self"]
    moved = row.read - target.nbytes
    values = row.given.get("values", row.given.get("src", row.given.get("source")))
    touched = values.nbytes if isinstance(values, Size) else moved
    touched = min(touched, target.nbytes)
    if isinstance(values, Size) and values.numel == 1:
        touched = target.nbytes
    adds = "add" in row.name or bool(row.given.get("accumulate"))
    read, written = moved + touched * adds, touched
    if not row.in_place:
        read, written = read + target.nbytes, written + row.written
    return (ops.Other(row.base, read, written, dtype=target.dtype),)


def created(row: Row) -> Operators:
    """A tensor of constants: nothing is read but a value to fill it with."""
    read = row.given["value"].nbytes if isinstance(row.given.get("value"), Size) else 0
    return (ops.Other(row.base, read, row.written, dtype=row.out.dtype),)


def on_diagonal(row: Row) -> Operators:
    """Zeros, and what is written onto their diagonal."""
    x: Size = row.given["self"]
    zeros = ops.Other("zeros", 0, row.written, dtype=row.out.dtype)
    return zeros, ops.Copy(x.numel, dtype=x.dtype, axes=2)


def allocated(row: Row) -> Operators:
    """No byte is touched."""
    return (ops.Other(row.base, dtype=row.out.dtype),)


def embedding_bag(row: Row) -> Operators:
    """Rows picked by index, and added up in bags."""
    indices: Size = row.given["indices"]
    table: Size = row.given["weight"]
    adds = indices.numel * table.shape[1]
    read = adds * ops.item_bytes(table.dtype) + indices.nbytes + row.given["offsets"].nbytes
    return (ops.Other("embedding_bag", read, row.written, adds, table.dtype),)


def embedding_gradient(row: Row) -> Operators:
    """A table of zeros, and each row's gradient added to that of the row it was picked from."""
    gradient: Size = row.given["grad_output"]
    read, written = row.read + gradient.nbytes, row.written + gradient.nbytes
    adds = gradient.numel
    return (ops.Other("scatter_add", read, written, arithmetic=adds, dtype=gradient.dtype),)


def bags_gradient(row: Row) -> Operators:
    """The same of rows that were added up: a bag's gradient is read for each of them."""
    gradient, indices = row.given["grad"], row.given["indices"]
    adds = indices.numel * row.out.shape[-1]
    moved = adds * ops.item_bytes(gradient.dtype)
    read, written = row.read + moved, row.written + moved
    return (ops.Other("scatter_add", read, written, arithmetic=adds, dtype=gradient.dtype),)


def rows_renormed(row: Row) -> Operators:
    """Rows picked by index are read, and at most all of them written back shorter."""
    table, indices = row.given["self"], row.given["indices"]
    elements = indices.numel * table.shape[-1]
    moved = elements * ops.item_bytes(table.dtype)
    return (ops.Other(row.base, indices.nbytes + moved, moved, 2 * elements, table.dtype),)


def put_back(row: Row) -> Operators:
    """Zeros, and each value written to its place."""
    values: Size = row.given["self"]
    zeros = ops.Other("zeros", 0, row.written, dtype=row.out.dtype)
    return zeros, ops.Other(row.base, row.read, values.nbytes, values.numel, values.dtype)


def added_back(row: Row) -> Operators:
    """Zeros, and each number of the gradient added to those it came of; what they were is not
    read."""
    gradient: Size = row.given["grad_output"]
    zeros = ops.Other("zeros", 0, row.written, dtype=row.out.dtype)
    read, adds = gradient.nbytes + row.written, _taps(row) * gradient.numel
    return zeros, ops.Other(row.base, read, row.written, adds, gradient.dtype)


def gathered_back(row: Row) -> Operators:
    """Each result sums the numbers of the gradient that repeat it."""
    gradient: Size = row.given["grad_output"]
    name = row.base.removeprefix("_")
    return (ops.Other(name, gradient.nbytes, row.written, gradient.numel, gradient.dtype),)


def picked_loss(row: Row) -> Operators:
    """Of each row the number of its target, and no other; and the targets' weights."""
    scores, target = row.given["self"], row.given["target"]
    read = target.nbytes + target.numel * ops.item_bytes(scores.dtype)
    if isinstance(row.given.get("weight"), Size):
        read += target.numel * ops.item_bytes(scores.dtype)
    return (ops.Other(row.base, read, row.written, target.numel, scores.dtype),)


def picked_loss_gradient(row: Row) -> Operators:
    """Zeros, of which a number a row is written once more; the scores themselves are not read."""
    target, gradient = row.given["target"], row.given["grad_output"]
    chosen = target.numel * ops.item_bytes(row.out.dtype)
    read = target.nbytes + gradient.nbytes
    zeros = ops.Other("zeros", 0, row.written, dtype=row.out.dtype)
    return (zeros, ops.Other(row.base, read, chosen, target.numel, row.out.dtype))


def pooled(row: Row) -> Operators:
    """A comparison or a sum for each place of the window of each result."""
    window = row.given["kernel_size"]
    dimensions = int(row.base[row.base.index("pool") + len("pool")])
    taps = math.prod(window) if len(window) > 1 else window[0] ** dimensions
    return tuple(replace(op, arithmetic=taps * row.out.numel) for op in other(row))


def resampled(row: Row) -> Operators:
    """Some taps an element of the result; antialiased or not, under one name."""
    arithmetic = _taps(row) * row.out.numel
    return (ops.Other(_resampling(row), row.read, row.written, arithmetic, row.out.dtype),)


def _resampling(row: Row) -> str:
    return row.base.removeprefix("_").removesuffix("_aa")


def _taps(row: Row) -> int:
    """Of an element of the finer map, also of a gradient."""
    return TAPS.get(_resampling(row).removesuffix("_backward").removesuffix("_aa"), 1)


TAPS = {"upsample_linear1d": 3, "upsample_bilinear2d": 6, "upsample_bicubic2d": 16}
"""Elementary operations an element of the result, counted on separable filters."""


def other(row: Row) -> tuple[ops.Other, ...]:
    """Bytes as they were seen: every input read once and every result written once."""
    tensors = (*row.inputs, *row.outputs)
    dtype = tensors[0].dtype if tensors else "uint8"
    arithmetic = max((math.prod(t.shape) for t in tensors), default=0)
    moved: Any = row.written
    if not row.outputs:  # a number for the host
        moved = row.read
    return (ops.Other(row.base, row.read, moved, arithmetic=arithmetic, dtype=dtype),)


def top_k(row: Row) -> tuple[ops.Other, ...]:
    """One that is asked for in order, as torch is unless told not to, is sorted besides."""
    in_order = bool(row.given.get("sorted", True))
    return tuple(replace(op, name="topk_sorted") if in_order else op for op in other(row))


def unspoken(row: Row) -> Operators:
    """What no rule knows: its bytes, and that there may be more to it."""
    return tuple(replace(op, unknown=True) for op in other(row))


JOINS = ("cat", "stack")
JOINED = 3
"""Axes that joining costs for each dimension, where tensors are not dense: 33.5 million elements of
four dimensions take an H200 150 us, a copy along four axes 98."""
COPIES = (
    *("clone", "_to_copy", "cat", "stack", "constant_pad_nd", "repeat", "roll", "flip", "copy_"),
    *("triu", "tril", "contiguous", "pixel_shuffle", "pixel_unshuffle", "im2col", "unfold_copy"),
    *("reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d"),
    *("slice_backward", "select_backward", "unfold_backward", "channel_shuffle", "rot90"),
    *("_nested_tensor_from_tensor_list", "_nested_tensor_from_mask", "_nested_from_padded"),
    *("to_padded_tensor", "_jagged_to_padded_dense_forward", "_padded_dense_to_jagged_forward"),
    *("_conj_physical", "lift_fresh_copy", "repeat_interleave", "expand_copy", "permute_copy"),
    *("reflection_pad3d", "replication_pad3d", "diagonal_backward"),
)
SCATTERS = (
    *("index_put", "_index_put_impl", "index_copy", "index_add", "scatter", "scatter_add"),
    *("masked_scatter", "scatter_reduce", "slice_scatter", "select_scatter", "index_fill"),
    *("put", "index_reduce"),
)
CREATIONS = (
    *("zeros", "ones", "full", "arange", "linspace", "eye", "zeros_like", "ones_like"),
    *("full_like", "new_zeros", "new_ones", "new_full", "scalar_tensor", "fill", "zero"),
    *("rand", "randn", "randint", "randperm", "rand_like", "randn_like", "bernoulli", "normal"),
    *("uniform", "tril_indices", "triu_indices", "exponential", "poisson"),
)
RESAMPLINGS = (
    *("upsample_linear1d", "upsample_nearest1d", "upsample_nearest2d", "upsample_bilinear2d"),
    *("upsample_bicubic2d", "_upsample_bicubic2d_aa", "_upsample_bilinear2d_aa"),
    *("upsample_nearest3d", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d"),
    "_upsample_nearest_exact3d",
)
GATHERED_BACK = tuple(
    f"{name}{n}d_backward"
    for name in ("upsample_nearest", "_upsample_nearest_exact")
    for n in (1, 2, 3)
)
ADDED_BACK = (
    *("upsample_linear1d_backward", "upsample_bilinear2d_backward", "upsample_bicubic2d_backward"),
    *("_upsample_bilinear2d_aa_backward", "_upsample_bicubic2d_aa_backward"),
    "upsample_trilinear3d_backward",
    *(f"{how}_pad{n}d_backward" for how in ("reflection", "replication") for n in (1, 2, 3)),
)
ALLOCATIONS = (
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize"),
    "_sparse_coo_tensor_with_dims_and_tensors",  # of indices and values that are there
)
NAMED = (
    *("sort", "argsort", "cumsum", "cumprod", "histc", "bincount", "searchsorted"),
    *("_adaptive_avg_pool2d", "adaptive_max_pool2d", "adaptive_avg_pool1d"),
    *("upsample_trilinear3d", "grid_sampler_2d", "_local_scalar_dense", "nonzero"),
    *("max_pool2d_with_indices_backward", "avg_pool2d_backward"),
    *("masked_select", "unique_dim", "_unique2", "equal"),
    *("_nested_tensor_from_mask_left_aligned", "_linalg_check_errors"),
    *("_fft_r2c", "_fft_c2r", "_fft_c2c", "index", "_adaptive_avg_pool2d_backward"),
    *("_adaptive_avg_pool3d", "_adaptive_avg_pool3d_backward", "adaptive_max_pool3d"),
    *("adaptive_max_pool2d_backward", "adaptive_max_pool3d_backward", "avg_pool3d_backward"),
    *("max_pool3d_with_indices_backward", "fractional_max_pool2d_backward"),
    *("fractional_max_pool3d_backward", "col2im", "grid_sampler_3d"),
    *("multi_margin_loss", "multi_margin_loss_backward", "multilabel_margin_loss_forward"),
    *("multilabel_margin_loss_backward", "grid_sampler_2d_backward", "grid_sampler_3d_backward"),
    *("bucketize", "cummax", "cummin", "logcumsumexp", "kthvalue", "nanmedian"),
    *("_weight_norm_interface", "_weight_norm_interface_backward"),
)
"""Operators without a formula whose inputs and results are all that they touch."""
RULES: dict[str, Rule] = {
    **dict.fromkeys(COPIES, copy),
    **dict.fromkeys(SCATTERS, scattered),
    **dict.fromkeys(CREATIONS, created),
    **dict.fromkeys(ALLOCATIONS, allocated),
    **dict.fromkeys(NAMED, other),
    **dict.fromkeys(RESAMPLINGS, resampled),
    **dict.fromkeys(GATHERED_BACK, gathered_back),
    **dict.fromkeys(ADDED_BACK, added_back),
    **dict.fromkeys((*POOLS, "fractional_max_pool2d", "fractional_max_pool3d"), pooled),
    **dict.fromkeys(("max_unpool2d", "max_unpool3d"), put_back),
    "_embedding_bag_backward": bags_gradient,
    "embedding_renorm": rows_renormed,
    "diag_embed": on_diagonal,
    "topk": top_k,
    "embedding": embedding,
    "index": index,
    "_unsafe_index": index,
    "index_select": index_select,
    "gather": index_select,
    "take": index_select,
    **dict.fromkeys(("_embedding_bag", "_embedding_bag_forward_only"), embedding_bag),
    "embedding_dense_backward": embedding_gradient,
    **dict.fromkeys(("nll_loss_forward", "nll_loss2d_forward"), picked_loss),
    **dict.fromkeys(("nll_loss_backward", "nll_loss2d_backward"), picked_loss_gradient),
}
