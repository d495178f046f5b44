"""The stochastic solver against Euler's method, DDPM's ancestral step, and the flow of a Gaussian with its known marginals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vidgen.samplers import flow
from vidgen.samplers.ode import euler, sde

MEAN, STD = 0.7, 0.4


def gaussian(x: Tensor, t: Tensor) -> Tensor:
    """The exact velocity where the data are N(MEAN, STD^2)."""
    variance = (1 - t) ** 2 * STD**2 + t**2
    data = MEAN + (1 - t) * STD**2 / variance * (x - (1 - t) * MEAN)
    return (x - (1 - t) * data) / t - data


def noise(step: int) -> Tensor:
    return torch.randn(40_000, dtype=torch.float64, generator=torch.Generator().manual_seed(step + 1))


def test_without_churn_it_is_eulers_method() -> None:
    times = flow.sampling_times(20, shift=2.0)
    found = sde(gaussian, noise(-1), times, fresh=noise, churn=0.0)
    assert torch.allclose(found, euler(gaussian, noise(-1), times), atol=1e-12)


@pytest.mark.parametrize("churn", [0.5, 1.0, 4.0])
def test_every_churn_samples_the_data(churn: float) -> None:
    found = sde(gaussian, noise(-1), flow.sampling_times(400), fresh=noise, churn=churn)
    assert found.mean().item() == pytest.approx(MEAN, abs=0.008)
    assert found.std().item() == pytest.approx(STD, abs=0.012)


def test_one_step_of_churn_1_is_ddpms_posterior() -> None:
    """q(x_s | x_t, x_0) by Bayes' rule, for a network that knows the data: mean and variance of one ancestral step."""
    data, t, s = 0.3, torch.tensor(0.8, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    x_t = torch.full((40_000,), 1.1, dtype=torch.float64)
    found = sde(lambda x, t: (x - data) / t, x_t, torch.stack([t, s]), fresh=noise, churn=1.0)
    ratio = (1 - t) / (1 - s)  # x_t = ratio * x_s + noise of this variance:
    step = t**2 - ratio**2 * s**2
    precision = 1 / s**2 + ratio**2 / step
    mean = ((1 - s) * data / s**2 + ratio * 1.1 / step) / precision
    assert found.mean().item() == pytest.approx(mean.item(), abs=6e-3)
    assert found.var().item() == pytest.approx((1 / precision).item(), rel=0.03)


@pytest.mark.parametrize("churn", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("steps", [1, 30])
def test_noise_is_forgotten_at_the_rate_of_churn_whatever_the_steps(churn: float, steps: int) -> None:
    """From t = 0.9 to t = 0.5 the signal-to-noise ratio grows from 1/81 to 1, so noise keeps a share of 81^-churn in variance."""
    first, data = noise(-1), 0.3
    times = torch.linspace(0.9, 0.5, steps + 1, dtype=torch.float64)
    found = sde(lambda x, t: (x - data) / t, 0.1 * data + 0.9 * first, times, fresh=noise, churn=churn)
    kept = torch.corrcoef(torch.stack([found, first]))[0, 1].square().item()
    assert kept == pytest.approx(81**-churn, abs=0.012)
    assert (found - 0.5 * data).std().item() == pytest.approx(0.5, abs=0.01)
