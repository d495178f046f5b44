"""Convolutions over space and, causally, over time, on channels-last video features (B, T, H, W, C).

Features stay channels-last throughout: a spatial convolution then reads them as a batch of ``channels_last`` images without a
copy, and a temporal one is a single matrix product over the frames it sees, which is where CPUs and GPUs alike are fastest. All
layers are called with (features, stream), so that they follow one another in a :class:`Chain` whichever of them look back.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vidgen.nn.stream import Stream


class Chain(nn.ModuleList):
    """Layers over (features, stream), one after another."""

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        """(B, T, H, W, C) -> what the last layer makes of it."""
        for layer in self:
            x = layer(x, stream)
        return x


class SpatialConv(nn.Module):
    """A k x k convolution of every frame by itself: (B, T, H, W, C) -> (B, T, H / stride, W / stride, C')."""

    def __init__(self, channels: int, out_channels: int, *, kernel: int = 3, stride: tuple[int, int] = (1, 1)) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, kernel, stride=stride, padding=kernel // 2)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        """Frames by themselves need nothing of ``stream``."""
        y = self.conv(x.flatten(0, 1).permute(0, 3, 1, 2))
        return y.permute(0, 2, 3, 1).unflatten(0, x.shape[:2])


class TemporalConv(nn.Module):
    """A causal convolution over time: output t sees the inputs up to t * stride and none after.

    With a stride, 1 + s*k frames become 1 + k at the start of a video and s*k become k after it. Before the first frame stand
    zeros (MAGVIT-v2, section 3.2), or, with ``repeat``, that frame again and again (as VidTok, Cosmos and others do).
    """

    def __init__(self, channels: int, out_channels: int, *, kernel: int = 3, stride: int = 1, repeat: bool = False) -> None:
        super().__init__()
        self.kernel, self.stride, self.repeat = kernel, stride, repeat
        self.linear = nn.Linear(kernel * channels, out_channels)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        """(B, T, H, W, C) -> (B, T', H, W, C')."""
        frames = x.shape[1]
        x = _with_past(self, x, stream, self.kernel - 1, self.repeat)
        first = 0 if stream.first else self.stride - 1
        seen = [x[:, tap + first : tap + frames : self.stride] for tap in range(self.kernel)]
        return self.linear(torch.cat(seen, dim=-1))


class CausalConv(nn.Module):
    """A full convolution over time and space, causal in time as :class:`TemporalConv`: MAGVIT-v2's own.

    Args:
        channels: of the input.
        out_channels: of the output.
        kernel: along height and width, odd.
        time_kernel: along time.
        stride: (t, h, w).
        repeat: what stands before the first frame: itself, else zeros. Beyond the frame's borders stand zeros.
        bias: add one.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        *,
        kernel: int = 3,
        time_kernel: int = 3,
        stride: tuple[int, int, int] = (1, 1, 1),
        repeat: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.repeat = repeat
        size, padding = (time_kernel, kernel, kernel), (0, kernel // 2, kernel // 2)
        self.conv = nn.Conv3d(channels, out_channels, size, stride=stride, padding=padding, bias=bias)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        """(B, T, H, W, C) -> (B, T', H / stride, W / stride, C')."""
        x = _with_past(self, x, stream, self.conv.kernel_size[0] - 1, self.repeat)
        first = 0 if stream.first else self.conv.stride[0] - 1
        return self.conv(x[:, first:].permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)


def _with_past(layer: nn.Module, x: Tensor, stream: Stream, length: int, repeat: bool) -> Tensor:
    """``x`` after the ``length`` frames before it: those of the stream, and before its first one zeros or that one repeated."""
    frames = x.shape[1]
    x = stream.extend(layer, x, length)
    missing = frames + length - x.shape[1]
    if not missing:
        return x
    if repeat:
        return torch.cat([x[:, :1].expand(-1, missing, -1, -1, -1), x], dim=1)
    return nn.functional.pad(x, (0, 0, 0, 0, 0, 0, missing, 0))


def patchify(video: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """(B, T, H, W, C) -> (B, T/p, H/q, W/r, p*q*r*C): each tubelet's pixels become channels."""
    b, t, h, w, c = video.shape
    p, q, r = patch
    x = video.reshape(b, t // p, p, h // q, q, w // r, r, c)
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(b, t // p, h // q, w // r, p * q * r * c)


def unpatchify(x: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """The inverse of :func:`patchify`."""
    b, t, h, w, c = x.shape
    p, q, r = patch
    x = x.reshape(b, t, h, w, p, q, r, c // (p * q * r))
    return x.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(b, t * p, h * q, w * r, c // (p * q * r))
