"""The pyramid against VAR's algorithm in plain loops, its laws on any grid, its losses, and its self-correction of bits."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgen import Latent, LatentSpec, UserError, config, dataset, hub, registry
from vidgen.data.batches import Order, collate, to_video
from vidgen.latents import scale_grids
from vidgen.nn.pyramid import upsample
from vidgen.quantizers.pyramid import Pyramid
from vidgen.tokenizers.space import BottleneckSpace, Standardise, in_pieces

CONSTANT = ((1, 0.25, 0.25), (1, 0.5, 0.5), (1, 0.75, 0.75), (1, 1, 1))
GROWING = ((0.3, 0.25, 0.25), (0.5, 0.5, 0.5), (1, 1, 1))
VQ = {"name": "vq", "codes": 24, "channels": 4, "commitment": 0.0}
LFQ = {"name": "lfq", "bits": 5, "commitment": 0.0}
PRESETS = [name for name in config.preset_names("tokenizer/quantizer") if name.startswith("pyramid")]
INNER = [
    pytest.param(VQ, {}, id="vq"),
    pytest.param(VQ | {"learning": "gradient"}, {"learn_gain": True}, id="vq-gradient"),
    pytest.param({"name": "simvq", "codes": 24, "channels": 4}, {"phi": 2}, id="simvq"),
    pytest.param(LFQ, {"phi": 0, "upsampling": "trilinear", "learn_gain": True}, id="lfq"),
    pytest.param({"name": "bsq", "bits": 5}, {"phi": 0, "gain": 0.7}, id="bsq"),
    pytest.param({"name": "fsq", "levels": (5, 4, 3)}, {"gain": 0.5}, id="fsq"),
    pytest.param({"name": "residual", "quantizer": LFQ, "stages": 2, "shrink": 0.5}, {}, id="residual"),
]
GRIDS = [(3, 4, 4), (1, 5, 3), (2, 1, 1), (4, 7, 2)]


def pyramid(quantizer: dict[str, Any] = VQ, **options: Any) -> Any:
    """With weights that are not at their start, and codes that have seen something of every scale."""
    built = Pyramid(**{"quantizer": quantizer, "scales": CONSTANT, **options})
    built(torch.randn(4, built.channels, 2, 6, 6))
    return tiny.stirred(built, 0.2).eval()


def space(quantizer: Any, *, causal: bool = True) -> BottleneckSpace:
    spec = LatentSpec(
        channels=quantizer.channels,
        stride=(2, 1, 1),
        causal=causal,
        levels=quantizer.levels,
        stages=quantizer.stages,
        scales=quantizer.scales,
        clip=quantizer.clip,
    )
    return BottleneckSpace(spec=spec, quantizer=quantizer, standardise=Standardise(quantizer.channels))


# The algorithm


@pytest.mark.parametrize("mode", ["bicubic", "trilinear"])
def test_it_is_var_s_algorithm(mode: str) -> None:
    """Frame by frame as in the paper, with torch's own area and interpolation of images, and a search over all codes."""
    quantizer = pyramid(upsampling=mode, gain=0.8)
    x = torch.randn(2, 4, 3, 6, 5)
    got = quantizer(x)
    ids: list[list[Tensor]] = [[] for _ in CONSTANT]
    for t in range(3):
        rest, total = x[:, :, t].clone(), torch.zeros(2, 4, 6, 5)
        for k, (h, w) in enumerate([(2, 1), (3, 3), (5, 4), (6, 5)]):
            cells = F.interpolate(rest, (h, w), mode="area") / 0.8**k
            distance = (cells.movedim(1, -1).unsqueeze(-2) - quantizer.quantizer.codes).square().sum(-1)
            ids[k].append(distance.argmin(-1).view(2, 1, h, w))
            code = quantizer.quantizer.codes[distance.argmin(-1)].movedim(-1, 1) * 0.8**k
            code = F.interpolate(code, (6, 5), mode="bicubic" if mode == "bicubic" else "bilinear")
            phi = quantizer.phis[k]  # four scales, four of them
            code = 0.5 * code + 0.5 * F.conv2d(code, phi.weight[:, :, 0], phi.bias, padding=1)
            total, rest = total + code, rest - code
        torch.testing.assert_close(got.z[:, :, t], total, rtol=1e-4, atol=1e-5)
    flat = torch.cat([torch.cat(scale, dim=1).flatten(1) for scale in ids], dim=1)
    assert torch.equal(got.ids.squeeze(-1), flat)
    assert torch.equal(got.h, x)


