"""BSQ against enumeration of all codes on the sphere and against another implementation."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vidgen import UserError
from vidgen.latents import joint_ids
from vidgen.quantizers.bsq import BSQ


def rows(x: Tensor) -> Tensor:
    return x.movedim(1, -1).reshape(-1, x.shape[1])


@pytest.mark.parametrize("bits", [1, 2, 3, 6, 11, 12])
@pytest.mark.parametrize("temperature", [0.01, 0.2, 1.0])
def test_the_entropy_term_is_that_of_enumeration(bits: int, temperature: float) -> None:
    """The definition: p(c|u) = softmax over all codes c of 2 u.c / T; value and gradient, with the gradient of the length."""
    quantizer = BSQ(bits=bits, entropy_weight=0.7, diversity=1.3, temperature=temperature)
    x = torch.randn(2, bits, 1, 3, 5, requires_grad=True)
    codes = torch.tensor(list(product((-1.0, 1.0), repeat=bits)), dtype=torch.float64) / math.sqrt(bits)
    tokens = rows(x).double()
    log_p = (2 * (tokens / tokens.norm(dim=1, keepdim=True)) @ codes.T / temperature).log_softmax(dim=1)
    mean = log_p.exp().mean(dim=0)
    expected = 0.7 * (1.3 * torch.special.xlogy(mean, mean).sum() - (log_p.exp() * log_p).sum(dim=1).mean())
    found = quantizer(x).losses["entropy"]
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
    slopes = [torch.autograd.grad(value, x)[0] for value in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-3, atol=1e-4 / temperature**0.5)


def test_agrees_with_vector_quantize_pytorch() -> None:
    """Their LFQ on the sphere: ids, codes, entropies, the commitment (theirs is averaged over channels too), the gradient."""
    options = {"entropy_loss_weight": 0.1, "diversity_gamma": 2.0, "commitment_loss_weight": 0.25, "spherical": True}
    theirs = pytest.importorskip("vector_quantize_pytorch").LFQ(dim=8, **options)
    ours = BSQ(bits=8, entropy_weight=0.1, diversity=2.0, commitment=0.25 / 8, temperature=1.0)
    x = torch.randn(2, 8, 3, 4, 2, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    (code, ids, loss), parts = theirs(y, inv_temperature=1.0, return_loss_breakdown=True)
    got = ours(x)
    assert torch.equal(joint_ids(got.ids, ours.levels), ids.flatten(1).long())
    torch.testing.assert_close(got.z, code)
    torch.testing.assert_close(got.losses["entropy"], 0.1 * (parts.per_sample_entropy - 2 * parts.batch_entropy))
    torch.testing.assert_close(got.losses["commitment"], 0.25 * parts.commitment)
    into = torch.randn_like(x)
    (sum(got.losses.values()) + (got.z * into).sum()).backward()
    (loss + (code * into).sum()).backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=1e-5)


def test_codes_are_the_nearest_on_the_sphere() -> None:
    quantizer = BSQ(bits=7).eval()
    x = torch.randn(2, 7, 2, 3, 3)
    codes = torch.tensor(list(product((-1.0, 1.0), repeat=7))) / math.sqrt(7)
    code = quantizer(x)
    assert torch.equal(joint_ids(code.ids, quantizer.levels).flatten(), (rows(x) @ codes.T).argmax(dim=1))
    torch.testing.assert_close(code.z.norm(dim=1), torch.ones(2, 2, 3, 3))
    assert torch.equal(code.h, code.z.sign())
    torch.testing.assert_close(code.z, code.h / math.sqrt(7))


def test_ids_name_every_code_once_and_code_0_is_one() -> None:
    """All 1024 words: ids -> z -> ids is the identity, from z and from h alike, and the first bit is the most significant."""
    quantizer = BSQ(bits=10)
    words = torch.tensor(list(product((0, 1), repeat=10))).view(1, 1024, 10)
    z = quantizer.embed(words, ((8, 8, 16),))
    assert z.shape == (1, 10, 8, 8, 16)
    assert bool((z[:, :, 0, 0, 0] < 0).all())
    for h in (z, z.sign(), 100 * z):
        again = quantizer.project(h)
        assert torch.equal(again.ids, words)
        assert torch.equal(again.z, z)
        assert torch.equal(again.h, z.sign())
    assert torch.equal(joint_ids(again.ids, quantizer.levels).flatten(), torch.arange(1024))
    assert quantizer.project(torch.zeros(1, 10, 1, 1, 1)).ids.sum() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_embed_and_project_keep_their_law(dtype: torch.dtype) -> None:
    quantizer = BSQ(bits=5).eval()
    h = torch.randn(2, 5, 3, 2, 2, dtype=dtype)
    code = quantizer.project(h)
    assert code.z.dtype == code.h.dtype == dtype
    assert torch.equal(quantizer.embed(code.ids, ((3, 2, 2),)).to(dtype), code.z)
    again = quantizer.project(code.h)
    assert torch.equal(again.z, code.z)
    assert torch.equal(again.h, code.h)
    assert torch.equal(quantizer(h).z.to(dtype), code.z)


def test_the_gradient_passes_straight_through_to_the_unit_vector() -> None:
    """Its own derivative by x: the part of the gradient along u is lost, the rest is divided by the length."""
    for training in (True, False):
        quantizer = BSQ(bits=4).train(training)
        x = (5 * torch.randn(2, 4, 1, 2, 2)).requires_grad_()
        into = torch.randn(2, 4, 1, 2, 2)
        code = quantizer(x)
        assert torch.equal(code.z, quantizer.embed(code.ids, ((1, 2, 2),)))
        assert not code.h.requires_grad
        (slope,) = torch.autograd.grad((code.z * into).sum(), x)
        length = x.detach().norm(dim=1, keepdim=True)
        u = x.detach() / length
        torch.testing.assert_close(slope, (into - u * (u * into).sum(dim=1, keepdim=True)) / length)


def test_losses_are_weighted_scheduled_and_only_there_in_training() -> None:
    x = torch.randn(2, 5, 2, 3, 2)
    quantizer = BSQ(bits=5, entropy_weight=1.0, entropy_end=0.1, commitment=0.7)
    u = rows(x) / rows(x).norm(dim=1, keepdim=True)
    expected = 0.7 * (u - u.sign() / math.sqrt(5)).square().sum(dim=1).mean()
    torch.testing.assert_close(quantizer(x).losses["commitment"], expected)
    start = float(quantizer(x).losses["entropy"])
    quantizer.anneal(1.0)
    assert float(quantizer(x).losses["entropy"]) == pytest.approx(0.1 * start)
    assert set(BSQ(bits=5, entropy_weight=0.0)(x).losses) == {"commitment"}
    assert quantizer.eval()(x).losses == {}


def test_a_vector_of_length_0_is_a_code_with_a_finite_gradient() -> None:
    x = torch.zeros(1, 6, 1, 2, 2, requires_grad=True)
    code = BSQ(bits=6)(x)
    assert code.ids.sum() == 0
    (sum(code.losses.values()) + code.z.sum()).backward()
    assert bool(x.grad.isfinite().all())


def test_half_precision_input_is_quantized_in_full() -> None:
    x = torch.randn(2, 6, 2, 2, 2).bfloat16()
    quantizer = BSQ(bits=6, commitment=1.0)
    expected = quantizer(x.float()).losses
    with torch.autocast("cpu", dtype=torch.bfloat16):
        code = quantizer(x)
    assert code.z.dtype == torch.float32
    for name, value in expected.items():
        torch.testing.assert_close(code.losses[name], value)


def test_18_bits_train() -> None:
    x = torch.randn(2, 18, 1, 10, 15, requires_grad=True)
    losses = BSQ(bits=18, temperature=0.01)(x).losses
    sum(losses.values()).backward()
    assert bool(torch.isfinite(x.grad).all())
    assert F.cosine_similarity(x.detach(), x.grad, dim=1).abs().max() < 1e-3  # lengths have no gradient


def test_bits_out_of_range_are_told() -> None:
    with pytest.raises(UserError, match=r"^bsq needs between 1 and 63 bits, .* not 0\.$"):
        BSQ(bits=0)
    with pytest.raises(UserError, match=r"over bsq's 2\^36 codes takes 256 GiB and more"):
        BSQ(bits=36)
    assert BSQ(bits=36, entropy_weight=0.0).levels == (2,) * 36
