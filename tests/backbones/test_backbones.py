"""Every backbone recipe, shrunk: its laws of length, of causality, of images, and of streams."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
import torch
from tiny import backbone_config, stirred

from vidgen import names
from vidgen.nn.stream import Stream
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
    frames, h, w = small(backbone, 1)[0], *backbone.stride[1:]
    for rows, columns in ((1, 3), (2, 1)):
        z = backbone.encode(torch.randn(1, 3, frames, rows * h, columns * w))
        assert z.shape == (1, OUT, 1, rows, columns)
        assert backbone.decode(torch.randn(1, IN, 1, rows, columns)).shape == (1, 3, frames, rows * h, columns * w)


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


def plans(cells: int, count: int = 3) -> list[list[int]]:
    """Ways to cut ``cells`` into chunks: one by one, and at random."""
    random = Random(0)
    found = [[1] * cells]
    while len(found) <= count:
        cuts = sorted(random.sample(range(1, cells), random.randint(1, cells - 1)))
        found.append([last - first for first, last in zip([0, *cuts], [*cuts, cells], strict=True)])
    return found


@torch.no_grad()
def streamed(step: Any, x: torch.Tensor, sizes: Sequence[int], plan: Sequence[int]) -> torch.Tensor:
    """``step`` over ``x`` cut by ``plan`` (in cells), where ``sizes`` says how long each cell is in ``x``."""
    stream, parts, cell = Stream(), [], 0
    for cells in plan:
        first, last = sum(sizes[:cell]), sum(sizes[: cell + cells])
        parts.append(step(x[:, :, first:last], cell, stream))
        cell += cells
    return torch.cat(parts, dim=2)


def test_any_chunk_plan_encodes_to_the_cells_of_the_whole(backbone: Any) -> None:
    if not backbone.causal:
        pytest.skip("not a causal backbone")
    cells = 7
    video = torch.randn(2, 3, *small(backbone, cells))
    whole = backbone.encode(video).detach()
    for plan in plans(cells):
        parts = streamed(backbone.encode, video, [1] + [backbone.stride[0]] * (cells - 1), plan)
        torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5 * float(whole.abs().max()))


def test_any_chunk_plan_decodes_to_the_frames_of_the_whole(backbone: Any) -> None:
    if not backbone.causal:
        pytest.skip("not a causal backbone")
    z = torch.randn(2, IN, 7, 2, 1)
    whole = backbone.decode(z).detach()
    for plan in plans(7):
        parts = streamed(backbone.decode, z, [1] * 7, plan)
        torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5 * float(whole.abs().max()))


def test_without_its_stream_a_chunk_is_another(backbone: Any) -> None:
    """So that the two tests above can fail: what came before a chunk matters."""
    if not backbone.causal:
        pytest.skip("not a causal backbone")
    z = torch.randn(1, IN, 4, 2, 1)
    alone = torch.cat([backbone.decode(z[:, :, :2]), backbone.decode(z[:, :, 2:], start=2)], dim=2)
    assert (alone - backbone.decode(z)).abs().max() > 1e-3


def test_what_a_stream_remembers_does_not_grow_with_the_video(backbone: Any) -> None:
    if not backbone.causal:
        pytest.skip("not a causal backbone")
    remembered = []
    encoding, decoding = Stream(), Stream()
    _, height, width = small(backbone, 1)
    with torch.no_grad():
        for cell in range(40):
            backbone.encode(torch.randn(1, 3, backbone.stride[0] if cell else 1, height, width), cell, encoding)
            backbone.decode(torch.randn(1, IN, 1, 2, 1), cell, decoding)
            remembered.append(encoding.nbytes + decoding.nbytes)
    assert remembered[0] > 0
    assert remembered[19] == remembered[-1]  # by then the widest window in a recipe, 16 cells, is full


def test_a_stream_holds_no_graph(backbone: Any) -> None:
    """Else memory would grow with the video wherever gradients are on."""
    if not backbone.causal:
        pytest.skip("not a causal backbone")
    stream = Stream()
    backbone.decode(torch.randn(1, IN, 2, 2, 1, requires_grad=True), 0, stream)
    assert stream._past
    assert not any(past.requires_grad for past in stream._past.values())
