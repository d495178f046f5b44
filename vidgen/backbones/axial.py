"""``axial``: VideoGPT's convolutional encoder and decoder with axial attention, and a causal variant of them.

Source: Yan et al., "VideoGPT: Video Generation using VQ-VAE and Transformers" (2021), section 3.1 and appendix A.

As published (``causal=False``): convolutions of kernel 4 that halve each axis until its stride is reached, one of kernel 3,
residual blocks of batch norm, ReLU and convolution with attention along the width, the height and time summed; in the decoder the
same blocks, then transposed convolutions. Padding is "same", the odd step in front. Every cell sees the whole clip, so T is a
multiple of the stride, and a video cannot be streamed.

With ``causal=True``, which is ours: all padding in time lies in the past, attention along time sees a fixed ``window`` of cells,
and batch norm, whose mean is over the future too, is replaced by :class:`vidgen.nn.norm.ChannelNorm`. The first frame is repeated
to fill its cell and the repeats are dropped after decoding: 1 + s*k frames are 1 + k cells.

Deviations from the published code: batch statistics are those of all processes, the maps of an axis to queries, keys and values
are one matrix product, and the three axes' last maps are one, with one bias. Kernels are not factorised into space and time: over
channels-last memory the full ones were measured to be as fast, forward and backward, on a CPU.

Nothing is normalised between the convolutions that change the grid, as published, so how training begins matters. Weights have
He's variance, and each block begins as the identity, for its attention's last map begins at 0. With torch's default scale and the
published random map the input is a fiftieth of what the first block adds to it, and small models learnt the still background
alone. AdamW at rates much above the paper's 3e-4 soon drives nearly all units of these convolutions below zero, for good; Muon on
them, as in the recipes for small machines, does not.
"""

from __future__ import annotations

from math import ceil, prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgen.errors import UserError
from vidgen.latents import Shape
from vidgen.nn.attention import attend, attend_window
from vidgen.nn.norm import ChannelNorm
from vidgen.nn.parallel import mean_over_ranks, world_size
from vidgen.nn.stream import Stream

KERNEL = 4
"""Of the convolutions that change the grid."""


class Conv(nn.Module):
    """A convolution of (B, T, H, W, C) whose output is the input's size over the stride; causal: padded in time in front only."""

    def __init__(
        self, channels: int, out: int, kernel: int, *, stride: Shape = (1, 1, 1), bias: bool = True, causal: bool
    ) -> None:
        super().__init__()
        self.causal = causal
        self.padding = [kernel - step for step in stride]
        self.conv = nn.Conv3d(channels, out, kernel, stride=stride, bias=bias)
        initialise(self.conv, channels * kernel**3)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        (time, *space), frames = self.padding, x.shape[1]
        if self.causal:
            x = stream.extend(self, x, time)
            front, back = time + frames - x.shape[1], 0
        else:
            front, back = ceil(time / 2), time // 2
        above, left = (ceil(total / 2) for total in space)
        x = F.pad(x, (0, 0, left, space[1] - left, above, space[0] - above, front, back))
        return self.conv(x.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)


