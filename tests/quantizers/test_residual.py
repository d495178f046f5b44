"""Residual stacks against a loop by hand, closed forms, and another implementation."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vidgen import UserError
from vidgen.quantizers.residual import Residual

INNER: dict[str, dict[str, Any]] = {
    "vq": {"name": "vq", "codes": 16, "channels": 5, "restart": 0.0},
    "gradient": {"name": "vq", "codes": 16, "channels": 5, "restart": 0.0, "learning": "gradient"},
    "simvq": {"name": "simvq", "codes": 16, "channels": 5},
    "lfq": {"name": "lfq", "bits": 5},
    "bsq": {"name": "bsq", "bits": 5},
    "fsq": {"name": "fsq", "levels": [8, 5, 2]},
    "gumbel": {"name": "gumbel", "codes": 16, "channels": 5, "logits": "distance"},
}
FIXED = {"lfq": 0.5, "bsq": 0.5, "fsq": 0.5}


def stack(inner: str, **options: Any) -> Residual:
    """Small; codebooks are as they were drawn, whatever the first batch."""
    quantizer = Residual(**{"quantizer": INNER[inner], "stages": 3, "shrink": FIXED.get(inner, 1.0)} | options)
    for name, buffer in quantizer.named_buffers():
        if name.endswith("started"):
            buffer.fill_(True)
    return quantizer


def cells(rows: Tensor, like: Tensor) -> Tensor:
    """(B, N, C) -> (B, C, t, h, w)."""
    return rows.unflatten(1, like.shape[2:]).movedim(-1, 1)


def rows(x: Tensor) -> Tensor:
    return x.movedim(1, -1).flatten(1, 3)


# --- another implementation ---------------------------------------------------------------------------------------------------


def test_agrees_with_vector_quantize_pytorch_s_residual_vq() -> None:
    """Over some steps of training, then in use: ids, codes, the losses, their gradient, and every stage's codebook."""
    library = pytest.importorskip("vector_quantize_pytorch")
    theirs = library.ResidualVQ(
        dim=5, codebook_size=16, num_quantizers=3, decay=0.9, commitment_weight=0.25, rotation_trick=False
    )
    ours = stack("vq", quantizer=INNER["vq"] | {"decay": 0.9})
    tables = [layer._codebook for layer in theirs.layers]
    inner = [stage.parts[0] for stage in ours.quantizers]
    for table, part in zip(tables, inner, strict=True):
        part.codes.copy_(table.embed[0])
        part.sums.copy_(table.embed_avg[0])
    for step in range(4):
        ours.train(step < 3)
        theirs.train(step < 3)
        x = torch.randn(2, 5, 3, 4, 2, requires_grad=True)
        y = x.detach().clone().requires_grad_()
        got = ours(x)
        code, ids, losses = theirs(rows(y))
        assert torch.equal(got.ids, ids)
        torch.testing.assert_close(got.z, cells(code, x))
        if step < 3:
            torch.testing.assert_close(got.losses["commitment"], losses.mean())
            slopes = [torch.autograd.grad(value, w)[0] for value, w in ((got.losses["commitment"], x), (losses.mean(), y))]
            torch.testing.assert_close(*slopes)
        for table, part in zip(tables, inner, strict=True):
            torch.testing.assert_close(part.codes, table.embed[0])
            torch.testing.assert_close(part.counts, table.cluster_size[0])


