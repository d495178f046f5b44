"""The head of real numbers against hand-computed losses, closed forms, and a mixture that it must recover."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from head_spaces import WIDTH, built, features, shaken, space, uniforms
from torch import Tensor
from torch.nn import functional as F

from vidgen import UserError
from vidgen.heads import build_head
from vidgen.protocols import Head


def rederived(head: Any, h: Tensor, t: Tensor, x: Tensor) -> Tensor:
    """The network of MAR's diffusion loss, from the paper's appendix and its weights alone, one token (D,) at a level t."""
    angle = 1000 * t.float() * torch.exp(-math.log(10000) * torch.arange(128) / 128)  # in float32, as in the library
    first, _, last = head.time.mlp
    c = last(F.silu(first(torch.cat([angle.cos(), angle.sin()]).double()))) + head.condition.weight @ x + head.condition.bias
    y = head.input.weight @ h + head.input.bias

    def norm(y: Tensor) -> Tensor:
        return (y - y.mean()) / (y.var(correction=0) + 1e-6).sqrt()

    for block in head.blocks:
        shift, scale, gate = block.modulation(c * torch.sigmoid(c)).chunk(3)
        y = y + gate * block.last(F.silu(block.first(norm(y) * (1 + scale) + shift)))
    shift, scale = head.final.modulation(c * torch.sigmoid(c)).chunk(2)
    return head.final.linear(norm(y) * (1 + scale) + shift)


def test_the_velocity_is_that_of_the_paper_s_network() -> None:
    head = built("flow", None, hidden=10, depth=2)
    h, t, x = torch.randn(2, 3, 3).double(), torch.rand(2, 3).double(), features(2, 3)
    found = head.velocity(h, t, head.condition(x))
    for b in range(2):
        for n in range(3):
            torch.testing.assert_close(found[b, n], rederived(head, h[b, n], t[b, n], x[b, n]), rtol=1e-5, atol=1e-5)


def test_the_loss_is_the_squared_error_of_the_velocity() -> None:
    head = built("flow", None, depth=1)
    x, target = features(1, 1), torch.tensor([[[0.5, -1.0, 2.0]]]).double()
    t, noise = torch.tensor([[0.25]]).double(), torch.tensor([[[1.0, 0.0, -2.0]]]).double()
    at = torch.tensor([0.75 * 0.5 + 0.25 * 1.0, 0.75 * -1.0, 0.75 * 2.0 + 0.25 * -2.0]).double()
    v = rederived(head, at, t[0, 0], x[0, 0])
    wanted = ((v - torch.tensor([0.5, 1.0, -4.0])) ** 2).mean()
    torch.testing.assert_close(head.loss_at(x, target, t, noise)[0, 0], wanted, rtol=1e-5, atol=1e-5)


def test_a_fresh_head_says_nothing() -> None:
    """Zero velocity: the loss is the mean square of noise minus data, whatever the level, and samples are the noise."""
    head: Any = build_head({"name": "flow"}, space=space(None), width=WIDTH)
    x, target, noise = torch.randn(2, 5, WIDTH), torch.randn(2, 5, 3), torch.randn(7, 2, 5, 3)
    found = head.loss_at(x, target, torch.rand(7, 2, 5), noise)
    torch.testing.assert_close(found, (noise - target).square().mean(dim=-1))
    u = uniforms(head, 2, 5)
    torch.testing.assert_close(head.sample(x, (), 1.0, u)[0], torch.special.ndtri(u).float())


@pytest.mark.parametrize(("mean", "std", "repeats"), [(0.0, 1.0, 4), (-0.7, 0.5, 1), (0.3, 1.5, 3)])
def test_noise_levels_are_logit_normal_and_spread(mean: float, std: float, repeats: int, monkeypatch: pytest.MonkeyPatch) -> None:
    head = built("flow", None, repeats=repeats, time_mean=mean, time_std=std)
    seen: list[Tensor] = []
    monkeypatch.setattr(head, "loss_at", lambda x, target, t, noise: seen.extend((t, noise)) or t)
    head.loss(torch.randn(4, 1000, WIDTH), torch.randn(4, 1000, 3))
    t, noise = seen
    assert t.shape == (repeats, 4, 1000)
    assert noise.shape == (repeats, 4, 1000, 3)
    quantile = torch.special.ndtr((torch.logit(t.double()) - mean) / std)
    part = (quantile * repeats).floor()  # each level of a token lies in a part of its own
    assert (part == torch.arange(repeats).view(-1, 1, 1)).double().mean() > 0.999
    even = (torch.arange(quantile.numel()) + 0.5) / quantile.numel()
    assert (quantile.flatten().sort().values - even).abs().max() < 1.63 / math.sqrt(4000)  # Kolmogorov and Smirnov, 1 %
    assert noise.std() == pytest.approx(1, abs=0.03)


def test_its_noise_is_fixed_out_of_training() -> None:
    head = built("flow", None)
    x, target = features(2, 4), torch.randn(2, 4, 3).double()
    assert not torch.equal(head.loss(x, target), head.loss(x, target))
    head.eval()
    state = torch.get_rng_state()
    assert torch.equal(head.loss(x, target), head.loss(x, target))
    assert torch.equal(torch.get_rng_state(), state)
    assert head.loss(x, target).shape == (2, 4)


def test_guidance_and_steps_are_euler_s_by_hand() -> None:
    """Of two conditions, with a scale for each sample and one for all: the velocity's chain (InstructPix2Pix, equation 3)."""
    head = built("flow", None, steps=2)
    x, u = features(6, 3), uniforms(head, 2, 3)
    scale = torch.tensor([[1.5], [1.0]]).double()
    found, log_p = head.sample(x, (scale, 3.0), 0.9, u)
    assert log_p is None
    h = 0.9 * math.sqrt(2) * torch.erfinv(2 * u - 1)
    for t in (1.0, 0.5):
        level = torch.full((2, 3), t).double()
        free, some, full = (head.velocity(h, level, head.condition(y)) for y in x.chunk(3))
        h = h - 0.5 * (free + scale[..., None] * (some - free) + 3 * (full - some))
    torch.testing.assert_close(found, h)
    torch.testing.assert_close(found[1:], head.sample(x[3::2], (3.0,), 0.9, u[1:])[0])
    torch.testing.assert_close(head.sample(x, (2.0, 2.0), 0.9, u)[0], head.sample(torch.cat([x[:2], x[4:]]), (2.0,), 0.9, u)[0])


