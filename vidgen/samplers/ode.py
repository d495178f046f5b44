"""Deterministic solvers as pure functions: from x at ``times[0]`` to ``times[-1]``, along the velocity of a path.

``field(x, t)`` is the velocity at noise level ``t``, ``times`` are falling noise levels: numbers, or for each step a tensor that
broadcasts against ``x``, where some of it is noisier than the rest (:mod:`vidgen.samplers.forcing`). What has the same level
before and after a step stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from vidgen.samplers.paths import FLOW, Coefficients, Path

Field = Callable[[Tensor, Tensor], Tensor]


class Step(NamedTuple):
    """From noise level ``t`` to ``after``, with the path's coefficients at both, ``now`` and ``then``."""

    t: Tensor
    after: Tensor
    now: Coefficients
    then: Coefficients


def steps(times: Tensor, path: Path) -> Iterator[Step]:
    """The steps between falling noise levels. Coefficients are taken of all levels at once: one by one they cost more than x."""
    at = [Coefficients(*one) for one in zip(*path.at(times), strict=True)]
    return map(Step, times[:-1], times[1:], at[:-1], at[1:])


def lengths(times: Tensor, path: Path, x: Tensor) -> Tensor:
    """By how much each step moves the path's clock, in the dtype of ``x``: below 0."""
    return path.clock(times).diff(dim=0).to(x.dtype)


def moved(x: Tensor, new: Tensor, t: Tensor, after: Tensor) -> Tensor:
    """``new`` where the noise level has fallen, ``x`` elsewhere, in the dtype of ``x``."""
    return new.to(x.dtype) if t.ndim == 0 else torch.where(after < t, new.to(x.dtype), x)


def euler(field: Field, x: Tensor, times: Tensor, path: Path = FLOW) -> Tensor:
    """First order: one evaluation a step."""
    for t, length in zip(times[:-1], lengths(times, path, x), strict=True):
        x = x + length * field(x, t)
    return x


def heun(field: Field, x: Tensor, times: Tensor, path: Path = FLOW) -> Tensor:
    """Second order: two evaluations a step; the step to noise level 0 is Euler's, so a field undefined there is never asked."""
    noisy = (times[1:] > 0) & (times[1:] < times[:-1])
    twice = noisy.flatten(1).any(dim=1).tolist() if times.ndim > 1 else noisy.tolist()
    for i, length in enumerate(lengths(times, path, x)):
        slope = field(x, times[i])
        if twice[i]:
            slope = torch.where(noisy[i], (slope + field(x + length * slope, times[i + 1])) / 2, slope)
        x = x + length * slope
    return x


def dpm2m(field: Field, x: Tensor, times: Tensor, path: Path = FLOW) -> Tensor:
    """DPM-Solver++ (2M), second order at one evaluation a step: exact in the noise, and data extrapolated from two steps.

    Source: Lu et al., "DPM-Solver++" (2022), algorithm 2, by the logarithm of the ratio of signal to noise; first order in the
    first step, and in that to noise level 0, where the logarithm has no end.
    """
    before, last = None, None
    for t, after, now, then in steps(times, path):
        data = now.data_of(x, field(x, t))
        length = _log_ratio(then) - _log_ratio(now)
        ahead = data
        if before is not None and last is not None:
            share = length / (2 * before)
            known = (before > 0) & before.isfinite() & length.isfinite()
            ahead = data + torch.where(known, share, torch.zeros_like(share)) * (data - last)
        kept = then.noise / now.noise.clamp_min(1e-30)
        x = moved(x, kept * x + (then.signal - kept * now.signal) * ahead, t, after)
        before, last = length, data
    return x


def _log_ratio(at: Coefficients) -> Tensor:
    return at.signal.log() - at.noise.log()