def test_shared_phis_serve_the_scales_that_var_s_ticks_say() -> None:
    """With each phi a constant of its own, a scale of no code adds its phi's: five scales on two are 2, 2, 2, 3, 3 at ratio 1."""
    scales = tuple((1, part / 5, part / 5) for part in range(1, 6))
    quantizer = Pyramid(quantizer={"name": "kl", "channels": 1, "weight": 0.0}, scales=scales, phi=2, phi_ratio=1.0).eval()
    for phi, value in zip(quantizer.phis, (2.0, 3.0), strict=True):
        nn.init.zeros_(phi.weight)
        nn.init.constant_(phi.bias, value)
    _, sums = quantizer.decompose(torch.zeros(1, 1, 1, 5, 5))
    assert [float(z.mean()) for z in sums] == [2, 4, 6, 9, 12]


def test_phis_that_no_scale_takes_are_not_made() -> None:
    """Three scales lie at 0, 1/2 and 1 and leave one of four ticks alone: it would never learn."""
    built = Pyramid(quantizer=VQ, scales=CONSTANT[1:], phi=4)
    assert (len(built.phis), built.phi_of) == (3, [0, 1, 2])
    assert len(Pyramid(quantizer=VQ, scales=CONSTANT, phi=0).phis) == 0


# Its laws


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("quantizer", "options"), INNER)
def test_ids_and_z_are_one(quantizer: dict[str, Any], options: dict[str, Any], grid: tuple[int, int, int]) -> None:
    """To the bit: forward, project, embed and sums, of all scales and of the first ones, with duplicates of small grids."""
    built = pyramid(quantizer, **options)
    x = torch.randn(2, built.channels, *grid)
    grids = scale_grids(grid, CONSTANT)
    sizes = [math.prod(size) for size in grids]
    now = built(x)
    h = now.h
    assert torch.equal(h, built.quantizer.bounded(x) if hasattr(built.quantizer, "bounded") else x)
    code = built.project(h)
    assert code.ids.shape == (2, sum(sizes), len(built.levels))
    assert torch.equal(code.h, h)
    with torch.no_grad():
        assert torch.equal(now.z, code.z)
        assert torch.equal(now.ids, code.ids)
        assert torch.equal(built.embed(code.ids, grids), code.z)
        parts, sums = built.sums(code.ids, grids)
        assert torch.equal(torch.cat(parts, dim=1), code.ids)
        assert torch.equal(sums[-1], code.z)
        for scale in range(len(grids)):
            assert torch.equal(built.embed(code.ids[:, : sum(sizes[: scale + 1])], grids), sums[scale])
        again = built.decompose(h)
    assert all(torch.equal(a, b) for a, b in zip(again[0], parts, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(again[1], sums, strict=True))


@pytest.mark.parametrize(("quantizer", "options"), INNER)
def test_each_target_is_the_code_of_what_was_left(quantizer: dict[str, Any], options: dict[str, Any]) -> None:
    """A random code is no code at all: what the next scales are asked for depends on what the sum so far has missed."""
    built = pyramid(quantizer, **options)
    h = built(torch.randn(3, built.channels, 2, 4, 4)).h
    parts, sums = built.decompose(h)
    before = torch.zeros_like(h)
    for scale, (ids, z) in enumerate(zip(parts, sums, strict=True)):
        grid = scale_grids((2, 4, 4), CONSTANT)[scale]
        rest = F.interpolate(h - before, grid, mode="area") / built.log_gains[scale].detach().exp()
        nearest = getattr(built.quantizer, "quantize", built.quantizer.project)(rest)
        assert torch.equal(nearest.ids, ids)
        before = z


def test_cells_in_time_never_meet_where_time_is_constant() -> None:
    built = pyramid()
    x = torch.randn(2, 4, 5, 4, 6)
    whole = built.project(x)
    latent = Latent(spec=space(built).spec, grids=scale_grids((5, 4, 6), CONSTANT), num_frames=9, z=whole.z, ids=whole.ids)
    for t in range(5):
        alone = built.project(x[:, :, t : t + 1])
        torch.testing.assert_close(alone.z, whole.z[:, :, t : t + 1])
        assert torch.equal(alone.ids, latent.cells(t, t + 1).ids)
    y = x.clone().requires_grad_()
    built.train()(y).z[:, :, 2].sum().backward()
    assert [bool(y.grad[:, :, t].any()) for t in range(5)] == [False, False, True, False, False]


def test_with_a_clip_cell_0_and_each_clip_have_their_own_pyramid() -> None:
    built = pyramid(scales=GROWING, clip=3)
    own = space(built)
    h = torch.randn(2, 4, 9, 4, 5)  # cell 0, two clips of three, and two cells left
    latent = own.project(h)
    assert latent.ids.shape[1] == sum(math.prod(grid) for grid in latent.grids)
    pieces = [h[:, :, a:b] for a, b in ((0, 1), (1, 4), (4, 7), (7, 9))]
    assert torch.equal(latent.ids, torch.cat([built.project(piece).ids for piece in pieces], dim=1))
    assert torch.equal(latent.z, torch.cat([built.project(piece).z for piece in pieces], dim=2))
    assert torch.equal(own.embed(latent.ids, latent.grids), latent.z)
    changed = h.clone()
    changed[:, :, 5] += 3.0
    same = (own.project(changed).z == latent.z).flatten(3).all(dim=3).all(dim=0).all(dim=0)
    assert same.tolist() == [True] * 4 + [False] * 3 + [True] * 2  # phi looks over time, within the clip
    later = own.project(h[:, :, 4:], start=4)
    assert torch.equal(later.z, latent.z[:, :, 4:])


def test_the_first_scales_of_a_clip_give_its_partial_z_after_the_clips_before_it() -> None:
    built = pyramid(scales=GROWING, clip=3)
    own = space(built)
    latent = own.project(torch.randn(2, 4, 7, 4, 4))
    sizes = [math.prod(grid) for grid in latent.grids]
    targets, sums = own.pyramid(latent)
    assert torch.equal(torch.cat(targets, dim=1), latent.ids)
    for scales in range(1, 10):
        z = own.embed(latent.ids[:, : sum(sizes[:scales])], latent.grids)
        whole, last = (scales - 1) // 3, scales - 1
        expected = [sums[3 * piece + 2] for piece in range(whole)] + [sums[last]]
        assert torch.equal(z, torch.cat(expected, dim=2))
    with pytest.raises(ValueError, match="do not end"):
        own.embed(latent.ids[:, : sizes[0] + 1], latent.grids)
    with pytest.raises(ValueError, match="more ids than the grids"):
        own.embed(torch.cat([latent.ids, latent.ids[:, :1]], dim=1), latent.grids)


def test_latents_of_whole_clips_are_joined() -> None:
    """As those of a stream are; a cut inside a clip is refused."""
    own = space(pyramid(scales=GROWING, clip=3))
    h = torch.randn(2, 4, 9, 4, 5)
    whole = own.project(h)
    for cuts in ([0, 1, 9], [0, 4, 7, 9], [0, 1, 4, 7, 9]):
        joined = Latent.cat([own.project(h[:, :, a:b], start=a) for a, b in zip(cuts, cuts[1:], strict=False)])
        assert (joined.grids, joined.num_frames, joined.start) == (whole.grids, whole.num_frames, 0)
        assert torch.equal(joined.ids, whole.ids)
        assert torch.equal(joined.z, whole.z)
    with pytest.raises(UserError, match="may end inside a clip, not before cell 3"):
        Latent.cat([own.project(h[:, :, :3]), own.project(h[:, :, 3:], start=3)])


def test_without_quantization_and_phi_z_is_what_was_given() -> None:
    built = pyramid({"name": "kl", "channels": 3, "weight": 0.0}, phi=0, gain=0.5)
    x = torch.randn(2, 3, 3, 5, 4)
    code = built(x)
    torch.testing.assert_close(code.z, x)
    assert code.ids is None
    assert built.levels is None
    with pytest.raises(TypeError, match="no ids"):
        built.embed(torch.zeros(1, 1, 1), ((1, 1, 1),))


# Training


def test_losses_are_var_s() -> None:
    """Means over scales of the distances to the running sum, at full size; one moves x, the other phi, gains and codes."""
    built = pyramid(VQ | {"learning": "gradient"}, learn_gain=True, commitment=0.3).train()
    x = torch.randn(2, 4, 2, 4, 4, requires_grad=True)
    _, sums = built.decompose(x.detach())
    distance = sum((z - x.detach()).square().mean() for z in sums) / 4
    losses = built(x).losses
    torch.testing.assert_close(losses["commitment"].detach(), 0.3 * distance)
    (slope,) = torch.autograd.grad(losses["commitment"], x)
    torch.testing.assert_close(slope, sum(0.3 * 2 * (x.detach() - z) / x.numel() for z in sums) / 4)
    losses["codebook"].backward()
    assert x.grad is None
    moved = {name for name, weight in built.named_parameters() if weight.grad is not None and bool(weight.grad.any())}
    assert moved == {name for name, _ in built.named_parameters()}
    assert {"quantizer.codes", "log_gains", "phis.0.weight", "phis.3.bias"} <= moved
    assert built.eval()(x).losses == {}


def test_bits_have_their_entropy_terms_scale_by_scale() -> None:
    built = pyramid(LFQ, phi=0, gain=0.5).train()
    x = torch.randn(2, 5, 2, 4, 4)
    rest, entropies = x, []
    for scale, grid in enumerate(scale_grids((2, 4, 4), CONSTANT)):
        part = F.interpolate(rest, grid, mode="area") / 0.5**scale
        entropies.append(built.quantizer(part).losses["entropy"])
        rest = rest - upsample(part.sign() * 0.5**scale, (2, 4, 4), "bicubic")
    torch.testing.assert_close(built(x).losses["entropy"], torch.stack(entropies).mean())


def test_the_gradient_passes_straight_through_the_whole() -> None:
    built = pyramid().train()
    x = torch.randn(2, 4, 3, 4, 4, requires_grad=True)
    into = torch.randn(2, 4, 3, 4, 4)
    (built(x).z * into).sum().backward()
    assert torch.equal(x.grad, into)


def test_a_codebook_learns_from_all_scales_at_once() -> None:
    """One update a step: with a code for the coarse scale and two for what it leaves, counts and means are those by hand."""
    scales = ((1, 0.5, 0.5), (1, 1, 1))
    built = Pyramid(
        quantizer={"name": "vq", "codes": 3, "channels": 1, "decay": 0.5, "restart": 0.0}, scales=scales, phi=0
    ).train()
    inner = built.quantizer
    for buffer in (built.started, inner.started):
        buffer.fill_(True)
    inner.codes.copy_(torch.tensor([[4.0], [-1.0], [1.0]]))
    inner.sums.copy_(inner.codes)
    x = torch.tensor([[5.1, 2.9], [4.9, 3.1]]).view(1, 1, 1, 2, 2)
    built(x)
    # Coarse: the mean 4 takes code 4. Left are 1.1, -1.1, 0.9, -0.9: two take -1, two take 1.
    assert inner.counts.tolist() == [1.0, 1.5, 1.5]
    torch.testing.assert_close(inner.sums.flatten(), torch.tensor([4.0, -1.5, 1.5]))
    assert int(inner.updates) == 1


def test_a_codebook_starts_from_what_every_scale_leaves() -> None:
    """Frames of one value each, with a fine pattern on top: the codes that k-means finds are both, and no sum of them."""
    built = Pyramid(
        quantizer={"name": "vq", "codes": 4, "channels": 1, "commitment": 0.0}, scales=((1, 0.25, 0.25), (1, 1, 1)), phi=0
    ).train()
    pattern = torch.tensor([1.0, -1.0]).repeat(8).view(1, 1, 1, 4, 4)
    x = torch.cat([30 + pattern, -30 + pattern])
    code = built(x)
    assert bool(built.started)
    torch.testing.assert_close(
        built.quantizer.codes.flatten().sort().values, torch.tensor([-30.0, -1.0, 1.0, 30.0]), atol=0.01, rtol=0
    )
    torch.testing.assert_close(code.z.detach(), x, atol=0.05, rtol=0)
    assert built.load_state_dict(copy.deepcopy(built).state_dict())


def test_learned_gains_find_the_size_of_what_is_left() -> None:
    """Signs of coarse fields of size 2 and fine ones of size 0.5, both told apart by their means."""
    scales = ((1, 0.25, 0.25), (1, 1, 1))
    built = Pyramid(
        quantizer={"name": "lfq", "bits": 2, "entropy_weight": 0.0, "commitment": 0.0}, scales=scales, phi=0, learn_gain=True
    ).train()
    pattern = torch.tensor([0.5, -0.5]).repeat(8).view(1, 1, 1, 4, 4)
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]).view(4, 2, 1, 1, 1)
    optimizer = torch.optim.Adam(built.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        built(2 * signs + pattern).losses["codebook"].backward()
        optimizer.step()
    torch.testing.assert_close(built.log_gains.detach().exp(), torch.tensor([2.0, 0.5]), rtol=0.05, atol=0)


def test_half_precision_is_quantized_in_full() -> None:
    built = pyramid()
    x = torch.randn(2, 4, 2, 4, 4).bfloat16()
    expected = built(x.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        code, ids = built(x), built.project(x.float()).ids
        assert torch.equal(built.embed(ids, scale_grids((2, 4, 4), CONSTANT)), expected.z)
    assert code.z.dtype == torch.float32
    assert torch.equal(code.z, expected.z)
    assert torch.equal(ids, expected.ids)
    double = copy.deepcopy(built).double().project(x.double())
    assert double.z.dtype == torch.float64


def test_time_passes_to_the_schedules_inside() -> None:
    built = pyramid(LFQ | {"entropy_end": 0.1}, phi=0).train()
    x = torch.randn(1, 5, 1, 4, 4)
    first = float(built(x).losses["entropy"])
    built.anneal(1.0)
    assert float(built(x).losses["entropy"]) == pytest.approx(0.1 * first)


# Self-correction


def test_flipped_bits_go_on_and_true_ones_are_the_targets() -> None:
    """Every sum is that of the targets but for flips; every target codes what the flipped sum before it leaves."""
    built = pyramid(LFQ, phi=0, gain=0.6)
    h = torch.randn(3, 5, 2, 8, 8)
    grids = scale_grids((2, 8, 8), CONSTANT)
    targets, sums = built.decompose(h, 0.4)
    plain, _ = built.decompose(h)
    assert torch.equal(targets[0], plain[0])
    assert not torch.equal(targets[1], plain[1])
    before = torch.zeros_like(h)
    for scale, grid in enumerate(grids):
        rest = F.interpolate(h - before, grid, mode="area")
        true = targets[scale].unflatten(1, grid).movedim(-1, 1)
        assert torch.equal(true == 1, rest > 0)
        if scale < 3:  # the codes that were sent are signs of one size, so those that differ were flipped
            sent = sums[scale] - before
            clean = upsample((true.float() * 2 - 1) * 0.6**scale, (2, 8, 8), "bicubic")
            assert not torch.equal(sent, clean)
        before = sums[scale]
    # Nothing comes after the last scale, and so nothing of it is flipped.
    torch.testing.assert_close(sums[3] - sums[2], (targets[3].unflatten(1, grids[3]).movedim(-1, 1).float() * 2 - 1) * 0.6**3)


def test_flips_are_as_many_as_were_asked_for() -> None:
    """Each clip and scale draws its chance from [0, flip]: shares vary from clip to clip, and are half of flip on average."""
    built = pyramid({"name": "lfq", "bits": 8}, phi=0, scales=((1, 1, 1), (1, 1, 1)))
    h = torch.randn(200, 8, 1, 8, 8)
    targets, sums = built.decompose(h, 0.3)
    share = ((sums[0] > 0) != (targets[0].unflatten(1, (1, 8, 8)).movedim(-1, 1) == 1)).float().mean(dim=(1, 2, 3, 4))
    assert float(share.mean()) == pytest.approx(0.15, abs=0.02)
    assert float(share.std()) == pytest.approx(0.3 / 12**0.5, abs=0.02)
    assert float(share.max()) < 0.4


def test_flips_are_random_and_repeat_with_their_generator() -> None:
    built = pyramid(LFQ, phi=0)
    h = torch.randn(2, 5, 2, 4, 4)

    def drawn(seed: int) -> Tensor:
        return torch.stack(built.decompose(h, 0.5, torch.Generator().manual_seed(seed))[1])

    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))
    assert not torch.equal(torch.stack(built.decompose(h, 0.5)[1]), torch.stack(built.decompose(h, 0.5)[1]))