def test_guidance_1_is_the_last_branch_and_all_are_one_batch() -> None:
    head = built("flow", None, steps=3)
    x, u = features(6, 3), uniforms(head, 2, 3)
    sizes: list[int] = []
    hook = head.final.register_forward_hook(lambda _, given, __: sizes.append(len(given[0])))
    plain = head.sample(x[4:], (), 1.0, u)[0]
    for scales in ((1.0, 1.0), (torch.ones(1, 1), 1.0)):
        torch.testing.assert_close(head.sample(x, scales, 1.0, u)[0], plain, rtol=1e-12, atol=1e-12)
    hook.remove()
    assert sizes == [2] * 3 + [6] * 6


def test_temperature_scales_the_noise() -> None:
    head = built("flow", None)
    x, u = features(1, 2), uniforms(head, 1, 2)
    cold = head.sample(x, (), 0.0, u)[0]
    assert torch.equal(cold, head.sample(x, (), 0.0, uniforms(head, 1, 2))[0])
    assert torch.equal(cold, head.sample(x, (), 1.0, torch.full_like(u, 0.5))[0])


def test_a_sample_is_a_function_of_its_own_noise() -> None:
    head = built("flow", None)
    x, u = features(3, 5), uniforms(head, 3, 5)
    whole = head.sample(x, (), 1.0, u)[0]
    for i in range(3):
        torch.testing.assert_close(head.sample(x[i : i + 1], (), 1.0, u[i : i + 1])[0][0], whole[i], rtol=1e-12, atol=1e-12)


def test_gradients_reach_every_weight() -> None:
    head = built("flow", None)
    x, target = features(2, 6).requires_grad_(), torch.randn(2, 6, 3).double()
    (head.loss(x, target).mean() + head.embed(target).square().mean()).backward()
    assert x.grad is not None
    assert (x.grad.abs().amax(dim=-1) > 0).all()
    assert not [name for name, weight in head.named_parameters() if weight.grad is None or not weight.grad.abs().sum() > 0]


