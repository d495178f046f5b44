"""Both sides of the benchmarks of speed do the work that they are compared by."""

from __future__ import annotations

import backbones
import pytest
import quantizers
import torch
from quantizers import RIVALS, Rival

from vidgen import config
from vidgen.registry import parts

torch.set_num_threads(1)
THERE = [rival for rival in RIVALS if rival.quantizer in parts("quantizers")]


def test_every_quantizer_has_a_rival() -> None:
    assert {rival.quantizer for rival in RIVALS} >= set(parts("quantizers"))
    assert len({rival.subject for rival in RIVALS}) == len(RIVALS)


@pytest.mark.parametrize("rival", THERE, ids=lambda rival: rival.subject)
def test_both_sides_give_latents_losses_and_a_gradient(rival: Rival) -> None:
    """Of one shape, and of every feature: a side that left part of the work undone would win."""
    x = torch.randn(1, rival.channels, 2, 4, 4)
    shapes = []
    for make in (lambda: quantizers.ours(rival.quantizer, rival.options), rival.theirs):
        try:
            step = make()
        except ModuleNotFoundError as error:
            pytest.skip(f"{error.name} is not installed")
        features = x.clone().requires_grad_()
        z, loss = step(features)
        (z.square().mean() + loss).backward()
        assert bool(loss.isfinite())
        assert bool(features.grad.isfinite().all())
        assert float((features.grad != 0).float().mean()) > 0.5
        shapes.append(z.shape)
    assert shapes[0] == shapes[1]


@pytest.fixture
def plain() -> backbones.Plain:
    return backbones.Plain(stride=(4, 4, 4), width=32, encoder_depth=1, decoder_depth=1, latent=5)


@pytest.mark.parametrize("cells", [1, 3])
def test_plain_convolutions_keep_the_law_of_lengths(plain: backbones.Plain, cells: int) -> None:
    video = torch.randn(2, 3, 1 + 4 * (cells - 1), 8, 12)
    z = plain.encode(video)
    assert z.shape == (2, 5, cells, 2, 3)
    assert plain.decode(z).shape == video.shape


def test_plain_convolutions_are_causal(plain: backbones.Plain) -> None:
    video = torch.randn(1, 3, 9, 8, 8, requires_grad=True)
    (slope,) = torch.autograd.grad(plain.encode(video)[:, :, 1].square().sum(), video)
    assert (slope.abs().sum(dim=(0, 1, 3, 4)) > 0).tolist() == [True] * 5 + [False] * 4
    z = torch.randn(1, 5, 3, 2, 2, requires_grad=True)
    (slope,) = torch.autograd.grad(plain.decode(z)[:, :, 4].square().sum(), z)
    assert (slope.abs().sum(dim=(0, 1, 3, 4)) > 0).tolist() == [True, True, False]


def test_plain_pixels_lie_where_their_cell_does(plain: backbones.Plain) -> None:
    """One cell's last layer moved: its own 4x4x4 pixels change and no others, so depth and space are not mixed up."""
    z = torch.randn(1, 5, 2, 2, 3)
    last = plain.decoder[-1]
    with torch.no_grad():
        before = plain.decode(z)
        last.register_forward_hook(lambda _, given, made: made.index_add(2, torch.tensor([1]), _one(made)))
        changed = (plain.decode(z) - before).abs().sum(dim=(0, 1)) > 0
    assert changed.nonzero().amin(dim=0).tolist() == [1, 4, 8]
    assert changed.nonzero().amax(dim=0).tolist() == [4, 7, 11]
    assert int(changed.sum()) == 64


def _one(like: torch.Tensor) -> torch.Tensor:
    """Something for cell (1, 2) of one frame of cells and nothing for the others."""
    made = torch.zeros_like(like[:, :, :1])
    made[..., 1, 2] = 1
    return made


def test_backbones_are_compared_at_equal_width_depth_and_stride() -> None:
    recipe = config.load("tokenizer/backbone", backbones.FASTEST)
    assert recipe["widths"] == [backbones.WIDTH]
    assert recipe["encoder_depths"] == [backbones.ENCODER_DEPTH]
    assert recipe["decoder_depths"] == [backbones.DECODER_DEPTH]
    for name in backbones.NAMES:
        assert backbones.backbone(name).stride == backbones.STRIDE
        assert backbones.backbone(name).causal