def test_later_scales_mend_what_was_flipped() -> None:
    """The sum ends nearer to h than it would if flips were made in the ids and later scales did not know."""
    built = pyramid(LFQ, phi=0, gain=0.7)
    h = torch.randn(4, 5, 2, 8, 8)
    grids = scale_grids((2, 8, 8), CONSTANT)
    mended = built.decompose(h, 0.5)[1][-1]
    ids = built.project(h).ids
    first = sum(math.prod(grid) for grid in grids[:3])
    wrong = ids.clone()
    wrong[:, :first] = torch.where(torch.rand(ids[:, :first].shape) < 0.25, 1 - ids[:, :first], ids[:, :first])
    unknown = built.embed(wrong, grids)
    assert float((mended - h).square().mean()) < 0.8 * float((unknown - h).square().mean())


def test_a_space_gives_what_a_generator_learns() -> None:
    own = space(pyramid(LFQ, phi=0))
    latent = own.project(torch.randn(2, 5, 3, 4, 4))
    targets, sums = own.pyramid(latent)
    assert torch.equal(torch.cat(targets, dim=1), latent.ids)
    assert torch.equal(sums[-1], latent.z)
    flipped, wrong = own.pyramid(latent, flip=0.5)
    assert [part.shape for part in flipped] == [part.shape for part in targets]
    assert torch.equal(flipped[0], targets[0])
    assert not torch.equal(wrong[0], sums[0])
    clips = space(pyramid(LFQ, phi=0, scales=GROWING, clip=2))
    latent = clips.project(torch.randn(2, 5, 4, 4, 4))
    assert len(clips.pyramid(latent, flip=0.5)[0]) == len(latent.grids) == 9


