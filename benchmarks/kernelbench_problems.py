"""The operators of KernelBench's first level, by their names, on tensors without contents.

A kernel is built from a shape written ``x=16x3x64x64;out=64;window=3x3``: one number or several.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.published_times import Function, indices
from benchmarks.published_times import tensor as any_tensor

Sizes = tuple[int, ...]
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
AVERAGE_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)


@dataclass(frozen=True)
class Case:
    """A module and what it is called with."""

    module: nn.Module
    inputs: tuple[Any, ...]


def sizes_of(text: str) -> dict[str, Sizes]:
    pairs = (part.split("=") for part in text.split(";"))
    return {name: tuple(map(int, value.split("x"))) for name, value in pairs}


def tensor(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return any_tensor(*shape, dtype=dtype, learns=False)


def product(m: int, n: int, k: int, turned: Sizes = (0, 0)) -> Case:
    """``turned``: whether a factor lies the other way."""
    a, b = tensor(*((k, m) if turned[0] else (m, k))), tensor(*((n, k) if turned[1] else (k, n)))
    return Case(Function(torch.matmul), (a.T if turned[0] else a, b.T if turned[1] else b))


def batched(batch: int, m: int, n: int, k: int) -> Case:
    return Case(Function(torch.bmm), (tensor(batch, m, k), tensor(batch, k, n)))


def by_rows(x: Sizes, n: int) -> Case:
    return Case(Function(torch.matmul), (tensor(*x), tensor(x[-1], n)))


def einsum(x: Sizes, n: int) -> Case:
    def multiply(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bijl,lk->bijk", a, b)

    return Case(Function(multiply), (tensor(*x), tensor(x[-1], n)))


def diagonal(n: int, m: int) -> Case:
    return Case(Function(lambda a, b: torch.diag(a) @ b), (tensor(n), tensor(n, m)))


def triangular(n: int, upper: int) -> Case:
    cut = torch.triu if upper else torch.tril
    return Case(Function(lambda a, b: cut(a @ b)), (tensor(n, n), tensor(n, n)))


def attention(batch: int, heads: int, length: int, head_dim: int) -> Case:
    """The only problem that is not float32. The function is looked up when it is called: a trace
    puts another in its place."""

    def attend(*given: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(*given)

    q, k, v = (tensor(batch, heads, length, head_dim, dtype=torch.float16) for _ in range(3))
    return Case(Function(attend), (q, k, v))


def of_modules(kinds: tuple[type[nn.Module], ...], x: Sizes, *sizes: Any, **more: Any) -> Case:
    """By the number of dimensions besides batch and channels."""
    with torch.device("meta"):
        return Case(kinds[len(x) - 3](*sizes, **more), (tensor(*x),))


def convolution(x: Sizes, out: int, window: Sizes, bias: int = 0, **more: Any) -> Case:
    return of_modules(CONVOLUTIONS, x, x[1], out, window, bias=bool(bias), **more)


def transposed(x: Sizes, out: int, window: Sizes, more: int = 0, **rest: Any) -> Case:
    """``more``: places that the result has besides."""
    rest |= {"output_padding": more, "bias": False}
    return of_modules(TRANSPOSED, x, x[1], out, window, **rest)


def separable(x: Sizes, out: int, window: Sizes, padding: int) -> Case:
    """Channel by channel, then place by place."""
    first = convolution(x, x[1], window, padding=padding, groups=x[1])
    return Case(nn.Sequential(first.module, convolution(x, out, (1, 1)).module), first.inputs)


def max_pool(x: Sizes, window: int, **more: Any) -> Case:
    return of_modules(MAX_POOLS, x, window, **more)


def average_pool(x: Sizes, window: int, **more: Any) -> Case:
    return of_modules(AVERAGE_POOLS, x, window, **more)


def batch_norm(x: Sizes) -> Case:
    """In training mode, as the source leaves it: by the batch's own moments."""
    return of_modules((nn.BatchNorm1d, nn.BatchNorm2d), x, x[1])


def instance_norm(x: Sizes) -> Case:
    return of_modules((nn.InstanceNorm1d, nn.InstanceNorm2d), x, x[1])


def group_norm(x: Sizes, groups: int) -> Case:
    return Case(nn.GroupNorm(groups, x[1], device="meta"), (tensor(*x),))


def layer_norm(x: Sizes) -> Case:
    return Case(nn.LayerNorm(x[1:], device="meta"), (tensor(*x),))


