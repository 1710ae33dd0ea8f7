"""The shapes of ``benchmarks.kernels``: for each our kernel, the vendor's, and the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from kernels import attention, attention_backward, attention_decode, conv, mlp, norm, stream
from model import ops
from model.causal_lm import Llama
from model.deepseek_ocr import DeepseekOCRModel

Outcome = torch.Tensor | tuple[torch.Tensor, ...]
Run = Callable[[], Outcome]
DTYPE = torch.bfloat16


@dataclass(frozen=True)
class Case:
    """One shape: what it must compute and move, our kernel, the vendor's, and the truth."""

    kind: str
    shape: str
    flops: float
    bytes: float
    ours: Run
    vendors: dict[str, Run]
    reference: Run


SOFTMAXES = ((4096, 4096), (283, 129280), (49152, 4096))
"""Rows and columns: scores of one head of SAM's global attention written out, DeepSeek-OCR's
vocabulary, and all twelve heads."""
LARGE_NORMS = (ops.Norm(16384, 4096), ops.Norm(65536, 768, kind="layernorm"))
"""Rows of a batch rather than of one page: 268 and 201 MB, beyond any L2."""
FLOAT8 = (
    ops.Matmul(2048, 4096, 4096, dtype="float8_e4m3fn"),
    ops.Matmul(2048, 4096, 14336, dtype="float8_e4m3fn"),
)
"""Of LLaMA-3.1-8B's layers, as a quantised release multiplies them."""
FEW_ROWS = 256
"""Below so many rows a product is a reading of its weights more than arithmetic."""
DEPTHWISE = (
    ops.Conv2d(1, 256, 256, 64, 64, kernel=3, padding=1, groups=256),
    ops.Conv2d(8, 96, 96, 56, 56, kernel=7, padding=3, groups=96),
)
"""Neither model has one: SAM's neck by channel, and ConvNeXt-T's first stage (Liu et al., 2022)."""


def model_operators() -> list[ops.Operator]:
    """The distinct operators of a page of 1024 pixels read by DeepSeek-OCR (vision, prefill, a
    decode step) and of 2048 tokens through LLaMA-3.1-8B."""
    ocr, llama = DeepseekOCRModel(), Llama()
    calls = ocr.vision(side=1024, tiles=None) + ocr.prefill(tokens=283)
    calls += ocr.decode_step(context=299) + ocr.decode_step(context=4096, batch=8)
    calls += llama.prefill(tokens=2048) + llama.decode_step(context=2049)
    return list(dict.fromkeys(c.op for c in calls))


def cases(operators: Iterable[ops.Operator], device: str) -> Iterator[Case]:
    """A case for every operator that has a kernel, built when its turn comes."""
    for op in operators:
        if isinstance(op, ops.Attention) and not op.mask:  # a padding mask is not benchmarked
            yield attention_case(op, device)
            if op.q_len > 1 and not op.bias:
                yield backward_case(op, device)
        elif isinstance(op, ops.Matmul) and op.batch == 1 and op.dtype == "bfloat16":
            yield linear_case(op, device)
        elif isinstance(op, ops.GroupedMatmul):
            yield grouped_case(op, device)
        elif isinstance(op, ops.Conv2d):
            yield conv_case("conv2d", op, device)
        elif isinstance(op, ops.Norm):
            yield norm_case(op, device)
    yield from other_cases(device)


def other_cases(device: str) -> Iterator[Case]:
    """Those that neither model's operators name, or not at a size that a ceiling means much for."""
    for op in FLOAT8:
        yield float8_case(op, device)
    for tokens in (1, 283):
        yield swiglu_case(tokens, 6848, 1280, device)
    for tokens in (1, 2048):
        yield swiglu_case(tokens, 14336, 4096, device)
    for op in LARGE_NORMS:
        yield norm_case(op, device)
    for rows, columns in SOFTMAXES:
        yield softmax_case(ops.Softmax(rows, columns), device)
    for op in DEPTHWISE:
        yield conv_case("depthwise", op, device)
    yield from stream_cases(1 << 28, device)


def randn(*shape: int, device: str) -> torch.Tensor:
    return torch.randn(shape, dtype=DTYPE, device=device)


def linear_case(op: ops.Matmul, device: str) -> Case:
    x, w = randn(op.m, op.k, device=device), randn(op.n, op.k, device=device)
    b = randn(op.n, device=device) if op.bias else None
    return Case(
        "linear" if op.m >= FEW_ROWS else "linear, few rows" if op.m > 1 else "linear, one token",
        f"m={op.m} n={op.n} k={op.k}",
        op.min_flops,
        op.bytes,
        lambda: mlp.linear(x, w, b),
        {"cuBLAS": lambda: functional.linear(x, w, b)},
        lambda: mlp.linear_reference(x, w, b),
    )


