"""``vit``: its attention against plain dense attention, its streams, and weights of image transformers in it."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
from tiny import stirred
from torch import Tensor
from torch.nn import functional as F

from vidgen import UserError
from vidgen.backbones.vit import FactorisedAttention, JointAttention, ViT, inflate_patch_embedding, rotary
from vidgen.nn.causal_conv import patchify
from vidgen.nn.rope import rotate
from vidgen.nn.stream import Stream

OPTIONS: dict[str, Any] = {"width": 16, "heads": 2, "encoder_depth": 2, "decoder_depth": 1, "latent_out": 5, "latent_in": 3}


def turned(x: Tensor, place: tuple[int, int, int]) -> Tensor:
    """A head's channels as complex numbers (first half + i second half), each pair turned by its axis' angle."""
    half = len(x) // 2
    space = half // 3
    counts = (half - 2 * space, space, space)
    angles = [position * 10000.0 ** (-i / count) for position, count in zip(place, counts, strict=True) for i in range(count)]
    z = torch.complex(x[:half], x[half:]) * torch.exp(1j * torch.tensor(angles, dtype=torch.float64))
    return torch.cat([z.real, z.imag])


@pytest.mark.parametrize("window", [1, 2, 4])
def test_joint_attention_is_dense_attention_over_the_cells_of_the_window(window: int) -> None:
    """Token by token, positions counted from the clip's first cell: only their differences matter."""
    layer = stirred(JointAttention(16, 2, window)).double()
    grid = (4, 2, 3)
    x = torch.randn(1, 4, 6, 16, dtype=torch.float64)
    tables = layer.tables(grid, window, 8, x.device)
    places = [(t, h, w) for t in range(4) for h in range(2) for w in range(3)]
    inner = layer.attention
    normed = F.layer_norm(x, (16,), eps=1e-6) * layer.norm.scale
    q, k, v = inner.qkv(normed[0].flatten(0, 1)).view(24, 3, 2, 8).unbind(1)
    q, k = (F.layer_norm(part, (8,), eps=1e-6) * norm.scale for part, norm in ((q, inner.q_norm), (k, inner.k_norm)))
    mixed = torch.empty(24, 2, 8, dtype=torch.float64)
    for i, place in enumerate(places):
        seen = [j for j, other in enumerate(places) if place[0] - window < other[0] <= place[0]]
        for head in range(2):
            own = turned(q[i, head], place)
            scores = torch.stack([own @ turned(k[j, head], places[j]) / math.sqrt(8) for j in seen])
            mixed[i, head] = scores.softmax(0) @ v[seen, head]
    expected = x + inner.out(mixed.flatten(1)).view_as(x)
    torch.testing.assert_close(layer(x, tables, Stream(keep=False)), expected, rtol=1e-5, atol=1e-5)


def test_factorised_attention_is_each_cell_by_itself_then_each_place_by_itself() -> None:
    layer = stirred(FactorisedAttention(16, 2, 3)).double()
    x = torch.randn(2, 5, 6, 16, dtype=torch.float64)
    space, time = layer.tables((5, 2, 3), 3, 8, x.device)
    stream = Stream(keep=False)
    cells = [x[:, t] + layer.space(layer.norms[0](x[:, t]), space, stream) for t in range(5)]
    y = torch.stack(cells, dim=1)
    places = [y[:, :, n] + layer.time(layer.norms[1](y[:, :, n]), time, stream) for n in range(6)]
    torch.testing.assert_close(layer(x, [space, time], stream), torch.stack(places, dim=2))
    # Within a cell, what is in other cells does not matter; between places, what is at other places does not.
    torch.testing.assert_close(layer.space(x[:1, 0], space, stream)[0], layer.space(x[:, 0], space, stream)[0])


