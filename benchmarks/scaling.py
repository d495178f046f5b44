"""Power laws through what was measured at several sizes, with their confidence bands and correlations.

L = a C^b is a straight line in logarithms: with x = ln C and y = ln L of n points, means x̄ and ȳ, Sxx = Σ(x − x̄)² and likewise
Sxy and Syy,

    b = Sxy / Sxx                                        the exponent
    ln a = ȳ − b x̄
    r = Sxy / √(Sxx Syy)                                 Pearson's correlation of the logarithms
    s² = Σ(y − ln a − b x)² / (n − 2)                    the variance about the line
    b ± t s / √Sxx                                       the exponent's interval
    ln a + b x ± t s √(1/n + (x − x̄)² / Sxx)             the band of the line at x

where t is the 0.975 quantile of Student's distribution with n − 2 degrees of freedom: 95 % of such intervals, and of such bands
at one x, hold the truth where the noise of y is normal, independent and equally large everywhere. Sources: any text on linear
regression; Kaplan et al., "Scaling Laws for Neural Language Models" (2020), and Tian et al., "Visual Autoregressive Modeling"
(2024), who fit such laws, the latter with r.

Losses end at what no model can predict: L = L∞ + a C^b, as Henighan et al., "Scaling Laws for Autoregressive Generative Modeling"
(2020), fit it. Such a law bends in logarithms, and is fitted by least squares of ln L.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
"""Of intervals and bands."""

LEAST, LEAST_WITH_FLOOR = 3, 5
"""Sizes that a law needs, without and with a floor: one more than it has parameters, and two more."""


@dataclass(frozen=True)
class PowerLaw:
    """L = a C^b, fitted.

    Attributes:
        a: the value at C = 1.
        b: the exponent; negative where L falls.
        r: Pearson's correlation of the logarithms; NaN where all L are equal.
        n: points.
        deviation: s, of ln L about the line.
        centre: mean of ln C.
        spread: Sxx.
    """

    a: float
    b: float
    r: float
    n: int
    deviation: float
    centre: float
    spread: float

    def at(self, size: float) -> float:
        """L at C = ``size``."""
        return self.a * size**self.b

    def band(self, size: float) -> tuple[float, float]:
        """The ends of the band of the law at ``size``."""
        far = (math.log(size) - self.centre) ** 2 / self.spread
        factor = math.exp(self._t * self.deviation * math.sqrt(1 / self.n + far))
        return self.at(size) / factor, self.at(size) * factor

    @property
    def interval(self) -> tuple[float, float]:
        """The ends of the exponent's interval."""
        half = self._t * self.deviation / math.sqrt(self.spread)
        return self.b - half, self.b + half

    @property
    def words(self) -> str:
        """The exponent with its interval, and the correlation."""
        low, high = self.interval
        return f"exponent {signed(self.b)} ({signed(low)} to {signed(high)}), r = {signed(self.r)}, {self.n} points"

    @property
    def _t(self) -> float:
        return quantile(self.n - 2)


@dataclass(frozen=True)
class FlooredLaw:
    """L = floor + a C^b, fitted."""

    floor: float
    a: float
    b: float

    def at(self, size: float) -> float:
        """L at C = ``size``."""
        return self.floor + self.a * size**self.b

    @property
    def words(self) -> str:
        """The floor and the exponent above it."""
        return f"above a floor of {self.floor:.3g}: exponent {signed(self.b)}" if self.floor else "no floor fits better than none"


@cache
def quantile(freedom: int) -> float:
    """How many standard errors the ends of an interval are off, with so many degrees of freedom: of Student's distribution."""
    from scipy.stats import t

    return float(t.ppf((1 + LEVEL) / 2, freedom))


def signed(value: float) -> str:
    """Three decimals with a true minus."""
    return f"{value:.3f}".replace("-", "−")


def fit(sizes: Sequence[float], values: Sequence[float]) -> PowerLaw:
    """The power law through ``values``, by least squares in logarithms.

    Raises:
        ValueError: where a size or a value is not positive and finite, or there are less than three sizes.
    """
    x, y = _logarithms(sizes, values, LEAST)
    dx, dy = x - x.mean(), y - y.mean()
    sxx, sxy, syy = float(dx @ dx), float(dx @ dy), float(dy @ dy)
    b = sxy / sxx
    rest = dy - b * dx
    return PowerLaw(
        a=math.exp(y.mean() - b * x.mean()),
        b=b,
        r=sxy / math.sqrt(sxx * syy) if syy else math.nan,
        n=len(x),
        deviation=math.sqrt(float(rest @ rest) / (len(x) - 2)),
        centre=float(x.mean()),
        spread=sxx,
    )


def fit_with_floor(sizes: Sequence[float], values: Sequence[float]) -> FlooredLaw:
    """The power law above a floor in [0, the least value), by least squares of the logarithm of its values.

    It is searched from several floors on, each with the line through what is above it, and the best of what is found is taken.

    Raises:
        ValueError: as :func:`fit`, with five sizes at least.
    """
    from scipy.optimize import least_squares

    x, y = _logarithms(sizes, values, LEAST_WITH_FLOOR)
    least = math.exp(y.min())

    def off(given: NDArray[np.float64]) -> NDArray[np.float64]:
        share, height, b = given
        return np.logaddexp(math.log(max(share * least, 1e-300)), height + b * (x - x.mean())) - y

    found = []
    for share in (0.0, 0.5, 0.9, 0.99):
        slope, height = np.polyfit(x - x.mean(), np.log(np.exp(y) - share * least), 1)
        start = (share, height, slope)
        bounds = ([0.0, -np.inf, -np.inf], [1.0, np.inf, np.inf])
        found.append(least_squares(off, start, bounds=bounds, xtol=1e-12, ftol=1e-12, gtol=1e-12))
    share, height, b = min(found, key=lambda one: one.cost).x
    share = 0.0 if share < 1e-6 else share  # the search comes near its bounds and does not reach them
    return FlooredLaw(floor=float(share * least), a=math.exp(height - b * x.mean()), b=float(b))


def _logarithms(sizes: Sequence[float], values: Sequence[float], least: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = np.asarray(sizes, dtype=float), np.asarray(values, dtype=float)
    if x.shape != y.shape or not (np.isfinite(x) & np.isfinite(y) & (x > 0) & (y > 0)).all():
        raise ValueError("Sizes and values are positive numbers, as many of the one as of the other.")
    if len(np.unique(x)) < least:
        raise ValueError(f"A law needs {least} sizes at least, and there are {len(np.unique(x))}.")
    return np.log(x), np.log(y)
