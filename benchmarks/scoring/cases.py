"""What is scored: a case is a table, a card, and what a method may learn from."""

from __future__ import annotations

from dataclasses import dataclass

SIX = ("h200", "h100", "b200", "a100", "l40s", "rtx_pro_6000")
HOPPER = ("h200", "h100")
BOTH = ("h200", "rtx_pro_6000")
BUDGETS = (None, 1000, 300, 100)
SAME_KERNEL = {"flash_attn_3": HOPPER, "flash_attn_2": ("a100", "l40s", "rtx_pro_6000")}
"""Attention is carried to an unseen card from cards that run the same kernel; B200 is alone."""

ALL = "all"
TITLES = {
    "gemm": "GEMM",
    "context_attention": "context attention",
    "generation_attention": "generation attention",
    "moe": "MoE MLP",
}


@dataclass(frozen=True)
class Case:
    """``budget``: samples of the card itself; None for all of them. ``donors``: other cards.

    ``kernel``: the end of the implementation's name, where donors must run the same one.
    """

    table: str
    card: str
    budget: int | None
    donors: tuple[str, ...] = ()
    kernel: str = ""
    note: str = ""

    @property
    def name(self) -> str:
        """As ``--only`` matches it, and as cached files are called."""
        budget = ALL if self.budget is None else str(self.budget)
        source = ("transfer",) if self.donors else ()
        notes = (self.note,) if self.note else ()
        return "-".join((self.table, self.card, budget, *source, *notes))


def _within(table: str, cards: tuple[str, ...], budgets: tuple[int | None, ...]) -> list[Case]:
    return [Case(table, card, budget) for card in cards for budget in budgets]


def _transfer(budget: int, cards: tuple[str, ...] = SIX) -> list[Case]:
    return [Case("gemm", c, budget, tuple(d for d in SIX if d != c)) for c in cards]


def _attention_transfer(table: str) -> list[Case]:
    return [
        Case(table, card, 0, tuple(c for c in cards if c != card), kernel)
        for kernel, cards in SAME_KERNEL.items()
        for card in cards
    ]


_NO_HOPPER = tuple(card for card in SIX if card not in HOPPER)

CASES: list[Case] = [
    *_within("gemm", BOTH, BUDGETS),
    *_within("context_attention", BOTH, BUDGETS),
    *_within("generation_attention", BOTH, BUDGETS),
    *_within("moe", ("h200",), (None,)),
    *_transfer(0),
    *(Case("gemm", c, 0, _NO_HOPPER, note="no_hopper") for c in HOPPER),
    *_transfer(100),
    *_transfer(300, BOTH),
    *_attention_transfer("context_attention"),
    *_attention_transfer("generation_attention"),
]


@dataclass(frozen=True)
class Mark:
    """One figure that was asked for: the mean of a method's error over ``cases``.

    ``peer``: an easy baseline's error as published to us, None where there was none. ``chosen``:
    asked for on samples that the sweep's rule chose; otherwise on random ones, as the baseline's.
    Without a mark and a stretch the figure is reported only.
    """

    title: str
    cases: tuple[str, ...]
    mark: float | None
    stretch: float | None
    peer: float | None
    chosen: bool = False


def _names(table: str, budget: int | str, cards: tuple[str, ...], suffix: str = "") -> list[str]:
    return [f"{table}-{card}-{budget}{suffix}" for card in cards]


def _per_card() -> list[Mark]:
    """(easy baseline, mark, stretch) of each table and budget, H200 before RTX PRO 6000."""
    context, generation = "context_attention", "generation_attention"
    figures = {
        ("gemm", "all"): ((3.9, 3.5, 3.0), (4.4, 3.8, 3.3)),
        ("gemm", "300"): ((7.3, 5.5, 4.5), (10.0, 7.0, 6.0)),
        ("gemm", "100"): ((10.0, 8.0, 7.0), (18.8, 12.0, 9.0)),
        (context, "all"): ((2.9, 2.3, 2.0), (2.4, 2.3, 2.0)),
        (context, "300"): ((12.0, 6.5, 5.0), (8.9, 6.5, 5.0)),
        (generation, "all"): ((2.5, 2.3, 2.0), (3.5, 2.3, 2.0)),
        (generation, "300"): ((9.3, 7.0, 5.0), (14.0, 7.0, 5.0)),
    }
    return [
        Mark(
            f"{TITLES[table]}, {budget} samples, {card}",
            (f"{table}-{card}-{budget}",),
            mark=m,
            stretch=s,
            peer=p,
            chosen=(table, budget) == ("gemm", "300"),
        )
        for (table, budget), both in figures.items()
        for card, (p, m, s) in zip(BOTH, both, strict=True)
    ]


_UNSEEN_ATTENTION = tuple(
    f"{table}_attention-{card}-0-transfer"
    for table in ("context", "generation")
    for cards in SAME_KERNEL.values()
    for card in cards
)

MARKS: list[Mark] = [
    *_per_card(),
    Mark("MoE MLP, all samples, h200", ("moe-h200-all",), 6.0, 4.0, None),
    Mark(
        "GEMM, unseen card, mean of six",
        tuple(_names("gemm", 0, SIX, "-transfer")),
        10.5,
        9.0,
        12.3,
    ),
    Mark("GEMM, unseen card, rtx_pro_6000", ("gemm-rtx_pro_6000-0-transfer",), 12.0, 10.0, 14.3),
    Mark(
        "GEMM, both Hopper cards unseen",
        tuple(_names("gemm", 0, HOPPER, "-transfer-no_hopper")),
        None,
        11.0,
        None,
    ),
    Mark(
        "GEMM, unseen card and 100 samples, mean of six",
        tuple(_names("gemm", 100, SIX, "-transfer")),
        7.5,
        6.0,
        13.5,
    ),
    *(
        Mark(
            f"GEMM, 300 samples and the other five cards' tables, {card}",
            (f"gemm-{card}-300-transfer",),
            None,
            None,
            None,
            chosen=True,
        )
        for card in BOTH
    ),
    Mark("attention, unseen card, by kernel", _UNSEEN_ATTENTION, 15.0, 10.0, None),
]
"""Percent, mean absolute error on the final groups."""
