"""Power laws: their formulae against other libraries and linear algebra, and their bands against simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scaling
from numpy.typing import NDArray
from scipy import stats

SIZES = (1e4, 3e4, 1e5, 2e5, 7e5)


def noisy(seed: int, deviation: float = 0.1, a: float = 3.0, b: float = -0.2) -> NDArray[np.float64]:
    noise = np.random.default_rng(seed).normal(0, deviation, len(SIZES))
    return a * np.asarray(SIZES) ** b * np.exp(noise)


def test_a_law_is_found_as_polyfit_and_linregress_find_it() -> None:
    values = noisy(0)
    law = scaling.fit(SIZES, values)
    slope, height = np.polyfit(np.log(SIZES), np.log(values), 1)
    assert (law.b, math.log(law.a)) == pytest.approx((slope, height), rel=1e-10)
    other = stats.linregress(np.log(SIZES), np.log(values))
    half = stats.t.ppf(0.975, 3) * other.stderr
    assert law.interval == pytest.approx((slope - half, slope + half), rel=1e-10)
    assert law.r == pytest.approx(np.corrcoef(np.log(SIZES), np.log(values))[0, 1], rel=1e-10)


def test_the_band_is_that_of_linear_algebra() -> None:
    values = noisy(1)
    law = scaling.fit(SIZES, values)
    x, y = np.stack([np.ones(5), np.log(SIZES)], 1), np.log(values)
    inverse = np.linalg.inv(x.T @ x)
    beta = inverse @ x.T @ y
    variance = np.square(y - x @ beta).sum() / 3
    for size in (5e3, 1e5, 1e7):
        row = np.array([1, math.log(size)])
        half = stats.t.ppf(0.975, 3) * math.sqrt(variance * row @ inverse @ row)
        assert law.band(size) == pytest.approx((math.exp(row @ beta - half), math.exp(row @ beta + half)), rel=1e-9)


def test_without_noise_the_law_is_exact_and_its_band_is_empty() -> None:
    law = scaling.fit(SIZES, [7 * size**0.3 for size in SIZES])
    assert (law.a, law.b, law.r) == pytest.approx((7, 0.3, 1))
    assert law.band(1e6) == pytest.approx((law.at(1e6), law.at(1e6)))
    assert law.at(1e6) == pytest.approx(7 * 1e6**0.3)


def test_equal_values_have_no_correlation() -> None:
    law = scaling.fit(SIZES, [2.0] * 5)
    assert law.b == pytest.approx(0) and math.isnan(law.r)


def test_bands_and_intervals_hold_the_truth_as_often_as_they_say() -> None:
    repeats, hits = 2000, np.zeros(4)
    for seed in range(repeats):
        law = scaling.fit(SIZES, noisy(seed))
        for place, size in enumerate((1e4, 1e5, 1e8)):
            low, high = law.band(size)
            hits[place] += low <= 3 * size**-0.2 <= high
        hits[3] += law.interval[0] <= -0.2 <= law.interval[1]
    assert np.abs(hits / repeats - 0.95).max() < 0.02  # four standard errors of 2000 draws


def test_a_floor_is_found_where_there_is_one() -> None:
    law = scaling.fit_with_floor(SIZES, [1.5 + 40 * size**-0.4 for size in SIZES])
    assert (law.floor, law.a, law.b) == pytest.approx((1.5, 40, -0.4), rel=1e-4)
    assert law.at(1e9) == pytest.approx(1.5 + 40 * 1e9**-0.4, rel=1e-4)


def test_a_straight_law_has_no_floor() -> None:
    law = scaling.fit_with_floor(SIZES, [40 * size**-0.4 for size in SIZES])
    assert law.floor == pytest.approx(0, abs=1e-3)
    assert law.b == pytest.approx(-0.4, rel=1e-2)


def test_a_floor_never_fits_worse_than_none() -> None:
    for seed in range(6):
        values = noisy(seed)
        straight, bent = scaling.fit(SIZES, values), scaling.fit_with_floor(SIZES, values)
        errors = [
            np.square([math.log(law.at(x) / y) for x, y in zip(SIZES, values, strict=True)]).sum() for law in (straight, bent)
        ]
        assert errors[1] <= errors[0] * (1 + 1e-6)
        assert 0 <= bent.floor < values.min()


@pytest.mark.parametrize(
    ("sizes", "values"),
    [((1, 2), (1, 2)), ((1, 1, 2), (1, 2, 3)), ((1, 2, 3), (1, 0, 2)), ((1, 2, 3), (1, 2)), ((1, 2, math.inf), (1, 2, 3))],
)
def test_what_has_no_law_is_refused(sizes: tuple[float, ...], values: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"needs 3 sizes|positive numbers"):
        scaling.fit(sizes, values)


def test_a_floor_needs_five_sizes() -> None:
    with pytest.raises(ValueError, match="needs 5 sizes at least, and there are 4"):
        scaling.fit_with_floor(SIZES[:4], SIZES[:4])