def test_only_bits_are_flipped() -> None:
    with pytest.raises(UserError, match="Only bits can be flipped"):
        pyramid().decompose(torch.randn(1, 4, 1, 2, 2), 0.1)


# Recipes and mistakes


@pytest.mark.parametrize("name", PRESETS)
def test_recipes_name_every_option_of_what_is_inside(name: str) -> None:
    inner = config.load("tokenizer/quantizer", name)["quantizer"]
    assert set(inner) - {"name"} == set(registry.options(registry.find("quantizers", inner["name"])))
    assert inner.get("commitment", 0.0) == 0.0  # the pyramid has its own


def test_var_s_recipe_is_var_s() -> None:
    """Seventeen frames of 128x128 on a stride of 4x8x8 are five cells of 16x16, hence VAR's own grids and 680 tokens each."""
    with torch.device("meta"):
        tokenizer = hub.build_tokenizer(config.load("tokenizer", "pyramid_var"))
    grids = tokenizer.spec.grids((17, 128, 128))
    assert [grid[1:] for grid in grids] == [(side, side) for side in (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)]
    assert {grid[0] for grid in grids} == {5}
    assert tokenizer.spec.num_tokens((17, 128, 128)) == 5 * 680
    assert (tokenizer.spec.vocab_size, tokenizer.spec.channels) == (4096, 32)
    assert len(tokenizer.quantizer.phis) == 4
    assert all(tuple(phi.weight.shape) == (32, 32, 1, 3, 3) for phi in tokenizer.quantizer.phis)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"quantizer": {"name": "gumbel"}}, "codes as wide as its input .* 'gumbel' is not one"),
        ({"quantizer": {"name": "kl", "weight": 1.0}}, "'kl' is not one"),
        ({"quantizer": {"name": "pyramid", "quantizer": VQ, "scales": CONSTANT}}, "'pyramid' is not one"),
        ({"scales": ()}, "fractions .* the last 1, 1, 1"),
        ({"scales": ((1, 0.5, 0.5),)}, "fractions .* the last 1, 1, 1"),
        ({"scales": ((1, 0, 0.5), (1, 1, 1))}, "above 0 and at most 1"),
        ({"scales": ((1, 1.5, 0.5), (1, 1, 1))}, "above 0 and at most 1"),
        ({"scales": GROWING}, "grow in time need clip"),
        ({"clip": -1}, "at least 1"),
        ({"upsampling": "bicubik"}, "no way up in a pyramid called 'bicubik'. Did you mean 'bicubic'"),
        ({"phi": -1}, "got -1, 0.5 and 1.0"),
        ({"phi_ratio": 1.5}, "got 4, 1.5 and 1.0"),
        ({"gain": 0.0}, "got 4, 0.5 and 0.0"),
    ],
)
def test_mistakes_are_told_in_a_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        Pyramid(**{"quantizer": VQ, "scales": CONSTANT, **options})
    assert "\n" not in str(error.value)


