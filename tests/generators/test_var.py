"""Next-scale prediction: who sees whom, by gradient; the cache; the inputs, derived anew; samples, likelihoods, known cells."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from math import prod
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor
from torch.nn import functional as F

from vidgen import Condition, Latent, UserError, config, hub
from vidgen.generators.var import VAR
from vidgen.latents import Shape
from vidgen.nn.layout import token_layout
from vidgen.nn.pyramid import residual_pyramid

KINDS = ["pyramid", "pyramid_lfq", "pyramid_clip", "pyramid_cells", "kl", "kl_clip"]
GROWING = [[0.5, 0.5, 0.5], [1.0, 1.0, 1.0]]
CELLS = (6, 4, 2)


def made(name: str, double: bool = False, **options: Any) -> tuple[Any, Any, Latent]:
    """A tokenizer of that recipe, small, its generator with no weight at its start, and latents of 6 cells in time.

    Of those without "clip" or "cells" in their name the window is one pyramid.
    """
    own = {"kl": {"clip": 0}, "kl_clip": {"scales": GROWING, "clip": 3}, "pyramid_cells": {"memory": 4}}.get(name, {})
    recipe = {"pyramid_cells": "pyramid", "kl_clip": "kl"}.get(name, name)
    quantizer = tiny.tokenizer_config(recipe)["quantizer"]
    if name in ("pyramid", "pyramid_lfq"):
        quantizer |= {"clip": 0}
    tokenizer = tiny.tokenizer(recipe, quantizer=quantizer).eval()
    tokenizer.measure(tiny.videos(tokenizer))
    tokenizer = tokenizer.double() if double else tokenizer
    generator = tiny.generator("var", tokenizer.space, num_classes=3, **{"memory": 1} | own | options)
    dtype = torch.float64 if double else torch.float32
    latent = tokenizer.encode(tiny.video(tiny.shape_of(tokenizer, CELLS), 3).to(dtype))
    generator.to(dtype).prepare(latent)
    return tokenizer, tiny.stirred(generator).eval(), latent


def sums_of(generator: VAR, latent: Latent) -> tuple[list[Tensor], list[Tensor]]:
    return generator._pyramid(replace(latent, logvar=None))


def owner(generator: VAR, latent: Latent) -> list[tuple[int, int]]:
    """(piece, scale) of every token."""
    grids = generator._grids(latent)
    return [divmod(index, generator.scales) for index, grid in enumerate(grids) for _ in range(prod(grid))]


def changed(sums: list[Tensor], index: int) -> list[Tensor]:
    """The sums with more noise from that scale of that piece on: what another draw at it would make of them."""
    torch.manual_seed(index)
    return [z + (torch.randn_like(z) if i == index else 0) for i, z in enumerate(sums)]


@pytest.mark.parametrize("name", KINDS)
def test_a_token_sees_its_scale_and_those_before(name: str) -> None:
    """By gradient, for every pair of scales: what a scale adds reaches later scales of its clip and the next clips, no others."""
    _, generator, latent = made(name)
    _, sums = sums_of(generator, latent)
    sums = [z.clone().requires_grad_() for z in sums]
    out = generator(sums, generator._grids(latent), tiny.labels(0, 1, 2), 0)
    owners = owner(generator, latent)
    pieces = len(sums) // generator.scales
    for place in sorted(set(owners)):
        tokens = [i for i, one in enumerate(owners) if one == place]
        for token in (tokens[0], tokens[-1]):
            gradients = torch.autograd.grad(out[:, token].square().sum(), sums, retain_graph=True, allow_unused=True)
            for index, gradient in enumerate(gradients):
                piece, scale = divmod(index, generator.scales)
                seen = gradient is not None and bool(gradient.abs().sum() > 0)
                own = piece == place[0] and scale < place[1]
                # A finished clip is seen whole by the next, and through it by all that follow.
                assert seen == (own or (piece < place[0] and scale == generator.scales - 1)), (place, piece, scale)
    assert pieces == {"pyramid_clip": 3, "kl_clip": 3, "pyramid_cells": 6}.get(name, 1)


def test_within_a_scale_all_see_all() -> None:
    """Cells of a scale hear of each other's inputs in both directions, in space and in time."""
    _, generator, latent = made("pyramid")
    _, sums = sums_of(generator, latent)
    sums = [z.clone().requires_grad_() for z in sums]
    out = generator(sums, latent.grids, None, 0)
    last = prod(latent.grids[-1])
    for token in (-1, -last):
        (gradient,) = torch.autograd.grad(out[:, token].square().sum(), sums[-2], retain_graph=True)
        assert bool((gradient.abs().sum(dim=1) > 0).all())


