"""Solvers of dx/dt = f(x, t) as pure functions: from x at ``times[0]`` to x at ``times[-1]``."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Field = Callable[[Tensor, Tensor], Tensor]


def euler(field: Field, x: Tensor, times: Tensor) -> Tensor:
    """First order: one evaluation a step."""
    for t, after in zip(times[:-1], times[1:], strict=True):
        x = x + (after - t).to(x.dtype) * field(x, t)
    return x


def heun(field: Field, x: Tensor, times: Tensor) -> Tensor:
    """Second order: two evaluations a step, the last step Euler's, so that a field undefined at the end is never asked there."""
    for i, (t, after) in enumerate(zip(times[:-1], times[1:], strict=True)):
        step = (after - t).to(x.dtype)
        slope = field(x, t)
        if i < len(times) - 2:
            slope = (slope + field(x + step * slope, after)) / 2
        x = x + step * slope
    return x


SOLVERS: dict[str, Callable[[Field, Tensor, Tensor], Tensor]] = {"euler": euler, "heun": heun}
