"""What is ``causal3d``'s own: its forms, strides, stems and adaptive norms, beyond the laws that hold for every backbone."""

from __future__ import annotations

from itertools import product
from math import gcd
from typing import Any

import pytest
import torch
from tiny import stirred
from torch.nn import functional as F

from vidgen import UserError, config
from vidgen.backbones.causal3d import AdaptiveNorm, Chain, Form, Upsample
from vidgen.nn.norm import ChannelNorm
from vidgen.nn.stream import Stream
from vidgen.registry import build

OUT, IN = 5, 3
FORMS = [
    {"conv": conv, "norm": norm, "padding": padding}
    for conv, norm, padding in product(("factorised", "full"), ("channel", "group"), ("zeros", "repeat"))
]


def backbone(**options: Any) -> Any:
    """A small one with noise on every weight, one block a stage; in double, for norms over few values enlarge rounding."""
    stages = len(options.setdefault("strides", [])) + 1
    sizes = {"widths": [8] * stages, "encoder_depths": [1] * stages, "decoder_depths": [1] * stages}
    return stirred(build("backbones", {"name": "causal3d", **sizes, **options}, latent_out=OUT, latent_in=IN)).double()


def noise(*shape: int, **options: Any) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, **options)


def video_of(net: Any, cells: int, **options: Any) -> torch.Tensor:
    t, h, w = net.stride
    return noise(1, 3, 1 + t * (cells - 1), 2 * h, w, **options)


def last_seen(output: torch.Tensor, given: torch.Tensor) -> int:
    """The last step in time of ``given`` that has any influence on ``output``."""
    (slope,) = torch.autograd.grad(output.square().sum(), given, retain_graph=True)
    return int(slope.abs().sum(dim=(0, 1, 3, 4)).nonzero().max())


