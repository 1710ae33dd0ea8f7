"""Every module of torch.nn is known, forward and back, or says in a line what to do instead."""

from __future__ import annotations

import inspect
import math
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from does import Does
from torch import nn

from calib.errors import CalibError
from calib.trace import trace, unknown
from model.ops import Other

warnings.filterwarnings("ignore", category=UserWarning, module="torch.nn.*")
Given = tuple[nn.Module, tuple[torch.Tensor, ...]]


def x(*shape: int) -> torch.Tensor:
    return torch.rand(*shape)


def whole(most: int, *shape: int) -> torch.Tensor:
    return torch.randint(1, most, shape)


MAPS = {1: (2, 4, 12), 2: (2, 4, 12, 10), 3: (2, 4, 12, 10, 8)}
"""A batch of maps, by dimensions."""
SIZED: dict[str, tuple[Any, ...]] = {
    **{"AdaptiveAvgPool": (5,), "AdaptiveMaxPool": (5,), "AvgPool": (3,), "MaxPool": (3,)},
    **{"LPPool": (2, 3), "BatchNorm": (4,), "InstanceNorm": (4,), "Conv": (4, 6, 3)},
    **{"ConvTranspose": (4, 6, 3), "CircularPad": (2,), "ConstantPad": (2, 1.0), "ZeroPad": (2,)},
    **{"ReflectionPad": (2,), "ReplicationPad": (2,), "Dropout": ()},
}
"""Modules of one, two and three dimensions, and what they are made with."""
PLAIN = (
    *("CELU", "ELU", "GELU", "GLU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh"),
    *("LeakyReLU", "LogSigmoid", "Mish", "PReLU", "RReLU", "ReLU", "ReLU6", "SELU", "SiLU"),
    *("Sigmoid", "Softplus", "Softshrink", "Softsign", "Tanh", "Tanhshrink", "Identity"),
    *("Dropout", "AlphaDropout", "FeatureAlphaDropout", "Flatten", "Softmax2d"),
)
PAIRS = (
    *("BCELoss", "BCEWithLogitsLoss", "HuberLoss", "KLDivLoss", "L1Loss", "MSELoss"),
    *("MultiLabelSoftMarginLoss", "PoissonNLLLoss", "SmoothL1Loss", "SoftMarginLoss"),
    *("HingeEmbeddingLoss", "CosineSimilarity", "PairwiseDistance"),
)
RESAMPLED = {
    1: ("nearest", "nearest-exact", "linear", "area"),
    2: ("nearest", "nearest-exact", "bilinear", "bicubic", "area"),
    3: ("nearest", "nearest-exact", "trilinear", "area"),
}


def made() -> dict[str, Given]:
    torch.manual_seed(0)
    found: dict[str, Given] = {}
    for n, shape in MAPS.items():
        for name, given in SIZED.items():
            found[f"{name}{n}d"] = (getattr(nn, f"{name}{n}d")(*given), (x(*shape),))
        for mode in RESAMPLED[n]:
            found[f"Upsample, {mode} {n}d"] = (nn.Upsample(scale_factor=2, mode=mode), (x(*shape),))
        places = torch.arange(math.prod(shape[2:])).reshape(shape[2:]).expand(shape)
        found[f"MaxUnpool{n}d"] = (getattr(nn, f"MaxUnpool{n}d")(2), (x(*shape), places))
    plane, block = x(*MAPS[2]), x(*MAPS[3])
    found |= {name: (getattr(nn, name)(), (plane,)) for name in PLAIN}
    found |= {name: (getattr(nn, name)(), (x(4, 5), x(4, 5))) for name in PAIRS}
    dimension = ("Softmax", "LogSoftmax", "Softmin")
    found |= {name: (getattr(nn, name)(dim=1), (plane,)) for name in dimension}
    return found | of_their_own(plane, block)


