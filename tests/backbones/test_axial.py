"""``axial`` against VideoGPT's formulae written with torch's own layers, and what its causal variant adds."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
from tiny import stirred
from torch import Tensor, nn
from torch.nn import functional as F

from vidgen import UserError
from vidgen.backbones import axial
from vidgen.backbones.axial import Axial, AxialAttention, BatchNorm, Conv, ConvTranspose, halvings
from vidgen.nn.stream import Stream
from vidgen.registry import build
from vidgen.training.optim import is_inner

OPTIONS: dict[str, Any] = {"width": 8, "encoder_depth": 1, "decoder_depth": 1, "latent_out": 5, "latent_in": 3}


def channels_first(x: Tensor) -> Tensor:
    return x.permute(0, 4, 1, 2, 3)


def published(x: Tensor, kernel: int, stride: tuple[int, int, int]) -> Tensor:
    """The "same" padding of VideoGPT: of kernel - stride steps the larger half in front."""
    pads = []
    for step in reversed(stride):
        total = kernel - step
        pads += [total // 2 + total % 2, total // 2]
    return F.pad(x, pads)


STRIDES = [(2, 2, 2), (1, 2, 2), (2, 1, 1), (1, 1, 2)]


@pytest.mark.parametrize("stride", STRIDES)
def test_convolutions_pad_as_published(stride: tuple[int, int, int]) -> None:
    conv = Conv(3, 4, 4, stride=stride, causal=False)
    x = torch.randn(2, 4, 6, 2, 3)
    expected = F.conv3d(published(channels_first(x), 4, stride), conv.conv.weight, conv.conv.bias, stride)
    torch.testing.assert_close(channels_first(conv(x, Stream())), expected)
    assert expected.shape[2:] == tuple(size // step for size, step in zip((4, 6, 2), stride, strict=True))


@pytest.mark.parametrize("stride", STRIDES)
def test_transposed_convolutions_pad_as_published(stride: tuple[int, int, int]) -> None:
    """Which pad their input in the same way and cut kernel - 1 steps off either end."""
    conv = ConvTranspose(3, 4, stride=stride, causal=False)
    x = torch.randn(2, 2, 3, 1, 3)
    padded = published(channels_first(x), 4, stride)
    expected = F.conv_transpose3d(padded, conv.conv.weight, conv.conv.bias, stride, padding=3)
    torch.testing.assert_close(channels_first(conv(x, Stream())), expected)
    assert expected.shape[2:] == tuple(size * step for size, step in zip((2, 3, 1), stride, strict=True))


@pytest.mark.parametrize("step", [1, 2])
def test_causal_convolutions_are_sums_over_the_past(step: int) -> None:
    """By the tap: output t of a strided one ends with input s*t + s - 1; frame s*t + r of a transposed one has cells up to t."""
    down, up = Conv(1, 1, 4, stride=(step, 1, 1), causal=True), ConvTranspose(1, 1, stride=(step, 1, 1), causal=True)
    x = torch.randn(8)
    video = x.view(1, 8, 1, 1, 1).expand(1, 8, 4, 4, 1)
    inside = (slice(None), slice(2, 3), slice(2, 3))  # where no border is in sight: taps along space add up
    taps = down.conv.weight.sum(dim=(3, 4)).flatten()
    got = down(video, Stream())[0, :, 2, 2, 0]
    for t in range(8 // step):
        seen = sum(taps[j] * x[i] for j in range(4) if (i := step * t + step - 1 - 3 + j) >= 0)
        torch.testing.assert_close(got[t], seen + down.conv.bias[0])
    taps = up.conv.weight.sum(dim=(3, 4)).flatten()
    got = up(video, Stream())[0][inside].flatten()
    assert len(got) == 8 * step
    for frame in range(8 * step):
        t, r = divmod(frame, step)
        seen = sum(taps[r + step * back] * x[t - back] for back in range(4 // step) if t >= back)
        torch.testing.assert_close(got[frame], seen + up.conv.bias[0])


@pytest.mark.parametrize("window", [None, 1, 2, 9])
def test_axial_attention_is_three_plain_ones_summed(window: int | None) -> None:
    """Each along one axis, position by position and head by head; with a window the one along time sees the past alone."""
    layer = AxialAttention(6, 2, window).double()
    x = torch.randn(2, 4, 3, 5, 6, dtype=torch.float64)
    expected = layer.out.bias.expand_as(x).clone()
    for part, axis in enumerate((3, 2, 1)):
        q, k, v = (F.linear(x, weight) for weight in layer.qkv.weight[18 * part : 18 * part + 18].split(6))
        fc = layer.out.weight[:, 6 * part : 6 * part + 6]
        for place in torch.cartesian_prod(*(torch.arange(size) for size in x.shape[:4])).tolist():
            here = place[axis]
            mixed = []
            for head in (slice(0, 3), slice(3, 6)):
                at = [(*place[:axis], i, *place[axis + 1 :]) for i in range(x.shape[axis])]
                if axis == 1 and window is not None:
                    at = at[max(0, here - window + 1) : here + 1]
                scores = torch.stack([q[tuple(place)][head] @ k[other][head] / math.sqrt(3) for other in at])
                weights = scores.softmax(0)
                mixed.append(sum(weight * v[other][head] for weight, other in zip(weights, at, strict=True)))
            expected[tuple(place)] += fc @ torch.cat(mixed)
    torch.testing.assert_close(layer(x, Stream(keep=False)), expected)


def test_the_published_residual_block() -> None:
    """BN-ReLU-conv3, BN-ReLU-conv1, BN-ReLU-attention, written with torch's layers; running statistics too."""
    block = stirred(axial.ResidualBlock(8, 2, False, 4))
    norms = [nn.BatchNorm3d(width) for width in (8, 4, 8)]
    for ours, theirs in zip(block.norms, norms, strict=True):
        theirs.weight.data, theirs.bias.data = ours.scale.data.clone(), ours.shift.data.clone()
    for _ in range(2):
        x = torch.randn(2, 3, 4, 2, 8)
        y = F.conv3d(F.relu(norms[0](channels_first(x))), block.conv.conv.weight, padding=1)
        y = F.conv3d(F.relu(norms[1](y)), block.expand.weight[..., None, None, None])
        y = F.relu(norms[2](y)).permute(0, 2, 3, 4, 1)
        torch.testing.assert_close(block(x, Stream()), x + block.attention(y, Stream()))
    for ours, theirs in zip(block.norms, norms, strict=True):
        torch.testing.assert_close(ours.mean, theirs.running_mean)
        torch.testing.assert_close(ours.var, theirs.running_var)
    assert block.conv.conv.bias is None
    assert block.expand.bias is None


