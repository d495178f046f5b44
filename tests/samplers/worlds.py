"""Data whose velocity, and where it leads, are known in closed form, on any path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vidgen.samplers.paths import FLOW, Path, build_path

PATHS = {"flow": FLOW, "linear": build_path("linear"), "cosine": build_path("cosine")}


@dataclass(frozen=True)
class Mixture:
    """A mixture of Gaussians on the line."""

    weights: tuple[float, ...] = (0.3, 0.7)
    means: tuple[float, ...] = (-2.0, 1.0)
    std: float = 0.3

    def parts(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights, means and the variance of x_t = a x + s e."""
        at = path.at(t)
        means = at.signal.unsqueeze(-1) * torch.tensor(self.means, dtype=torch.float64)
        return torch.tensor(self.weights, dtype=torch.float64), means, (at.signal * self.std) ** 2 + at.noise**2

    def field(self, path: Path) -> Callable[[Tensor, Tensor], Tensor]:
        """E[v | x_t]: within a part data and noise are jointly normal, and Bayes' rule weighs the parts."""

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            at, (weights, means, variance) = path.at(t), self.parts(path, t)
            offset = x.unsqueeze(-1) - means
            share = (weights.log() - offset.square() / (2 * variance.unsqueeze(-1))).softmax(-1)
            data = torch.tensor(self.means, dtype=torch.float64) + (at.signal * self.std**2 / variance).unsqueeze(-1) * offset
            noise = (at.noise / variance).unsqueeze(-1) * offset
            return (share * (at.signal_rate.unsqueeze(-1) * data + at.noise_rate.unsqueeze(-1) * noise)).sum(-1)

        return velocity

    def cdf(self, path: Path, x: Tensor, t: Tensor) -> Tensor:
        weights, means, variance = self.parts(path, t)
        return (weights * torch.special.ndtr((x.unsqueeze(-1) - means) / variance.sqrt().unsqueeze(-1))).sum(-1)

    def carried(self, path: Path, x: Tensor, t: Tensor, after: Tensor) -> Tensor:
        """Where the flow takes ``x``: on a line it keeps the order of points, so that their share below stays (bisection)."""
        share = self.cdf(path, x, t)
        low, high = torch.full_like(x, -10), torch.full_like(x, 10)
        for _ in range(80):
            middle = (low + high) / 2
            below = self.cdf(path, middle, after) < share
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2


GAUSSIAN = Mixture((1.0,), (1.5,), 0.3)


def even_times(path: Path, steps: int, first: float = 0.9, last: float = 0.1) -> Tensor:
    """Noise levels that are even in the path's clock (bisection): steps that a solver's order is a statement about."""
    ends = [path.clock(torch.tensor(level, dtype=torch.float64)) for level in (first, last)]
    wanted = torch.linspace(float(ends[0]), float(ends[1]), steps + 1, dtype=torch.float64)
    low, high = torch.zeros_like(wanted), torch.ones_like(wanted)
    for _ in range(60):
        middle = (low + high) / 2
        below = path.clock(middle) < wanted
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def moments(
    sampler: Callable[[Tensor, Callable[[int], Tensor]], Tensor], steps: int, mean: float, std: float
) -> tuple[float, float]:
    """Mean and deviation of what a sampler makes of N(mean, std^2), exactly, where every step is affine in x and in its noise.

    Its response to x = 0 and 1 without noise, and to a noise of 1 in one step alone.
    """
    start = torch.zeros(steps + 2, dtype=torch.float64)
    start[1] = 1
    impulses = torch.eye(steps + 2, dtype=torch.float64)[2:]
    end = sampler(start, lambda step: impulses[step])
    shift, slope, responses = end[0], end[1] - end[0], end[2:] - end[0]
    return float(shift + slope * mean), float(((slope * std) ** 2 + responses.square().sum()).sqrt())