def of_their_own(plane: torch.Tensor, block: torch.Tensor) -> dict[str, Given]:
    rows, steps, words, scores = x(7, 4), x(3, 7, 8), whole(20, 5, 6), x(4, 5)
    classes, both = whole(5, 4), (x(3, 7, 8), x(3, 9, 8))
    layer: dict[str, Any] = {"dim_feedforward": 16, "batch_first": True}
    return {
        "Linear": (nn.Linear(4, 3), (rows,)),
        "Threshold": (nn.Threshold(0.5, 0.0), (rows,)),
        "Unflatten": (nn.Unflatten(1, (2, 2)), (rows,)),
        "Embedding": (nn.Embedding(20, 8, max_norm=1.0), (words,)),
        "Embedding, sparse": (nn.Embedding(20, 8, sparse=True), (words,)),
        **{
            f"EmbeddingBag, {mode}": (nn.EmbeddingBag(20, 8, mode=mode), (words,))
            for mode in ("sum", "mean", "max")
        },
        **{f"{n}Cell": (getattr(nn, f"{n}Cell")(4, 5), (rows,)) for n in ("RNN", "GRU", "LSTM")},
        **{n: (getattr(nn, n)(8, 5), (steps,)) for n in ("RNN", "GRU", "LSTM")},
        "LayerNorm": (nn.LayerNorm(8), (steps,)),
        "RMSNorm": (nn.RMSNorm(8), (steps,)),
        "GroupNorm": (nn.GroupNorm(2, 4), (plane,)),
        "SyncBatchNorm": (nn.SyncBatchNorm(4).eval(), (plane,)),
        "LocalResponseNorm": (nn.LocalResponseNorm(2), (plane,)),
        "CrossMapLRN2d": (nn.CrossMapLRN2d(2), (plane,)),
        "ChannelShuffle": (nn.ChannelShuffle(2), (plane,)),
        "PixelShuffle": (nn.PixelShuffle(2), (plane,)),
        "PixelUnshuffle": (nn.PixelUnshuffle(2), (plane,)),
        "UpsamplingNearest2d": (nn.UpsamplingNearest2d(scale_factor=2), (plane,)),
        "UpsamplingBilinear2d": (nn.UpsamplingBilinear2d(scale_factor=2), (plane,)),
        "FractionalMaxPool2d": (nn.FractionalMaxPool2d(2, output_size=5), (plane,)),
        "FractionalMaxPool3d": (nn.FractionalMaxPool3d(2, output_size=4), (block,)),
        "Unfold": (nn.Unfold(2), (plane,)),
        "Fold": (nn.Fold((8, 8), 2), (x(2, 12, 49),)),
        "MultiheadAttention": (nn.MultiheadAttention(8, 2, batch_first=True), (steps,) * 3),
        "Transformer": (nn.Transformer(8, 2, 1, 1, 16, batch_first=True), both),
        "TransformerEncoderLayer": (nn.TransformerEncoderLayer(8, 2, **layer), (steps,)),
        "TransformerDecoderLayer": (nn.TransformerDecoderLayer(8, 2, **layer), both),
        "CrossEntropyLoss": (nn.CrossEntropyLoss(label_smoothing=0.1), (scores, classes)),
        "NLLLoss": (nn.NLLLoss(), (scores, classes)),
        "NLLLoss, of maps": (nn.NLLLoss(), (x(4, 5, 3, 3), whole(5, 4, 3, 3))),
        "MultiMarginLoss": (nn.MultiMarginLoss(), (scores, classes)),
        "MultiLabelMarginLoss": (nn.MultiLabelMarginLoss(), (scores, whole(5, 4, 5))),
        "CosineEmbeddingLoss": (nn.CosineEmbeddingLoss(), (scores, x(4, 5), torch.ones(4))),
        "MarginRankingLoss": (nn.MarginRankingLoss(), (x(4), x(4), torch.ones(4))),
        "TripletMarginLoss": (nn.TripletMarginLoss(), (scores, x(4, 5), x(4, 5))),
        "TripletMarginWithDistanceLoss": (
            nn.TripletMarginWithDistanceLoss(),
            (scores, x(4, 5), x(4, 5)),
        ),
    }


MADE = made()
REFUSED: dict[str, Given] = {
    "CTCLoss": (nn.CTCLoss(), (x(12, 4, 20), whole(20, 4, 6), whole(9, 4), whole(5, 4))),
    "GaussianNLLLoss": (nn.GaussianNLLLoss(), (x(4, 5), x(4, 5), x(4, 5))),
    "AdaptiveLogSoftmaxWithLoss": (
        nn.AdaptiveLogSoftmaxWithLoss(8, 20, [10]),
        (x(4, 8), whole(20, 4)),
    ),
}
"""They look at values, or their operators have no form without."""
AT_LEAST: dict[str, Given] = {"Bilinear": (nn.Bilinear(4, 5, 6), (x(7, 4), x(7, 5)))}
"""Whose gradients are products that no rule counts, and which say so."""
OF_OTHERS = (
    *("Module", "Container", "Sequential", "ModuleDict", "ModuleList", "ParameterDict"),
    *("ParameterList", "RNNBase", "RNNCellBase", "DataParallel", "TransformerEncoder"),
    *("TransformerDecoder", "LinearCrossEntropyLoss", "NLLLoss2d"),
)


def is_module(found: Any) -> bool:
    return inspect.isclass(found) and issubclass(found, nn.Module)


