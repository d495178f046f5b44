"""Deterministic solvers as pure functions: from x at ``times[0]`` to ``times[-1]``, along the velocity of a path.

``field(x, t)`` is the velocity at noise level ``t``, ``times`` are falling noise levels: numbers, or for each step a tensor that
broadcasts against ``x``, where some of it is noisier than the rest (:mod:`vidgen.samplers.forcing`). What has the same level
before and after a step stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from vidgen.samplers.paths import FLOW, Path

Field = Callable[[Tensor, Tensor], Tensor]


def pairs(times: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The noise levels before and after each step."""
    return zip(times[:-1], times[1:], strict=True)


def moved(x: Tensor, new: Tensor, t: Tensor, after: Tensor) -> Tensor:
    """``new`` where the noise level has fallen, ``x`` elsewhere, in the dtype of ``x``."""
    return new.to(x.dtype) if t.ndim == 0 else torch.where(after < t, new.to(x.dtype), x)


def euler(field: Field, x: Tensor, times: Tensor, path: Path = FLOW) -> Tensor:
    """First order: one evaluation a step."""
    for t, after in pairs(times):
        x = x + (path.clock(after) - path.clock(t)).to(x.dtype) * field(x, t)
    return x


def heun(field: Field, x: Tensor, times: Tensor, path: Path = FLOW) -> Tensor:
    """Second order: two evaluations a step; the step to noise level 0 is Euler's, so a field undefined there is never asked."""
    for t, after in pairs(times):
        step = (path.clock(after) - path.clock(t)).to(x.dtype)
        slope = field(x, t)
        noisy = (after > 0) & (after < t)
        if bool(noisy.any()):
            both = (slope + field(x + step * slope, after)) / 2
            slope = both if t.ndim == 0 else torch.where(noisy, both, slope)
        x = x + step * slope
    return x


def dpm2m(field: Field, x: Tensor, times: Tensor, path: Path = FLOW) -> Tensor:
    """DPM-Solver++ (2M), second order at one evaluation a step: exact in the noise, and data extrapolated from two steps.

    Source: Lu et al., "DPM-Solver++" (2022), algorithm 2, by the logarithm of the ratio of signal to noise; first order in the
    first step, and in that to noise level 0, where the logarithm has no end.
    """
    before, last = None, None
    for t, after in pairs(times):
        now, then = path.at(t), path.at(after)
        data = path.data(x, field(x, t), t)
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


def _log_ratio(at: tuple[Tensor, ...]) -> Tensor:
    signal, noise = at[:2]
    return signal.log() - noise.log()
