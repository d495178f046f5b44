"""Stochastic samplers as pure functions, on any path; arguments as in :mod:`vidgen.samplers.ode`.

``fresh(step)`` is standard normal noise of the shape of ``x`` for the step of that index. The signal-to-noise ratio is
r = a^2 / s^2 throughout.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vidgen.samplers.ode import Field, Step, lengths, moved, steps
from vidgen.samplers.paths import FLOW, Coefficients, Path

Fresh = Callable[[int], Tensor]


def sde(field: Field, x: Tensor, times: Tensor, path: Path = FLOW, *, fresh: Fresh, churn: float) -> Tensor:
    """Each step predicts data and noise, and replaces a part of that noise by fresh noise.

    The part kept has the variance (r(t) / r(after))^churn: churn 0 is DDIM (on the flow, Euler's method), 1 DDPM's ancestral step
    (DDIM with eta = 1), and more forgets faster, so that late steps mend what early ones got wrong (Karras et al., 2022, call it
    churn). Every churn has the same marginals in the limit of many steps; with few, much churn trades variety for fidelity.

    Args:
        field: the velocity.
        x: at ``times[0]``.
        times: falling noise levels.
        path: between data and noise.
        fresh: noise by step.
        churn: how much faster than DDPM noise is replaced, at least 0.
    """
    for i, step in enumerate(steps(times, path)):
        kept = _ratio(step.now, step.then).pow(2 * churn)
        x = _renewed(step, x, field(x, step.t), kept, fresh(i))
    return x


def ddim(field: Field, x: Tensor, times: Tensor, path: Path = FLOW, *, fresh: Fresh, eta: float) -> Tensor:
    """Song et al., "Denoising Diffusion Implicit Models" (2021), equations 12 and 16: ``eta`` of DDPM's noise is fresh.

    ``eta`` 0 draws none and is first order; on the flow it is Euler's method.
    """
    for i, step in enumerate(steps(times, path)):
        kept = 1 - eta**2 * (1 - _ratio(step.now, step.then).square())
        x = _renewed(step, x, field(x, step.t), kept, fresh(i) if eta else None)
    return x


def ddpm(
    field: Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]], x: Tensor, times: Tensor, path: Path = FLOW, *, fresh: Fresh
) -> Tensor:
    """Ancestral steps of Ho et al. (2020) between the levels that ``times`` names: respaced, as Nichol and Dhariwal (2021) say.

    ``field`` gives the velocity, and the network's share of the logarithm of the larger variance (:func:`step_variances`), or
    None for the smaller. The last step adds no noise.
    """
    for i, (t, after, now, then) in enumerate(steps(times, path)):
        v, share = field(x, t)
        smaller, larger = step_variances(now, then)
        variance = smaller if share is None else torch.exp(log_variance(share, smaller, larger))
        noise = torch.where(after > 0, variance, torch.zeros_like(variance)).sqrt() * fresh(i)
        of_x_t, of_data = posterior_weights(now, then)
        x = moved(x, of_x_t * x + of_data * now.data_of(x, v) + noise, t, after)
    return x


def euler_maruyama(field: Field, x: Tensor, times: Tensor, path: Path = FLOW, *, fresh: Fresh, churn: float) -> Tensor:
    """The reverse stochastic equation whose diffusion is 2 ``churn`` s by the path's clock; the step to level 0 has no noise.

    With the score -e / s the drift is v + churn e, so that nothing is divided by s: SiT's SDE with its diffusion "sigma" (Ma et
    al., "SiT", 2024), but for the last step, which is taken to the predicted data here. First order in its marginals.
    """
    for i, ((t, after, now, _), length) in enumerate(zip(steps(times, path), -lengths(times, path, x), strict=True)):
        v = field(x, t)
        spread = (2 * churn * now.noise * length).sqrt()
        stepped = x - length * (v + churn * now.noise_of(x, v)) + spread * fresh(i)
        x = moved(x, torch.where(after > 0, stepped, now.data_of(x, v)), t, after)
    return x


def posterior_weights(now: Coefficients, then: Coefficients) -> tuple[Tensor, Tensor]:
    """Of x_t and of x in the mean of q(x_after | x_t, x), by Bayes' rule, where noise is added in small independent steps."""
    ratio, added = _added(now, then)
    return ratio * (then.noise / now.noise).square(), then.signal * added / now.noise.square()


def step_variances(now: Coefficients, then: Coefficients) -> tuple[Tensor, Tensor]:
    """The variance of that posterior, and of the noise added between the two: beta~ and beta, which bound the best."""
    _, added = _added(now, then)
    return added * (then.noise / now.noise).square(), added


def log_variance(share: Tensor, smaller: Tensor, larger: Tensor) -> Tensor:
    """The logarithm of a variance, ``share`` of the way from the smaller's to the larger's (Improved DDPM, equation 15)."""
    low, high = (variance.clamp_min(1e-20).log().to(share.dtype) for variance in (smaller, larger))
    return torch.lerp(low, high, share)


def _added(now: Coefficients, then: Coefficients) -> tuple[Tensor, Tensor]:
    """What is left of the signal from the second to the first, and the variance of the noise that comes to it."""
    ratio = now.signal / then.signal
    return ratio, now.noise.square() - (ratio * then.noise).square()


def _ratio(now: Coefficients, then: Coefficients) -> Tensor:
    """The root of r(t) / r(after)."""
    return now.signal * then.noise / (then.signal * now.noise)


def _renewed(step: Step, x: Tensor, v: Tensor, kept: Tensor, fresh: Tensor | None) -> Tensor:
    """Predicted data and noise put together after the step, with ``kept`` of the noise's variance and the rest fresh."""
    noise = step.now.noise_of(x, v)
    if fresh is not None:
        noise = kept.sqrt() * noise + (1 - kept).sqrt() * fresh
    return moved(x, step.then.signal * step.now.data_of(x, v) + step.then.noise * noise, step.t, step.after)