def test_batch_norm_has_torch_s_gradients_and_evaluation() -> None:
    ours, theirs = stirred(BatchNorm(5), 0.5), nn.BatchNorm1d(5)
    theirs.weight.data, theirs.bias.data = ours.scale.data.clone(), ours.shift.data.clone()
    x, weight = torch.randn(12, 5, requires_grad=True), torch.randn(12, 5)
    for training in (True, False):
        slopes = []
        for norm in (ours.train(training), theirs.train(training)):
            y = norm(x)
            slopes.append(torch.autograd.grad((y * weight).sum(), [x, *norm.parameters()]))
        for mine, torch_s in zip(*slopes, strict=True):
            torch.testing.assert_close(mine, torch_s)
        torch.testing.assert_close(ours(x), theirs(x))


def test_batch_norm_over_processes_is_that_of_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes of equal shares, whose means another layer of the library averages: played here in one process."""
    whole, share = BatchNorm(3), BatchNorm(3)
    x = torch.randn(8, 3) * 2 + 1
    expected = whole(x)
    others: list[Tensor] = [x[4:].mean(0), (x[4:] - x.mean(0)).square().mean(0)]  # what the other process brings
    monkeypatch.setattr(axial, "world_size", lambda: 2)
    monkeypatch.setattr(axial, "mean_over_ranks", lambda mine: (mine + others.pop(0)) / 2)
    torch.testing.assert_close(share(x[:4]), expected[:4])
    torch.testing.assert_close(share.mean, whole.mean)
    torch.testing.assert_close(share.var, whole.var)


def test_batch_norm_keeps_float32_statistics_under_bf16() -> None:
    norm = BatchNorm(3)
    x = (torch.randn(4096, 3) + 30).bfloat16()
    assert norm(x).dtype == torch.bfloat16
    torch.testing.assert_close(norm.mean, 0.1 * x.float().mean(0))
    assert norm.var.dtype == torch.float32


@pytest.mark.parametrize(
    ("stride", "steps"),
    [
        ((4, 4, 4), [(2, 2, 2), (2, 2, 2)]),
        ((2, 4, 4), [(2, 2, 2), (1, 2, 2)]),
        ((1, 8, 2), [(1, 2, 2), (1, 2, 1), (1, 2, 1)]),
    ],
)
def test_each_axis_is_halved_until_its_stride_is_reached(stride: tuple[int, int, int], steps: list[Any]) -> None:
    assert halvings(stride) == steps


@pytest.mark.parametrize("stride", [(3, 4, 4), (0, 2, 2), (1, 1, 1)])
def test_strides_that_cannot_be_are_told(stride: tuple[int, int, int]) -> None:
    with pytest.raises(UserError, match=rf"stride \[{stride[0]}, {stride[1]}, {stride[2]}\] is not made of powers of two"):
        build("backbones", {"name": "axial", "stride": stride}, latent_out=5, latent_in=3)


@pytest.mark.parametrize(("options", "sentence"), [({"width": 9}, "the nearest is 8"), ({"window": 0}, "at least 1")])
def test_sizes_that_cannot_be_are_told(options: dict[str, int], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Axial(**OPTIONS | options)


@pytest.mark.parametrize(
    "stride", [(4, 4, 4), (2, 4, 4), (1, 4, 4), (8, 4, 2), (4, 8, 16), (2, 2, 2), (1, 2, 2), (2, 1, 1), (1, 1, 2)]
)
@pytest.mark.parametrize("causal", [False, True])
def test_any_powers_of_two(stride: tuple[int, int, int], causal: bool) -> None:
    backbone = Axial(**OPTIONS, stride=stride, causal=causal)
    t, h, w = stride
    video = torch.randn(1, 3, 1 + 2 * t if causal else 3 * t, 2 * h, w)
    z = backbone.encode(video)
    assert z.shape == (1, 5, 3, 2, 1)
    assert backbone.decode(z[:, :3]).shape == video.shape
    assert backbone.causal == causal


@pytest.mark.parametrize("stride", [(4, 4, 4), (2, 4, 4), (1, 4, 4), (8, 4, 4)])
def test_streams_give_the_whole(stride: tuple[int, int, int]) -> None:
    """Any chunks of whole cells, longer than the window in all, to the last bits of float64."""
    backbone = stirred(Axial(**OPTIONS, stride=stride, causal=True, window=3)).double()
    cells = 8
    video = torch.randn(1, 3, 1 + stride[0] * (cells - 1), 8, 4, dtype=torch.float64)
    z = torch.randn(1, 3, cells, 2, 1, dtype=torch.float64)
    rng = random.Random(0)
    for _ in range(4):
        cuts = [0, *sorted(rng.sample(range(1, cells), rng.randint(1, cells - 1))), cells]
        frames = [0] + [1 + stride[0] * (cut - 1) for cut in cuts[1:]]
        stream, codes = Stream(), []
        for a, start, end in zip(cuts, frames, frames[1:], strict=False):
            codes.append(backbone.encode(video[:, :, start:end], a, stream))
        torch.testing.assert_close(torch.cat(codes, dim=2), backbone.encode(video), rtol=1e-10, atol=1e-10)
        stream = Stream()
        chunks = [backbone.decode(z[:, :, a:b], a, stream) for a, b in zip(cuts, cuts[1:], strict=False)]
        torch.testing.assert_close(torch.cat(chunks, dim=2), backbone.decode(z), rtol=1e-10, atol=1e-10)


def test_as_published_it_sees_the_future_and_has_no_streams() -> None:
    backbone = stirred(Axial(**OPTIONS))
    video = torch.randn(1, 3, 12, 4, 4, requires_grad=True)
    (slope,) = torch.autograd.grad(backbone.encode(video)[:, :, 0].square().sum(), video)
    assert (slope.abs().sum(dim=(0, 1, 3, 4)) > 0).all()
    for call in (backbone.encode, lambda z, start, stream: backbone.decode(z[:, :3], start, stream)):
        with pytest.raises(UserError, match="sees the future"):
            call(video, 0, Stream())


def test_muon_takes_the_convolutions() -> None:
    """Without it the recipes' rates leave the convolutions with dead units, and the model learns a still background."""
    kernels = [name for name, weight in Axial(**OPTIONS).named_parameters() if weight.ndim == 5]
    assert len(kernels) == 2 + 1 + 2 + 2  # down, the last, up, one in each block
    weight = torch.empty(2, 2, 4, 4, 4)
    assert all(is_inner(f"backbone.{name}", weight) for name in kernels)
