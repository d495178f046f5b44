"""The layers, each against torch's own operation or against the property it is there for."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vidgen.nn.attention import SHORT, attend
from vidgen.nn.causal_conv import CausalConv, Chain, SpatialConv, TemporalConv, patchify, unpatchify
from vidgen.nn.embeddings import LabelEmbedding, TimestepEmbedding
from vidgen.nn.norm import ChannelNorm, FrameGroupNorm
from vidgen.nn.rope import grid_positions, rotary_table, rotate
from vidgen.nn.stream import Stream
from vidgen.nn.wavelet import haar, haar_matrix


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (1, 2)])
def test_spatial_conv_is_a_3d_convolution_of_one_frame(kernel: int, stride: tuple[int, int]) -> None:
    layer = SpatialConv(3, 5, kernel=kernel, stride=stride)
    x = torch.randn(2, 4, 8, 6, 3)
    expected = F.conv3d(
        x.permute(0, 4, 1, 2, 3),
        layer.conv.weight.unsqueeze(2),
        layer.conv.bias,
        stride=(1, *stride),
        padding=(0, kernel // 2, kernel // 2),
    )
    got = layer(x)
    assert got.shape == (2, 4, 8 // stride[0], 6 // stride[1], 5)
    torch.testing.assert_close(got, expected.permute(0, 2, 3, 4, 1))


@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_temporal_conv_is_a_causally_padded_3d_convolution(kernel: int, stride: int) -> None:
    """torch's convolution sees kernel - 1 zeros before the first frame; the weights are the linear layer's, tap by tap."""
    layer = TemporalConv(3, 5, kernel=kernel, stride=stride)
    weight = layer.linear.weight.unflatten(1, (kernel, 3)).permute(0, 2, 1)[..., None, None]
    for frames in (1, 2, 5, 1 + 2 * stride):
        x = torch.randn(2, frames, 3, 2, 3)
        padded = F.pad(x.permute(0, 4, 1, 2, 3), (0, 0, 0, 0, kernel - 1, 0))
        expected = F.conv3d(padded, weight, layer.linear.bias, stride=(stride, 1, 1))
        torch.testing.assert_close(layer(x, Stream()), expected.permute(0, 2, 3, 4, 1))


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_temporal_conv_sees_its_window_and_nothing_else(stride: int) -> None:
    """By gradient: output t depends on frames t*s - 2, t*s - 1 and t*s. And 1 + s*k frames become 1 + k."""
    layer = TemporalConv(1, 1, kernel=3, stride=stride)
    for cells in (1, 2, 4):
        x = torch.randn(1, 1 + stride * (cells - 1), 1, 1, 1, requires_grad=True)
        y = layer(x, Stream())
        assert y.shape[1] == cells
        for cell in range(cells):
            (slope,) = torch.autograd.grad(y[0, cell].sum(), x, retain_graph=True)
            seen = {int(frame) for frame in slope.flatten().nonzero()}
            assert seen == {frame for frame in range(cell * stride - 2, cell * stride + 1) if frame >= 0}


@pytest.mark.parametrize("time_kernel", [1, 2, 3])
@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 2), (3, 1, 2)])
@pytest.mark.parametrize("repeat", [False, True])
def test_causal_conv_is_a_causally_padded_3d_convolution(time_kernel: int, stride: tuple[int, int, int], repeat: bool) -> None:
    """1 + s*k frames are 1 + k; before them stand zeros, or the first frame."""
    layer = CausalConv(3, 5, time_kernel=time_kernel, stride=stride, repeat=repeat)
    for frames in (1, 1 + 2 * stride[0]):
        x = torch.randn(2, 3, frames, 4, 6)
        before = x[:, :, :1].expand(-1, -1, time_kernel - 1, -1, -1) if repeat else torch.zeros(2, 3, time_kernel - 1, 4, 6)
        padded = F.pad(torch.cat([before, x], dim=2), (1, 1, 1, 1))
        expected = F.conv3d(padded, layer.conv.weight, layer.conv.bias, stride=stride)
        got = layer(x.permute(0, 2, 3, 4, 1), Stream()).permute(0, 4, 1, 2, 3)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("repeat", [False, True])
@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("full", [False, True])
def test_convolutions_over_chunks_are_those_over_the_whole(full: bool, stride: int, repeat: bool) -> None:
    """A kernel of 5, which reaches over several one-frame chunks, and over the first frame into the padding."""
    if full:
        layer: nn.Module = CausalConv(3, 5, time_kernel=5, stride=(stride, 1, 1), repeat=repeat)
    else:
        layer = TemporalConv(3, 5, kernel=5, stride=stride, repeat=repeat)
    x = torch.randn(2, 1 + 6 * stride, 4, 2, 3)
    whole = layer(x, Stream())
    for cuts in ([1, 2, 3, 4, 5, 6], [1, 4], [2, 3]):
        stream, parts = Stream(), []
        for first, last in zip([0, *cuts], [*cuts, 7], strict=True):
            frames = slice(max(0, 1 + (first - 1) * stride), 1 + (last - 1) * stride)
            parts.append(layer(x[:, frames], Stream.at(first, stream)))
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("repeat", [False, True])
def test_causal_conv_agrees_with_diffusers(repeat: bool) -> None:
    """Wan's, which pads with zeros, and Cosmos's, which repeats the first frame, with the same weights; whole and in chunks."""
    pytest.importorskip("diffusers")
    from diffusers.models.autoencoders.autoencoder_kl_cosmos import CosmosCausalConv3d
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d

    theirs = CosmosCausalConv3d(3, 5, 3, padding=1) if repeat else WanCausalConv3d(3, 5, 3, padding=1)
    ours = CausalConv(3, 5, repeat=repeat)
    ours.conv.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 9, 4, 6)
    features = x.permute(0, 2, 3, 4, 1)
    expected = theirs(x).permute(0, 2, 3, 4, 1)
    torch.testing.assert_close(ours(features, Stream()), expected, rtol=1e-4, atol=1e-5)
    stream = Stream()
    parts = [ours(part, stream) for part in features.split([1, 3, 5], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, rtol=1e-4, atol=1e-5)
    if not repeat:
        cached = theirs(x[:, :, 4:], x[:, :, 2:4])
        torch.testing.assert_close(parts[2], cached.permute(0, 2, 3, 4, 1), rtol=1e-4, atol=1e-5)


def test_temporal_conv_agrees_with_vidtok_s_in_diffusers() -> None:
    """VidTok's causal convolution over time, first frame repeated."""
    pytest.importorskip("diffusers")
    module = pytest.importorskip("diffusers.models.autoencoders.autoencoder_vidtok")
    theirs, ours = module.VidTokCausalConv1d(3, 5, 3), TemporalConv(3, 5, repeat=True)
    with torch.no_grad():
        ours.linear.weight.copy_(theirs.conv.weight.permute(0, 2, 1).flatten(1))  # (out, in, tap) -> tap by tap
        ours.linear.bias.copy_(theirs.conv.bias)
    x = torch.randn(2, 3, 7)
    torch.testing.assert_close(ours(x.mT[:, :, None, None], Stream())[:, :, 0, 0], theirs(x).mT, rtol=1e-4, atol=1e-5)


