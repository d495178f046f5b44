"""The contract of a tokenizer, held by every quantizer with every backbone, whoever adds one (shrunk recipes)."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from vidgen import Latent, UserError, config, dataset, hub
from vidgen.latents import joint_ids, split_ids
from vidgen.metrics.codebook_usage import LARGEST_JOINT, CodebookUsage
from vidgen.protocols import LatentSpace, Tokenizer


@pytest.fixture(params=tiny.pairs())
def tokenizer(request: pytest.FixtureRequest) -> Any:
    built = tiny.pair(*request.param)
    built.names = request.param
    started(built)
    built.measure(tiny.videos(built))
    return built.eval()


def started(tokenizer: Any) -> None:
    """Codebooks that start from data have seen some."""
    with torch.no_grad():
        tokenizer.train()(tiny.video(tiny.shape_of(tokenizer), batch=4, seed=5))


@pytest.fixture
def video(tokenizer: Any) -> Tensor:
    return tiny.video(tiny.shape_of(tokenizer))


def one_space(tokenizer: Any) -> bool:
    """Whether h and z are one space, so that projecting z changes nothing: not where z is a sum of stages."""
    return tokenizer.spec.kind != "ids" or (tokenizer.spec.stages == 1 and tokenizer.spec.scales is None)


def same(a: Latent, b: Latent) -> bool:
    left, right = a.tensors(), b.tensors()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_it_satisfies_the_protocols(tokenizer: Any) -> None:
    assert isinstance(tokenizer, Tokenizer)
    assert isinstance(tokenizer.space, LatentSpace)


def test_shapes_and_values(tokenizer: Any, video: Tensor) -> None:
    spec, shape = tokenizer.spec, tuple(video.shape[2:])
    latent = tokenizer.encode(video)
    assert latent.grids == spec.grids(shape)
    assert latent.grids[-1][1:] == (4, 2)
    if spec.scales is None:
        assert latent.grids == ((3, 4, 2),)
    assert (latent.spec, latent.start, latent.num_frames) == (spec, 0, shape[0])
    assert latent.z.shape == (2, spec.channels, 3, 4, 2)
    assert latent.h.shape == (2, tokenizer.space.h_channels, 3, 4, 2)
    if spec.levels is None:
        assert latent.ids is None
    else:
        assert latent.ids.shape == (2, spec.num_tokens(shape), len(spec.levels))
        assert bool((latent.ids >= 0).all())
        assert bool((latent.ids < torch.tensor(spec.levels)).all())
    if spec.kind == "bits":
        assert set(latent.h.unique().tolist()) <= {-1.0, 1.0}
    assert tokenizer.decode(latent).shape == video.shape


def test_lengths_that_do_not_fit_repeat_the_last_frame_and_are_trimmed(tokenizer: Any, video: Tensor) -> None:
    frames = video.shape[2]
    for short in range(1, tokenizer.spec.stride[0]):
        cut = video[:, :, : frames - short]
        repeated = torch.cat([cut, cut[:, :, -1:].expand(-1, -1, short, -1, -1)], dim=2)
        latent = tokenizer.encode(cut)
        assert latent.num_frames == frames - short
        assert same(latent, replace(tokenizer.encode(repeated), num_frames=frames - short))
        back = tokenizer.decode(latent)
        assert torch.equal(back, tokenizer.decode(tokenizer.encode(repeated))[:, :, : frames - short])
        reconstruction, _, _ = tokenizer(cut)
        assert reconstruction.shape == cut.shape


def test_an_image_is_a_video_of_one_frame(tokenizer: Any, video: Tensor) -> None:
    if not tokenizer.spec.causal:
        pytest.skip("only causal tokenizers keep the image law")
    image, whole = tokenizer.encode(video[:, :, :1]), tokenizer.encode(video)
    assert image.grids == tokenizer.spec.grids((1, *video.shape[3:]))
    torch.testing.assert_close(image.h, whole.h[:, :, :1], rtol=1e-4, atol=1e-4)
    assert tokenizer.decode(image).shape == (2, 3, 1, *video.shape[3:])


@pytest.mark.parametrize("axis", ["height", "width"])
def test_a_size_that_does_not_fit_is_one_sentence(tokenizer: Any, video: Tensor, axis: str) -> None:
    number = 3 if axis == "height" else 4
    size, stride = video.shape[number], tokenizer.spec.stride[number - 2]
    short = video.narrow(number, 0, size - 1)
    sentence = (
        f"The {axis} {size - 1} is not a multiple of the tokenizer's stride {stride}; "
        f"the nearest that fits is {size - stride} or {size}."
    )
    for call in (tokenizer.encode, tokenizer):
        with pytest.raises(UserError) as error:
            call(short)
        assert str(error.value) == sentence


def test_encoding_is_deterministic_without_gradient_and_leaves_the_mode_as_it_was(tokenizer: Any, video: Tensor) -> None:
    for training in (True, False):
        tokenizer.train(training)
        first = tokenizer.encode(video)
        assert same(first, tokenizer.encode(video))
        assert {module.training for module in tokenizer.modules()} == {training}
        assert not any(value.requires_grad for value in first.tensors().values())
        assert not tokenizer.decode(first).requires_grad
    assert same(first, tokenizer.train().encode(video))


def test_one_clip_is_encoded_as_in_its_batch(tokenizer: Any, video: Tensor) -> None:
    torch.testing.assert_close(tokenizer.encode(video[1:]).h, tokenizer.encode(video).h[1:], rtol=1e-4, atol=1e-4)


def test_decoding_from_z_from_ids_and_from_h_is_the_same(tokenizer: Any, video: Tensor) -> None:
    tokenizer.eval()
    latent = tokenizer.encode(video)
    back = tokenizer.decode(latent)
    if latent.ids is not None:
        assert torch.equal(tokenizer.decode(replace(latent, z=None, h=None)), back)
    torch.testing.assert_close(tokenizer.decode(replace(latent, z=None, ids=None)), back, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="needs z, ids or h"):
        tokenizer.decode(replace(latent, z=None, ids=None, h=None))


def test_decoding_prefers_z_then_ids(tokenizer: Any, video: Tensor) -> None:
    latent = tokenizer.encode(video)
    assert torch.equal(tokenizer.decode(replace(latent, h=None, ids=None)), tokenizer.decode(latent))
    if latent.ids is not None:
        assert torch.equal(tokenizer.decode(replace(latent, z=None, h=torch.zeros_like(latent.h))), tokenizer.decode(latent))


@pytest.mark.parametrize("start", [0, 4])
def test_the_law_of_the_space(tokenizer: Any, start: int) -> None:
    """embed(project(h).ids) == project(h).z, and projecting what is legal already changes nothing."""
    space = tokenizer.space
    h = torch.randn(2, space.h_channels, 3, 4, 2)
    latent = space.project(h, start=start)
    assert latent.grids == tokenizer.spec.grids((latent.num_frames, *tiny.shape_of(tokenizer)[1:]), start)
    assert (latent.start, latent.num_frames) == (start, tokenizer.spec.frames(3, start))
    assert space.project(h, num_frames=5).num_frames == 5
    if latent.ids is not None:
        assert torch.equal(space.embed(latent.ids, latent.grids), latent.z)
    else:
        torch.testing.assert_close(latent.h, h)
    if one_space(tokenizer):
        again = space.project(latent.h, start=start)
        torch.testing.assert_close(again.z, latent.z)
    assert tokenizer.decode(latent).shape[2] == latent.num_frames


def test_the_space_carries_no_gradient_and_updates_nothing(tokenizer: Any) -> None:
    before = copy.deepcopy(tokenizer.state_dict())
    latent = tokenizer.space.project(torch.randn(1, tokenizer.space.h_channels, 1, 2, 2, requires_grad=True))
    assert not latent.z.requires_grad
    assert not latent.h.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in tokenizer.state_dict().items())


def test_the_space_follows_the_dtype_of_its_input(tokenizer: Any) -> None:
    for dtype in (torch.float64, torch.bfloat16):
        latent = tokenizer.space.project(torch.randn(1, tokenizer.space.h_channels, 1, 2, 2, dtype=dtype))
        assert (latent.z.dtype, latent.h.dtype) == (dtype, dtype)


def test_measuring_standardises_each_channel(tokenizer: Any) -> None:
    """Over all that was measured: mean 0, deviation 1, in one pass over batches of any size; measuring again changes nothing."""
    videos = [*tiny.videos(tokenizer), tiny.video(tiny.shape_of(tokenizer), batch=1, seed=9)]
    tokenizer.measure(iter(videos))
    first = copy.deepcopy(tokenizer.state_dict())
    h = torch.cat([tokenizer.encode(video).h for video in videos]).double()
    if tokenizer.spec.kind == "bits":
        assert set(h.unique().tolist()) <= {-1.0, 1.0}
    else:
        torch.testing.assert_close(h.mean(dim=(0, 2, 3, 4)), torch.zeros(h.shape[1]).double(), rtol=0, atol=1e-4)
        torch.testing.assert_close(h.var(dim=(0, 2, 3, 4), correction=0), torch.ones(h.shape[1]).double(), rtol=1e-3, atol=0)
    tokenizer.measure(iter(videos))
    for name, value in tokenizer.state_dict().items():
        torch.testing.assert_close(value, first[name], rtol=1e-4, atol=1e-5)


def test_measuring_does_not_change_what_is_decoded(tokenizer: Any, video: Tensor) -> None:
    back = tokenizer.decode(tokenizer.encode(video))
    tokenizer.measure([3 * video + 0.5])
    assert torch.equal(tokenizer.decode(tokenizer.encode(video)), back)


def test_the_log_variance_is_in_the_units_of_h(tokenizer: Any, video: Tensor) -> None:
    """z of a training step is h plus noise of that variance, both put back into the bottleneck's units."""
    latent = tokenizer.encode(video)
    if latent.logvar is None:
        pytest.skip("no posterior")
    std = tokenizer.standardise.std.view(1, -1, 1, 1, 1)
    mean = tokenizer.standardise.mean.view(1, -1, 1, 1, 1)
    torch.testing.assert_close(latent.z, latent.h * std + mean, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        features = tokenizer.backbone.encode(video)
        code = torch.stack([tokenizer.quantizer.train()(features).z for _ in range(60)])
    spread = ((code - code.mean(0)) / std).var(0).mean()
    torch.testing.assert_close(spread, latent.logvar.exp().mean(), rtol=0.1, atol=0)


def seen_until(tokenizer: Any, cells: int) -> list[int]:
    """Of each cell the frames that it may depend on: up to its own last one, or to that of the clip that it is quantized with."""
    spec = tokenizer.spec
    pieces = [1] * cells if spec.clip is None else spec.pieces(cells)
    return [spec.frames(end) for end, size in zip(accumulate(pieces), pieces, strict=True) for _ in range(size)]


def test_no_cell_depends_on_later_frames_and_no_frame_on_later_cells(tokenizer: Any, video: Tensor) -> None:
    """By value through the quantizer too: with other frames at the end, what comes before them is the same."""
    if not tokenizer.spec.causal:
        pytest.skip("only causal tokenizers keep to the past")
    frames = sorted(set(seen_until(tokenizer, 3)))[-2]  # all but the last cell, or clip of cells
    cells = tokenizer.spec.cells(frames)
    other = torch.cat([video[:, :, :frames], -video[:, :, frames:]], dim=2)
    ours, theirs = tokenizer.encode(video), tokenizer.encode(other)
    torch.testing.assert_close(ours.cells(0, cells).z, theirs.cells(0, cells).z, rtol=1e-5, atol=1e-5)
    assert not torch.equal(ours.h[:, :, 2], theirs.h[:, :, 2]) or tokenizer.spec.kind == "bits"
    torch.testing.assert_close(
        tokenizer.decode(ours)[:, :, :frames], tokenizer.decode(theirs)[:, :, :frames], rtol=1e-4, atol=1e-5
    )


def test_slopes_by_later_frames_are_none(tokenizer: Any, video: Tensor) -> None:
    """From video to cells and on to frames, exactly: as in a training step, but for the batches of batch norms."""
    if not tokenizer.spec.causal:
        pytest.skip("only causal tokenizers keep to the past")
    tokenizer.eval().quantizer.train()
    video.requires_grad_()
    reconstruction, latent, _ = tokenizer(video)
    for cell, seen in enumerate(seen_until(tokenizer, 3)):
        own = slice(tokenizer.spec.frames(cell) if cell else 0, tokenizer.spec.frames(cell + 1))
        for output in (latent.z[:, :, cell], reconstruction[:, :, own]):
            (slope,) = torch.autograd.grad((output * torch.randn_like(output)).sum(), video, retain_graph=True)
            steepest = slope.abs().amax(dim=(0, 1, 3, 4))
            assert (steepest[seen:] == 0).all()
            assert (steepest[own] > 0).any()


def chunks(total: int, rng: torch.Generator) -> list[int]:
    """A random plan: sizes that add up to ``total``."""
    sizes = []
    while sum(sizes) < total:
        sizes.append(min(int(torch.randint(1, 7, (), generator=rng)), total - sum(sizes)))
    return sizes


@pytest.mark.parametrize("seed", range(3))
def test_in_a_stream_it_gives_what_it_gives_for_the_whole(tokenizer: Any, seed: int) -> None:
    """However the video is cut, and however its latents are: ids equal, the rest within 1e-5."""
    rng = torch.Generator().manual_seed(seed)
    _, height, width = tiny.shape_of(tokenizer, (5, 3, 2))
    video = tiny.video((tokenizer.spec.frames(5) - seed, height, width), seed=seed)
    if not tokenizer.spec.causal:
        with pytest.raises(UserError, match=r"^Only causal tokenizers"):
            next(tokenizer.encode_stream([video]))
        return
    whole = tokenizer.encode(video)
    pieces = list(tokenizer.encode_stream(video.split(chunks(video.shape[2], rng), dim=2)))
    assert [piece.num_frames for piece in pieces[:-1]] == [
        tokenizer.spec.frames(cells_of(piece), piece.start) for piece in pieces[:-1]
    ]
    torch.testing.assert_close(torch.cat([piece.z for piece in pieces], dim=2), whole.z, rtol=1e-5, atol=1e-5)
    if tokenizer.spec.clip is None:
        joined = Latent.cat(pieces)
        assert (joined.grids, joined.num_frames) == (whole.grids, whole.num_frames)
        if whole.ids is not None:
            assert torch.equal(joined.ids, whole.ids)
        pieces, first = [], 0
        for size in chunks(cells_of(whole), rng):
            pieces.append(whole.cells(first, first + size))
            first += size
    frames = torch.cat(list(tokenizer.decode_stream(pieces)), dim=2)
    torch.testing.assert_close(frames, tokenizer.decode(whole), rtol=1e-5, atol=1e-5)


def cells_of(latent: Latent) -> int:
    return latent.z.shape[2]


def inner_most(quantizer: Any) -> Any:
    """Of stages and scales the quantizer that they repeat."""
    while hasattr(quantizer, "quantizer") or hasattr(quantizer, "quantizers"):
        quantizer = quantizer.quantizer if hasattr(quantizer, "quantizer") else quantizer.quantizers[0].parts[0]
    return quantizer


def test_the_gradient_passes_straight_through_the_quantizer(tokenizer: Any) -> None:
    """In training the slope of z by the encoder's output is that of what is rounded: of the identity, or of ``bounded``.

    Of a Gaussian sample it is that of mean + deviation * noise, and of a relaxed one (gumbel: tests/quantizers) any but none.
    """
    quantizer = tokenizer.quantizer.train()
    inner, channels = inner_most(quantizer), quantizer.channels
    x = torch.randn(2, quantizer.in_channels, 3, 4, 2, requires_grad=True)
    code = quantizer(x)
    into = torch.randn_like(code.z)
    (slope,) = torch.autograd.grad((code.z * into).sum(), x)
    assert slope.isfinite().all()
    if tokenizer.spec.kind == "continuous":
        torch.testing.assert_close(slope[:, :channels], into)
        torch.testing.assert_close(slope[:, channels:], (into * (code.z - code.h) / 2)[:, : x.shape[1] - channels])
    elif getattr(inner, "relaxed", False):
        assert (slope != 0).any()
    elif hasattr(inner, "bounded"):
        (expected,) = torch.autograd.grad((inner.bounded(x) * into).sum(), x)
        torch.testing.assert_close(slope, expected)
        assert (slope != 0).any()
    elif any(torch.equal(code.h, legal) for legal in (x, code.z)):
        torch.testing.assert_close(slope, into)
    else:  # h is x bounded, channel by channel: it falls nowhere and is nowhere steeper than x
        share = slope / into
        assert (share >= 0).all() and (share < 1 + 1e-5).all() and (share > 0.1).any()


def test_ids_and_latents_are_one_another(tokenizer: Any, video: Tensor) -> None:
    """Random ids are legal: what they decode to is finite, and of one stage and scale they are found again from their latents."""
    spec = tokenizer.spec
    if spec.levels is None:
        pytest.skip("continuous latents have no ids")
    grids = spec.grids(tuple(video.shape[2:]))
    count = spec.num_tokens(tuple(video.shape[2:]))
    ids = torch.stack([torch.randint(level, (2, count)) for level in spec.levels], dim=-1)
    z = tokenizer.space.embed(ids, grids)
    assert z.shape == (2, spec.channels, 3, 4, 2)
    assert tokenizer.decode(replace(tokenizer.encode(video), z=None, ids=ids)).isfinite().all()
    stored = tokenizer.encode(video)
    assert torch.equal(tokenizer.space.embed(stored.ids, grids), stored.z)
    if spec.stages == 1 and spec.scales is None:
        # of z, which is in the space of the codes already: a quantizer that bounds its input has a way past that
        again = getattr(tokenizer.quantizer, "quantize", tokenizer.quantizer.project)(z)
        assert torch.equal(again.ids, ids)
        assert torch.equal(again.z, z)
    assert torch.equal(split_ids(joint_ids(ids, spec.levels), spec.levels), ids)


def test_usage_and_perplexity_are_those_of_counting(tokenizer: Any, video: Tensor) -> None:
    levels = tokenizer.spec.levels
    if levels is None:
        pytest.skip("continuous latents have no codebook")
    if math.prod(levels) > LARGEST_JOINT:
        pytest.skip("so large a codebook is counted by sub-id: tests/metrics/test_codebook_usage.py")
    usage, counts = CodebookUsage(levels=levels), Counter[tuple[int, ...]]()
    for seed in range(2):
        latent = tokenizer.encode(tiny.video(tiny.shape_of(tokenizer), seed=seed))
        usage.update(latent.ids)
        counts.update(tuple(token) for token in latent.ids.flatten(0, 1).tolist())
    shares = [count / counts.total() for count in counts.values()]
    found = usage.compute()
    assert found["usage"] == pytest.approx(len(counts) / math.prod(levels))
    assert found["perplexity"] == pytest.approx(math.exp(-sum(share * math.log(share) for share in shares)), rel=1e-5)


class Gone(Exception):
    """The process died."""


def test_stopping_and_going_on_is_never_having_stopped(tokenizer: Any, tmp_path: Path) -> None:
    """Bitwise, with all that training changes outside of the gradient: codebooks' starts, counts, averages, restarts."""
    training = tiny.tokenizer_training("lfq", start=tokenizer.train(), steps=5)

    def leave(step: int, loss: float) -> None:
        if step >= 3:
            raise Gone

    whole = training.run(tmp_path / "whole")
    with pytest.raises(Gone):
        training.run(tmp_path / "parts", hooks=tiny.Seen().hooks(progress=leave))
    parts = training.run(tmp_path / "parts")
    assert tiny.same_weights(parts.model, whole.model)
    assert tiny.same_weights(parts.average, whole.average)


def test_saved_and_loaded_it_is_the_same(tokenizer: Any, video: Tensor, tmp_path: Path) -> None:
    config = {
        "tokenizer": tiny.pair_config(*tokenizer.names),
        "generator": None,
        "num_classes": 0,
        "class_names": [],
        "shape": [9, 8, 8],
    }
    hub.save(tmp_path, tokenizer=tokenizer, generator=None, config=config)
    assert same(hub.load(tmp_path).tokenizer.encode(video), tokenizer.encode(video))


def test_measuring_nothing_is_refused(tokenizer: Any) -> None:
    if tokenizer.spec.kind == "bits":
        tokenizer.measure([])
    else:
        with pytest.raises(ValueError, match="at least one"):
            tokenizer.measure([])


def test_weights_round_trip(tokenizer: Any, video: Tensor) -> None:
    """With what was measured: a fresh tokenizer of the same recipe becomes the same one."""
    other = copy.deepcopy(tokenizer)
    tiny.stirred(other, 1.0)
    assert not torch.equal(other.decode(other.encode(video)), tokenizer.decode(tokenizer.encode(video)))
    other.load_state_dict(tokenizer.state_dict())
    assert same(other.encode(video), tokenizer.encode(video))
    assert torch.equal(other.decode(other.encode(video)), tokenizer.decode(tokenizer.encode(video)))


def test_the_space_of_a_copy_is_the_copy_s(tokenizer: Any) -> None:
    other = copy.deepcopy(tokenizer)
    for buffer in other.standardise.buffers():
        buffer.fill_(3.0)
    h = torch.randn(1, tokenizer.space.h_channels, 1, 2, 2)
    assert torch.equal(other.space.project(h).z, other.quantizer.project(h * 3 + 3).z)
    assert not torch.equal(tokenizer.standardise.std, other.standardise.std)


def test_losses_are_finite_named_and_add_up(tokenizer: Any, video: Tensor) -> None:
    reconstruction, latent, losses = tokenizer.train()(video)
    assert reconstruction.shape == video.shape
    assert latent.z.requires_grad
    assert not latent.h.requires_grad or tokenizer.spec.levels is None
    assert all(bool(torch.isfinite(value)) and value.ndim == 0 for value in losses.scalars.values())
    error, weights = reconstruction - video, tokenizer.loss
    expected = {"l1": error.abs().mean(), "mse": error.square().mean()}
    for name, value in expected.items():
        assert (name in losses.scalars) == (weights[name] > 0)
        torch.testing.assert_close(losses.scalars.get(name, value), value)
    own = sum(value for name, value in losses.scalars.items() if name not in expected)
    torch.testing.assert_close(losses.total, sum(weights[name] * value for name, value in expected.items()) + own)
    losses.total.backward()
    unused = [name for name, weight in tokenizer.named_parameters() if weight.grad is None or not weight.grad.isfinite().all()]
    assert unused == []


def test_a_few_steps_lower_the_loss_of_a_batch(tokenizer: Any, video: Tensor) -> None:
    optimizer = torch.optim.Adam(tokenizer.train().parameters(), lr=2e-3)

    def loss() -> Tensor:
        torch.manual_seed(0)
        return tokenizer(video)[2].total

    before = float(loss().detach())
    for _ in range(8):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert float(loss().detach()) < before


def test_it_trains_under_bf16(tokenizer: Any, video: Tensor) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reconstruction, _, losses = tokenizer.train()(video)
        latent = tokenizer.encode(video)
    assert reconstruction.dtype == losses.total.dtype == latent.h.dtype == torch.float32
    losses.total.backward()
    assert all(weight.grad.isfinite().all() for weight in tokenizer.parameters())


def test_recipes_of_the_paper_s_size_can_be_built() -> None:
    """As they are, without memory for their weights: MAGVIT-v2 has 2**18 codes and cells of 4 x 8 x 8 pixels."""
    with torch.device("meta"):
        spec = hub.build_tokenizer(config.load("tokenizer", "lfq_magvit2")).spec
    assert (spec.vocab_size, spec.stride, spec.causal) == (2**18, (4, 8, 8), True)


class OneClip(tiny.Clips):
    """A disc that bounces, always the same."""

    def __init__(self) -> None:
        self.worlds = dataset("worlds", frames=9, height=16, width=16, radius=[3.0, 3.5], families=["bounce"])
        super().__init__(self.worlds.shape, size=1)

    def clip(self, split: str, index: int, epoch: int = 0) -> dict[str, Any]:
        return self.worlds.clip("train", 0)


RECIPES = {
    **{name: lambda name=name: tiny.tokenizer_config(name) for name in tiny.distinct("tokenizers")},
    **{f"{pair.id}": lambda pair=pair: tiny.pair_config(*pair.values[0]) for pair in tiny.pairs()},
}
"""Every recipe, and every quantizer with every backbone."""


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_it_can_learn_one_clip_by_heart(name: str, tmp_path: Path) -> None:
    """In the average of weights that is kept: to more than 30 dB within 400 steps."""

    class Learnt(Exception):
        pass

    def look(step: int, split: str, values: Mapping[str, float]) -> None:
        if values.get("reconstruction/psnr", 0) > 30:
            raise Learnt

    recipe = RECIPES[name]()
    backbone = recipe["backbone"]
    backbone |= {"widths": [64] * len(backbone["widths"])} if "widths" in backbone else {"width": 64}
    rates = {"lr": 1e-3, "muon_lr": 0.01}
    if recipe["quantizer"]["name"] == "gumbel":
        rates = {"lr": 5e-4, "muon_lr": 0.003}
    torch.manual_seed(0)
    start = hub.build_tokenizer(recipe)
    data, more = OneClip(), {"warmup": 50, "ema": 0.98}
    training = tiny.tokenizer_training(name, data=data, start=start, steps=400, batch_size=4, **rates, **more)
    with pytest.raises(Learnt):
        training.run(tmp_path, tiny.Seen().hooks(log=look), log_every=100, checkpoint_every=400)


def compares_with_eager(name: str, backend: str) -> None:
    """As one graph, without a break, and not by falling back to eager, as torch does after some recompilations."""
    torch.compiler.reset()
    tokenizer = tiny.stirred(hub.build_tokenizer(RECIPES[name]())).eval()
    video = tiny.video(tiny.shape_of(tokenizer))
    compiled = torch.compile(tokenizer, backend=backend, fullgraph=True)
    for ours, theirs in zip(compiled(video)[::2], tokenizer(video)[::2], strict=True):
        torch.testing.assert_close(getattr(ours, "total", ours), getattr(theirs, "total", theirs), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_captured_as_one_graph_it_gives_the_same(name: str) -> None:
    """By the part of ``torch.compile`` that depends on our code; what makes kernels of the graph takes minutes a tokenizer."""
    compares_with_eager(name, "aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("name", tiny.distinct("tokenizers"))
def test_compiled_it_gives_the_same(name: str) -> None:
    compares_with_eager(name, "inductor")