def cross_entropy(x: Sizes) -> Case:
    return Case(Function(F.cross_entropy), (tensor(*x), indices(x[0])))


def hinge(x: Sizes) -> Case:
    def loss(predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.mean(torch.clamp(1 - predictions * targets, min=0))

    return Case(Function(loss), (tensor(*x), tensor(x[1])))


def triplet_margin(x: Sizes) -> Case:
    return Case(nn.TripletMarginLoss(margin=1.0), tuple(tensor(*x) for _ in range(3)))


def cumsum_masked(x: Sizes) -> Case:
    return Case(
        Function(lambda a, mask: torch.cumsum(a * mask, dim=1)),
        (tensor(*x), tensor(*x, dtype=torch.bool)),
    )


def written_gelu(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x * (1.0 + torch.tanh(0.7978845608 * (x + 0.044715 * torch.pow(x, 3.0))))


def rms_norm(x: torch.Tensor) -> torch.Tensor:
    return x / torch.sqrt(torch.mean(x**2, dim=1, keepdim=True) + 1e-5)


def cumsum_exclusive(x: torch.Tensor) -> torch.Tensor:
    """As the source had it then: it leaves out the last row, not the last column."""
    zeros = torch.zeros_like(x.select(1, 0).unsqueeze(1))
    return torch.cumsum(torch.cat((zeros, x), dim=1)[:-1], dim=1)


ONE: Mapping[str, Callable[[torch.Tensor], Any]] = {
    "scaled": lambda x: x * 3.14,
    "relu": torch.relu,
    "leaky_relu": F.leaky_relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "swish": lambda x: x * torch.sigmoid(x),
    "gelu": F.gelu,
    "selu": torch.selu,
    "hardsigmoid": F.hardsigmoid,
    "softplus": F.softplus,
    "softsign": lambda x: x / (1 + torch.abs(x)),
    "elu": F.elu,
    "hardtanh": F.hardtanh,
    "written_gelu": written_gelu,
    "softmax": lambda x: torch.softmax(x, dim=1),
    "log_softmax": lambda x: torch.log_softmax(x, dim=1),
    "rms_norm": rms_norm,
    "frobenius_norm": lambda x: x / torch.norm(x, p="fro"),
    "l1_norm": lambda x: x / torch.mean(torch.abs(x), dim=1, keepdim=True),
    "l2_norm": lambda x: x / torch.norm(x, p=2, dim=1, keepdim=True),
    "sum": lambda x: torch.sum(x, dim=1, keepdim=True),
    "mean": lambda x: torch.mean(x, dim=1),
    "max": lambda x: torch.max(x, dim=1)[0],
    "min": lambda x: torch.min(x, dim=1)[0],
    "argmax": lambda x: torch.argmax(x, dim=1),
    "argmin": lambda x: torch.argmin(x, dim=1),
    "cumsum": lambda x: torch.cumsum(x, dim=1),
    "cumprod": lambda x: torch.cumprod(x, dim=1),
    "cumsum_reverse": lambda x: torch.cumsum(x.flip(1), dim=1).flip(1),
    "cumsum_exclusive": cumsum_exclusive,
}
"""Functions of one tensor."""
TWO: Mapping[str, Callable[[torch.Tensor, torch.Tensor], Any]] = {
    "mse": lambda x, target: torch.mean((x - target) ** 2),
    "smooth_l1": F.smooth_l1_loss,
    "kl_div": lambda x, target: F.kl_div(torch.log(x), target, reduction="batchmean"),
}
"""Functions of two alike."""
MAKERS: Mapping[str, Callable[..., Case]] = {
    f.__name__: f
    for f in (
        *(product, batched, by_rows, einsum, diagonal, triangular, attention, convolution),
        *(transposed, separable, max_pool, average_pool, batch_norm, instance_norm, group_norm),
        *(layer_norm, cross_entropy, hinge, triplet_margin, cumsum_masked),
    )
}
WHOLE = ("x", "window", "turned")
"""Sizes that are lists, however short."""


def case(kernel: str, shape: str) -> Case:
    sizes = sizes_of(shape)
    for of, count in ((ONE, 1), (TWO, 2)):
        if kernel in of:
            return Case(Function(of[kernel]), tuple(tensor(*sizes["x"]) for _ in range(count)))
    is_pool = kernel.endswith("_pool")
    given = {
        name: value
        if len(value) > 1 or (name in WHOLE and not (is_pool and name == "window"))
        else value[0]
        for name, value in sizes.items()
    }
    return MAKERS[kernel](**given)