def test_a_chain_hands_the_stream_to_each() -> None:
    """Two kernels of 3 in time reach 4 frames back, across chunks."""
    chain = Chain([TemporalConv(2, 2), SpatialConv(2, 3), TemporalConv(3, 1)])
    x, stream = torch.randn(1, 8, 2, 2, 2), Stream()
    parts = [chain(part, stream) for part in x.split(2, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), chain(x, Stream()), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("channels", [64, 48, 6])
@pytest.mark.parametrize("affine", [False, True])
def test_frame_group_norm_is_group_norm_of_each_frame(channels: int, affine: bool) -> None:
    norm = FrameGroupNorm(channels, affine=affine)
    if affine:
        nn.init.normal_(norm.norm.weight)
        nn.init.normal_(norm.norm.bias)
    x = torch.randn(2, 3, 4, 5, channels)
    groups = {64: 32, 48: 16, 6: 2}[channels]
    grouped = x.unflatten(-1, (groups, -1)).double()
    mean = grouped.mean(dim=(2, 3, 5), keepdim=True)
    spread = grouped.var(dim=(2, 3, 5), keepdim=True, correction=0)
    expected = ((grouped - mean) / (spread + 1e-6).sqrt()).flatten(-2).float()
    if affine:
        expected = expected * norm.norm.weight + norm.norm.bias
    torch.testing.assert_close(norm(x), expected, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert norm(x.bfloat16()).dtype == torch.bfloat16
        assert norm(x).dtype == torch.float32


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16])
def test_the_haar_basis_is_orthonormal_and_its_rows_are_haar_s(size: int) -> None:
    basis = haar_matrix(size, torch.empty(0, dtype=torch.float64))
    torch.testing.assert_close(basis @ basis.T, torch.eye(size, dtype=torch.float64))
    torch.testing.assert_close(basis[0], torch.full((size,), size**-0.5, dtype=torch.float64))
    for row in basis[1:]:  # a step up, as long a step down, nothing elsewhere
        support = row.nonzero().flatten()
        half = len(support) // 2
        assert torch.equal(support, torch.arange(support[0], support[0] + 2 * half))
        torch.testing.assert_close(row[support], torch.tensor([1.0] * half + [-1.0] * half).double() * (2 * half) ** -0.5)