@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(form.values()))
@pytest.mark.parametrize(
    ("patch", "strides"),
    [
        ((1, 1, 1), [[2, 2, 2]]),
        ((1, 2, 1), [[2, 1, 1], [1, 2, 2]]),
        ((1, 1, 1), [[3, 2, 1], [2, 1, 2]]),
        ((2, 2, 2), [[4, 2, 4]]),
    ],
)
@pytest.mark.parametrize("adaptive", [False, True])
def test_any_form_with_any_strides_is_causal_and_streams(
    form: dict[str, Any], patch: tuple[int, int, int], strides: list[list[int]], adaptive: bool
) -> None:
    """The laws of the generic tests, over what recipes do not hold: causality by gradient, images, chunks."""
    net = backbone(patch=patch, strides=strides, adaptive=adaptive, **form)
    s = net.stride[0]
    video, code = video_of(net, 4, requires_grad=True), noise(1, IN, 4, 2, 1, requires_grad=True)
    z, frames = net.encode(video), net.decode(code)
    assert z.shape == (1, OUT, 4, 2, 1)
    assert frames.shape == video.shape
    for cell in range(4):
        assert last_seen(z[:, :, cell], video) == s * cell
        assert last_seen(frames[:, :, max(0, s * (cell - 1) + 1)], code) == last_seen(frames[:, :, s * cell], code) == cell
    with torch.no_grad():
        torch.testing.assert_close(net.encode(video[:, :, :1]), z[:, :, :1], rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(net.decode(code[:, :, :1]), frames[:, :, :1], rtol=1e-8, atol=1e-8)
        there, back = Stream(), Stream()
        cells = [net.encode(video[:, :, : 1 + s], 0, there), net.encode(video[:, :, 1 + s :], 2, there)]
        parts = [net.decode(code[:, :, :2], 0, back), net.decode(code[:, :, 2:], 2, back)]
    torch.testing.assert_close(torch.cat(cells, dim=2), z, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(torch.cat(parts, dim=2), frames, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("time", [1, 2, 4, 8])
@pytest.mark.parametrize("space", [4, 8, 16])
@pytest.mark.parametrize("stem", ["patch", "haar"])
def test_strides_of_1_to_8_in_time_and_4_to_16_in_space(time: int, space: int, stem: str) -> None:
    net = backbone(stem=stem, patch=(max(1, time // 2), space // 2, space // 2), strides=[[min(2, time), 2, 2]])
    assert net.stride == (time, space, space)
    z = net.encode(video_of(net, 3))
    assert z.shape == (1, OUT, 3, 2, 1)
    assert net.decode(noise(1, IN, 3, 2, 1)).shape == (1, 3, 1 + 2 * time, 2 * space, space)


def test_the_haar_stem_gives_the_network_the_coefficients_of_the_same_pixels() -> None:
    """With the stem's and the head's weights turned by the transform's own matrix, found by transforming unit vectors."""
    from vidgen.nn.wavelet import haar

    patch = (2, 4, 2)
    plain, wavelet = backbone(patch=patch), backbone(patch=patch, stem="haar")
    wavelet.load_state_dict(plain.state_dict())
    basis = haar(torch.eye(3 * 16, dtype=torch.float64), patch)  # row i: the coefficients of pixel i alone
    with torch.no_grad():
        stem, head = wavelet.encoder.stem[0].conv, wavelet.decoder.head.conv
        stem.weight.copy_(torch.einsum("oihw,ij->ojhw", stem.weight, basis))
        head.weight.copy_(torch.einsum("oihw,oj->jihw", head.weight, basis))
        head.bias.copy_(head.bias @ basis)
    video, z = video_of(plain, 3), noise(1, IN, 3, 2, 1)
    torch.testing.assert_close(wavelet.encode(video), plain.encode(video), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(wavelet.decode(z), plain.decode(z), rtol=1e-8, atol=1e-8)


def test_a_full_residual_block_is_the_paper_s() -> None:
    """Group norm, SiLU, 3x3x3, twice, without bias, and a 1x1x1 shortcut: by torch's own operations on one frame at a time."""
    form = Form(full=True, group=True, repeat=False)
    block = stirred(form.block(64, 96))
    x = torch.randn(2, 3, 4, 5, 64)
    y = x.permute(0, 4, 1, 2, 3)
    for norm, conv, groups in zip(block.norms, block.convs, (32, 32), strict=True):
        weights = (norm.norm.weight, norm.norm.bias)
        frames = [F.group_norm(frame, groups, *weights, eps=1e-6) for frame in y.unbind(2)]
        y = F.conv3d(F.pad(F.silu(torch.stack(frames, 2)), (1, 1, 1, 1, 2, 0)), conv.conv.weight)
    expected = y + F.conv3d(x.permute(0, 4, 1, 2, 3), block.skip.weight[..., None, None, None], block.skip.bias)
    torch.testing.assert_close(block(x, Stream()), expected.permute(0, 2, 3, 4, 1), rtol=1e-4, atol=1e-4)
    assert all(conv.conv.bias is None for conv in block.convs)


@pytest.mark.parametrize("channels", [64, 48, 12, 7])
def test_groups_fit_small_widths(channels: int) -> None:
    norm = Form(full=True, group=True, repeat=False).norm(channels)
    assert norm.norm.num_groups == gcd(32, channels)
    assert norm(torch.randn(1, 2, 3, 4, channels)).shape == (1, 2, 3, 4, channels)


def test_the_presets_are_of_the_published_size() -> None:
    """MAGVIT-v2: 3x3x3 kernels everywhere, 24 residual blocks of two convolutions a side, groups of 32, adaptive norms."""
    with torch.device("meta"):
        net = build("backbones", config.load("tokenizer/backbone", "causal3d_magvit2"), latent_out=18, latent_in=18)
        vidtok = build("backbones", config.load("tokenizer/backbone", "causal3d_vidtok"), latent_out=32, latent_in=16)
    assert net.stride == vidtok.stride == (4, 8, 8)
    convs = [module for module in net.modules() if isinstance(module, torch.nn.Conv3d)]
    assert {conv.kernel_size for conv in convs} == {(3, 3, 3)}
    # Each side: a stem, 24 blocks of two, four changes of resolution; the decoder's head.
    assert len(convs) == 2 * (1 + 2 * 24 + 4) + 1
    assert {module.num_groups for module in net.modules() if isinstance(module, torch.nn.GroupNorm)} == {32}
    assert len([module for module in net.modules() if isinstance(module, AdaptiveNorm)]) == 5


def test_the_decoder_may_have_widths_of_its_own() -> None:
    net = backbone(strides=[[2, 2, 2]], widths=[4, 6], decoder_widths=[10, 14], adaptive=True)
    assert net.decoder.stem[0].conv.out_channels == 14
    assert net.decoder.head.conv.in_channels == 10
    assert net.encoder.stem[0].conv.out_channels == 4
    video = video_of(net, 2)
    assert net.decode(net.encode(video)[:, :IN]).shape == video.shape


@pytest.mark.parametrize("conv", ["factorised", "full"])
def test_a_time_kernel_of_1_looks_at_no_other_frame(conv: str) -> None:
    net = backbone(strides=[[1, 2, 2]], time_kernel=1, conv=conv, norm="group")
    video, code = video_of(net, 4), noise(1, IN, 4, 2, 1)
    frames = [net.encode(frame.unsqueeze(2)) for frame in video.unbind(2)]
    torch.testing.assert_close(net.encode(video), torch.cat(frames, dim=2), rtol=1e-8, atol=1e-8)
    images = [net.decode(cell.unsqueeze(2)) for cell in code.unbind(2)]
    torch.testing.assert_close(net.decode(code), torch.cat(images, dim=2), rtol=1e-8, atol=1e-8)


def test_repeated_padding_makes_a_still_video_still() -> None:
    """With zeros the first cells differ from later ones; with the first frame before the first frame they do not."""
    for padding, still in (("repeat", True), ("zeros", False)):
        net = backbone(patch=(2, 2, 2), padding=padding)
        z = net.encode(video_of(net, 1).expand(-1, -1, 9, -1, -1))
        assert torch.allclose(z[:, :, :1].expand_as(z), z, rtol=1e-8, atol=1e-8) is still


@pytest.mark.parametrize("stride", [(2, 1, 1), (2, 2, 2), (4, 1, 2), (1, 2, 2)])
def test_depth_to_space_drops_the_first_frames_of_the_first_cell(stride: tuple[int, int, int]) -> None:
    """By hand: what channel group i of a cell holds is its frame i, and of cell 0 the last alone is the video's frame 0.

    Elsewhere frame 0 was kept in its place, so that the second frame came twice as late as it should.
    """
    steps, high, wide = stride
    cells = torch.arange(3 * steps * high * wide).view(1, 3, 1, 1, -1)  # of each cell frames, then rows, then columns
    expected = torch.arange(3 * steps * high * wide).view(1, 3 * steps, high, wide, 1)
    up = Upsample(Chain([]), stride)
    assert torch.equal(up(cells, Stream()), expected[:, steps - 1 :])
    stream, frames = Stream(), []
    for cell in cells.split(1, dim=1):
        frames.append(up(cell, stream))
        stream.first = False
    assert [part.shape[1] for part in frames] == [1, steps, steps]
    assert torch.equal(torch.cat(frames, dim=1), expected[:, steps - 1 :])


def test_adaptive_norms_start_as_plain_ones() -> None:
    """At the start the code modulates nothing."""
    norm = AdaptiveNorm(ChannelNorm(6, affine=False), 6, IN)
    x = torch.randn(1, 5, 4, 2, 6)
    torch.testing.assert_close(norm(x, torch.randn(1, 3, 2, 1, IN), True), ChannelNorm(6, affine=False)(x))


def test_the_code_is_repeated_over_the_positions_it_covers() -> None:
    code = torch.arange(3.0).view(1, 3, 1, 1, 1).expand(1, 3, 2, 1, 1) + torch.tensor([0.0, 10.0]).view(1, 1, 2, 1, 1)
    first = AdaptiveNorm._resize(code, torch.empty(1, 5, 4, 3, 1), True)
    assert first[0, :, 0, 0, 0].tolist() == [0, 1, 1, 2, 2]
    assert first[0, 0, :, 0, 0].tolist() == [0, 0, 10, 10]
    assert first.shape == (1, 5, 4, 3, 1)
    later = AdaptiveNorm._resize(code, torch.empty(1, 6, 4, 3, 1), False)
    assert later[0, :, 0, 0, 0].tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"widths": [8, 8], "strides": []}, "an entry for each stage"),
        ({"decoder_widths": [8, 8]}, "2 of the decoder"),
        ({"conv": "ful"}, r"conv is factorised or full, and not 'ful'\. Did you mean 'full'\?"),
        ({"norm": "batch"}, "norm is channel or group, and not 'batch'"),
        ({"stem": "haar", "patch": (3, 4, 4)}, r"powers of two, and patch is \[3, 4, 4\]"),
    ],
)
def test_options_that_make_no_backbone_are_told(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        backbone(**options)
