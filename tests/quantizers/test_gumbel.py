"""Gumbel-softmax against torch's own, closed forms and frequencies."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence
from torch.nn import functional as F

from vidgen import UserError
from vidgen.nn.codebook import cells_of, rows_of
from vidgen.quantizers.gumbel import MODES, Gumbel
from vidgen.quantizers.pyramid import Pyramid


def small(**options: Any) -> Gumbel:
    return Gumbel(**{"codes": 12, "channels": 5} | options)


@pytest.mark.parametrize("mode", MODES)
def test_training_agrees_with_torch_s_gumbel_softmax(mode: str) -> None:
    """Values and gradients, with the same noise at the same temperature: a hard sample, or a soft one."""
    quantizer = small(mode=mode, temperature_start=0.7)
    x = torch.randn(2, 12, 2, 3, 2, requires_grad=True)
    into = torch.randn(2, 5, 2, 3, 2)
    torch.manual_seed(5)
    code = quantizer(x)
    torch.manual_seed(5)
    sample = F.gumbel_softmax(rows_of(x), tau=0.7, hard=mode == "straight_through", dim=1)
    z = cells_of(sample @ quantizer.codes, into)
    assert torch.equal(code.ids.flatten(), sample.argmax(dim=1))
    torch.testing.assert_close(code.z, z)
    ours, theirs = (torch.autograd.grad((y * into).sum(), (x, quantizer.codes)) for y in (code.z, z))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("mode", MODES)
def test_distances_are_logits(mode: str) -> None:
    """SQ-VAE's: torch's own sample from -scale * |x - e|^2, values and gradients; in use the nearest code."""
    quantizer = small(mode=mode, temperature_start=0.7, logits="distance", scale=2.0)
    assert quantizer.in_channels == quantizer.channels == 5
    x = torch.randn(2, 5, 2, 3, 2, requires_grad=True)
    into = torch.randn(2, 5, 2, 3, 2)
    torch.manual_seed(5)
    code = quantizer(x)
    torch.manual_seed(5)
    logits = -2.0 * (rows_of(x).unsqueeze(1) - quantizer.codes).square().sum(dim=-1)
    sample = F.gumbel_softmax(logits, tau=0.7, hard=mode == "straight_through", dim=1)
    seen = quantizer.codes.detach() if mode == "straight_through" else quantizer.codes
    z = cells_of(sample @ seen, into)
    torch.testing.assert_close(code.z, z)
    assert torch.equal(code.h, x)
    ours, theirs = (torch.autograd.grad((y * into).sum(), x, retain_graph=True)[0] for y in (code.z, z))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    uniform = kl_divergence(Categorical(logits=logits), Categorical(torch.ones_like(logits))).mean()
    torch.testing.assert_close(code.losses["kl"], 1e-2 * uniform)
    assert torch.equal(quantizer.eval()(x).ids, quantizer.project(x).ids)


def test_a_pyramid_of_one_scale_is_the_quantizer_itself() -> None:
    """Drawn codes and their own gradient: nothing is passed straight through a relaxed sample; in use the nearest codes."""
    options = {"name": "gumbel", "codes": 12, "channels": 5, "logits": "distance", "temperature_start": 0.7}
    pyramid = Pyramid(quantizer=options, scales=[(1.0, 1.0, 1.0)], phi=0, commitment=0.0)
    pyramid.started.fill_(True)  # which would draw too
    x, into = torch.randn(2, 5, 2, 4, 4, requires_grad=True), torch.randn(2, 5, 2, 4, 4)
    results = []
    for quantizer in (pyramid, pyramid.quantizer):
        torch.manual_seed(2)
        code = quantizer(x)
        results.append((code.ids, code.z, *torch.autograd.grad((code.z * into).sum(), (x, pyramid.quantizer.codes))))
    torch.testing.assert_close(*results)
    assert not torch.equal(results[0][0], pyramid(x).ids), "another draw"
    code = pyramid.eval()(x)
    assert torch.equal(code.z, pyramid.embed(code.ids, ((2, 4, 4),)))
    assert torch.equal(code.ids, pyramid.quantizer.project(x).ids)


def test_scales_of_relaxed_codes_have_the_gradient_of_their_sum() -> None:
    """Two scales, by hand: the second codes what the first has left, and the encoder hears of that through both."""
    options = {"name": "gumbel", "codes": 12, "channels": 5, "logits": "distance", "mode": "relaxed", "scale": 0.3}
    pyramid = Pyramid(quantizer=options, scales=[(1.0, 0.5, 0.5), (1.0, 1.0, 1.0)], phi=0, upsampling="trilinear")
    inner = pyramid.quantizer
    pyramid.started.fill_(True)
    x, into = torch.randn(2, 5, 1, 4, 4, requires_grad=True), torch.randn(2, 5, 1, 4, 4)
    torch.manual_seed(2)
    ours = torch.autograd.grad((pyramid(x).z * into).sum(), (x, inner.codes))
    torch.manual_seed(2)
    frames = x.squeeze(2)
    first = F.interpolate(inner(F.avg_pool2d(frames, 2).unsqueeze(2)).z.squeeze(2), (4, 4), mode="bilinear")
    z = first + inner((frames - first).unsqueeze(2)).z.squeeze(2)
    theirs = torch.autograd.grad((z * into.squeeze(2)).sum(), (x, inner.codes))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("training", [True, False])
def test_the_scale_makes_logits(training: bool) -> None:
    plain, scaled = small(mode="soft"), small(mode="soft", scale=4.0)
    scaled.load_state_dict(plain.state_dict())
    x = torch.randn(1, 12, 2, 2, 2)
    codes = []
    for quantizer, value in ((plain, 4 * x), (scaled, x)):
        torch.manual_seed(3)
        codes.append(quantizer.train(training)(value))
    assert torch.equal(codes[0].z, codes[1].z)
    assert codes[0].losses == codes[1].losses


def test_a_straight_through_sample_is_a_code_to_the_bit() -> None:
    quantizer = small()
    code = quantizer(torch.randn(2, 12, 2, 3, 2))
    assert torch.equal(code.z, quantizer.embed(code.ids, ((2, 3, 2),)))
    assert torch.equal(code.h, code.z)
    assert not code.h.requires_grad


def test_codes_are_drawn_by_the_logits_probabilities() -> None:
    """Whatever the temperature: the Gumbel-max property."""
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0])
    for temperature in (0.1, 3.0):
        quantizer = Gumbel(codes=4, channels=2, temperature_start=temperature)
        ids = quantizer(logits.view(1, 4, 1, 1, 1).expand(1, 4, 1, 200, 200)).ids
        shares = torch.bincount(ids.flatten(), minlength=4) / ids.numel()
        torch.testing.assert_close(shares, logits.softmax(dim=0), rtol=0, atol=0.012)


def test_divergence_from_uniform() -> None:
    """Against torch's distributions, at 0 for equal logits and log K for certain ones, where nothing overflows."""
    quantizer = small(kl_start=0.3)
    x = torch.randn(3, 12, 2, 2, 2) * 3
    uniform = Categorical(logits=torch.zeros(len(rows_of(x)), 12))
    expected = kl_divergence(Categorical(logits=rows_of(x)), uniform).mean()
    torch.testing.assert_close(quantizer(x).losses["kl"], 0.3 * expected)
    assert float(quantizer(torch.zeros(1, 12, 1, 1, 1)).losses["kl"]) == pytest.approx(0, abs=1e-6)
    certain = torch.zeros(1, 12, 1, 1, 1)
    certain[:, 3] = 1e4
    certain.requires_grad_()
    kl = quantizer(certain).losses["kl"]
    assert float(kl.detach()) == pytest.approx(0.3 * math.log(12))
    assert bool(torch.autograd.grad(kl, certain)[0].isfinite().all())
    assert small(kl_start=0.0, kl_end=0.0)(x).losses == {}