@pytest.mark.parametrize("memory", [1, 2])
def test_older_clips_leave_the_cache(memory: int) -> None:
    """With one clip of memory the cache holds one finished clip; and what training shows is what sampling shows, either way."""
    _, generator, latent = made("pyramid_clip", double=True, memory=memory, guidance_scale=1.0)
    compare(generator, latent, None)


def compare(generator: VAR, latent: Latent, condition: Condition | None, **options: Any) -> None:
    """Draws a sample; the trunk's output at every step is that of one forward over what has been drawn, fed as training is.

    Of ids what is fed is the sample, as any clip. Of real numbers it is the sums themselves: the scales of a finished latent are
    what its pyramid says, and that of a model that errs may share them out otherwise.
    """
    steps: list[Tensor] = []
    shown: list[tuple[int, Tensor]] = []
    draw, show = generator.head.sample, generator._shown

    def drawn(x: Tensor, *rest: Any) -> Any:
        steps.append(x[-3:])
        return draw(x, *rest)

    def showing(block: Any, z: Tensor, view: Any) -> Any:
        shown.append((block.scale, z))
        return show(block, z, view)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generator.head, "sample", drawn)
        patch.setattr(generator, "_shown", showing)
        sample = generator.sample(3, tiny.shape_of(hub_like(latent), CELLS), condition, seed=5, **options)
    grids = generator._grids(sample)
    assert len(steps) == len(grids)
    sums = [z for scale, z in shown if scale] + [sample.z] if generator.continuous else sums_of(generator, sample)[1]
    whole = generator(sums, grids, condition, 0)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, rtol=0, atol=1e-10)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("name", KINDS)
def test_cached_is_full_at_every_scale_and_training_is_sampling(name: str, guidance: float) -> None:
    """The model's own tokens, fed back as a training clip: the same inputs and outputs, to rounding in float64."""
    _, generator, latent = made(name, double=True)
    compare(generator, latent, tiny.labels(0, 1, 2), guidance_scale=guidance)


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("name", ["pyramid", "pyramid_clip", "kl"])
def test_cached_is_full_with_known_cells(name: str, same: bool) -> None:
    """As many for all clips, or each its own."""
    _, generator, latent = made(name, double=True)
    mask = torch.zeros(3, CELLS[0], dtype=torch.bool)
    mask[:, 0] = True
    if not same:
        mask[1, 1:5], mask[2] = True, False
    condition = replace(tiny.labels(0, 1, 2), known=latent, known_mask=mask)
    compare(generator, latent, condition, guidance_scale=1.0)


def hub_like(latent: Latent) -> Any:
    class WithSpec:
        spec = latent.spec

    return WithSpec


