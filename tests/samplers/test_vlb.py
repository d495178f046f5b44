"""The terms of the variational bound against distributions that compute them directly."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from vidgen.samplers.paths import DDPM
from vidgen.samplers.vlb import vlb_bits


def plain(path: DDPM, k: int, x: float, x_t: float, predicted: float, share: float) -> float:
    """In plain numbers from the betas alone, as Ho et al. (2020) write the posterior: equations 6 and 7."""
    betas = path.betas.tolist()
    product = [1.0]
    for beta in betas:
        product.append(product[-1] * (1 - beta))
    beta = betas[k - 1]

    def mean(x: float) -> float:
        now, before = product[k], product[k - 1]
        return math.sqrt(before) * beta / (1 - now) * x + math.sqrt(1 - beta) * (1 - before) / (1 - now) * x_t

    cut = max(k, 2)
    smaller = betas[cut - 1] * (1 - product[cut - 1]) / (1 - product[cut])
    deviation = math.exp(0.5 * (share * math.log(beta) + (1 - share) * math.log(smaller)))
    own = Normal(*torch.tensor([mean(predicted), deviation], dtype=torch.float64))
    if k == 1:
        above, below = own.cdf(torch.tensor([x + 1 / 255, x - 1 / 255], dtype=torch.float64)).tolist()
        return -math.log(above - below) / math.log(2)
    true = Normal(*torch.tensor([mean(x), math.sqrt(smaller)], dtype=torch.float64))
    return float(kl_divergence(true, own)) / math.log(2)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("k", [1, 2, 3, 500, 1000])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_every_term_is_that_of_its_distributions(schedule: str, k: int, share: float) -> None:
    path, t = DDPM(schedule), torch.tensor(k / 1000, dtype=torch.float64)  # type: ignore[arg-type]
    x, noise = torch.tensor([0.4, -1.7], dtype=torch.float64), torch.tensor([0.9, -0.2], dtype=torch.float64)
    x_t, predicted = path.interpolate(x, noise, t), x + torch.tensor([0.0, 0.004])
    v = path.velocity_from("x", predicted, x_t, t, floor=0.0)
    found = vlb_bits(path, x, x_t, v, torch.full_like(x, share), t)
    for i in range(2):
        expected = plain(path, k, float(x[i]), float(x_t[i]), float(predicted[i]), share)
        assert float(found[i]) == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_the_mean_learns_nothing_from_it_and_the_variance_does() -> None:
    path, t = DDPM("linear"), torch.tensor([[0.001], [0.3]])
    x, noise = torch.randn(2, 2, 8)
    v = torch.zeros(2, 8, requires_grad=True)
    share = torch.full((2, 8), 0.5, requires_grad=True)
    vlb_bits(path, x, path.interpolate(x, noise, t), v, share, t).mean().backward()
    assert v.grad is None
    assert share.grad is not None
    assert bool(share.grad.isfinite().all())
    assert bool(share.grad.any(dim=1).all())


@pytest.mark.parametrize("k", [2, 100])
def test_the_best_variance_is_the_posterior_s_spread_by_the_error(k: int) -> None:
    """Over a Gaussian's data the share that the bound prefers is the variance of x_{k-1} given x_k, which is between the two."""
    path, t, std = DDPM("linear"), torch.tensor(k / 1000, dtype=torch.float64), 0.8
    draws = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 50_000, dtype=torch.float64, generator=draws) * torch.tensor([[std], [1.0]])
    now, before = path.at(t), path.at(t - 0.001)
    x_t = path.interpolate(x, noise, t)
    spread = (now.signal * std) ** 2 + now.noise**2
    v = path.velocity_from("x", now.signal * std**2 / spread * x_t, x_t, t, floor=0.0)
    shares = torch.linspace(0, 1, 41, dtype=torch.float64)
    bits = [float(vlb_bits(path, x, x_t, v, torch.full_like(x, share), t).mean()) for share in shares.tolist()]
    ratio = now.signal / before.signal
    step = now.noise**2 - (ratio * before.noise) ** 2
    exact = 1 / (1 / ((before.signal * std) ** 2 + before.noise**2) + ratio**2 / step)  # x_{k-1} is Gaussian too
    smaller = step * (before.noise / now.noise) ** 2
    wanted = float((exact.log() - smaller.log()) / (step.log() - smaller.log()))
    assert float(shares[min(range(41), key=bits.__getitem__)]) == pytest.approx(wanted, abs=0.08)
