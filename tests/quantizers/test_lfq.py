"""LFQ against enumeration of all codes and against another implementation."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from vidgen import UserError
from vidgen.latents import joint_ids, split_ids
from vidgen.nn.entropy import code_entropies
from vidgen.quantizers.lfq import LFQ


def entropies(tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    return code_entropies(tokens * 4 / temperature)


def enumerated(tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The definition: p(c|x) = softmax over all codes c of 2 x.c / T; mean entropy of the tokens, entropy of the mean."""
    codes = torch.tensor(list(product((-1.0, 1.0), repeat=tokens.shape[1])), dtype=tokens.dtype)
    log_p = (2 * tokens @ codes.T / temperature).log_softmax(dim=1)
    mean = log_p.exp().mean(dim=0)
    return -(log_p.exp() * log_p).sum(dim=1).mean(), -torch.special.xlogy(mean, mean).sum()


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 7, 8, 10, 12])
@pytest.mark.parametrize("temperature", [0.01, 1.0, 20.0])
def test_entropies_are_exact(bits: int, temperature: float) -> None:
    """Values and gradients, whatever the temperature makes of the distribution: sharp, soft, or all but uniform."""
    tokens = 0.3 * torch.randn(23, bits, dtype=torch.float64) * max(1.0, temperature)
    tokens.requires_grad_()
    for ours, theirs in zip(entropies(tokens, temperature), enumerated(tokens, temperature), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
        slopes = [torch.autograd.grad(value, tokens, retain_graph=True)[0] for value in (ours, theirs)]
        torch.testing.assert_close(*slopes, rtol=1e-6, atol=1e-9)


def test_entropies_of_known_distributions() -> None:
    """Tokens at 0 are uniform over the codes; one token far out is certain; all corners once fill the codebook."""
    token, codebook = entropies(torch.zeros(5, 6), 0.01)
    assert (float(token), float(codebook)) == pytest.approx((6 * math.log(2), 6 * math.log(2)))
    token, codebook = entropies(torch.full((4, 6), 3.0), 0.01)
    assert (float(token), float(codebook)) == pytest.approx((0, 0), abs=1e-6)
    corners = torch.tensor(list(product((-1.0, 1.0), repeat=6)))
    token, codebook = entropies(corners, 0.01)
    assert (float(token), float(codebook)) == pytest.approx((0, 6 * math.log(2)), abs=1e-5)


@pytest.mark.parametrize("scale", [1e-8, 0.1, 10.0, 1e4])
def test_gradients_are_finite_where_probabilities_underflow(scale: float) -> None:
    """x log x has an infinite slope at 0, where the probability of most codes lies: it once made the loss NaN."""
    tokens = (scale * torch.randn(64, 12)).requires_grad_()
    torch.set_flush_denormal(True)  # as in training
    try:
        sum(entropies(tokens, 0.01)).backward()
    finally:
        torch.set_flush_denormal(False)
    assert bool(torch.isfinite(tokens.grad).all())


@pytest.mark.parametrize("bits", [0, -1, 64, 70, 10**9])
def test_bits_that_no_id_can_hold_are_told(bits: int) -> None:
    with pytest.raises(UserError, match=rf"^lfq needs between 1 and 63 bits, .* not {bits}\.$"):
        LFQ(bits=bits)


def test_bits_that_no_entropy_can_be_exact_of_are_told() -> None:
    with pytest.raises(UserError, match=r"over lfq's 2\^40 codes takes 4,096 GiB .* at most 32 bits; with entropy_weight=0"):
        LFQ(bits=40)
    with pytest.raises(UserError, match=r"temperature is above 0; got 0\.0\.$"):
        LFQ(bits=4, temperature=0.0)


def test_63_bits_without_entropies() -> None:
    """The most that a joint id holds, there and back; training needs nothing that grows with the codebook."""
    quantizer = LFQ(bits=63, entropy_weight=0.0)
    x = torch.randn(1, 63, 1, 4, 5)
    x[:, :, 0, 0, 0] = 1.0
    code = quantizer(x)
    assert set(code.losses) == {"commitment"}
    joint = joint_ids(code.ids, quantizer.levels)
    assert int(joint[0, 0]) == 2**63 - 1
    assert bool((joint >= 0).all())
    assert torch.equal(split_ids(joint, quantizer.levels), code.ids)


def test_18_bits_need_no_list_of_codes() -> None:
    """2**18 codes for 300 tokens: enumeration would hold 78 million probabilities."""
    quantizer = LFQ(bits=18)
    x = torch.randn(2, 18, 1, 10, 15, requires_grad=True)
    losses = quantizer(x).losses
    sum(losses.values()).backward()
    assert bool(torch.isfinite(x.grad).all())
    # Two tokens far apart: the codebook's entropy is log 2 whatever its size.
    assert float(entropies(torch.stack([torch.ones(18), -torch.ones(18)]), 0.01)[1]) == pytest.approx(math.log(2), abs=1e-5)


@pytest.mark.parametrize("diversity", [1.0, 2.5])
def test_agrees_with_vector_quantize_pytorch(diversity: float) -> None:
    """Ids (its first bit is the most significant too), codes, both entropies, the commitment, and the gradient of their sum."""
    theirs = pytest.importorskip("vector_quantize_pytorch").LFQ(
        dim=8, entropy_loss_weight=0.1, diversity_gamma=diversity, commitment_loss_weight=0.25
    )
    ours = LFQ(bits=8, entropy_weight=0.1, diversity=diversity, commitment=0.25, temperature=0.01)
    # So near to 0 that no code's probability is below 1e-5, where it clamps logarithms.
    x = (0.002 * torch.randn(2, 8, 3, 4, 2)).requires_grad_()
    y = x.detach().clone().requires_grad_()
    (code, ids, loss), parts = theirs(y, inv_temperature=100.0, return_loss_breakdown=True)
    got = ours(x)
    assert torch.equal(joint_ids(got.ids, ours.levels), ids.flatten(1).long())
    torch.testing.assert_close(got.z, code)
    token, codebook = entropies(x.movedim(1, -1).reshape(-1, 8), 0.01)
    torch.testing.assert_close(token, parts.per_sample_entropy, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(codebook, parts.batch_entropy, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(got.losses["commitment"], 0.25 * parts.commitment)
    torch.testing.assert_close(sum(got.losses.values()), loss, rtol=1e-3, atol=1e-3)
    sum(got.losses.values()).backward()
    loss.backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-3, atol=1e-6)


def test_the_gradient_passes_straight_through() -> None:
    quantizer = LFQ(bits=4).eval()
    x = torch.randn(2, 4, 1, 2, 2, requires_grad=True)
    into = torch.randn(2, 4, 1, 2, 2)
    code = quantizer(x)
    assert set(code.z.unique().tolist()) == {-1.0, 1.0}
    assert not code.h.requires_grad
    (code.z * into).sum().backward()
    assert torch.equal(x.grad, into)


def test_codes_are_exact_however_large_the_input() -> None:
    """Straight through as x + (z - x) would round them away: 1e9 + (1 - 1e9) is 0."""
    x = torch.tensor([1e9, -1e9, 1e-9, 0.3]).view(1, 4, 1, 1, 1)
    for training in (True, False):
        assert LFQ(bits=4).train(training)(x).z.flatten().tolist() == [1, -1, 1, 1]


def test_zero_counts_as_negative() -> None:
    code = LFQ(bits=3).project(torch.tensor([0.0, -0.0, 1e-30]).view(1, 3, 1, 1, 1))
    assert code.z.flatten().tolist() == [-1, -1, 1]
    assert code.ids.flatten().tolist() == [0, 0, 1]


def test_ids_name_every_code_of_the_codebook_once() -> None:
    """All 1024 words: ids -> z -> ids is the identity, and counting them counts through the bits, most significant first."""
    quantizer = LFQ(bits=10)
    words = torch.tensor(list(product((0, 1), repeat=10))).view(1, 1024, 10)
    z = quantizer.embed(words, ((8, 8, 16),))
    assert z.shape == (1, 10, 8, 8, 16)
    assert set(z.unique().tolist()) == {-1.0, 1.0}
    again = quantizer.project(z)
    assert torch.equal(again.ids, words)
    assert torch.equal(again.z, z)
    assert torch.equal(joint_ids(again.ids, quantizer.levels).flatten(), torch.arange(1024))


def test_embed_and_project_keep_their_law() -> None:
    quantizer = LFQ(bits=5)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        h = torch.randn(2, 5, 3, 2, 2, dtype=dtype)
        code = quantizer.project(h)
        assert code.z.dtype == code.h.dtype == dtype
        assert torch.equal(quantizer.embed(code.ids, ((3, 2, 2),)).to(dtype), code.z)


def test_losses_are_weighted_and_only_there_in_training() -> None:
    x = torch.randn(2, 5, 2, 3, 2)
    tokens = x.movedim(1, -1).reshape(-1, 5)
    token, codebook = entropies(tokens, 0.5)
    quantizer = LFQ(bits=5, entropy_weight=0.3, diversity=2.0, commitment=0.7, temperature=0.5)
    losses = quantizer(x).losses
    torch.testing.assert_close(losses["entropy"], 0.3 * (token - 2.0 * codebook))
    torch.testing.assert_close(losses["commitment"], 0.7 * (x - x.sign()).square().mean())
    assert quantizer.eval()(x).losses == {}


def test_the_entropy_weight_falls_along_its_schedule() -> None:
    x = torch.randn(1, 4, 1, 4, 4)
    quantizer = LFQ(bits=4, entropy_weight=1.0, entropy_end=0.1)
    values = []
    for progress in (0.0, 0.5, 1.0):
        quantizer.anneal(progress)
        values.append(float(quantizer(x).losses["entropy"]))
    assert values[1] / values[0] == pytest.approx(0.55)
    assert values[2] / values[0] == pytest.approx(0.1)


def test_half_precision_input_is_quantized_in_full() -> None:
    """Under autocast the entropy terms are those of full precision."""
    x = torch.randn(2, 6, 2, 2, 2).bfloat16()
    quantizer = LFQ(bits=6)
    expected = quantizer(x.float()).losses
    with torch.autocast("cpu", dtype=torch.bfloat16):
        code = quantizer(x)
    assert code.z.dtype == torch.float32
    for name, value in expected.items():
        torch.testing.assert_close(code.losses[name], value)
