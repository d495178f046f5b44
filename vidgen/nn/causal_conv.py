"""Convolutions over space and, causally, over time, on channels-last video features (B, T, H, W, C).

Features stay channels-last throughout: a spatial convolution then reads them as a batch of ``channels_last`` images without a
copy, and a temporal one is a single matrix product over the frames it sees, which is where CPUs and GPUs alike are fastest.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vidgen.nn.stream import Stream


class SpatialConv(nn.Module):
    """A k x k convolution of every frame by itself: (B, T, H, W, C) -> (B, T, H / stride, W / stride, C')."""

    def __init__(self, channels: int, out_channels: int, *, kernel: int = 3, stride: tuple[int, int] = (1, 1)) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, kernel, stride=stride, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x.flatten(0, 1).permute(0, 3, 1, 2))
        return y.permute(0, 2, 3, 1).unflatten(0, x.shape[:2])


class TemporalConv(nn.Module):
    """A causal convolution over time: output t sees the inputs up to t * stride and none after.

    With a stride, 1 + s*k frames become 1 + k at the start of a video and s*k become k after it. Before the first frame stand
    zeros (MAGVIT-v2, section 3.2).
    """

    def __init__(self, channels: int, out_channels: int, *, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.linear = nn.Linear(kernel * channels, out_channels)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        frames = x.shape[1]
        x = stream.extend(self, x, self.kernel - 1)
        missing = frames + self.kernel - 1 - x.shape[1]
        x = nn.functional.pad(x, (0, 0, 0, 0, 0, 0, missing, 0)) if missing else x
        first = 0 if stream.first else self.stride - 1
        seen = [x[:, tap + first : tap + frames : self.stride] for tap in range(self.kernel)]
        return self.linear(torch.cat(seen, dim=-1))


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
