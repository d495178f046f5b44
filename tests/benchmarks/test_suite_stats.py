"""Figures over seeds: errors against numpy, the test against brute force and scipy, marks in both directions."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import suite_stats
from scipy import stats
from suite_stats import marks, sign_flip, standard_error


def two_digits(value: float) -> str:
    return f"{value:.2f}"


def rows(*values: list[float]) -> list[dict[int, float]]:
    return [dict(enumerate(row)) for row in values]


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_the_standard_error_is_that_of_the_mean(count: int) -> None:
    values = np.random.default_rng(count).normal(size=count)
    assert standard_error(values.tolist()) == pytest.approx(stats.sem(values), rel=1e-12)
    assert standard_error(values.tolist()) == pytest.approx(np.std(values, ddof=1) / np.sqrt(count), rel=1e-12)


@pytest.mark.parametrize("count", [1, 2, 4, 5, 7, 9])
def test_the_sign_flip_is_what_brute_force_and_scipy_find(count: int) -> None:
    drawn = np.random.default_rng(count)
    for shift in (-1.0, 0.0, 0.5, 2.0):
        differences = drawn.normal(shift, size=count)
        brute = np.mean([np.dot(signs, differences) >= differences.sum() - 1e-12 for signs in product((1, -1), repeat=count)])
        assert sign_flip(differences.tolist()) == pytest.approx(brute, abs=0)
        if count > 1:
            theirs = stats.permutation_test(
                (differences, np.zeros(count)),
                lambda x, y, axis: np.mean(x - y, axis=axis),
                permutation_type="samples",
                vectorized=True,
                alternative="greater",
                n_resamples=np.inf,
            )
            assert sign_flip(differences.tolist()) == pytest.approx(theirs.pvalue, rel=1e-12)


def test_the_sign_flip_at_its_ends() -> None:
    assert sign_flip([1, 2, 3, 4, 5]) == 1 / 32
    assert sign_flip([0, 0, 0, 0, 0]) == 1
    assert sign_flip([-1, -2, -3, -4, -5]) == 1
    assert sign_flip([0.1, 0.2, 0.3, 0.1, -0.1]) == sign_flip([1, 2, 3, 1, -1])  # rounding decides nothing


def test_under_the_null_one_in_twenty_at_most_is_called_worse() -> None:
    drawn = np.random.default_rng(0).normal(size=(2000, 5))
    called = np.mean([sign_flip(row.tolist()) <= suite_stats.LEVEL for row in drawn])
    assert called == pytest.approx(1 / 32, abs=0.015)


def test_the_best_is_marked_in_either_direction() -> None:
    found = rows([1.0, 3.0], [5.0, 5.0], [2.0, 2.5])
    assert marks(found, "higher", two_digits) == ["", "best", ""]
    assert marks(found, "lower", two_digits) == ["best", "", ""]
    assert marks(found, None, two_digits) == ["", "", ""]


def test_what_is_printed_alike_is_equally_good() -> None:
    assert marks(rows([1.001, 1.001], [1.002, 1.002], [3.0, 3.0]), "lower", two_digits) == ["best", "best", ""]
    assert marks(rows([1.001, 1.001], [1.002, 1.002]), "lower", two_digits) == ["", ""]  # all alike: none is the best
    assert marks(rows([1.0, 2.0]), "lower", two_digits) == [""]
    assert marks([], "lower", two_digits) == []


def test_rows_without_a_value_are_passed_over() -> None:
    found = rows([math.nan, math.nan], [2.0, math.nan], [3.0, 4.0], [])
    assert marks(found, "lower", two_digits) == ["", "best", "", ""]


def test_one_seed_more_is_no_merit() -> None:
    """Rows that are equal at the seeds that both have; the row with one seed more would be ahead by its mean."""
    assert marks(rows([2.0, 4.0, 0.0], [2.0, 4.0], [2.0, 4.0]), "lower", two_digits) == ["", "", ""]
    assert marks(rows([2.0, 4.0, 0.0], [2.0, 3.0], [2.0, 4.0]), "lower", two_digits) == ["", "best", ""]
    assert marks([{0: 2.0, 1: 4.0}, {0: 2.0, 1: 3.0}, {1: 1.0}], "lower", two_digits) == ["", "best", ""]  # lacks a seed of most
    assert marks([{0: 2.0}, {1: 1.0}], "lower", two_digits) == ["", ""]  # nothing to hold against each other


def test_from_five_seeds_on_what_is_not_significantly_worse_is_marked_too() -> None:
    best = [1.0, 2.0, 3.0, 4.0, 5.0]
    always = [value + 0.1 for value in best]  # worse at every seed: 1 in 32
    mostly = [1.1, 2.1, 3.1, 4.1, 4.9]
    assert marks(rows(best, always, mostly), "lower", two_digits) == ["best", "", "close"]
    up = [[-value for value in row] for row in (best, always, mostly)]
    assert marks(rows(*up), "higher", two_digits) == ["best", "", "close"]
    assert marks(rows(best[:4], mostly[:4]), "lower", two_digits) == ["best", ""]


def test_the_test_is_paired_by_seeds() -> None:
    best = {seed: float(seed) for seed in range(6)}
    shifted = {seed + 1: float(seed + 1) + 0.5 for seed in range(6)}  # five seeds in common, worse at each of them
    assert marks([best, shifted], "lower", two_digits) == ["best", ""]
    few = {seed: best[seed] + (2 if seed % 2 else -0.5) for seed in range(2, 6)}  # four
    assert marks([best, few], "lower", two_digits) == ["best", ""]
