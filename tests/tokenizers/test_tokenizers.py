"""The contract of a tokenizer, held by every recipe (shrunk), with each backbone recipe under it."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from vidgen import Latent, UserError, config, dataset, hub, names
from vidgen.protocols import LatentSpace, Tokenizer

EACH = [(name, None) for name in tiny.distinct("tokenizers")] + [
    (name, backbone)
    for name in tiny.distinct("tokenizers")
    for backbone in names("backbones")
    if tiny.tokenizer_config(name)["backbone"] != tiny.backbone_config(backbone)
]


@pytest.fixture(params=EACH, ids=lambda pair: "-".join(filter(None, pair)))
def tokenizer(request: pytest.FixtureRequest) -> Any:
    name, backbone = request.param
    changed = {} if backbone is None else {"backbone": tiny.backbone_config(backbone)}
    built = tiny.tokenizer(name, **changed)
    built.measure(tiny.videos(built))
    return built


@pytest.fixture
def video(tokenizer: Any) -> Tensor:
    return tiny.video(tiny.shape_of(tokenizer))


def same(a: Latent, b: Latent) -> bool:
    left, right = a.tensors(), b.tensors()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_it_satisfies_the_protocols(tokenizer: Any) -> None:
    assert isinstance(tokenizer, Tokenizer)
    assert isinstance(tokenizer.space, LatentSpace)


def test_shapes_and_values(tokenizer: Any, video: Tensor) -> None:
    spec, shape = tokenizer.spec, tuple(video.shape[2:])
    latent = tokenizer.encode(video)
    assert latent.grids == spec.grids(shape) == ((3, 4, 2),)
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
    image, whole = tokenizer.encode(video[:, :, :1]), tokenizer.encode(video)
    assert image.grids == ((1, 4, 2),)
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
    assert latent.grids == ((3, 4, 2),)
    assert (latent.start, latent.num_frames) == (start, tokenizer.spec.frames(3, start))
    assert space.project(h, num_frames=5).num_frames == 5
    if latent.ids is not None:
        assert torch.equal(space.embed(latent.ids, latent.grids), latent.z)
    else:
        torch.testing.assert_close(latent.h, h)
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
    tokenizer.train()
    code = torch.stack([tokenizer(video)[1].z for _ in range(60)])
    spread = ((code - code.mean(0)) / std).var(0).mean()
    torch.testing.assert_close(spread, latent.logvar.exp().mean(), rtol=0.1, atol=0)


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
    error = reconstruction - video
    torch.testing.assert_close(losses.scalars["l1"], error.abs().mean())
    torch.testing.assert_close(losses.scalars["mse"], error.square().mean())
    own = sum(value for name, value in losses.scalars.items() if name not in ("l1", "mse"))
    torch.testing.assert_close(losses.total, tokenizer.l1 * error.abs().mean() + tokenizer.mse * error.square().mean() + own)
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


@pytest.mark.slow
@pytest.mark.parametrize("name", tiny.distinct("tokenizers"))
def test_it_can_learn_one_clip_by_heart(name: str, tmp_path: Path) -> None:
    """By the whole of training, and in the average that is kept: to more than 30 dB."""
    recipe = tiny.tokenizer_config(name)
    recipe["backbone"]["widths"] = [64] * len(recipe["backbone"]["widths"])
    training = tiny.tokenizer_training(
        name, data=OneClip(), start=hub.build_tokenizer(recipe), steps=400, batch_size=1, lr=2e-3, muon_lr=0.02, ema=0.98
    )
    task = training.run(tmp_path, log_every=100, checkpoint_every=400)
    assert task.validate_now()["reconstruction/psnr"] > 30


@pytest.mark.slow
@pytest.mark.parametrize("name", tiny.distinct("tokenizers"))
def test_compiled_it_gives_the_same(name: str) -> None:
    tokenizer = tiny.tokenizer(name).eval()
    video = tiny.video(tiny.shape_of(tokenizer))
    compiled = torch.compile(tokenizer)
    for ours, theirs in zip(compiled(video)[::2], tokenizer(video)[::2], strict=True):
        torch.testing.assert_close(getattr(ours, "total", ours), getattr(theirs, "total", theirs), rtol=1e-4, atol=1e-4)
