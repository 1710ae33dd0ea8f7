"""How tokens spread over the experts of a mixture, by the name of the distribution.

- ``uniform``: each token picks its experts at random;
- ``balanced``: as evenly as can be: no expert is left out while another is picked twice;
- ``power_law_<a>``: loads drawn from the density x^-a and scaled to the number of picks, as the
  public tables' collector (aiconfigurator) draws them: between 1 and 0.8 tokens where picks
  outnumber experts, else between 0.01 and 2; then made whole, so a small load is none.
"""

from __future__ import annotations

import re
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