def test_none_is_forgotten() -> None:
    here = {name.partition(",")[0] for name in (*MADE, *REFUSED, *AT_LEAST)}
    there = {n for n in dir(nn) if is_module(getattr(nn, n)) and not n.startswith("Lazy")}
    assert there - here - {*OF_OTHERS} == set()


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("is_trained", [False, True])
def test_it_is_known(name: str, is_trained: bool) -> None:
    module, given = MADE[name]
    first = given[0].clone().requires_grad_() if given[0].is_floating_point() else given[0]
    module = module if name == "SyncBatchNorm" else module.train(is_trained)
    calls = trace(module, first, *given[1:], backward=True, card="9.0")
    assert unknown(calls) == {}
    assert all(call.op.bytes >= 0 for call in calls)


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_or_says_what_to_do(name: str, device: str) -> None:
    """In place of torch's own words on its kernels."""
    module, given = REFUSED[name]
    alike = tuple(tensor.to(device) for tensor in given)
    with pytest.raises(CalibError, match=rf"{name} .*(aten|item).*real=True") as found:
        trace(module.to(device) if device == "cpu" else module, *alike)
    assert "\n" not in str(found.value)
    assert trace(module, *given, real=True)


def test_what_is_not_counted_is_said() -> None:
    module, given = AT_LEAST["Bilinear"]
    assert unknown(trace(module, *given)) == {}
    calls = trace(module, given[0].clone().requires_grad_(), given[1], backward=True)
    assert unknown(calls) == {"_trilinear": 1}


ROW = x(4, 6)
PLACES = whole(4, 4, 3)
FUNCTIONS: dict[str, tuple[Any, tuple[torch.Tensor, ...]]] = {
    "grid_sample": (F.grid_sample, (x(*MAPS[2]), x(2, 5, 5, 2))),
    "grid_sample 3d": (F.grid_sample, (x(*MAPS[3]), x(2, 5, 5, 5, 3))),
    "diagonal": (torch.diagonal, (x(5, 5),)),
    "put": (torch.put, (ROW, PLACES, x(4, 3))),
    "take": (torch.take, (ROW, PLACES)),
    "index_reduce": (lambda a, i, b: a.index_reduce(0, i, b, "amax"), (ROW, PLACES[0], x(3, 6))),
    "bucketize": (torch.bucketize, (ROW, x(5))),
    "cummax": (lambda a: torch.cummax(a, -1)[0], (ROW,)),
    "logcumsumexp": (lambda a: torch.logcumsumexp(a, -1), (ROW,)),
    "kthvalue": (lambda a: torch.kthvalue(a, 3)[0], (ROW,)),
    "nanmedian": (lambda a: torch.nanmedian(a, -1)[0], (ROW,)),
    "gumbel_softmax": (F.gumbel_softmax, (ROW,)),
    "weight_norm": (lambda v, g: torch._weight_norm(v, g, 0), (ROW, x(4, 1))),
    "cross": (torch.linalg.cross, (x(5, 3), x(5, 3))),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_known_too(name: str) -> None:
    run, given = FUNCTIONS[name]
    learned = tuple(t.clone().requires_grad_() if t.is_floating_point() else t for t in given)
    has_gradient = name not in ("bucketize", "index_reduce")
    inputs = learned if has_gradient else given
    assert unknown(trace(Does(run), *inputs, backward=has_gradient)) == {}


def moved(run: Any, *given: torch.Tensor) -> list[tuple[str, float, float]]:
    calls = trace(Does(run), given[0].requires_grad_(), *given[1:], backward=True)
    others = [call.op for call in calls if isinstance(call.op, Other)]
    return [(op.name, op.bytes_read, op.bytes_written) for op in others if op.bytes]


def test_a_finer_map_is_read_once_and_added_to_zeros() -> None:
    """4 x 5 made 8 x 10: the gradient of that is read, and the zeros of this once more."""
    fine, coarse = 4 * 80, 4 * 20
    found = moved(nn.Upsample(scale_factor=2, mode="bilinear"), x(1, 1, 4, 5))
    assert found == [
        ("upsample_bilinear2d", coarse, fine),
        ("zeros", 0, coarse),
        ("upsample_bilinear2d_backward", fine + coarse, coarse),
    ]
    found = moved(nn.Upsample(scale_factor=2, mode="nearest"), x(1, 1, 4, 5))
    assert found[-1] == ("upsample_nearest2d_backward", fine, coarse)


def test_a_bag_hands_its_gradient_to_each_of_its_rows() -> None:
    """30 rows of 8 into a table of 20: indices and bags are read, rows added."""
    calls = trace(nn.EmbeddingBag(20, 8, mode="sum"), whole(20, 5, 6), backward=True)
    others = (c.op for c in calls if isinstance(c.op, Other))
    (gradient,) = (op for op in others if op.name == "scatter_add")
    assert gradient.arithmetic == 30 * 8
    assert gradient.bytes_written == 4 * (20 * 8 + 30 * 8)
