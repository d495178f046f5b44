"""Solvers of a flow dx/dt = f(x, t), and of its stochastic twin, as pure functions: from x at ``times[0]`` to ``times[-1]``."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from vidgen.samplers.flow import data_from_velocity, noise_from_velocity

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


def sde(field: Field, x: Tensor, times: Tensor, *, fresh: Callable[[int], Tensor], churn: float) -> Tensor:
    """Stochastic: each step predicts data and noise, and replaces a part of that noise by fresh noise.

    With signal-to-noise ratio r(t) = ((1 - t) / t)^2, the part kept has the variance (r(t) / r(after))^churn: churn 0 is Euler's
    method (DDIM), 1 DDPM's ancestral step (DDIM with eta = 1: Song et al., "Denoising Diffusion Implicit Models", 2021, equation
    16), and more forgets faster, so that late steps mend what early ones got wrong (Karras et al., 2022, call it churn). Every
    churn has the same marginals in the limit of many steps; with few, much churn trades variety for fidelity.

    Args:
        field: the velocity, noise minus data.
        x: at ``times[0]``.
        times: falling noise levels.
        fresh: standard normal noise, of the shape of ``x``, for the step of that index.
        churn: how much faster than DDPM noise is replaced, at least 0.
    """
    for step, (t, after) in enumerate(zip(times[:-1], times[1:], strict=True)):
        v = field(x, t)
        kept = ((1 - t) * after / ((1 - after) * t)).pow(2 * churn)
        noise = kept.sqrt() * noise_from_velocity(x, v, t) + (1 - kept).sqrt() * fresh(step)
        x = ((1 - after) * data_from_velocity(x, v, t) + after * noise).to(x.dtype)
    return x


SOLVERS: dict[str, Callable[[Field, Tensor, Tensor], Tensor]] = {"euler": euler, "heun": heun}