class ConvTranspose(nn.Module):
    """A transposed convolution of (B, T, H, W, C) to ``stride`` times its size; causal: frames see no later cell."""

    def __init__(self, channels: int, out: int, *, stride: Shape, causal: bool, gain: float = 2.0) -> None:
        super().__init__()
        self.stride, self.causal = stride, causal
        self.conv = nn.ConvTranspose3d(channels, out, KERNEL, stride=stride, padding=(0, 1, 1))
        initialise(self.conv, channels * KERNEL**3 // prod(stride), gain)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        t, h, w = (size * step for size, step in zip(x.shape[1:4], self.stride, strict=True))
        first, cells = 1, x.shape[1]
        if self.causal:
            x = stream.extend(self, x, ceil(KERNEL / self.stride[0]) - 1)
            first = (x.shape[1] - cells) * self.stride[0]
        y = self.conv(x.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)
        return y[:, first : first + t, :h, :w]


def initialise(conv: nn.Conv3d | nn.ConvTranspose3d, seen: int, gain: float = 2.0) -> None:
    """Weights of variance ``gain`` over the inputs an output has seen: by 2 a chain of convolutions and ReLUs keeps its scale."""
    nn.init.normal_(conv.weight, std=(gain / seen) ** 0.5)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


class BatchNorm(nn.Module):
    """Batch norm over all but the last dimension, by the statistics of all processes; in evaluation by those of training.

    Args:
        channels: size of the last dimension.
        momentum: weight of a batch in the running statistics.
        eps: added to the variance.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, channels: int, *, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C), computed in float32."""
        mean, var = self._measure(x.float()) if self.training else (self.mean, self.var)
        scale = self.scale * (var + self.eps).rsqrt()
        return torch.addcmul(self.shift - mean * scale, x.float(), scale).to(x.dtype)

    def _measure(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the batch on all processes, which the running ones move towards."""
        axes = tuple(range(x.ndim - 1))
        mean = mean_over_ranks(x.mean(axes))
        var = mean_over_ranks((x - mean).square().mean(axes))
        count = world_size() * x.numel() // x.shape[-1]
        with torch.no_grad():
            self.mean.lerp_(mean, self.momentum)
            self.var.lerp_(var * (count / max(1, count - 1)), self.momentum)
        return mean, var


class AxialAttention(nn.Module):
    """Attention along the width, along the height and along time, each by itself, then summed; without positions.

    Args:
        width: channels.
        heads: attention heads along each axis.
        window: cells in time that a query sees, its own and those before it; None for all of the clip.
    """

    def __init__(self, width: int, heads: int, window: int | None) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv = nn.Linear(width, 9 * width, bias=False)
        self.out = nn.Linear(3 * width, width)
        nn.init.normal_(self.qkv.weight, std=width**-0.5)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        """(B, T, H, W, width) -> (B, T, H, W, width)."""
        along = zip((3, 2, 1), self.qkv(x).chunk(3, dim=-1), strict=True)
        return self.out(torch.cat([self._attend(qkv, axis, stream) for axis, qkv in along], dim=-1))

    def _attend(self, qkv: Tensor, axis: int, stream: Stream) -> Tensor:
        lines = qkv.movedim(axis, 3)
        q, k, v = lines.flatten(0, 2).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if axis == 1 and self.window is not None:
            k, v = stream.extend(self, torch.stack([k, v]), self.window - 1, dim=-2)
            y = attend_window(q, k, v, self.window)
        else:
            y = attend(q, k, v)
        return y.transpose(1, 2).flatten(2).unflatten(0, lines.shape[:3]).movedim(3, axis)


class ResidualBlock(nn.Module):
    """Convolution to half the channels, a linear map back and axial attention, each after norm and ReLU; added to x."""

    def __init__(self, width: int, heads: int, causal: bool, window: int) -> None:
        super().__init__()
        half = width // 2
        norm = ChannelNorm if causal else BatchNorm
        self.norms = nn.ModuleList([norm(width), norm(half), norm(width)])
        self.conv = Conv(width, half, 3, bias=False, causal=causal)
        self.expand = nn.Linear(half, width, bias=False)
        self.attention = AxialAttention(width, heads, window if causal else None)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        y = self.conv(F.relu(self.norms[0](x)), stream)
        y = self.expand(F.relu(self.norms[1](y)))
        return x + self.attention(F.relu(self.norms[2](y)), stream)


class Stack(nn.Module):
    """Residual blocks, then norm and ReLU."""

    def __init__(self, width: int, depth: int, heads: int, causal: bool, window: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(width, heads, causal, window) for _ in range(depth))
        self.norm = ChannelNorm(width) if causal else BatchNorm(width)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        for block in self.blocks:
            x = block(x, stream)
        return F.relu(self.norm(x))


class Axial(nn.Module):
    """VideoGPT's encoder and decoder.

    Args:
        latent_out: channels the encoder emits (the quantizer's ``in_channels``).
        latent_in: channels the decoder takes (the quantizer's ``channels``).
        in_channels: channels of the video.
        stride: pixels per cell (t, h, w), powers of two; each convolution halves every axis that is not there yet.
        width: channels everywhere, an equal share for each head.
        encoder_depth: residual blocks of the encoder.
        decoder_depth: residual blocks of the decoder.
        heads: attention heads along each axis.
        causal: see nothing of the future, by the changes named above; False is as published.
        window: cells in time that causal attention sees, a cell's own included; without ``causal`` it is not used.
    """

    def __init__(
        self,
        *,
        latent_out: int,
        latent_in: int,
        in_channels: int = 3,
        stride: Shape = (4, 4, 4),
        width: int = 240,
        encoder_depth: int = 4,
        decoder_depth: int = 4,
        heads: int = 2,
        causal: bool = False,
        window: int = 16,
    ) -> None:
        super().__init__()
        if width % (2 * heads):
            fits = 2 * heads * max(1, round(width / (2 * heads)))
            raise UserError(
                f"The axial backbone's width {width} does not split into {heads} heads and in two; the nearest is {fits}."
            )
        if window < 1:
            raise UserError(f"The axial backbone's window is {window} cells; it needs at least 1, the cell itself.")
        self.stride, self.causal = stride, causal
        steps = halvings(stride)
        sizes = [in_channels] + [width] * len(steps)
        downs = [Conv(size, width, KERNEL, stride=step, causal=causal) for size, step in zip(sizes[:-1], steps, strict=True)]
        self.down_layers = nn.ModuleList([*downs, Conv(width, width, 3, causal=causal)])
        self.encoder = Stack(width, encoder_depth, heads, causal, window)
        self.to_latent = nn.Linear(width, latent_out)
        self.from_latent = nn.Linear(latent_in, width)
        self.decoder = Stack(width, decoder_depth, heads, causal, window)
        ups = [ConvTranspose(width, width, stride=step, causal=causal) for step in steps[:-1]]
        self.up_layers = nn.ModuleList([*ups, ConvTranspose(width, in_channels, stride=steps[-1], causal=causal, gain=0.2)])

    def encode(self, video: Tensor, start: int = 0, stream: Stream | None = None) -> Tensor:
        """(B, C, T, H, W) -> (B, latent_out, t, H / s_h, W / s_w); T is s*t, where causal and at the start 1 + s*(t - 1)."""
        x, stream = video.permute(0, 2, 3, 4, 1), self._at(start, stream)
        if stream.first and self.causal:
            x = torch.cat([x[:, :1].expand(-1, self.stride[0] - 1, -1, -1, -1), x], dim=1)
        for index, conv in enumerate(self.down_layers):
            x = conv(F.relu(x) if index else x, stream)
        x = self.encoder(x, stream)
        return self.to_latent(x).permute(0, 4, 1, 2, 3)

    def decode(self, z: Tensor, start: int = 0, stream: Stream | None = None) -> Tensor:
        """(B, latent_in, t, h, w) -> (B, C, T, H, W), the lengths as in :meth:`encode`."""
        stream = self._at(start, stream)
        x = self.decoder(self.from_latent(z.permute(0, 2, 3, 4, 1)), stream)
        for index, conv in enumerate(self.up_layers):
            x = conv(F.relu(x) if index else x, stream)
        if stream.first and self.causal:
            x = x[:, self.stride[0] - 1 :]
        return x.permute(0, 4, 1, 2, 3)

    def _at(self, start: int, stream: Stream | None) -> Stream:
        if stream is not None and not self.causal:
            raise UserError("This axial backbone sees the future, so it has no streams; backbone.causal=true makes one that has.")
        return Stream.at(start, stream)


def halvings(stride: Shape) -> list[Shape]:
    """The strides of the convolutions that lead to ``stride``, each 2 on the axes that are not there yet.

    Raises:
        UserError: where a stride is no power of two, or all are 1.
    """
    if any(step < 1 or step & (step - 1) for step in stride) or max(stride) < 2:
        raise UserError(f"The axial backbone's stride {list(stride)} is not made of powers of two, one of them at least 2.")
    times = [step.bit_length() - 1 for step in stride]
    return [tuple(2 if done < count else 1 for count in times) for done in range(max(times))]  # type: ignore[misc]