@pytest.mark.parametrize(
    ("schedule", "middle"),
    [("exponential", math.sqrt(2.0 * 0.125)), ("cosine", (2.0 + 0.125) / 2), ("linear", (2.0 + 0.125) / 2)],
)
def test_temperature_and_weight_follow_their_schedules(schedule: str, middle: float) -> None:
    quantizer = small(schedule=schedule, temperature_start=2.0, temperature_end=0.125, kl_start=0.0, kl_end=0.4)
    x = torch.randn(1, 12, 1, 2, 2)
    temperatures, weights = [], []
    for progress in (0.0, 0.25, 0.5, 1.0):
        quantizer.anneal(progress)
        temperatures.append(float(quantizer.temperature))
        weights.append(float(quantizer(x).losses.get("kl", 0.0)))
    assert (temperatures[0], temperatures[2], temperatures[3]) == pytest.approx((2.0, middle, 0.125))
    quarter = {
        "exponential": 2 / 2 ** (4 * 0.25),
        "cosine": 2 - 1.875 * math.sin(math.pi / 8) ** 2,
        "linear": 2 - 1.875 / 4,
    }
    assert temperatures[1] == pytest.approx(quarter[schedule])
    assert weights == pytest.approx([0, weights[3] / 4, weights[3] / 2, weights[3]])
    assert weights[3] > 0