def test_agrees_with_vector_quantize_pytorch_s_residual_lfq() -> None:
    """Its codes fall by one half from stage to stage: ids, codes and the commitment."""
    library = pytest.importorskip("vector_quantize_pytorch")
    theirs = library.ResidualLFQ(dim=6, codebook_size=64, num_quantizers=4, commitment_loss_weight=0.3, entropy_loss_weight=0.0)
    inner = {"name": "lfq", "bits": 6, "commitment": 0.3, "entropy_weight": 0.0}
    ours = Residual(quantizer=inner, stages=4, shrink=0.5)
    x = torch.randn(2, 6, 3, 4, 2, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    got = ours(x)
    code, ids, losses = theirs(rows(y))
    places = 2 ** torch.arange(5, -1, -1)
    assert torch.equal((got.ids.unflatten(-1, (4, 6)) * places).sum(dim=-1), ids.long())
    torch.testing.assert_close(got.z, cells(code, x))
    torch.testing.assert_close(got.losses["commitment"], losses.mean())
    slopes = [torch.autograd.grad(value, w)[0] for value, w in ((got.losses["commitment"], x), (losses.mean(), y))]
    torch.testing.assert_close(*slopes)


def test_agrees_with_vector_quantize_pytorch_s_residual_fsq() -> None:
    """Where both are the same: odd levels, inside of the range, at a scale that falls by its 1 / L."""
    library = pytest.importorskip("vector_quantize_pytorch")
    theirs = library.ResidualFSQ(levels=[5, 5, 5], num_quantizers=3).eval()
    ours = Residual(quantizer={"name": "fsq", "levels": (5, 5, 5)}, stages=3, shrink=0.2).eval()
    v = 1.8 * torch.rand(2, 3, 3, 4, 2) - 0.9
    clamp = theirs.soft_clamp_input_value.view(1, 3, 1, 1, 1)
    code, ids = theirs(rows(torch.atanh(v / clamp) * clamp))  # it bends its input by a tanh of its own, and so do we
    got = ours(torch.atanh(v / 1.001))
    same = (got.z - cells(code, v)).abs() < 1e-5
    assert same.double().mean() > 0.999  # but for ties
    places = torch.tensor([1, 5, 25])
    same = (got.ids.unflatten(-1, (3, 3)) * places).sum(dim=-1) == ids
    assert same.double().mean() > 0.99


# --- what a stack is ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", INNER)
def test_each_stage_quantizes_what_is_left(inner: str) -> None:
    """By hand, from the parts' own codes: z is the sum, and the ids of stage s are those of the rest in its units."""
    quantizer = stack(inner).eval()
    x = torch.randn(2, quantizer.channels, 2, 3, 4)
    code = quantizer(x)
    bound = {"bsq": lambda: F.normalize(x, dim=1), "fsq": lambda: quantizer.quantizers[0].parts[0].bounded(x)}
    rest, total = bound.get(inner, lambda: x)(), torch.zeros_like(x)
    for index, (stage, ids) in enumerate(zip(quantizer.quantizers, code.ids.chunk(3, dim=-1), strict=True)):
        part, scale = stage.parts[0], FIXED.get(inner, 1.0) ** index
        own = part.embed(ids, ((2, 3, 4),))
        assert torch.equal(getattr(part, "quantize", part.project)(rest / scale).ids, ids)
        rest, total = rest - scale * own, total + scale * own
    torch.testing.assert_close(code.z, total)
    assert torch.equal(code.h, bound.get(inner, lambda: x)())
    assert quantizer.levels == quantizer.quantizers[0].parts[0].levels * 3
    assert quantizer.stages == 3


@pytest.mark.parametrize("mode", ["straight_through", "relaxed", "soft"])
def test_relaxed_samples_teach_every_stage_its_codes(mode: str) -> None:
    """They learn through z alone: all stages' codes and the input have the slope of a stack without any detaching."""
    quantizer = stack("gumbel", quantizer=INNER["gumbel"] | {"mode": mode, "kl_start": 0.0, "kl_end": 0.0})
    parts = [stage.parts[0] for stage in quantizer.quantizers]
    x, target = torch.randn(2, 5, 2, 3, 4, requires_grad=True), torch.randn(2, 5, 2, 3, 4)
    wanted = [x, *(part.codes for part in parts)]

    def by_hand() -> Tensor:
        rest, total = x, torch.zeros_like(x)
        for part in parts:
            z = part(rest).z
            rest, total = rest - z, total + z
        return total

    slopes = []
    for z in (lambda: quantizer(x).z, by_hand):
        torch.manual_seed(0)
        slopes.append(torch.autograd.grad((z() - target).square().sum(), wanted))
    torch.testing.assert_close(*slopes)
    assert all(slope.abs().sum() > 1e-3 for slope in slopes[0])


@pytest.mark.parametrize("levels", [(5, 5), (8, 4), (3, 9), (2, 2), (2, 7)])
def test_fixed_codes_refine_to_any_precision(levels: tuple[int, ...]) -> None:
    """fsq at 1 / (L - 1): an error is at most half a step, the first stage's times shrink a stage, wherever the bound is."""
    shrink = 1 / (min(levels) - 1) if min(levels) > 2 else 0.5
    v = 2 * torch.rand(1, len(levels), 1, 50, 40, dtype=torch.float64) - 1
    x = 3 * torch.atanh(v)
    for stages in (1, 2, 4):
        quantizer = Residual(quantizer={"name": "fsq", "levels": levels}, stages=stages, shrink=shrink).eval()
        target = quantizer.quantizers[0].bounded(x.float())
        error = (quantizer(x).z - target).abs().amax(dim=(0, 2, 3, 4))
        half_a_step = torch.tensor([1.0 if level == 2 else 0.5 / (level // 2) for level in levels]) + 1e-3
        assert bool((error <= half_a_step * shrink ** (stages - 1) * 1.05).all())


def test_signs_refine_to_any_precision() -> None:
    """lfq at 1 / 2 writes numbers between -2 and 2 in binary; bsq the unit vectors whose channels are not too long for it."""
    x = 4 * torch.rand(1, 6, 1, 5, 5) - 2
    code = Residual(quantizer={"name": "lfq", "bits": 6}, stages=10, shrink=0.5).eval()(x)
    assert (code.z - x).abs().max() <= 2**-9 * 1.001
    u = F.normalize(0.5 + torch.rand(1, 6, 1, 5, 5), dim=1) * torch.randn(1, 6, 1, 5, 5).sign()
    code = Residual(quantizer={"name": "bsq", "bits": 6}, stages=10, shrink=0.5).eval()(100 * u)
    assert (code.z - u).abs().max() <= 2**-9 / math.sqrt(6) * 1.001


@pytest.mark.parametrize("inner", INNER)
def test_groups_are_stacks_of_their_own_and_ids_stage_major(inner: str) -> None:
    quantizer = stack(inner, groups=2).eval()
    half = quantizer.channels // 2
    x = torch.randn(2, 2 * half, 1, 3, 4)
    code = quantizer(x)
    ids = code.ids.unflatten(-1, (3, 2, -1))
    for group in range(2):
        alone = stack(inner).eval()
        for stage, both in zip(alone.quantizers, quantizer.quantizers, strict=True):
            stage.parts[0].load_state_dict(both.parts[group].state_dict())
        expected = alone(x[:, group * half : (group + 1) * half])
        assert torch.equal(code.z[:, group * half : (group + 1) * half], expected.z)
        assert torch.equal(ids[:, :, :, group].flatten(-2), expected.ids)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("inner", INNER)
def test_embed_and_project_keep_their_law(inner: str, groups: int) -> None:
    quantizer = stack(inner, groups=groups)
    before = copy.deepcopy(quantizer.state_dict())
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        used = quantizer.eval()(torch.randn(2, quantizer.channels, 3, 2, 2, dtype=dtype))
        h = used.h.to(dtype)
        code = quantizer.train().project(h)
        assert code.z.dtype == code.h.dtype == dtype
        assert torch.equal(quantizer.embed(code.ids, ((3, 2, 2),)).to(dtype), code.z)
        assert not code.z.requires_grad
        if torch.equal(h.float(), used.h):  # bfloat16 rounds what has been bounded
            assert torch.equal(used.ids, code.ids)
            assert torch.equal(used.z.to(dtype), code.z)
        assert used.losses == {}
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())


def test_the_first_stages_ids_alone_embed_to_the_coarse_code() -> None:
    quantizer = stack("lfq").eval()
    x = torch.randn(2, 5, 1, 3, 4)
    code = quantizer(x)
    coarse = quantizer.embed(code.ids[..., :5], ((1, 3, 4),))
    assert torch.equal(coarse, torch.where(x > 0, 1.0, -1.0))
    assert torch.equal(quantizer.embed(code.ids, ((1, 3, 4),)), code.z)


@pytest.mark.parametrize("inner", [name for name in INNER if name != "gumbel"])
def test_the_gradient_passes_through_once(inner: str) -> None:
    """As through the first stage alone: the identity but where it bounds; and z is the sum of the codes to the bit."""
    quantizer = stack(inner)
    x, into = torch.randn(2, 2, quantizer.channels, 1, 3, 4).unbind()
    x.requires_grad_()
    for training in (True, False):
        code = quantizer.train(training)(x)
        assert torch.equal(code.z, quantizer.embed(code.ids, ((1, 3, 4),))) or (training and inner == "vq")  # its codes moved on
        (slope,) = torch.autograd.grad((code.z * into).sum(), x)
        (expected,) = torch.autograd.grad((quantizer.quantizers[0].bounded(x) * into).sum(), x)
        torch.testing.assert_close(slope, expected)
        assert not code.h.requires_grad


def test_losses_are_means_over_stages_and_groups() -> None:
    """From the definition, for a commitment in the units of the input; codes learned by gradient have one in all stages."""
    quantizer = Residual(
        quantizer={"name": "lfq", "bits": 3, "commitment": 0.4, "entropy_weight": 0.0}, stages=3, groups=2, shrink=0.5
    )
    x = torch.randn(2, 6, 1, 3, 4)
    rest, errors = x, []
    for scale in (1.0, 0.5, 0.25):
        rest = rest - scale * torch.where(rest > 0, 1.0, -1.0)
        errors.append(rest.square().mean())
    torch.testing.assert_close(quantizer(x).losses["commitment"], 0.4 * sum(errors) / 3)
    learned = stack("gradient", groups=2)
    losses = learned(torch.randn(2, 10, 1, 3, 4)).losses
    assert set(losses) == {"commitment", "codebook"}
    sum(losses.values()).backward()
    assert all(bool((weight.grad != 0).any()) for weight in learned.parameters())
    assert len(list(learned.parameters())) == 6


# --- dropout ------------------------------------------------------------------------------------------------------------------


def test_dropout_is_of_what_the_decoder_sees() -> None:
    """Each clip's z is the sum of its first n stages, n uniform in the share of clips that is drawn; the ids are all there."""
    quantizer = stack("lfq", dropout=0.6)
    x = torch.randn(3000, 5, 1, 1, 1)
    code = quantizer(x)
    whole = quantizer.project(x)
    assert torch.equal(code.ids, whole.ids)
    sums = torch.stack([quantizer.embed(code.ids[..., : 5 * n], ((1, 1, 1),)) for n in (1, 2, 3)])
    seen = (sums == code.z).flatten(2).all(dim=2)
    assert bool((seen.sum(dim=0) == 1).all())
    shares = seen.double().mean(dim=1)
    torch.testing.assert_close(shares, torch.tensor([0.2, 0.2, 0.6]).double(), atol=0.03, rtol=0)
    assert torch.equal(quantizer.eval()(x).z, whole.z)


def test_what_dropout_leaves_out_learns_all_the_same() -> None:
    """Else processes would add up different sums, and late codebooks would age less than early ones."""
    one, other = stack("vq", dropout=1.0), stack("vq")
    other.load_state_dict(one.state_dict())
    x = torch.randn(4, 5, 1, 3, 4)
    losses = [quantizer(x).losses for quantizer in (one, other)]
    torch.testing.assert_close(*losses)
    assert all(torch.equal(a, b) for a, b in zip(one.buffers(), other.buffers(), strict=True))


# --- the rest -----------------------------------------------------------------------------------------------------------------


def test_schedules_reach_every_part() -> None:
    quantizer = Residual(quantizer={"name": "lfq", "bits": 4}, stages=2, groups=2)
    quantizer.anneal(0.3)
    assert {part.progress for stage in quantizer.quantizers for part in stage.parts} == {0.3}


@pytest.mark.parametrize("inner", INNER)
def test_half_precision_input_is_quantized_in_full(inner: str) -> None:
    quantizer = stack(inner)
    other = copy.deepcopy(quantizer)
    x = torch.randn(2, quantizer.channels, 2, 3, 3).bfloat16()
    torch.manual_seed(0)  # gumbel draws
    expected = other(x.float())
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        code = quantizer(x)
    assert code.z.dtype == code.h.dtype == torch.float32
    assert torch.equal(code.ids, expected.ids)
    torch.testing.assert_close(code.losses, expected.losses)


@pytest.mark.parametrize("options", [{"stages": 0}, {"groups": 0}, {"shrink": 0.0}, {"shrink": 1.5}, {"dropout": -0.1}])
def test_values_out_of_range_are_told(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^residual needs stages and groups of at least 1, .*; got "):
        stack("lfq", **options)


@pytest.mark.parametrize("inner", [{"name": "kl"}, {"name": "gumbel"}, {"name": "residual", "quantizer": INNER["lfq"]}])
def test_what_cannot_be_stacked_is_told(inner: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"^residual stacks discrete quantizers .*, and '{inner['name']}' is none of these\.$"):
        Residual(quantizer=inner)