def test_inputs_are_var_s() -> None:
    """Scale k + 1 is shown the sum of scales 1 to k, averaged down (VAR, 3.5), derived from codes and interpolation alone."""
    _, generator, latent = made("pyramid")
    inner = generator.space._quantizer
    full = latent.grids[-1]
    z = torch.zeros(3, generator.spec.channels, *full)
    blocks, seen = list(zip(latent.grids, latent.scale_ids(), strict=True)), []
    for scale, (grid, ids) in enumerate(blocks[:-1]):
        code = F.embedding(ids[..., 0], inner.quantizer.codes).movedim(-1, 1)
        frames = code.transpose(1, 2).flatten(0, 1)
        up = frames if grid == full else F.interpolate(frames, full[1:], mode="bicubic", align_corners=False)
        phi = inner.phis[inner.phi_of[scale]]
        up = (1 - phi.ratio) * up + phi.ratio * F.conv2d(up, phi.weight.squeeze(2), phi.bias, padding=1)
        z = z + up.unflatten(0, (3, full[0])).transpose(1, 2)
        seen.append(F.adaptive_avg_pool3d(z, blocks[scale + 1][0]).flatten(2).transpose(1, 2))
    shown: list[Tensor] = []
    handle = generator.embed.register_forward_pre_hook(lambda module, inputs: shown.append(inputs[0]))
    _, sums = sums_of(generator, latent)
    generator(sums, latent.grids, None, 0)
    handle.remove()
    torch.testing.assert_close(shown, [(one - generator.z_mean) / generator.z_std for one in seen], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_samples_are_legal(name: str) -> None:
    tokenizer, generator, latent = made(name)
    sample = generator.sample(2, tiny.shape_of(tokenizer, CELLS), tiny.labels(0, 1), seed=1)
    assert sample.spec == tokenizer.spec
    assert sample.grids == latent.grids
    if sample.ids is not None:
        assert torch.equal(tokenizer.space.embed(sample.ids, sample.grids), sample.z)
    assert tokenizer.decode(sample).shape == (2, 3, *tiny.shape_of(tokenizer, CELLS))


@pytest.mark.parametrize("name", KINDS)
def test_a_sample_is_a_function_of_its_seed_and_index(name: str) -> None:
    tokenizer, generator, _ = made(name, double=True)
    shape = tiny.shape_of(tokenizer, CELLS)
    four = generator.sample(4, shape, tiny.labels(0, 1, 2, 0), seed=2)
    two = generator.sample(2, shape, tiny.labels(2, 0), seed=2, first=2)
    torch.testing.assert_close(two.z, four.z[2:], rtol=0, atol=1e-10)
    assert torch.equal(four.z, generator.sample(4, shape, tiny.labels(0, 1, 2, 0), seed=2).z)
    assert not torch.equal(two.z, generator.sample(2, shape, tiny.labels(2, 0), seed=2).z)


@pytest.mark.parametrize("name", ["pyramid", "pyramid_clip", "kl"])
@pytest.mark.parametrize("cells", [(1, 4, 2), (2, 6, 4)])
def test_images_and_other_sizes_through_one_model(name: str, cells: Shape) -> None:
    tokenizer, generator, _ = made(name)
    latent = tiny.latent(tokenizer, cells=cells)
    loss = generator.loss(latent, tiny.labels(0, 1, 2, 0)).total
    assert bool(torch.isfinite(loss))
    sample = generator.sample(2, tiny.shape_of(tokenizer, cells), tiny.labels(0, 1))
    assert tokenizer.decode(sample).shape == (2, 3, *tiny.shape_of(tokenizer, cells))


def test_windows_that_start_later() -> None:
    """Of a later window the first cell is no image: a clip like others."""
    tokenizer, generator, _ = made("pyramid_clip")
    shape = tokenizer.spec.frames(8, 3), 16, 8
    sample = generator.sample(1, shape, start=4)
    assert sample.start == 4
    assert sample.grids == tokenizer.spec.grids(shape, 4)
    assert torch.equal(tokenizer.space.embed(sample.ids, sample.grids), sample.z)


@pytest.mark.parametrize(("clip", "memory", "cells"), [(8, 1, 18), (6, 1, 14), (5, 1, 12), (5, 2, 17), (6, 3, 26), (3, 2, 10)])
def test_clips_of_any_number_and_length_find_room_in_the_cache(clip: int, memory: int, cells: int) -> None:
    """The last clip may be shorter than those before it, which need the more room."""
    tokenizer, generator, _ = made("kl", clip=clip, memory=memory)
    sample = generator.sample(1, tiny.shape_of(tokenizer, (cells, 4, 4)))
    assert sample.h.shape[2:] == (cells, 4, 4)


def masks(cells: Shape) -> dict[str, Callable[[], Tensor]]:
    """Which cells are known: a prefix, scattered frames, a half of every frame, nothing."""
    t, h, w = cells

    def half() -> Tensor:
        mask = torch.zeros(2, t, h, w, dtype=torch.bool)
        mask[:, :, : h // 2] = True
        return mask

    return {
        "prefix": lambda: (torch.arange(t) < 2).expand(2, t),
        "scattered": lambda: torch.stack([torch.arange(t) % 2 == 0, torch.arange(t) > 3]),
        "half": half,
        "none": lambda: torch.zeros(2, t, dtype=torch.bool),
    }


@pytest.mark.parametrize("which", masks(CELLS))
@pytest.mark.parametrize("name", KINDS)
def test_known_cells_come_back_and_are_seen(name: str, which: str) -> None:
    tokenizer, generator, latent = made(name)
    latent, shape, mask = latent[:2], tiny.shape_of(tokenizer, CELLS), masks(CELLS)[which]()
    condition = replace(tiny.labels(0, 1), known=latent, known_mask=mask)
    sample = generator.sample(2, shape, condition, seed=3, guidance_scale=2.0)
    at = (mask if mask.ndim == 4 else mask[:, :, None, None].expand(2, *CELLS)).unsqueeze(1).expand_as(sample.z)
    assert torch.equal(sample.z[at], latent.z[at])
    if sample.h is not None:
        assert torch.equal(sample.h[at], latent.h[at])
    if sample.ids is not None and mask.ndim == 2:
        grids = tokenizer.spec.grids(shape)
        if name != "pyramid_clip":
            whole = mask[:, token_layout(tokenizer.spec, grids).cell]
            assert torch.equal(sample.ids[whole], latent.ids[whole])
            assert torch.equal(tokenizer.space.embed(sample.ids, sample.grids), sample.z)
    plain = generator.sample(2, shape, tiny.labels(0, 1), seed=3, guidance_scale=2.0)
    assert torch.equal(plain.z, sample.z) == (which == "none")
    # What lies under unknown cells says nothing.
    other = replace(latent, **{key: value.clone() for key, value in latent.tensors().items()})
    if which == "half" or name == "pyramid_clip":
        return
    blank = ~mask[:, None, :, None, None].expand_as(latent.z)
    other.z[blank] = 7.0
    if other.h is not None:
        other.h[blank] = 7.0
    again = generator.sample(2, shape, replace(condition, known=other), seed=3, guidance_scale=2.0)
    torch.testing.assert_close(again.z, sample.z)


@pytest.mark.parametrize("name", ["pyramid", "pyramid_clip", "kl"])
def test_known_cells_reach_every_token(name: str) -> None:
    """By gradient, at the first scale as at the last, where it is seen; and a clip that knows nothing hears nothing."""
    _, generator, latent = made(name)
    _, sums = sums_of(generator, latent)
    field = "h" if name == "kl" else "z"
    given = getattr(latent, field).clone().requires_grad_()
    mask = torch.zeros(3, CELLS[0], dtype=torch.bool)
    mask[0, 0], mask[1, 3] = True, True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VAR, "_given", VAR._given.__wrapped__)  # which is without a gradient
        condition = Condition(known=replace(latent, **{field: given}), known_mask=mask)
        out = generator(sums, generator._grids(latent), condition, 0)
    for token in (0, out.shape[1] // 2, out.shape[1] - 1):
        (gradient,) = torch.autograd.grad(out[:, token].square().sum(), given, retain_graph=True)
        reached = gradient.abs().sum(dim=(1, 3, 4)) > 0
        assert torch.equal(reached, mask)


def test_what_is_given_is_no_part_of_the_loss() -> None:
    _, generator, latent = made("pyramid")
    mask = torch.zeros(3, CELLS[0], dtype=torch.bool)
    mask[:, :4] = True
    condition = Condition(known=latent, known_mask=mask)
    targets, sums = sums_of(generator, latent)
    each = generator.head.loss(generator(sums, latent.grids, condition, 0), torch.cat(targets, dim=1))
    new = torch.cat([(~mask).unsqueeze(2).expand(3, g[0], g[1] * g[2]).flatten(1) for g in latent.grids], dim=1)
    torch.testing.assert_close(generator.validation_loss(latent, condition), each[new].mean())


TOY = {
    "name": "pyramid",
    "quantizer": {"name": "vq", "codes": 3, "channels": 2, "learning": "ema", "decay": 0.9, "commitment": 0.0},
    "scales": [[1.0, 0.5, 0.5], [1.0, 1.0, 1.0]],
    "phi": 0,
}


def test_likelihoods_of_all_clips_sum_to_one_and_are_sampled() -> None:
    """One frame of 1 x 2 cells: 3 codes on 1 + 2 tokens, 27 clips; frequencies of 4000 samples lie within their errors."""
    tokenizer = hub.build_tokenizer(tiny.tokenizer_config("pyramid") | {"quantizer": TOY})
    tokenizer = tiny.stirred(tokenizer).eval()
    generator = tiny.stirred(tiny.generator("var", tokenizer.space, num_classes=2, top_p=[1.0]), 0.3).eval()
    height, width = tokenizer.spec.stride[1:]
    shape = (1, height, 2 * width)
    grids = tokenizer.spec.grids(shape)
    assert grids == ((1, 1, 1), (1, 1, 2))
    every = torch.tensor(list(product(range(3), repeat=3))).unsqueeze(-1)
    latent = Latent(spec=tokenizer.spec, grids=grids, num_frames=1, ids=every)
    condition = Condition(label=torch.ones(27, dtype=torch.long))
    with torch.no_grad():
        targets, sums = sums_of(generator, latent)
        nll = generator.head.loss(generator(sums, grids, condition, 0), torch.cat(targets, dim=1)).sum(dim=1)
    p = (-nll).exp().double()
    assert math.isclose(float(p.sum()), 1.0, abs_tol=1e-5)
    assert float(p.max() / p.min()) > 3, "a law that is not uniform"
    drawn = generator.sample(4000, shape, Condition(label=torch.ones(4000, dtype=torch.long)), guidance_scale=1.0).ids
    joint = (drawn.squeeze(-1) * torch.tensor([9, 3, 1])).sum(dim=1)
    counts = torch.bincount(joint, minlength=27).double()
    chi = ((counts - 4000 * p) ** 2 / (4000 * p)).sum()
    assert float(chi) < 60, "26 degrees of freedom: beyond 60 one time in 5000"


def test_guidance_of_one_is_none_and_ramps_as_var_s() -> None:
    """One forward a scale at 1; else 1 + (s - 1) k / (K - 1), which is VAR's (1 + t) c - t u with t = cfg k / (K - 1)."""
    _, generator, latent = made("pyramid")
    sizes: list[int] = []
    handle = generator.trunk.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    shape = tiny.shape_of(hub_like(latent), CELLS)
    one = generator.sample(2, shape, tiny.labels(0, 1), guidance_scale=1.0)
    assert sizes == [2] * 4
    two = generator.sample(2, shape, tiny.labels(0, 1), guidance_scale=3.0)
    assert sizes[4:] == [4] * 4
    handle.remove()
    assert not torch.equal(one.ids, two.ids)
    scales: list[tuple[float, ...]] = []
    draw = generator.head.sample
    generator.head.sample = lambda x, weights, *rest: scales.append(weights) or draw(x, weights, *rest)
    generator.sample(2, shape, tiny.labels(0, 1), guidance_scale=2.5)
    assert scales == [(), *((pytest.approx(1 + 1.5 * k / 3),) for k in range(1, 4))]
    unguided = generator.sample(2, shape, None, guidance_scale=3.0)
    null = generator.sample(2, shape, tiny.labels(-1, -1), guidance_scale=1.0)
    assert torch.equal(unguided.ids, null.ids)


def test_options_of_each_scale() -> None:
    """The one most likely value at the last scales alone: there nothing depends on the seed any more."""
    _, generator, latent = made("pyramid", top_k=[0, 1, 1, 1])
    shape = tiny.shape_of(hub_like(latent), CELLS)
    samples = [generator.sample(1, shape, seed=seed) for seed in range(40)]
    firsts = [tuple(sample.ids[0, : prod(latent.grids[0])].flatten().tolist()) for sample in samples]
    assert len(set(firsts)) > 20
    _, generator, _ = made("pyramid", top_k=[1])
    assert torch.equal(generator.sample(1, shape, seed=0).ids, generator.sample(1, shape, seed=1).ids)


def test_flips_are_of_pyramids_of_bits() -> None:
    """Self-correction: inputs go wrong, the first scale's targets are as they were, later ones mend. None in validation."""
    _, bits, latent = made("pyramid_lfq", flip=0.5)
    assert bits.wants == ("ids", "h")
    torch.manual_seed(0)
    targets, sums = bits._pyramid(latent, bits.wrong)
    clean, whole = bits._pyramid(latent)
    assert torch.equal(targets[0], clean[0])
    assert not torch.equal(sums[0], whole[0])
    assert any(not torch.equal(one, other) for one, other in zip(targets[1:], clean[1:], strict=True))
    assert bits.validation_loss(latent) == bits.validation_loss(latent)
    _, codes, _ = made("pyramid", flip=0.5)
    assert codes.wrong == 0
    assert codes.wants == ("ids",)


def test_noise_is_mended_by_later_scales() -> None:
    """Without noise it is the pyramid of nn; with it sums go wrong, and the last scale's target still leads to the latent."""
    _, generator, latent = made("kl", noise=0.5)
    clean, whole = sums_of(generator, latent)
    residues, sums = residual_pyramid(latent.h, generator._grids(latent))
    torch.testing.assert_close(whole, sums)
    torch.testing.assert_close(
        clean, [r.flatten(2).transpose(1, 2) / std for r, std in zip(residues, generator.std, strict=True)]
    )
    torch.manual_seed(0)
    targets, wrong = generator._pyramid(replace(latent, logvar=None), generator.wrong)
    assert torch.equal(targets[0], clean[0])
    assert not torch.equal(wrong[0], whole[0])
    torch.testing.assert_close(wrong[-1], latent.h, atol=1e-5, rtol=1e-5)


def test_a_continuous_pyramid_is_measured() -> None:
    """Each scale's targets have unit size, the posterior's draws and the noise of training included."""
    tokenizer, generator, _ = made("kl")
    latent = tiny.latent(tokenizer, batch=8)[list(range(8)) * 64]
    generator.prepare(latent)
    torch.manual_seed(1)
    targets, _ = generator._pyramid(latent, generator.wrong)
    for target in targets:
        torch.testing.assert_close(target.square().mean().sqrt(), torch.tensor(1.0), atol=0.1, rtol=0)
    before = generator.std.clone()
    generator.prepare(latent)
    torch.testing.assert_close(generator.std, before)


@pytest.mark.parametrize(
    ("tokenizer_name", "options", "sentence"),
    [
        ("lfq", {}, r"single scale: use tokenizer=pyramid_lfq, or let 'vidgen fit generator=var' train this one"),
        ("vq", {}, r"use tokenizer=pyramid, or let"),
        ("pyramid", {"top_k": [1, 2]}, "one for each of the 4, and this has 2"),
        ("pyramid", {"memory": 0}, "memory of at least 1"),
        ("pyramid", {"guidance_schedule": "linar"}, "Did you mean 'linear'"),
        ("kl", {"scales": [[1.0, 0.5, 0.5]]}, "the last 1, 1, 1"),
        ("kl", {"scales": GROWING, "clip": 0}, "need clip"),
    ],
)
def test_what_cannot_be_is_told(tokenizer_name: str, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        tiny.generator("var", tiny.tokenizer(tokenizer_name).space, **options)


def test_steps_are_the_scales() -> None:
    tokenizer, generator, _ = made("pyramid")
    shape = tiny.shape_of(tokenizer, CELLS)
    assert torch.equal(generator.sample(1, shape, steps=4).ids, generator.sample(1, shape).ids)
    with pytest.raises(UserError, match="a step for each of its 4 scales, and not 9"):
        generator.sample(1, shape, steps=9)


@pytest.mark.parametrize("name", ["pyramid", "pyramid_lfq", "kl"])
def test_two_labelled_clips_are_learnt_by_heart(name: str) -> None:
    """Drawn by their labels, each sample is nearest to its own clip, and near. Real numbers take longer than codes."""
    tokenizer, _, _ = made(name)
    cells = (1, 4, 4) if name == "kl" else (2, 4, 2)
    clips = [tiny.video(tiny.shape_of(tokenizer, cells), 1, seed=seed) for seed in (3, 8)]
    latent = replace(tokenizer.encode(torch.cat(clips)), logvar=None)
    own = {"scales": [[1.0, 0.5, 0.5], [1.0, 1.0, 1.0]], "noise": 0.0} if name == "kl" else {}
    torch.manual_seed(0)
    generator = tiny.generator("var", tokenizer.space, num_classes=2, width=64, heads=2, flip=0.0, **own)
    generator.prepare(latent)
    optimizer = torch.optim.AdamW(generator.parameters(), lr=1e-2 if name == "kl" else 5e-3)
    steps = 100
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / 10) * (1 - step / steps) ** 0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        generator.loss(latent[[0, 1, 0, 1]], tiny.labels(0, 1, 0, 1)).total.backward()
        torch.nn.utils.clip_grad_norm_(generator.parameters(), 1.0)
        optimizer.step()
        rate.step()
    sample = generator.eval().sample(8, tiny.shape_of(tokenizer, cells), tiny.labels(*[0, 1] * 4), seed=1)
    distance = (sample.z.unsqueeze(1) - latent.z).square().mean(dim=(2, 3, 4, 5))
    apart = float((latent.z[0] - latent.z[1]).square().mean())
    assert distance.argmin(dim=1).tolist() == [0, 1] * 4
    assert float(distance.min(dim=1).values.mean()) < 0.3 * apart


@pytest.mark.parametrize("name", [name for name in config.names("generators") if name.startswith("var")])
def test_presets_say_their_scales_like_their_signature(name: str) -> None:
    recipe = config.load("generator", name)
    assert recipe["name"] == "var"
    assert recipe["scales"][-1] == [1.0, 1.0, 1.0]
