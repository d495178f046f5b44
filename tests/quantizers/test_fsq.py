"""FSQ against another implementation, the paper's formula in double precision, and all of its codebooks."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch

from vidgen import LatentSpec, UserError
from vidgen.latents import joint_ids, split_ids
from vidgen.quantizers.fsq import FSQ

PAPER = [(8, 6, 5), (8, 5, 5, 5), (7, 5, 5, 5, 5), (8, 8, 8, 6, 5), (8, 8, 8, 5, 5, 5)]


@pytest.mark.parametrize("levels", [*PAPER, (8,) * 4, (3,), (32, 4), (26, 27), (9, 3, 16, 5)])
def test_agrees_with_vector_quantize_pytorch(levels: tuple[int, ...]) -> None:
    """Ids (its least significant channel is the first), codes and gradients."""
    theirs = pytest.importorskip("vector_quantize_pytorch").FSQ(list(levels))
    ours = FSQ(levels=levels)
    x = (2 * torch.randn(2, len(levels), 3, 8, 4)).requires_grad_()
    y = x.detach().clone().requires_grad_()
    got = ours(x)
    code, ids = theirs(y)
    torch.testing.assert_close(got.z, code)
    assert torch.equal(joint_ids(got.ids.flip(-1), levels[::-1]), ids.flatten(1).long())
    into = torch.randn_like(x)
    slopes = [torch.autograd.grad((z * into).sum(), w)[0] for z, w in ((got.z, x), (code, y))]
    torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("level", range(3, 34))
def test_codes_are_those_of_the_paper_s_formula(level: int) -> None:
    """In numpy, over all of tanh's range: bound, shift by half a step for even levels, round, divide by L // 2."""
    x = np.linspace(-9, 9, 2001)
    half, offset = (level - 1) * 1.001 / 2, 0.5 * (level % 2 == 0)
    bounded = np.tanh(x + np.arctanh(offset / half)) * half - offset
    clear = np.abs(bounded - np.floor(bounded) - 0.5) > 1e-4  # float32 may round what lies between two levels to either
    code = FSQ(levels=(level,))(torch.tensor(x, dtype=torch.float32).view(1, 1, 1, 1, -1))
    expected = np.round(bounded) / (level // 2)
    np.testing.assert_allclose(code.z.flatten().numpy()[clear], expected[clear], atol=1e-6)
    assert code.ids.unique().tolist() == list(range(level))


def test_two_levels_are_the_signs() -> None:
    """-1 and 1, split at 0, beside channels of other levels too; the slope is that of tanh."""
    x = torch.tensor([-5.0, -1e-3, 0.0, 1e-3, 5.0], requires_grad=True)
    code = FSQ(levels=(2, 5))(torch.stack([x, torch.zeros(5)]).view(1, 2, 1, 1, 5))
    assert code.z[0, 0].flatten().tolist() == [-1, -1, -1, 1, 1]
    assert code.ids[0, :, 0].tolist() == [0, 0, 0, 1, 1]
    code.z.sum().backward()
    torch.testing.assert_close(x.grad, 1.001 * (1 - x.detach().tanh() ** 2), rtol=1e-4, atol=1e-6)


def test_all_levels_2_are_bits() -> None:
    """Then h is the code, -1 and 1, as the spec's kind says, and projecting it changes nothing."""
    quantizer = FSQ(levels=(2,) * 6)
    assert LatentSpec(channels=6, stride=(1, 1, 1), causal=True, levels=quantizer.levels).kind == "bits"
    x = torch.randn(2, 6, 1, 3, 4)
    code = quantizer(x)
    assert torch.equal(code.h, torch.where(x > 0, 1.0, -1.0))
    assert torch.equal(code.h, code.z)
    for again in (quantizer.project(code.h), quantizer.project(x), quantizer(x)):
        assert torch.equal(again.h, code.h)
        assert torch.equal(again.z, code.z)


@pytest.mark.parametrize("levels", [*PAPER[:3], (2,) * 10, (2, 3, 4, 5), (26, 27, 2), *((level,) for level in range(2, 40))])
def test_ids_name_every_code_of_the_codebook_once(levels: tuple[int, ...]) -> None:
    """The whole implicit codebook: ids -> codes -> ids, joint ids count through it, and encoding reaches every code."""
    quantizer = FSQ(levels=levels)
    words = torch.tensor(list(product(*map(range, levels)))).unsqueeze(0)
    count = math.prod(levels)
    grid = (1, 1, count)
    z = quantizer.embed(words, (grid,))
    assert z.shape == (1, len(levels), *grid)
    assert z.abs().max() <= 1
    assert len(z[0].flatten(1).T.unique(dim=0)) == count
    assert torch.equal(quantizer.quantize(z).ids, words)
    assert torch.equal(quantizer.quantize(z).z, z)
    joint = joint_ids(words, levels)
    assert torch.equal(joint.flatten(), torch.arange(count))
    assert torch.equal(split_ids(joint, levels), words)
    # What the encoder has to say for each code: the inverse of the bound, whose ends lie a little beyond the outermost codes.
    level, digit = torch.tensor(levels, dtype=torch.float64).view(-1, 1, 1, 1), words[0].T.double().view(-1, 1, 1, count)
    shift = torch.where((level % 2 == 0) & (level > 2), torch.atanh(1 / ((level - 1) * 1.001)), 0)
    x = torch.atanh((2 * digit / (level - 1) - 1) / 1.001) - shift
    assert torch.equal(quantizer(x.float().unsqueeze(0)).ids, words)


@pytest.mark.parametrize("level", [1000, 1001, 2001, 4096, 65536])
def test_many_levels_stay_within_their_range(level: int) -> None:
    """The bound's margin alone is more than half a level here: unclamped, ids would go one beyond the last."""
    x = torch.tensor([-50.0, 0.0, 50.0]).view(1, 1, 1, 1, 3)
    code = FSQ(levels=(level,))(x)
    assert code.ids.flatten().tolist() == [0, level // 2, level - 1]
    assert float(code.z.min()) == -1


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (2, 7), (2, 2, 2)])
def test_embed_and_project_keep_their_law(levels: tuple[int, ...]) -> None:
    quantizer = FSQ(levels=levels).eval()
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        x = torch.randn(2, len(levels), 3, 2, 2)
        h = quantizer(x).h.to(dtype)
        code = quantizer.project(h)
        assert code.z.dtype == code.h.dtype == dtype
        assert torch.equal(quantizer.embed(code.ids, ((3, 2, 2),)).to(dtype), code.z)
        assert dtype == torch.bfloat16 or torch.equal(quantizer(x).ids, code.ids)  # it may round h onto another code
        assert torch.equal(quantizer.project(code.h).z, code.z)