def test_losses_are_float32_under_autocast() -> None:
    head = shaken(build_head({"name": "flow"}, space=space(None), width=WIDTH), 0.1).eval()
    x, target = torch.randn(2, 6, WIDTH), torch.randn(2, 6, 3)
    exact = head.loss(x, target)
    with torch.autocast("cpu", torch.bfloat16):
        loss = head.loss(x.bfloat16(), target.bfloat16())
        drawn = head.sample(torch.cat([x.flip(0), x]).bfloat16(), (2.0,), 1.0, uniforms(head, 2, 6))[0]
    assert loss.dtype == torch.float32
    assert drawn.dtype == torch.float32
    torch.testing.assert_close(loss, exact, atol=0.05, rtol=0.05)


def test_ids_are_for_other_heads() -> None:
    head = built("flow", None)
    for top_k, top_p in ((5, 1.0), (0, 0.9)):
        with pytest.raises(UserError, match=r"^Continuous latents have no most likely ids to keep: leave top_k=0 and top_p=1"):
            head.sample(features(1, 2), (), 1.0, uniforms(head, 1, 2), top_k, top_p)


def test_it_is_a_head() -> None:
    head = built("flow", None)
    assert isinstance(head, Head)
    assert head.draws == 3
    assert not head.likelihood


def test_it_has_the_published_size() -> None:
    """MAR-L's: six linear layers a block of 1024 x 1024 in all (two, and a modulation of 3), three blocks, and its ends."""
    head = build_head({"name": "flow", "hidden": 1024, "depth": 3}, space=space(None, channels=16), width=1024)
    blocks = 3 * 5 * 1024 * (1024 + 1)
    ends = 16 * 1024 + 1024 + 1024 * 1025 + (256 * 1024 + 1024 + 1024 * 1025) + 2 * 1024 * 1025 + 16 * 1025
    assert sum(weight.numel() for weight in head.parameters()) - (16 * 1024 + 1024) == blocks + ends


LR = 4e-3


def mixture(num: int, which: int) -> Tensor:
    """Two uneven modes on a slant, or a ring, of spread 0.15."""
    near = 0.15 * torch.randn(num, 2)
    if which == 0:
        return near + torch.where(torch.rand(num, 1) < 0.3, torch.tensor([1.2, 0.8]), torch.tensor([-0.8, -0.6]))
    angle = 2 * math.pi * torch.rand(num, 1)
    return near + torch.cat([angle.cos(), angle.sin()], dim=1)


def energy_distance(a: Tensor, b: Tensor) -> float:
    """Szekely and Rizzo's: 2 E|A - B| - E|A - A'| - E|B - B'|, 0 for equal laws."""
    n, m = len(a), len(b)
    own = torch.cdist(a, a).sum() / (n * (n - 1)) + torch.cdist(b, b).sum() / (m * (m - 1))
    return float(2 * torch.cdist(a, b).mean() - own)


def test_a_mixture_in_the_plane_is_recovered() -> None:
    """Each of two laws by its condition; a normal law of the same mean and covariance is many times as far away."""
    head: Any = build_head({"name": "flow", "hidden": 48}, space=space(None, channels=2), width=WIDTH)
    optimizer = torch.optim.Adam(head.parameters(), lr=LR)
    told = torch.randn(2, 1, WIDTH)
    steps = 250
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = LR * (1 - step / steps)
        target = torch.stack([mixture(64, which) for which in range(2)])
        loss = head.loss(told.expand(2, 64, WIDTH), target).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        drawn, _ = head.sample(told.expand(2, 1500, WIDTH), (), 1.0, uniforms(head, 2, 1500))
    for which in range(2):
        fresh = mixture(1500, which)
        normal = fresh.mean(dim=0) + torch.randn(1500, 2) @ torch.linalg.cholesky(fresh.T.cov()).T
        far, near = energy_distance(normal, fresh), energy_distance(drawn[which], fresh)
        assert near < 0.005
        assert far > 0.02
