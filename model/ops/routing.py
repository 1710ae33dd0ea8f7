"""How tokens spread over the experts of a mixture, by the name of the distribution.

- ``uniform``: each token picks its experts at random;
- ``balanced``: as evenly as can be: no expert is left out while another is picked twice;
- ``power_law_<a>``: loads drawn from the density x^-a and scaled to the number of picks, as the
  public tables' collector (aiconfigurator) draws them: between 1 and 0.8 tokens where picks
  outnumber experts, else between 0.01 and 2; then made whole, so a small load is none.

Where only the experts touched are known, :func:`agreement` says how alike the tokens of a batch
choose, and :func:`spread` what that makes of the loads.
"""

from __future__ import annotations

import re
from statistics import NormalDist
from typing import Any

import numpy as np

UNIFORM, BALANCED = "uniform", "balanced"


def distinct_experts(experts: Any, top_k: Any, tokens: Any) -> Any:
    """Expected number of distinct experts that ``tokens`` touch under uniform routing.

    Each token picks ``top_k`` of ``experts`` without replacement, so one expert is missed by all
    of them with probability (1 - top_k / experts) ** tokens.
    """
    return experts * (1 - (1 - top_k / experts) ** tokens)


def experts_touched(distribution: str, experts: Any, top_k: Any, tokens: Any) -> Any:
    """Expected number of experts with at least one token, at least ``top_k``: a router picks
    different ones for a token.

    Raises ``ValueError`` for a distribution that is not named above.
    """
    if distribution == UNIFORM:
        return distinct_experts(experts, top_k, tokens)
    most = np.minimum(experts, tokens * top_k)
    if distribution == BALANCED:
        return most
    law = _power_law(distribution, experts, top_k, tokens)
    least = _least(experts, top_k, tokens) * experts * law.mean / (tokens * top_k)
    share = 1 - np.clip((least**law.power - law.low) / (law.high - law.low), 0, 1)
    return np.clip(experts * share, np.minimum(top_k, most), most)


def expert_load(distribution: str, experts: Any, top_k: Any, tokens: Any, share: float) -> Any:
    """Tokens of the expert below which the ``share`` of the experts touched lies.

    Raises ``ValueError`` for a distribution that is not named above.
    """
    picks, touched = tokens * top_k, experts_touched(distribution, experts, top_k, tokens)
    if distribution in (UNIFORM, BALANCED):
        return picks / touched
    law = _power_law(distribution, experts, top_k, tokens)
    rank = 1 - (1 - share) * touched / experts
    drawn = ((law.high - law.low) * rank + law.low) ** (1 / law.power)
    return np.clip(drawn / law.mean * picks / experts, 1, tokens)


def _least(experts: Any, top_k: Any, tokens: Any) -> Any:
    """The load that counts as a token, where picks are few and where they are many.

    Below one half, since picks that rounding leaves over go to further experts. Read off the times
    of an H200's widest experts, which follow the weights that are read.
    """
    return np.where(tokens * top_k > experts, 0.4, 0.3)


class _PowerLaw:
    """``mean`` of the law; ``low``, ``high``: its ends to the ``power`` 1 - a."""

    def __init__(self, exponent: float, first: Any, last: Any) -> None:
        self.power = 1 - exponent
        self.low, self.high = first**self.power, last**self.power
        square = 2 - exponent
        moment = self.power / square * (last**square - first**square)
        self.mean = moment / (self.high - self.low)


def _power_law(distribution: str, experts: Any, top_k: Any, tokens: Any) -> _PowerLaw:
    named = re.fullmatch(r"power_law_(\d+(?:\.\d+)?)", distribution)
    if named is None or float(named[1]) in (1.0, 2.0):
        raise ValueError(
            f"distribution = {distribution!r}: expected {UNIFORM}, {BALANCED} or power_law_<a>, "
            "a number other than 1 and 2"
        )
    many = tokens * top_k > experts
    first = np.where(many, 1.0, 0.01)
    return _PowerLaw(float(named[1]), first, np.where(many, np.maximum(0.8 * tokens, 1.01), 2.0))


_SCORES = np.linspace(-8.0, 8.0, 1601)
_BELOW = np.array([NormalDist().cdf(z) for z in _SCORES])
RANKS = (np.arange(128) + 0.5) / 128
"""Experts from the least to the most wanted, wherever there are many: [ranks]."""
_WANTED = np.array([NormalDist().inv_cdf(rank) for rank in RANKS])[:, None]
_HALVINGS = 16