def test_the_gradient_passes_straight_through_the_rounding() -> None:
    """It is that of the bound, whatever the rounding did; z is the code to the bit, h what was rounded, without gradient."""
    quantizer = FSQ(levels=(8, 5, 2))
    x, into = torch.randn(2, 2, 3, 1, 4, 5).unbind()
    x.requires_grad_()
    code = quantizer(x)
    assert torch.equal(code.z, quantizer.embed(code.ids, ((1, 4, 5),)))
    assert torch.equal(code.h, quantizer.bounded(x.detach()))
    assert not code.h.requires_grad
    slopes = [torch.autograd.grad((z * into).sum(), x)[0] for z in (code.z, quantizer.bounded(x))]
    assert torch.equal(*slopes)
    assert code.losses == {}


def test_half_precision_input_is_quantized_in_full() -> None:
    x = torch.randn(2, 4, 2, 3, 3).bfloat16()
    quantizer = FSQ(levels=(8, 5, 5, 5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        code = quantizer(x)
    assert code.z.dtype == code.h.dtype == torch.float32
    assert torch.equal(code.z, quantizer(x.float()).z)


@pytest.mark.parametrize("levels", [(), (8, 1), (0,), (70000,), (60000,) * 4])
def test_levels_out_of_range_are_told(levels: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"^fsq needs levels between 2 and 65536, one a channel, whose product is at most 2\^63"):
        FSQ(levels=levels)