@pytest.mark.parametrize("patch", [(1, 1, 1), (1, 2, 2), (4, 2, 8)])
def test_haar_and_back(patch: tuple[int, int, int]) -> None:
    p, q, r = patch
    x = torch.randn(2, 3, p * q * r * 3)
    y = haar(x, patch)
    torch.testing.assert_close(haar(y, patch, inverse=True), x, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1))
    bases = [haar_matrix(side, torch.empty(0)) for side in patch]
    expected = torch.einsum("ai,bj,ck,nmijkd->nmabcd", *bases, x.unflatten(-1, (*patch, 3)))
    torch.testing.assert_close(y, expected.flatten(2), rtol=1e-5, atol=1e-5)
    flat = haar(torch.full((1, p * q * r * 3), 0.5), patch)
    torch.testing.assert_close(flat[0, :3], torch.full((3,), 0.5 * (p * q * r) ** 0.5))
    assert flat[0, 3:].abs().max() < 1e-6 if p * q * r > 1 else flat.shape == (1, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # in full precision all the same
        assert torch.equal(haar(x, patch), y)


@pytest.mark.parametrize("patch", [(1, 1, 1), (2, 1, 3), (4, 2, 2)])
def test_patchify_and_back(patch: tuple[int, int, int]) -> None:
    video = torch.randn(2, 8, 4, 6, 3)
    x = patchify(video, patch)
    p, q, r = patch
    assert x.shape == (2, 8 // p, 4 // q, 6 // r, p * q * r * 3)
    assert torch.equal(unpatchify(x, patch), video)
    assert torch.equal(x[0, 0, 0, 1], video[0, :p, :q, r : 2 * r].flatten())  # one tubelet's pixels, and no others


def test_unpatchify_is_depth_to_space() -> None:
    """Over height and width alone it is torch's pixel shuffle, whose channels come the other way round."""
    x = torch.randn(1, 1, 3, 2, 8)
    other = x[0, 0].unflatten(-1, (4, 2)).movedim(-1, -2).flatten(-2).permute(2, 0, 1)
    torch.testing.assert_close(unpatchify(x, (1, 2, 2))[0, 0].permute(2, 0, 1), F.pixel_shuffle(other, 2))


@pytest.mark.parametrize("head_dim", [6, 8, 64])
def test_rotating_keeps_norms(head_dim: int) -> None:
    positions = grid_positions((3, 4, 2), start=5)
    x = torch.randn(2, 3, len(positions), head_dim)
    torch.testing.assert_close(rotate(x, rotary_table(positions, head_dim)).norm(dim=-1), x.norm(dim=-1))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_products_of_rotated_vectors_tell_relative_positions_along_each_axis(axis: int) -> None:
    """The product of a query at p and a key at p + d is the same at every p, and changes with d along every axis."""
    q, k = torch.randn(2, 64, dtype=torch.float64)

    def product(position: torch.Tensor, distance: torch.Tensor) -> torch.Tensor:
        # In double, so that far positions are as exact as near ones.
        turned = [
            rotate(x.view(1, 1, 1, -1), [part.double() for part in rotary_table(where.view(1, 3), 64)])  # type: ignore[arg-type]
            for x, where in ((q, position), (k, position + distance))
        ]
        return (turned[0] * turned[1]).sum()

    step = torch.eye(3, dtype=torch.float64)[axis]
    here, there = torch.tensor([0.0, 0.0, 0.0]).double(), torch.tensor([7.0, 3.0, 11.0]).double()
    for distance in (step, 2 * step, -step, torch.tensor([1.0, -2.0, 3.0]).double()):
        torch.testing.assert_close(product(here, distance), product(there, distance), rtol=1e-6, atol=1e-6)
    assert abs(product(here, step) - product(here, 0 * step)) > 1e-3
    assert abs(product(here, step) - product(here, 2 * step)) > 1e-3


def test_positions_are_in_raster_order_and_time_counts_from_start() -> None:
    positions = grid_positions((2, 2, 3), start=4)
    assert positions[0].tolist() == [4, 0, 0]
    assert positions[1].tolist() == [4, 0, 1]
    assert positions[3].tolist() == [4, 1, 0]
    assert positions[-1].tolist() == [5, 1, 2]
    torch.testing.assert_close(positions, grid_positions((6, 2, 3))[-12:])


@pytest.mark.parametrize("length", [7, SHORT, SHORT + 1])
@pytest.mark.parametrize("masked", [False, True])
def test_both_ways_to_attend_are_scaled_dot_product_attention(length: int, masked: bool) -> None:
    """Against the formula, in double: softmax(q k / sqrt(d)) v over the keys that the mask lets through."""
    q, k, v = torch.randn(1, 2, 5, 8), torch.randn(1, 2, length, 8), torch.randn(1, 2, length, 8)
    mask = (torch.rand(1, 1, 5, length) < 0.5) if masked else None
    if mask is not None:
        mask[..., 0] = True  # a query that may look nowhere has no answer
    scores = (q.double() @ k.double().mT) / 8**0.5
    if mask is not None:
        scores = torch.where(mask, scores, -torch.inf)
    expected = scores.exp() / scores.exp().sum(-1, keepdim=True) @ v.double()
    torch.testing.assert_close(attend(q, k, v, mask), expected.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(attend(q, k, v, mask), F.scaled_dot_product_attention(q, k, v, mask), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("affine", [False, True])
def test_channel_norm_keeps_the_dtype_under_autocast(affine: bool) -> None:
    norm = ChannelNorm(8, affine=affine)
    x = torch.randn(2, 3, 8)
    expected = F.layer_norm(x, (8,), eps=1e-6)
    torch.testing.assert_close(norm(x), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = norm(x.bfloat16())
        assert half.dtype == torch.bfloat16
        assert norm(x).dtype == torch.float32
    torch.testing.assert_close(half.float(), expected, rtol=0.02, atol=0.03)


def test_channel_norm_learns_its_scale() -> None:
    norm = ChannelNorm(4)
    nn.init.constant_(norm.scale, 3.0)
    x = torch.randn(5, 4)
    torch.testing.assert_close(norm(x), 3 * F.layer_norm(x, (4,), eps=1e-6))


def test_timestep_embedding_tells_near_noise_levels_apart_and_takes_any_shape() -> None:
    embed = TimestepEmbedding(16)
    features: list[torch.Tensor] = []
    embed.mlp[0].register_forward_pre_hook(lambda _, given: features.append(given[0]))
    per_token = embed(torch.tensor([[0.0, 0.25], [0.5, 1.0]]))
    assert per_token.shape == (2, 2, 16)
    torch.testing.assert_close(per_token[1, 0], embed(torch.tensor([0.5]))[0])
    # Cosines first: at 0 they are 1 and the sines 0; the fastest turns by 1000 t radians.
    assert torch.equal(features[0][0, 0], torch.cat([torch.ones(128), torch.zeros(128)]))
    torch.testing.assert_close(features[0][1, 0, 0], torch.tensor(500.0).cos())
    torch.testing.assert_close(features[0][1, 0, 128], torch.tensor(500.0).sin())


def test_minus_one_is_the_null_label() -> None:
    embed = LabelEmbedding(3, 8)
    got = embed(torch.tensor([0, 2, -1]))
    assert torch.equal(got, embed.table.weight[[0, 2, 3]])
