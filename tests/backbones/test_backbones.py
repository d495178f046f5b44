"""Every backbone recipe, shrunk: its laws of length, of causality, and of images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import backbone_config, stirred

from vidgen import UserError, names
from vidgen.registry import build

OUT, IN = 5, 3


@pytest.fixture(params=names("backbones"))
def backbone(request: pytest.FixtureRequest) -> Any:
    return stirred(build("backbones", backbone_config(request.param), latent_out=OUT, latent_in=IN))


def small(backbone: Any, cells: int) -> tuple[int, int, int]:
    """A video that fills ``cells`` in time and 2 x 1 in space: not square."""
    t, h, w = backbone.stride
    return (1 + t * (cells - 1) if backbone.causal else t * cells), 2 * h, w


@pytest.mark.parametrize("cells", [1, 2, 3, 5])
def test_length_law_both_ways(backbone: Any, cells: int) -> None:
    shape = small(backbone, cells)
    z = backbone.encode(torch.randn(2, 3, *shape))
    assert z.shape == (2, OUT, cells, 2, 1)
    assert backbone.decode(torch.randn(2, IN, cells, 2, 1)).shape == (2, 3, *shape)


def test_sizes_need_not_be_square_nor_the_same_as_before(backbone: Any) -> None:
    _, h, w = backbone.stride
    for rows, columns in ((1, 3), (2, 1)):
        z = backbone.encode(torch.randn(1, 3, 1, rows * h, columns * w))
        assert z.shape == (1, OUT, 1, rows, columns)
        assert backbone.decode(torch.randn(1, IN, 1, rows, columns)).shape == (1, 3, 1, rows * h, columns * w)


def test_one_frame_is_the_first_cell_of_a_video(backbone: Any) -> None:
    """So that images and videos share a latent space."""
    if not backbone.causal:
        pytest.skip("only causal backbones keep the image law")
    video = torch.randn(1, 3, *small(backbone, 3))
    torch.testing.assert_close(backbone.encode(video[:, :, :1]), backbone.encode(video)[:, :, :1], rtol=1e-4, atol=1e-4)
    z = torch.randn(1, IN, 3, 2, 1)
    torch.testing.assert_close(backbone.decode(z[:, :, :1]), backbone.decode(z)[:, :, :1], rtol=1e-4, atol=1e-4)


def reached(output: torch.Tensor, given: torch.Tensor) -> list[bool]:
    """Which steps in time of ``given`` have any influence on ``output``; squares, so that no slopes cancel."""
    (slope,) = torch.autograd.grad(output.square().sum(), given, retain_graph=True)
    return (slope.abs().sum(dim=(0, 1, 3, 4)) > 0).tolist()


def test_the_encoder_never_sees_the_future(backbone: Any) -> None:
    """Cell k ends with frame s*k: the gradient to every later frame is exactly 0, and to frame s*k it is not."""
    if not backbone.causal:
        pytest.skip("not a causal backbone")
    stride = backbone.stride[0]
    video = torch.randn(1, 3, *small(backbone, 4), requires_grad=True)
    z = backbone.encode(video)
    for cell in range(4):
        seen = reached(z[:, :, cell], video)
        assert seen[stride * cell]
        assert not any(seen[stride * cell + 1 :])


def test_the_decoder_never_sees_the_future(backbone: Any) -> None:
    """Frame 0 is cell 0's, frames s*(k-1)+1 to s*k are cell k's: none depends on a later cell, each on its own."""
    if not backbone.causal:
        pytest.skip("not a causal backbone")
    z = torch.randn(1, IN, 4, 2, 1, requires_grad=True)
    video = backbone.decode(z)
    for frame in range(video.shape[2]):
        cell = -(-frame // backbone.stride[0])
        seen = reached(video[:, :, frame], z)
        assert seen[cell]
        assert not any(seen[cell + 1 :])


def test_from_a_later_start_every_cell_is_whole_and_nothing_sees_the_future(backbone: Any) -> None:
    stride = backbone.stride[0]
    z = torch.randn(1, IN, 3, 2, 1, requires_grad=True)
    video = backbone.decode(z, start=2)
    assert video.shape[2] == 3 * stride
    if backbone.causal:
        for frame in range(video.shape[2]):
            assert not any(reached(video[:, :, frame], z)[frame // stride + 1 :])


def test_a_later_start_changes_nothing_but_the_first_cell_s_frames() -> None:
    """With the same cells, what start > 0 adds are the frames that cell 0 lacks; the rest is the same video."""
    for name in names("backbones"):
        backbone = stirred(build("backbones", backbone_config(name), latent_out=OUT, latent_in=IN))
        if not backbone.causal or any(step[0] > 1 for step in backbone_config(name).get("strides", [])):
            continue  # convolutions between two upsamplings see the frames that were dropped
        z = torch.randn(1, IN, 3, 2, 1)
        torch.testing.assert_close(backbone.decode(z, start=3)[:, :, backbone.stride[0] - 1 :], backbone.decode(z))


def test_every_weight_is_used(backbone: Any) -> None:
    video = torch.randn(1, 3, *small(backbone, 3))
    (backbone.encode(video).square().sum() + backbone.decode(torch.randn(1, IN, 3, 2, 1)).square().sum()).backward()
    unused = [name for name, weight in backbone.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert unused == []


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("strides", [[[2, 2, 2]], [[2, 1, 1], [1, 2, 2]], [[3, 2, 1], [2, 1, 2]]])
def test_causal3d_with_any_strides(adaptive: bool, strides: list[list[int]]) -> None:
    """Causality of the adaptive norms too: each position is modulated by the cell that covers it."""
    stages = len(strides) + 1
    options = {"widths": [8] * stages, "encoder_depths": [1] * stages, "decoder_depths": [1] * stages}
    recipe = {"name": "causal3d", "strides": strides, "adaptive": adaptive, **options}
    backbone = stirred(build("backbones", recipe, latent_out=OUT, latent_in=IN))
    test_the_decoder_never_sees_the_future(backbone)
    test_the_encoder_never_sees_the_future(backbone)
    test_from_a_later_start_every_cell_is_whole_and_nothing_sees_the_future(backbone)
    test_one_frame_is_the_first_cell_of_a_video(backbone)


def test_adaptive_norms_start_as_plain_ones() -> None:
    """At the start the code modulates nothing: two codes with the same stem give the same."""
    from vidgen.backbones.causal3d import AdaptiveNorm
    from vidgen.nn.norm import ChannelNorm

    norm = AdaptiveNorm(6, IN)
    x = torch.randn(1, 5, 4, 2, 6)
    torch.testing.assert_close(norm(x, torch.randn(1, 3, 2, 1, IN), True), ChannelNorm(6, affine=False)(x))


def test_the_code_is_repeated_over_the_positions_it_covers() -> None:
    from vidgen.backbones.causal3d import AdaptiveNorm

    code = torch.arange(3.0).view(1, 3, 1, 1, 1).expand(1, 3, 2, 1, 1) + torch.tensor([0.0, 10.0]).view(1, 1, 2, 1, 1)
    first = AdaptiveNorm._resize(code, torch.empty(1, 5, 4, 3, 1), True)
    assert first[0, :, 0, 0, 0].tolist() == [0, 1, 1, 2, 2]
    assert first[0, 0, :, 0, 0].tolist() == [0, 0, 10, 10]
    assert first.shape == (1, 5, 4, 3, 1)
    later = AdaptiveNorm._resize(code, torch.empty(1, 6, 4, 3, 1), False)
    assert later[0, :, 0, 0, 0].tolist() == [0, 0, 1, 1, 2, 2]


def test_depths_and_strides_must_go_together() -> None:
    with pytest.raises(UserError, match="an entry for each stage"):
        build("backbones", {"name": "causal3d", "widths": [8, 8], "strides": []}, latent_out=OUT, latent_in=IN)