def float8_case(op: ops.Matmul, device: str) -> Case:
    """Beside the vendor's exact sums and its fast ones, which stay in the matrix unit's 14 bits
    (``kernels.mlp.operands.multiply_add``)."""
    x, w = (torch.randn(n, op.k, device=device).to(torch.float8_e4m3fn) for n in (op.m, op.n))
    one = torch.ones((), device=device)

    def scaled(fast: bool) -> Run:
        return lambda: torch._scaled_mm(
            x, w.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=fast
        )

    return Case(
        "linear, float8",
        f"m={op.m} n={op.n} k={op.k}",
        op.min_flops / 2,  # the ceiling is of bfloat16, at half the rate
        op.bytes,
        lambda: mlp.linear(x, w),
        {"cuBLAS": scaled(False), "cuBLAS, fast sums": scaled(True)},
        lambda: mlp.linear_reference(x, w),
    )


def swiglu_case(tokens: int, n: int, k: int, device: str) -> Case:
    """Both products read the same rows once; only their product is written."""
    x, w = randn(tokens, k, device=device) / k**0.5, randn(2 * n, k, device=device)
    gate, up = w.chunk(2)
    both, one = ops.Matmul(tokens, 2 * n, k), ops.Matmul(tokens, n, k)
    return Case(
        "swiglu",
        f"m={tokens} n={n} k={k}",
        both.min_flops,
        both.bytes_read + one.bytes_written,
        lambda: mlp.swiglu(x, gate, up),
        {
            "cuBLAS, 3 kernels": lambda: (
                functional.silu(functional.linear(x, gate)) * functional.linear(x, up)
            )
        },
        lambda: mlp.swiglu_reference(x, gate, up),
    )


def grouped_case(op: ops.GroupedMatmul, device: str) -> Case:
    """Tokens spread by uniform routing, each to ``top_k`` experts."""
    picks = torch.rand(op.tokens, op.experts).topk(op.top_k).indices.flatten()
    counts = torch.bincount(picks, minlength=op.experts)
    ends = counts.cumsum(0).to(torch.int32).to(device)
    x, w = randn(op.rows, op.k, device=device), randn(op.experts, op.n, op.k, device=device)
    sizes, touched = counts.tolist(), int((counts > 0).sum())
    seen = ops.GroupedMatmul(op.tokens, op.experts, op.top_k, op.n, op.k, active_experts=touched)

    def loop() -> Outcome:
        parts = zip(x.split(sizes), w, strict=True)
        return torch.cat([functional.linear(rows, expert) for rows, expert in parts])

    return Case(
        "grouped",
        f"rows={op.rows} experts={touched}/{op.experts} n={op.n} k={op.k}",
        seen.min_flops,
        seen.bytes,
        lambda: mlp.grouped_linear(x, w, ends),
        {"loop of cuBLAS": loop},
        lambda: mlp.grouped_reference(x, w, ends),
    )


def attention_case(op: ops.Attention, device: str) -> Case:
    q = randn(op.batch, op.heads, op.q_len, op.head_dim, device=device)
    k, v = (randn(op.batch, op.kv_heads, op.kv_len, op.head_dim, device=device) for _ in "kv")
    scores = (op.batch, op.heads, op.q_len, op.kv_len)
    bias = randn(*scores, device=device) if op.bias else None
    options: dict[str, Any] = {"causal": op.causal, "window": op.window, "bias": bias}

    if op.causal and op.q_len != op.kv_len:
        raise ValueError(f"{op}: torch's causal mask starts at the first key, ours at the last")

    def sdpa(backend: SDPBackend) -> Run:
        def run() -> Outcome:
            with sdpa_kernel(backend):
                return functional.scaled_dot_product_attention(
                    q, k, v, bias, is_causal=op.causal, enable_gqa=op.heads != op.kv_heads
                )

        return run

    decode = op.q_len == 1 and bias is None
    return Case(
        "attention, decode" if op.q_len == 1 else "attention, prefill",
        attention_shape(op),
        op.min_flops,
        op.bytes,
        (lambda: attention_decode.decode_attention(q, k, v, op.window))
        if decode
        else (lambda: attention.attention(q, k, v, **options)),
        {
            "SDPA flash": sdpa(SDPBackend.FLASH_ATTENTION),
            "SDPA cuDNN": sdpa(SDPBackend.CUDNN_ATTENTION),
            "SDPA efficient": sdpa(SDPBackend.EFFICIENT_ATTENTION),
        },
        lambda: attention.attention_reference(q, k, v, **options),
    )