# With a backbone, and on disk


@pytest.mark.parametrize("name", ["pyramid", "pyramid_clip"])
def test_latents_on_disk_are_those_that_were_encoded(name: str, tmp_path: Any) -> None:
    """Ids of all grids to the bit, h beside them to bfloat16; and they stream, encoded and decoded."""
    tokenizer = tiny.tokenizer(name)
    video = tiny.video(tiny.shape_of(tokenizer, (6, 4, 4)), batch=2)
    tokenizer.train()(video)
    tokenizer.measure([video])
    cache = tiny.latent_cache(tokenizer.eval(), tmp_path / "latents", count=5)
    latent, _ = cache.read([3, 0])
    clips = tiny.Clips(tiny.shape_of(tokenizer))
    assert latent.grids == tokenizer.spec.grids(clips.shape)
    order = Order(clips.size("train"), 3)
    batch = collate([clips.clip("train", *order(position)) for position in range(4)])
    encoded = tokenizer.encode(to_video(batch["video"]))
    assert torch.equal(latent.ids, encoded.ids[[3, 0]])
    assert torch.equal(latent.h, encoded.h[[3, 0]].bfloat16().float())
    torch.testing.assert_close(tokenizer.space.project(latent.h).h, latent.h)
    targets, sums = tokenizer.space.pyramid(latent)
    assert torch.equal(torch.cat(targets, dim=1), latent.ids)
    last = [z for i, z in enumerate(sums, start=1) if i % len(latent.spec.scales) == 0]
    assert torch.equal(tokenizer.space.embed(latent.ids, latent.grids), torch.cat(last, dim=2))

    whole = tokenizer.encode(video)
    stream = Latent.cat(list(tokenizer.encode_stream(iter(video.split([1, 6, 2, video.shape[2] - 9], dim=2)))))
    assert stream.grids == whole.grids
    torch.testing.assert_close(stream.h, whole.h, rtol=1e-5, atol=1e-5)
    assert torch.equal(stream.ids, whole.ids)
    torch.testing.assert_close(tokenizer.decode(stream), tokenizer.decode(whole), rtol=1e-5, atol=1e-5)