def agreement(experts: Any, top_k: Any, tokens: Any, touched: Any) -> np.ndarray:
    """[n] c: how alike ``tokens`` choose when they touch so few experts; 0 where each chooses for
    itself, 1 where all choose the same.

    A router's score of expert e for token t is sqrt(c) a_e + sqrt(1 - c) b_te, both normal, and the
    experts of a token are those above a threshold. So an expert that all want as much as a is taken

        p = Phi((Phi^-1(top_k / experts) + sqrt(c) a) / sqrt(1 - c))

    (Vasicek, Risk 15(12), 2002, of loans), by no token (1 - p) ** tokens, and c is read off
    ``touched``. As many experts as uniform routing touches, or half of one fewer, tell nothing.
    """
    asked = (np.atleast_1d(np.asarray(v, dtype=float)) for v in (experts, top_k, tokens, touched))
    experts, top_k, tokens, touched = np.broadcast_arrays(*asked)
    found = np.zeros(len(touched))
    uneven = touched < distinct_experts(experts, top_k, tokens) - _TELLS
    if not uneven.any():
        return found
    some = (experts[uneven], top_k[uneven], tokens[uneven])
    low, high = np.zeros(len(some[0])), np.ones(len(some[0]))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        more = some[0] * _chances(*some, middle)[1].mean(axis=0) > touched[uneven]
        low, high = np.where(more, middle, low), np.where(more, high, middle)
    found[uneven] = (low + high) / 2
    return found


_TELLS = 0.5
"""A count of experts is whole."""


def spread(
    experts: Any, top_k: Any, tokens: Any, alike: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """[ranks, n] each, of experts from the least to the most wanted by tokens that choose as
    ``alike`` as :func:`agreement` says: the chance of any token, and the tokens of one that has
    any."""
    taken, touched = _chances(experts, top_k, tokens, alike)
    return touched, np.maximum(tokens * taken / np.maximum(touched, 1e-300), 1.0)


def _chances(
    experts: Any, top_k: Any, tokens: Any, alike: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """[ranks, n] each: the chance that one token takes an expert, and that any does."""
    mean = np.broadcast_to(np.asarray(top_k) / experts, alike.shape)
    threshold = np.interp(mean, _BELOW, _SCORES)
    taken = _above(threshold, alike)
    taken *= mean / taken.mean(axis=0)
    beyond = taken.max(axis=0) > 1
    if beyond.any():
        taken[:, beyond] = _picking(mean[beyond], threshold[beyond], alike[beyond])
    with np.errstate(divide="ignore"):  # an expert that all tokens take
        return taken, -np.expm1(tokens * np.log1p(-taken))


def _above(threshold: np.ndarray, alike: np.ndarray) -> np.ndarray:
    """[ranks, n] the chance that a score is above the ``threshold``, [n]."""
    scores = (threshold + np.sqrt(alike) * _WANTED) / np.sqrt(np.maximum(1 - alike, 1e-9))
    return np.asarray(np.interp(scores, _SCORES, _BELOW))


def _picking(mean: np.ndarray, threshold: np.ndarray, alike: np.ndarray) -> np.ndarray:
    """The same of the threshold by which a token picks as many as it does, where no scaling of the
    chances can make it: one that is wanted by all is taken no oftener."""
    low, high = threshold - _SCORES[-1], threshold + _SCORES[-1]
    for _ in range(2 * _HALVINGS):
        middle = (low + high) / 2
        more = _above(middle, alike).mean(axis=0) < mean
        low, high = np.where(more, middle, low), np.where(more, high, middle)
    return _above((low + high) / 2, alike)


def whole_loads(experts: int, top_k: int, tokens: int, touched: int) -> list[int]:
    """Rows of each of ``touched`` experts, from the most to the least wanted; even ones where so
    many experts tell nothing."""
    rows = tokens * top_k
    alike = agreement(experts, top_k, tokens, touched)
    if not alike.any():
        return [rows // touched + (i < rows % touched) for i in range(touched)]
    ranks = (np.arange(experts) + 0.5) / experts
    _, loads = spread(experts, top_k, tokens, alike)
    wanted = np.interp(1 - ranks[:touched], RANKS, loads[:, 0])
    ends = np.rint(np.cumsum(wanted) / wanted.sum() * (rows - touched)).astype(int)
    found = np.minimum(np.diff(ends, prepend=0) + 1, max(tokens, -(-rows // touched)))
    for _ in range(rows - int(found.sum())):  # what a full expert turned away
        found[np.argmin(found)] += 1
    return [int(load) for load in found]