@pytest.mark.parametrize("mode", MODES)
def test_use_is_deterministic_and_takes_the_likeliest_code(mode: str) -> None:
    """Unlike the noise that some public code adds even then; only a soft tokenizer has a mixture, without noise."""
    quantizer = small(mode=mode, temperature_start=0.5).eval()
    before = copy.deepcopy(quantizer.state_dict())
    x = torch.randn(2, 12, 2, 3, 2)
    code = quantizer(x)
    assert torch.equal(quantizer(x).z, code.z)
    assert code.losses == {}
    assert torch.equal(code.ids.flatten(), rows_of(x).argmax(dim=1))
    one_hot = F.one_hot(rows_of(x).argmax(dim=1), 12).float()
    shares = (rows_of(x) / 0.5).softmax(dim=1) if mode == "soft" else one_hot
    torch.testing.assert_close(rows_of(code.z), shares @ quantizer.codes)
    assert torch.equal(code.h, code.z)
    assert torch.equal(code.z, quantizer.embed(code.ids, ((2, 3, 2),))) == (mode != "soft")
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())


def test_a_soft_tokenizer_is_saved_at_the_temperature_it_has_reached() -> None:
    quantizer = small(mode="soft")
    quantizer.anneal(0.6)
    x = torch.randn(1, 12, 1, 3, 3)
    again = small(mode="soft")
    again.load_state_dict(quantizer.state_dict())
    assert torch.equal(again.eval()(x).z, quantizer.eval()(x).z)


@pytest.mark.parametrize("mode", MODES)
def test_embed_and_project_keep_their_law(mode: str) -> None:
    """All ids, in every mode: what is projected is a code, and a code stays as it is."""
    quantizer = small(mode=mode).eval()
    ids = torch.randperm(12).view(1, 12, 1)
    z = quantizer.embed(ids, ((1, 3, 4),))
    assert torch.equal(rows_of(z), quantizer.codes[ids.flatten()])
    again = quantizer.project(z)
    assert torch.equal(again.ids, ids)
    assert torch.equal(again.z, z)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        h = torch.randn(2, 5, 3, 2, 2, dtype=dtype)
        code = quantizer.project(h)
        assert code.z.dtype == code.h.dtype == dtype
        assert torch.equal(quantizer.embed(code.ids, ((3, 2, 2),)).to(dtype), code.z)
        nearest = torch.cdist(rows_of(h).double(), quantizer.codes.detach().double()).argmin(dim=1)
        assert torch.equal(code.ids.flatten(), nearest)


def test_half_precision_logits_are_treated_in_full() -> None:
    x: Tensor = (torch.randn(2, 12, 2, 3, 3) * 4).bfloat16()
    quantizer = small()
    torch.manual_seed(1)
    expected = quantizer(x.float())
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        code = quantizer(x)
    assert code.z.dtype == code.h.dtype == torch.float32
    assert code.ids.min() >= 0
    assert code.ids.max() < 12
    assert torch.equal(code.z, expected.z)
    assert torch.equal(code.losses["kl"], expected.losses["kl"])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"codes": 1}, "gumbel needs codes of at least 2"),
        ({"logits": "distances"}, "Did you mean 'distance'"),
        ({"mode": "relax"}, "Did you mean 'relaxed'"),
        ({"schedule": "cosin"}, "Did you mean 'cosine'"),
        ({"temperature_end": 0.0}, "temperatures are above 0"),
    ],
)
def test_options_out_of_range_are_told(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        small(**options)