def test_pieces_share_their_losses_by_length() -> None:
    built = pyramid(LFQ, scales=GROWING, clip=2).train()
    x = torch.randn(1, 5, 3, 4, 4) * torch.tensor([1.0, 3.0, 3.0]).view(3, 1, 1)
    one, two = (built(part).losses["commitment"] for part in (x[:, :, :1], x[:, :, 1:]))
    assert float(two) > 2 * float(one)
    torch.testing.assert_close(in_pieces(built, x, [1, 2]).losses["commitment"], (one + 2 * two) / 3)


@pytest.mark.parametrize(("clip", "lengths"), [(1, [1] * 5), (2, [1, 2, 2, 1]), (3, [3, 3])])
def test_pieces_of_one_length_are_one_batch(clip: int, lengths: list[int]) -> None:
    """The codes are those of each piece by itself, and codebooks learn once from all pieces of a length."""
    built = pyramid(VQ, clip=clip)
    x = torch.randn(2, 4, sum(lengths), 4, 4)
    alone = [built.eval()(part) for part in x.split(lengths, dim=2)]
    found = in_pieces(built, x, lengths)
    assert torch.equal(found.ids, torch.cat([one.ids for one in alone], dim=1))
    torch.testing.assert_close(found.z, torch.cat([one.z for one in alone], dim=2))
    built.train().started.fill_(True)
    learnt: list[int] = []
    built.quantizer.register_forward_hook(lambda *_: learnt.append(1) if built.quantizer.training else None)
    in_pieces(built, x, lengths)
    assert len(learnt) == len([length for length, _ in itertools.groupby(lengths)])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pyramid", "pyramid_lfq"])
