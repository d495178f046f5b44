"""``causal3d``: the causal 3-D convolutional encoder and decoder of MAGVIT-v2, with a fast recipe for small machines.

Source: Yu et al., "Language Model Beats Diffusion: Tokenizer is Key to Visual Generation" (2023), section 3.2 and appendix A.

What it keeps: strict causality in time, 1 + s*k frames to 1 + k cells (one frame to one cell), strided causal convolutions down,
depth-to-space up with the first s - 1 frames dropped, adaptive normalisation of the decoder by the code.

Deviations, each measured to be faster at equal quality on small machines or needed for causality:
    - 3-D kernels are factorised into (1, 3, 3), (3, 1, 1), (1, 3, 3);
    - normalisation is over channels at each position, where group norm over a clip would see the future;
    - optionally a tubelet ``patch`` first, so that all work happens on a coarser grid. The first frame is repeated to fill its
      tubelet, and the repeats are dropped after decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from vidgen.errors import UserError
from vidgen.nn.causal_conv import SpatialConv, TemporalConv, patchify, unpatchify
from vidgen.nn.norm import ChannelNorm
from vidgen.nn.stream import Stream

Stride = tuple[int, int, int]


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution three times over: in space, causally in time, in space again; added to the input."""

    def __init__(self, channels: int, out_channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.norms = nn.ModuleList([ChannelNorm(channels), ChannelNorm(out_channels), ChannelNorm(out_channels)])
        self.convs = nn.ModuleList(
            [
                SpatialConv(channels, out_channels, kernel=kernel),
                TemporalConv(out_channels, out_channels, kernel=kernel),
                SpatialConv(out_channels, out_channels, kernel=kernel),
            ]
        )
        self.skip = nn.Linear(channels, out_channels) if channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        y = self.convs[0](nn.functional.silu(self.norms[0](x)))
        y = self.convs[1](nn.functional.silu(self.norms[1](y)), stream)
        y = self.convs[2](nn.functional.silu(self.norms[2](y)))
        return self.skip(x) + y


class Downsample(nn.Module):
    """Strided causal convolution: in space, then in time."""

    def __init__(self, channels: int, stride: Stride) -> None:
        super().__init__()
        self.space = SpatialConv(channels, channels, stride=stride[1:])
        self.time = TemporalConv(channels, channels, stride=stride[0]) if stride[0] > 1 else None

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        x = self.space(x)
        return x if self.time is None else self.time(x, stream)


class Upsample(nn.Module):
    """Causal convolution, then depth to space; the frames that the first cell must not have are dropped."""

    def __init__(self, channels: int, stride: Stride) -> None:
        super().__init__()
        self.stride = stride
        self.time = TemporalConv(channels, channels)
        self.expand = nn.Linear(channels, channels * prod(stride))

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        y = unpatchify(self.expand(self.time(x, stream)), self.stride)
        return y[:, self.stride[0] - 1 :] if stream.first else y


class AdaptiveNorm(nn.Module):
    """A norm whose scale and shift are read from the code, nearest-resized, position by position."""

    def __init__(self, channels: int, code_channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels, affine=False)
        self.modulation = nn.Linear(code_channels, 2 * channels)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, code: Tensor, first: bool) -> Tensor:
        scale, shift = self._resize(self.modulation(code), x, first).chunk(2, dim=-1)
        return self.norm(x) * (1 + scale) + shift

    @staticmethod
    def _resize(code: Tensor, x: Tensor, first: bool) -> Tensor:
        """Repeats each cell over the positions it covers; as everywhere, the first cell covers one frame."""
        for axis in (1, 2, 3):
            lone = 1 if axis == 1 and first else 0
            cells = code.shape[axis] - lone
            factor = (x.shape[axis] - lone) // cells if cells else 1
            if factor > 1:
                code = code.repeat_interleave(factor, dim=axis)
                code = code[:, factor - 1 :] if lone else code
        return code


class Encoder(nn.Module):
    """Tubelets or pixels in, ``latent_out`` channels a cell out; channels-last."""

    def __init__(
        self, in_channels: int, widths: Sequence[int], depths: Sequence[int], strides: Sequence[Stride], out: int, kernel: int
    ) -> None:
        super().__init__()
        width = widths[0]
        self.stem = nn.ModuleList([SpatialConv(in_channels, width, kernel=kernel), TemporalConv(width, width, kernel=kernel)])
        self.layers = nn.ModuleList()
        for stage, (target, depth) in enumerate(zip(widths, depths, strict=True)):
            if stage:
                self.layers.append(Downsample(width, strides[stage - 1]))
            for _ in range(depth):
                self.layers.append(ResidualBlock(width, target, kernel))
                width = target
        self.head = nn.Sequential(ChannelNorm(width), nn.SiLU(), nn.Linear(width, out))

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        x = self.stem[1](self.stem[0](x), stream)
        for layer in self.layers:
            x = layer(x, stream)
        return self.head(x)


