"""KL against torch's own distributions."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from vidgen import UserError
from vidgen.quantizers.kl import KL


def test_divergence_is_summed_over_channels_and_averaged_over_cells_and_clips() -> None:
    x = torch.randn(2, 6, 2, 3, 2)
    mean, logvar = x[:, :3].movedim(1, -1), x[:, 3:].movedim(1, -1)
    posterior = Independent(Normal(mean, (0.5 * logvar).exp()), 1)
    prior = Independent(Normal(torch.zeros_like(mean), torch.ones_like(mean)), 1)
    expected = kl_divergence(posterior, prior)
    assert expected.shape == (2, 2, 3, 2)
    torch.testing.assert_close(KL(channels=3, weight=0.2)(x).losses["kl"], 0.2 * expected.mean())


def test_mean_and_logvar_are_chunks_of_the_channels() -> None:
    """Not interleaved: the first half is the mean."""
    x = torch.arange(4.0).view(1, 4, 1, 1, 1)
    code = KL(channels=2).eval()(x)
    assert code.h.flatten().tolist() == [0, 1]
    assert code.logvar.flatten().tolist() == [2, 3]


def test_samples_have_the_posterior_s_moments() -> None:
    x = torch.cat([torch.full((1, 1, 1, 200, 200), 0.7), torch.full((1, 1, 1, 200, 200), -1.0)], dim=1)
    code = KL(channels=1)(x)
    assert float(code.z.mean()) == pytest.approx(0.7, abs=0.02)
    assert float(code.z.std()) == pytest.approx(math.exp(-0.5), abs=0.02)
    assert torch.equal(code.h, x[:, :1])


def test_evaluation_is_deterministic_and_gives_the_mean() -> None:
    quantizer = KL(channels=3).eval()
    x = torch.randn(2, 6, 1, 2, 2)
    code = quantizer(x)
    assert torch.equal(code.z, x[:, :3])
    assert torch.equal(quantizer(x).z, code.z)
    assert code.losses == {}


def test_the_log_variance_is_bounded() -> None:
    x = torch.cat([torch.zeros(1, 1, 1, 1, 2), torch.tensor([-1e4, 1e4]).view(1, 1, 1, 1, 2)], dim=1)
    code = KL(channels=1)(x)
    assert code.logvar.flatten().tolist() == [-30, 20]
    assert bool(torch.isfinite(code.losses["kl"]))


def test_weight_0_is_a_plain_autoencoder() -> None:
    quantizer = KL(channels=3, weight=0.0)
    assert quantizer.in_channels == 3
    x = torch.randn(2, 3, 1, 2, 2)
    code = quantizer(x)
    assert torch.equal(code.z, x)
    assert torch.equal(code.h, x)
    assert code.logvar is None
    assert code.losses == {}


def test_a_fixed_deviation_needs_no_channels_of_its_own() -> None:
    """The divergence is torch's, constant terms included, and samples have that deviation."""
    quantizer = KL(channels=2, weight=0.3, std=0.5)
    assert quantizer.in_channels == 2
    x = torch.randn(2, 2, 1, 100, 150)
    code = quantizer(x)
    posterior, prior = Normal(x.movedim(1, -1), 0.5), Normal(torch.zeros(2), torch.ones(2))
    torch.testing.assert_close(code.losses["kl"], 0.3 * kl_divergence(posterior, prior).sum(dim=-1).mean())
    torch.testing.assert_close(code.logvar, torch.full_like(x, math.log(0.25)))
    assert torch.equal(code.h, x)
    noise = code.z - x
    assert float(noise.std()) == pytest.approx(0.5, abs=0.01)
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    assert torch.equal(quantizer.eval()(x).z, x)
    alone = KL(channels=2, weight=0.0, std=0.5)(x)
    assert alone.losses == {}
    assert float((alone.z - x).std()) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("options", [{"channels": 0}, {"weight": -1.0}, {"std": -0.1}])
def test_what_no_gaussian_can_be_is_told(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"^kl needs channels of at least 1, weight and std of at least 0; got"):
        KL(**options)


def test_half_precision_input_is_sampled_in_full() -> None:
    x = torch.randn(2, 6, 1, 2, 2).bfloat16()
    expected = KL(channels=3)(x.float()).losses["kl"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        code = KL(channels=3)(x)
    assert code.z.dtype == code.h.dtype == code.logvar.dtype == torch.float32
    torch.testing.assert_close(code.losses["kl"], expected)


def test_everything_is_legal_and_nothing_has_an_id() -> None:
    quantizer = KL(channels=3)
    h = torch.randn(1, 3, 1, 1, 1)
    code = quantizer.project(h)
    assert torch.equal(code.z, h)
    assert torch.equal(code.h, h)
    assert code.ids is None
    with pytest.raises(TypeError, match="continuous"):
        quantizer.embed(torch.zeros(1, 1, 1, dtype=torch.long), ((1, 1, 1),))