@pytest.mark.parametrize("attention", ["joint", "factorised"])
@pytest.mark.parametrize("patch", [(4, 4, 4), (1, 4, 2), (2, 4, 4)])
def test_streams_give_the_whole(attention: Any, patch: tuple[int, int, int]) -> None:
    """Any chunks of whole cells, several windows long in all: whole clips and streams see the same past."""
    backbone = stirred(ViT(**OPTIONS, attention=attention, patch=patch, window=3)).double()
    t, h, w = patch
    cells = 9
    video = torch.randn(1, 3, 1 + t * (cells - 1), 2 * h, w, dtype=torch.float64)
    z = torch.randn(1, 3, cells, 2, 1, dtype=torch.float64)
    rng = random.Random(0)
    for _ in range(4):
        cuts = [0, *sorted(rng.sample(range(1, cells), rng.randint(1, cells - 1))), cells]
        frames = [0] + [1 + t * (cut - 1) for cut in cuts[1:]]
        stream, codes = Stream(), []
        for a, start, end in zip(cuts, frames, frames[1:], strict=False):
            codes.append(backbone.encode(video[:, :, start:end], a, stream))
        torch.testing.assert_close(torch.cat(codes, dim=2), backbone.encode(video), rtol=1e-5, atol=1e-5)
        stream = Stream()
        chunks = [backbone.decode(z[:, :, a:b], a, stream) for a, b in zip(cuts, cuts[1:], strict=False)]
        torch.testing.assert_close(torch.cat(chunks, dim=2), backbone.decode(z), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention", ["joint", "factorised"])
def test_the_past_reaches_as_far_as_the_window_and_no_farther(attention: Any) -> None:
    """One block with a window of 3: cell 5 is made of cells 3, 4 and 5, in a long clip as in a short one."""
    backbone = stirred(ViT(**OPTIONS | {"encoder_depth": 1}, attention=attention, patch=(2, 4, 4), window=3))
    video = torch.randn(1, 3, 15, 8, 4, requires_grad=True)
    z = backbone.encode(video)
    (slope,) = torch.autograd.grad(z[:, :, 5].square().sum(), video)
    assert (slope.abs().sum(dim=(0, 1, 3, 4)) > 0).tolist() == [5 <= frame <= 10 for frame in range(15)]
    short = backbone.encode(video[:, :, 5:11], start=3)
    torch.testing.assert_close(short[:, :, 2], z[:, :, 5], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", ["joint", "factorised"])
def test_where_in_a_video_a_window_starts_does_not_matter(attention: Any) -> None:
    backbone = stirred(ViT(**OPTIONS, attention=attention, patch=(2, 4, 4), window=3))
    video = torch.randn(1, 3, 8, 8, 4)
    assert torch.equal(backbone.encode(video, start=1), backbone.encode(video, start=100_000))


@pytest.mark.parametrize("far", [0, 20_000])
def test_positions_of_long_clips_are_turned_exactly(far: int) -> None:
    """The product of two turned vectors depends on their distance alone, in float32 after 20 000 cells as at the start."""
    table = rotary((far + 3, 1, 1), 32, torch.device("cpu"))
    x = torch.randn(1, 1, 2, 32)
    ends = rotate(x, (table[0][[far, far + 2]], table[1][[far, far + 2]]))[0, 0]
    expected = turned(x[0, 0, 0].double(), (0, 0, 0)) @ turned(x[0, 0, 1].double(), (2, 0, 0))
    torch.testing.assert_close((ends[0] @ ends[1]).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("how", ["central", "average"])
@pytest.mark.parametrize("frames", [1, 2, 4])
def test_an_inflated_embedding_sees_a_still_video_as_its_image(how: Any, frames: int) -> None:
    weight, bias = torch.randn(16, 3, 4, 2), torch.randn(16)
    backbone = ViT(**OPTIONS, patch=(frames, 4, 2))
    with torch.no_grad():
        backbone.embed.weight.copy_(inflate_patch_embedding(weight, frames, how))
        backbone.embed.bias.copy_(bias)
    image = torch.randn(2, 3, 8, 6)
    expected = F.conv2d(image, weight, bias, stride=(4, 2)).permute(0, 2, 3, 1)
    still = image[:, :, None].expand(-1, -1, frames, -1, -1).permute(0, 2, 3, 4, 1)
    torch.testing.assert_close(backbone.embed(patchify(still, backbone.patch))[:, 0], expected, rtol=1e-4, atol=1e-4)


def test_inflated_embeddings_of_moving_videos() -> None:
    """Central: that of the frame ``frames // 2``; average: the mean of the frames' own."""
    weight = torch.randn(16, 3, 4, 2)
    video = torch.randn(1, 3, 4, 4, 2)
    each = torch.stack([F.conv2d(video[:, :, t], weight)[0, :, 0, 0] for t in range(4)])
    tubelet = patchify(video.permute(0, 2, 3, 4, 1), (4, 4, 2)).flatten()
    for how, expected in (("central", each[2]), ("average", each.mean(0))):
        torch.testing.assert_close(inflate_patch_embedding(weight, 4, how) @ tubelet, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="central or average, not 'middle'"):
        inflate_patch_embedding(weight, 4, "middle")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"width": 18, "heads": 4}, "The vit's width 18 does not split into 4 heads of an even size; the nearest is 16."),
        ({"attention": "axial"}, "The vit's attention is joint or factorised, not 'axial'."),
        ({"window": 0}, "The vit's window is 0 cells; it needs at least 1, the cell itself."),
    ],
)
def test_options_that_cannot_be_are_told(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        ViT(**OPTIONS | options)
    assert str(error.value) == sentence