class Decoder(nn.Module):
    """The encoder mirrored; ``adaptive`` reads the code again at every stage."""

    def __init__(
        self, code: int, widths: Sequence[int], depths: Sequence[int], strides: Sequence[Stride], out: int, adaptive: bool
    ) -> None:
        super().__init__()
        width = widths[-1]
        self.stem = nn.ModuleList([SpatialConv(code, width), TemporalConv(width, width)])
        self.stages: Any = nn.ModuleList()
        for stage in reversed(range(len(widths))):
            blocks = nn.ModuleList(ResidualBlock(width if i == 0 else widths[stage], widths[stage]) for i in range(depths[stage]))
            norm = AdaptiveNorm(width, code) if adaptive else None
            width = widths[stage] if depths[stage] else width
            up = Upsample(width, strides[stage - 1]) if stage else None
            self.stages.append(
                nn.ModuleDict({name: module for name, module in (("norm", norm), ("blocks", blocks), ("up", up)) if module})
            )
        self.norm = ChannelNorm(width)
        self.head = SpatialConv(width, out)

    def forward(self, code: Tensor, stream: Stream) -> Tensor:
        x = self.stem[1](self.stem[0](code), stream)
        for stage in self.stages:
            if "norm" in stage:
                x = stage["norm"](x, code, stream.first)
            for block in stage["blocks"]:
                x = block(x, stream)
            if "up" in stage:
                x = stage["up"](x, stream)
        return self.head(nn.functional.silu(self.norm(x)))


class Causal3D(nn.Module):
    """Strictly causal encoder and decoder.

    Args:
        latent_out: channels the encoder emits (the quantizer's ``in_channels``).
        latent_in: channels the decoder takes (the quantizer's ``channels``).
        in_channels: channels of the video.
        patch: tubelet (t, h, w) folded into channels before the first convolution; (1, 1, 1) for none.
        widths: channels of each stage, fine to coarse.
        encoder_depths: residual blocks of each encoder stage.
        decoder_depths: residual blocks of each decoder stage, in the same order (fine to coarse).
        strides: (t, h, w) between one stage and the next; one fewer than ``widths``.
        encoder_kernel: 3, or 1 for an encoder that sees each tubelet by itself: equal tubelets then have equal codes wherever
            they are, which a generator learns sooner; the decoder still sees their neighbours.
        adaptive: modulate the decoder by the code at each stage (MAGVIT-v2's adaptive group norm).
    """

    causal = True

    def __init__(
        self,
        *,
        latent_out: int,
        latent_in: int,
        in_channels: int = 3,
        patch: Stride = (1, 1, 1),
        widths: Sequence[int] = (128, 128, 256, 256, 512),
        encoder_depths: Sequence[int] = (4, 4, 4, 4, 8),
        decoder_depths: Sequence[int] = (4, 4, 4, 4, 8),
        strides: Sequence[Stride] = ((1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 1, 1)),
        encoder_kernel: int = 3,
        adaptive: bool = True,
    ) -> None:
        super().__init__()
        if not len(widths) == len(encoder_depths) == len(decoder_depths) == len(strides) + 1:
            raise UserError(
                f"The causal3d backbone has {len(widths)} widths, {len(encoder_depths)} encoder_depths, {len(decoder_depths)} "
                f"decoder_depths and {len(strides)} strides; give the first three an entry for each stage, and strides one fewer."
            )
        self.patch = patch
        self.stride: Stride = tuple(patch[axis] * prod(stride[axis] for stride in strides) for axis in range(3))  # type: ignore[assignment]
        self.encoder = Encoder(in_channels * prod(patch), widths, encoder_depths, strides, latent_out, encoder_kernel)
        self.decoder = Decoder(latent_in, widths, decoder_depths, strides, in_channels * prod(patch), adaptive)

    def encode(self, video: Tensor, start: int = 0, stream: Stream | None = None) -> Tensor:
        """(B, C, 1 + s*k, H, W) -> (B, latent_out, 1 + k, H / s_h, W / s_w); from ``start`` > 0 on every cell is s frames."""
        x, stream = video.permute(0, 2, 3, 4, 1), Stream.at(start, stream)
        if stream.first and self.patch[0] > 1:
            x = torch.cat([x[:, :1].expand(-1, self.patch[0] - 1, -1, -1, -1), x], dim=1)
        return self.encoder(patchify(x, self.patch), stream).permute(0, 4, 1, 2, 3)

    def decode(self, z: Tensor, start: int = 0, stream: Stream | None = None) -> Tensor:
        """(B, latent_in, t, h, w) -> video (B, C, T, H, W); from ``start`` > 0 on every cell is s frames."""
        stream = Stream.at(start, stream)
        video = unpatchify(self.decoder(z.permute(0, 2, 3, 4, 1), stream), self.patch)
        if stream.first:
            video = video[:, self.patch[0] - 1 :]
        return video.permute(0, 4, 1, 2, 3)
