"""Ranges of convolutions and of what a vision tower does between them."""

from __future__ import annotations

from calib.measure.sweep.families.domain import Axis, Domain, OneOf
from model import ops
from model.ops import Operator


def convolutions() -> list[Domain]:
    patches = {
        "side": Axis(14, 64),
        "patch": OneOf((8, 14, 16, 32)),
        "out": Axis(256, 1280, 64),
        "biased": OneOf((0, 1)),
    }
    maps = {
        "side": Axis(8, 128),
        "inside": Axis(64, 1024, 64),
        "out": Axis(64, 1024, 64),
        "stride": OneOf((1, 2)),
        "planar": OneOf((0, 1)),
    }
    sound = {
        "length": Axis(256, 4096),
        "inside": Axis(64, 1536, 64),
        "out": Axis(256, 1536, 64),
        "stride": OneOf((1, 2)),
    }
    return [
        Domain("patches", 4, patches, _patches, "cold"),
        Domain("convolution 3 x 3", 5, maps, _three_by_three, "cold"),
        Domain("convolution of sound", 1, sound, _sound, "cold"),
        Domain("convolution 1 x 1", 3, {**maps, "stride": OneOf((1, 1, 2))}, _one_by_one, "cold"),
    ]


def _sound(length: int, inside: int, out: int, stride: int) -> Operator:
    made = (length - 1) // stride + 1
    return ops.Convolution(1, inside, out, length, made, taps=3, bias=True)


def _patches(side: int, patch: int, out: int, biased: int) -> Operator:
    return ops.Conv2d(1, 3, out, side * patch, side * patch, patch, patch, bias=bool(biased))


def _three_by_three(side: int, inside: int, out: int, stride: int, planar: int) -> Operator:
    return ops.Conv2d(1, inside, out, side, side, 3, stride, 1, planar=bool(planar))


def _one_by_one(side: int, inside: int, out: int, stride: int, planar: int) -> Operator:
    return ops.Conv2d(1, inside, out, side, side, 1, stride, 0, planar=bool(planar))