def test_every_scale_adds_to_what_is_seen(name: str) -> None:
    """Trained on four clips of bouncing discs, decoded from its first scales alone: each more is a better picture."""
    recipe = tiny.tokenizer_config(name)
    recipe["backbone"]["widths"] = [48]
    recipe["quantizer"] |= {"clip": 0, "scales": [[1.0, 0.25, 0.25], [1.0, 0.5, 0.5], [1.0, 1.0, 1.0]]}
    data = dataset("worlds", frames=9, height=16, width=16, radius=[3.0, 4.0], families=["bounce"])
    clips = torch.stack([torch.from_numpy(data.clip("train", i)["video"]) for i in range(4)])
    video = clips.permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    tokenizer = hub.build_tokenizer(recipe).train()
    optimizer = torch.optim.Adam(tokenizer.parameters(), lr=3e-3)
    for _ in range(400):
        optimizer.zero_grad()
        tokenizer(video)[2].total.backward()
        optimizer.step()
    latent = tokenizer.eval().encode(video)
    grids, errors = latent.grids, []
    for scales in range(1, 4):
        ids = latent.ids[:, : sum(math.prod(grid) for grid in grids[:scales])]
        z = tokenizer.space.embed(ids, grids)
        again = tokenizer.decode(Latent(spec=latent.spec, grids=grids, num_frames=9, z=z))
        errors.append(float((again - video).square().mean()))
    assert errors[2] < 0.7 * errors[1] < 0.7 * errors[0]
    assert errors[2] < 0.3 * float(video.var())
