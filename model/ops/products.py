"""Matrix products: dense, of experts, a whole mixture of experts."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from model.ops.dtypes import item_bytes
from model.ops.operator import Operator, SumsGiven, TensorCoreOperator
from model.ops.pointwise import bias_gradient
from model.ops.routing import distinct_experts, experts_touched


@dataclass(frozen=True)
class Matmul(TensorCoreOperator):
    """[batch, m, k] x [batch, k, n] -> [batch, m, n].

    ``dtype``: what is multiplied; the second factor lies in ``weight_dtype`` and is widened to it,
    the result and a bias are of ``out_dtype``.
    """

    operator: ClassVar[str] = "matmul"
    m: int
    n: int
    k: int
    batch: int = 1
    dtype: str = "bfloat16"
    weight_dtype: str | None = None
    bias: bool = False
    out_dtype: str | None = None

    @property
    def tensor_core_flops(self) -> Any:
        return 2 * self.batch * self.m * self.n * self.k

    @property
    def cuda_core_flops(self) -> Any:
        return +self.bias * self.batch * self.m * self.n

    @property
    def weight_bytes_read(self) -> Any:
        weights = self.batch * self.n * self.k * item_bytes(self.weight_dtype or self.dtype)
        return weights + +self.bias * self.n * item_bytes(self.out_dtype or self.dtype)

    @property
    def bytes_read(self) -> Any:
        return self.batch * self.m * self.k * item_bytes(self.dtype) + self.weight_bytes_read

    @property
    def bytes_written(self) -> Any:
        return self.batch * self.m * self.n * item_bytes(self.out_dtype or self.dtype)

    def backward(self) -> tuple[Operator, ...]:
        """dX = dY W^T and dW = X^T dY: twice the FLOPs of forward."""
        plain = replace(self, weight_dtype=None, bias=False, out_dtype=None)
        return (
            replace(plain, n=self.k, k=self.n, weight_dtype=self.weight_dtype),
            replace(plain, m=self.k, k=self.m),
            *bias_gradient(self, self.batch * self.m, self.n, self.dtype),
        )


@dataclass(frozen=True)
class GroupedMatmul(TensorCoreOperator):
    """``tokens * top_k`` rows, each against one of ``experts`` weights of [k, n].

    ``active_experts``: distinct experts touched; None means the expectation under uniform routing.
    How uneven their rows are is read off it (:func:`model.ops.routing.agreement`). ``max_load``:
    rows of the busiest expert, where they were counted; it changes no byte, no FLOP and no
    estimate, which warns where it is told alone. Dtypes as of :class:`Matmul`.
    """

    operator: ClassVar[str] = "grouped_matmul"
    tokens: int
    experts: int
    top_k: int
    n: int
    k: int
    dtype: str = "bfloat16"
    active_experts: float | None = None
    max_load: float | None = None
    weight_dtype: str | None = None
    out_dtype: str | None = None

    @property
    def rows(self) -> Any:
        return self.tokens * self.top_k

    @property
    def experts_read(self) -> Any:
        if self.active_experts is None:
            return distinct_experts(self.experts, self.top_k, self.tokens)
        return self.active_experts

    @property
    def tensor_core_flops(self) -> Any:
        return 2 * self.rows * self.n * self.k

    @property
    def weight_bytes_read(self) -> Any:
        weights = self.experts_read * self.n * self.k
        return weights * item_bytes(self.weight_dtype or self.dtype)

    @property
    def bytes_read(self) -> Any:
        return self.rows * self.k * item_bytes(self.dtype) + self.weight_bytes_read

    @property
    def bytes_written(self) -> Any:
        return self.rows * self.n * item_bytes(self.out_dtype or self.dtype)

    def backward(self) -> tuple[Operator, ...]:
        """dX against the same experts, and one dW = X^T dY an expert touched."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return (replace(self, n=self.k, k=self.n), GroupedMatmulWeightGradient(**values))


@dataclass(frozen=True)
class GroupedMatmulWeightGradient(GroupedMatmul):
    """dW = X^T dY of each expert touched, from the rows that were routed to it."""

    operator: ClassVar[str] = "grouped_matmul_weight_gradient"

    @property
    def weight_bytes_read(self) -> Any:
        return 0

    @property
    def bytes_read(self) -> Any:
        return self.rows * (self.k + self.n) * item_bytes(self.dtype)

    @property
    def bytes_written(self) -> Any:
        return self.experts_read * self.n * self.k * item_bytes(self.dtype)


@dataclass(frozen=True)
class Counted(SumsGiven, TensorCoreOperator):
    """A kernel of which only the sums are known, by somebody's formula for the operator ``name``:
    FLOPs of its ``products`` in ``dtype``, bytes, arithmetic beside the products."""

    operator: ClassVar[str] = "counted"
    may_be_zero: ClassVar[tuple[str, ...]] = ("products", "read", "written", "arithmetic")
    name: str
    products: int
    read: float = 0
    written: float = 0
    arithmetic: int = 0
    dtype: str = "bfloat16"

    @property
    def tensor_core_flops(self) -> Any:
        return self.products


@dataclass(frozen=True)
class MoeMlp(TensorCoreOperator):
    """A whole SwiGLU mixture of experts as one fused operator, the way public tables measure it.

    ``distribution`` names how tokens spread over experts (:mod:`model.ops.routing`);
    ``weight_dtype``: how weights lie in memory, where they are widened on the way.
    """

    operator: ClassVar[str] = "moe_mlp"
    tokens: int
    experts: int
    top_k: int
    hidden: int
    intermediate: int
    dtype: str = "bfloat16"
    distribution: str = "balanced"
    weight_dtype: str | None = None

    @property
    def experts_read(self) -> Any:
        return experts_touched(self.distribution, self.experts, self.top_k, self.tokens)

    @property
    def tensor_core_flops(self) -> Any:
        return 6 * self.tokens * self.top_k * self.hidden * self.intermediate

    @property
    def cuda_core_flops(self) -> Any:
        return 5 * self.tokens * self.top_k * self.intermediate

    @property
    def weight_bytes_read(self) -> Any:
        item = item_bytes(self.weight_dtype or self.dtype)
        return 3 * self.experts_read * self.hidden * self.intermediate * item

    @property
    def bytes_read(self) -> Any:
        return self.tokens * self.hidden * item_bytes(self.dtype) + self.weight_bytes_read

    @property
    def bytes_written(self) -> Any:
        return self.tokens * self.hidden * item_bytes(self.dtype)

    def backward(self) -> tuple[Operator, ...]:
        return (self, self)