def backward_case(op: ops.Attention, device: str) -> Case:
    """The gradients of q, k and v, the output and its logarithms known."""
    shapes = ((op.heads, op.q_len), (op.kv_heads, op.kv_len), (op.kv_heads, op.kv_len))
    leaves = [randn(op.batch, *s, op.head_dim, device=device).requires_grad_() for s in shapes]
    q, k, v = (x.detach() for x in leaves)
    o, lse = attention.attention_forward(q, k, v, op.causal, op.window)
    slope = torch.randn_like(o)
    gradient = op.backward()[0]

    def sdpa(backend: SDPBackend) -> Run:
        graph: list[torch.Tensor] = []

        def run() -> Outcome:
            with sdpa_kernel(backend):
                if not graph:  # the forward pass, once
                    gqa = op.heads != op.kv_heads
                    graph.append(
                        functional.scaled_dot_product_attention(
                            *leaves, is_causal=op.causal, enable_gqa=gqa
                        )
                    )
                return torch.autograd.grad(graph[0], leaves, slope, retain_graph=True)

        return run

    def reference() -> Outcome:
        exact = attention.attention_reference(*leaves, op.causal, op.window)
        return torch.autograd.grad(exact, leaves, slope.float())

    return Case(
        "attention, backward",
        attention_shape(op),
        gradient.min_flops,
        gradient.bytes,
        lambda: attention_backward.attention_backward(q, k, v, o, slope, lse, op.causal, op.window)[
            :3
        ],
        {
            "SDPA flash": sdpa(SDPBackend.FLASH_ATTENTION),
            "SDPA cuDNN": sdpa(SDPBackend.CUDNN_ATTENTION),
            "SDPA efficient": sdpa(SDPBackend.EFFICIENT_ATTENTION),
        },
        reference,
    )


def attention_shape(op: ops.Attention) -> str:
    sizes = f"b={op.batch} h={op.heads}/{op.kv_heads} q={op.q_len} kv={op.kv_len} d={op.head_dim}"
    return sizes + ", causal" * op.causal + ", bias" * op.bias


def conv_case(kind: str, op: ops.Conv2d, device: str) -> Case:
    """Channels-last, the layout that both sides are fast in; patches as an image comes."""
    patches = op.stride == op.kernel and op.padding == 0 and op.kernel > 1
    layout = torch.contiguous_format if patches else torch.channels_last
    x = randn(op.batch, op.in_channels, op.height, op.width, device=device)
    w = randn(op.out_channels, op.in_channels // op.groups, op.kernel, op.kernel, device=device)
    x, w = x.to(memory_format=layout), w.to(memory_format=layout)
    b = randn(op.out_channels, device=device) if op.bias else None
    where = (op.stride, op.padding)
    return Case(
        kind,
        f"{op.in_channels}->{op.out_channels} {op.height}x{op.width} k={op.kernel} s={op.stride}",
        op.min_flops,
        op.bytes,
        lambda: conv.conv2d(x, w, b, *where, op.groups),
        {"cuDNN": lambda: functional.conv2d(x, w, b, *where, groups=op.groups)},
        lambda: conv.conv2d_reference(x, w, b, *where, op.groups),
    )


def norm_case(op: ops.Norm, device: str) -> Case:
    x, w, b = randn(op.rows, op.cols, device=device), *randn(2, op.cols, device=device)
    if op.kind == "rmsnorm":
        ours, reference = (lambda: norm.rms_norm(x, w)), (lambda: norm.rms_norm_reference(x, w))
        theirs: Run = lambda: functional.rms_norm(x, (op.cols,), w, 1e-6)  # noqa: E731
    else:
        ours = lambda: norm.layer_norm(x, w, b)  # noqa: E731
        reference = lambda: norm.layer_norm_reference(x, w, b)  # noqa: E731
        theirs = lambda: functional.layer_norm(x, (op.cols,), w, b, 1e-6)  # noqa: E731
    shape = f"{op.kind} {op.rows} x {op.cols}"
    return Case("norm", shape, 0.0, op.bytes, ours, {"torch": theirs}, reference)


def softmax_case(op: ops.Softmax, device: str) -> Case:
    x = randn(op.rows, op.cols, device=device)
    return Case(
        "softmax",
        f"{op.rows} x {op.cols}",
        0.0,
        op.bytes,
        lambda: norm.softmax(x),
        {"torch": lambda: x.softmax(-1)},
        lambda: norm.softmax_reference(x),
    )


def stream_cases(elements: int, device: str) -> Iterator[Case]:
    a, b = randn(elements, device=device), randn(elements, device=device)
    one, two = ops.Copy(elements).bytes, ops.Elementwise(elements, inputs=2).bytes
    table: tuple[tuple[str, float, Run, Run, Run], ...] = (
        ("copy", one, lambda: stream.copy(a), a.clone, a.float),
        ("scale", one, lambda: stream.scale(a, 0.3), lambda: a * 0.3, lambda: a.float() * 0.3),
        ("add", two, lambda: stream.add(a, b), lambda: a + b, lambda: a.float() + b.float()),
        (
            "triad",
            two,
            lambda: stream.triad(a, b, 0.3),
            lambda: torch.add(a, b, alpha=0.3),
            lambda: a.float() + 0.3 * b.float(),
        ),
    )
    for name, size, ours, theirs, reference in table:
        shape = f"{name} of {elements * 2 >> 20} MiB"
        yield Case("stream", shape, 0.0, size, ours, {"torch": theirs}, reference)
