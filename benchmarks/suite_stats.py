"""What may be said of figures of several seeds: their mean, how sure it is, which is the best, and which may be as good.

Rows of one suite share their seeds, and with a seed the clips, their order and the noise of the samples, so that two rows are
held against each other seed by seed. The test flips signs: were two rows equally good, each seed's difference would be as likely
to have the other sign, and the p-value is the share of all 2**n ways to choose the signs whose mean is at least as bad as the one
seen. That is exact for any number of seeds and any law that is symmetric about 0, asks for no library, and is all that so few
figures allow; a t-test would lean on a normal law that five figures cannot show. It is one-sided, for the question is only
whether a row is *worse* than the best: two-sided, five seeds could never answer (2/32 > 0.05). One-sided they can, where all five
agree (1/32); four cannot (1/16), hence :data:`SEEDS`. Rows are not corrected for one another: of many that are as good, one in
twenty goes unmarked.

Source: Fisher, "The Design of Experiments" (1935), section 21.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean, stdev
from typing import Literal

from vidgen.evaluation.rows import Better

SEEDS = 5
"""From so many common seeds on two rows are tested against each other."""

LEVEL = 0.05
"""A p-value up to this is called significant."""

TEST = f"exact one-sided sign-flip test of the paired differences over seeds, p > {LEVEL:g}"
"""The test in words."""

Mark = Literal["best", "close", ""]


def finite(figures: Mapping[int, float]) -> dict[int, float]:
    """The seeds that have a value."""
    return {seed: value for seed, value in figures.items() if math.isfinite(value)}


def standard_error(values: Sequence[float]) -> float:
    """Of the mean: the deviation (n - 1) over the root of the count; needs two values or more."""
    return stdev(values) / math.sqrt(len(values))


def sign_flip(differences: Sequence[float]) -> float:
    """The share of all choices of signs whose sum is at least that of ``differences``; 2**n numbers are held in memory."""
    sums = [0.0]
    for difference in differences:
        sums = [total + sign * difference for total in sums for sign in (1, -1)]
    seen = math.fsum(differences)
    rounding = 1e-12 * math.fsum(map(abs, differences))
    return sum(total >= seen - rounding for total in sums) / len(sums)


def marks(rows: Sequence[Mapping[int, float]], better: Better | None, text: Callable[[float], str]) -> list[Mark]:
    """Which rows of a column to mark: the best, and those that are not significantly worse.

    Args:
        rows: of each row, its figures by seed; those that are not finite do not count.
        better: the direction; without one nothing is marked.
        text: how a mean is printed. What is printed alike is equally good, and of a column that is all alike none is the best.

    Where rows have unlike seeds, the best is that of the seeds that most rows have, and a row that lacks one of these is not held
    against the others: one seed more or less is luck.
    """
    found = [finite(row) for row in rows]
    seeds = _compared(found)
    means = [fmean(row[seed] for seed in seeds) if seeds and row.keys() >= seeds else None for row in found]
    printed = [None if mean is None else text(mean) for mean in means]
    there = [mean for mean in means if mean is not None]
    if better is None or all(one == other for one, other in pairwise(word for word in printed if word is not None)):
        return [""] * len(rows)
    sign = 1 if better == "lower" else -1
    best = means.index(min(there, key=lambda mean: sign * mean))
    return ["best" if word == printed[best] else _close(row, found[best], sign) for row, word in zip(found, printed, strict=True)]


def _compared(rows: Sequence[Mapping[int, float]]) -> set[int]:
    """The seeds that most of the rows have that have any."""
    there = [row for row in rows if row]
    counts = Counter(seed for row in there for seed in row)
    return {seed for seed, count in counts.items() if 2 * count > len(there)}


def _close(row: Mapping[int, float], best: Mapping[int, float], sign: int) -> Mark:
    worse_by = [sign * (row[seed] - best[seed]) for seed in sorted(row.keys() & best.keys())]
    return "close" if len(worse_by) >= SEEDS and sign_flip(worse_by) > LEVEL else ""
