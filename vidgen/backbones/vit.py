"""``vit``: a video transformer on tubelets as encoder and decoder, causal in time, for any height, width and length.

Sources: Arnab et al., "ViViT: A Video Vision Transformer" (2021): tubelet embedding (section 3.2), joint attention over space and
time (model 1) and factorised self-attention (model 3), inflation of 2-D weights (section 3.4). As an autoencoder with attention
that is causal over frames: Zhao et al., "Image and Video Tokenization with Binary Spherical Quantization" (2024).

Deviations:
    - causal in time over a fixed ``window`` of cells, in training, on whole clips and in streams alike, so that memory is bounded
      and what is learnt on short clips holds on long ones; the first frame is repeated to fill its tubelet, and the repeats are
      dropped after decoding, so that an image is a video of one frame;
    - rotary positions over three axes and normalised queries and keys in place of learned positions. Only differences of
      positions count, so the model is the same wherever in time a video is cut;
    - no class token; norms with a scale and no shift; tubelets become pixels again by one linear map.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Literal

import torch
from torch import Tensor, nn

from vidgen.errors import UserError
from vidgen.latents import Shape
from vidgen.nn.attention import attend, attend_window
from vidgen.nn.causal_conv import patchify, unpatchify
from vidgen.nn.norm import ChannelNorm
from vidgen.nn.rope import grid_positions, rotary_table, rotate
from vidgen.nn.stream import Stream

Table = tuple[Tensor, Tensor]


class Attention(nn.Module):
    """Multi-head self-attention with normalised queries and keys and rotary positions.

    Args:
        width: channels of a token.
        heads: attention heads.
        window: cells that a query sees, its own and those before it; None where all tokens see each other.
    """

    def __init__(self, width: int, heads: int, window: int | None = None) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = ChannelNorm(width // heads)
        self.k_norm = ChannelNorm(width // heads)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, rope: Table, stream: Stream, tokens: int = 1) -> Tensor:
        """(B, N, width) -> the same; with a window N is time x ``tokens``, and ``rope`` begins ``window - 1`` cells before."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = self.q_norm(q), self.k_norm(k)
        if self.window is None:
            y = attend(rotate(q, rope), rotate(k, rope), v)
        else:  # keys are remembered before they are turned, so that positions count from the chunk in work
            k, v = stream.extend(self, torch.stack([k, v]), (self.window - 1) * tokens, dim=-2)
            y = attend_window(rotate(q, last(rope, q)), rotate(k, last(rope, k)), v, self.window, tokens)
        return self.out(y.transpose(1, 2).flatten(2))


def last(rope: Table, x: Tensor) -> Table:
    """The last rows of a rotary table, as many as ``x`` (B, heads, N, d) has tokens."""
    return rope[0][-x.shape[-2] :], rope[1][-x.shape[-2] :]


class JointAttention(nn.Module):
    """Every token sees those of its own cell in time and of the window before it (ViViT's model 1, made causal)."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(width)
        self.attention = Attention(width, heads, window)

    @staticmethod
    def tables(grid: Shape, window: int, head_dim: int, device: torch.device) -> list[Table]:
        """Rotary tables of a grid, from ``window - 1`` cells before it on."""
        t, h, w = grid
        return [rotary((t + window - 1, h, w), head_dim, device)]

    def forward(self, x: Tensor, tables: list[Table], stream: Stream) -> Tensor:
        y = self.attention(self.norm(x).flatten(1, 2), tables[0], stream, tokens=x.shape[2])
        return x + y.unflatten(1, x.shape[1:3])


class FactorisedAttention(nn.Module):
    """Attention within each cell in time, then of each place to its own past (ViViT's model 3, made causal)."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([ChannelNorm(width), ChannelNorm(width)])
        self.space = Attention(width, heads)
        self.time = Attention(width, heads, window)

    @staticmethod
    def tables(grid: Shape, window: int, head_dim: int, device: torch.device) -> list[Table]:
        """Rotary tables of a cell's tokens, and of time from ``window - 1`` cells before the grid on."""
        t, h, w = grid
        return [rotary((1, h, w), head_dim, device), rotary((t + window - 1, 1, 1), head_dim, device)]

    def forward(self, x: Tensor, tables: list[Table], stream: Stream) -> Tensor:
        batch = x.shape[0]
        x = x + self.space(self.norms[0](x).flatten(0, 1), tables[0], stream).unflatten(0, (batch, -1))
        y = self.time(self.norms[1](x).transpose(1, 2).flatten(0, 1), tables[1], stream)
        return x + y.unflatten(0, (batch, -1)).transpose(1, 2)


@lru_cache(maxsize=16)
def rotary(grid: Shape, head_dim: int, device: torch.device) -> Table:
    """Rotary table of a grid's cells, its angles in float64: a clip of thousands of cells is turned as exactly as a short one."""
    with torch.inference_mode(False):  # what was made for sampling is used in training too
        cos, sin = rotary_table(grid_positions(grid).double(), head_dim)
        return cos.float().to(device), sin.float().to(device)


ATTENTION: dict[str, type[JointAttention] | type[FactorisedAttention]] = {
    "joint": JointAttention,
    "factorised": FactorisedAttention,
}


class Block(nn.Module):
    """Attention, then a feed-forward layer, each on the normalised input and added to it."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, attention: str, window: int) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.attention = ATTENTION[attention](width, heads, window)
        self.mlp = nn.Sequential(ChannelNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor, tables: list[Table], stream: Stream) -> Tensor:
        x = self.attention(x, tables, stream)
        return x + self.mlp(x)


class Transformer(nn.Module):
    """Blocks and a last norm, on (B, t, h, w, width)."""

    def __init__(self, width: int, depth: int, heads: int, mlp_ratio: float, attention: str, window: int) -> None:
        super().__init__()
        self.head_dim, self.window = width // heads, window
        self.tables = ATTENTION[attention].tables
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio, attention, window) for _ in range(depth))
        self.norm = ChannelNorm(width)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        t, h, w = x.shape[1:4]
        tables = self.tables((t, h, w), self.window, self.head_dim, x.device)
        x = x.flatten(2, 3)
        for block in self.blocks:
            x = block(x, tables, stream)
        return self.norm(x).unflatten(2, (h, w))


class ViT(nn.Module):
    """Transformer encoder and decoder on tubelets, causal in time.

    Args:
        latent_out: channels the encoder emits (the quantizer's ``in_channels``).
        latent_in: channels the decoder takes (the quantizer's ``channels``).
        in_channels: channels of the video.
        patch: pixels (t, h, w) of a tubelet, hence the stride.
        width: channels of a token; an even share for each head.
        encoder_depth: blocks of the encoder.
        decoder_depth: blocks of the decoder.
        heads: attention heads.
        mlp_ratio: hidden width of the feed-forward layers over ``width``.
        attention: ``joint`` over space and time, or ``factorised`` into one after the other.
        window: cells in time that a token sees, its own included.
    """

    causal = True

    def __init__(
        self,
        *,
        latent_out: int,
        latent_in: int,
        in_channels: int = 3,
        patch: Shape = (2, 16, 16),
        width: int = 768,
        encoder_depth: int = 12,
        decoder_depth: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4.0,
        attention: Literal["joint", "factorised"] = "factorised",
        window: int = 16,
    ) -> None:
        super().__init__()
        if width % (2 * heads):
            fits = 2 * heads * max(1, round(width / (2 * heads)))
            raise UserError(f"The vit's width {width} does not split into {heads} heads of an even size; the nearest is {fits}.")
        if attention not in ATTENTION:
            raise UserError(f"The vit's attention is joint or factorised, not '{attention}'.")
        if window < 1:
            raise UserError(f"The vit's window is {window} cells; it needs at least 1, the cell itself.")
        self.patch = self.stride = patch
        pixels = in_channels * prod(patch)
        self.embed = nn.Linear(pixels, width)
        self.encoder = Transformer(width, encoder_depth, heads, mlp_ratio, attention, window)
        self.to_latent = nn.Linear(width, latent_out)
        self.from_latent = nn.Linear(latent_in, width)
        self.decoder = Transformer(width, decoder_depth, heads, mlp_ratio, attention, window)
        self.to_pixels = nn.Linear(width, pixels)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                nn.init.xavier_uniform_(weight)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)
        nn.init.normal_(self.to_pixels.weight, std=0.02)  # a grey video to begin with, not noise

    def encode(self, video: Tensor, start: int = 0, stream: Stream | None = None) -> Tensor:
        """(B, C, 1 + s*k, H, W) -> (B, latent_out, 1 + k, H / s_h, W / s_w); from ``start`` > 0 on every cell is s frames."""
        x, stream = video.permute(0, 2, 3, 4, 1), Stream.at(start, stream)
        if stream.first:
            x = torch.cat([x[:, :1].expand(-1, self.patch[0] - 1, -1, -1, -1), x], dim=1)
        x = self.encoder(self.embed(patchify(x, self.patch)), stream)
        return self.to_latent(x).permute(0, 4, 1, 2, 3)

    def decode(self, z: Tensor, start: int = 0, stream: Stream | None = None) -> Tensor:
        """(B, latent_in, t, h, w) -> video (B, C, T, H, W); from ``start`` > 0 on every cell is s frames."""
        stream = Stream.at(start, stream)
        x = self.decoder(self.from_latent(z.permute(0, 2, 3, 4, 1)), stream)
        video = unpatchify(self.to_pixels(x), self.patch)
        if stream.first:
            video = video[:, self.patch[0] - 1 :]
        return video.permute(0, 4, 1, 2, 3)


def inflate_patch_embedding(weight: Tensor, frames: int, how: Literal["central", "average"] = "central") -> Tensor:
    """The patch embedding of an image transformer as one of tubelets (ViViT, section 3.4, equations 8 and 9).

    Either way a video that stands still has the embedding of its frame, and so has an image, whose one frame is repeated to fill
    its tubelet. To begin training from an image model, copy the result to ``backbone.embed.weight`` and its bias as it is.

    Args:
        weight: (width, C, h, w), the kernel of a convolution with equal stride.
        frames: frames of a tubelet.
        how: ``central`` looks at the tubelet's frame ``frames // 2`` alone, so that training begins as that image model on every
            ``frames``-th frame; ``average`` at the mean of its frames.

    Returns:
        (width, frames * h * w * C), in the order of channels of :func:`vidgen.nn.causal_conv.patchify`.

    Raises:
        UserError: on another ``how``.
    """
    if how not in ("central", "average"):
        raise UserError(f"A patch embedding is inflated by central or average, not '{how}'.")
    kernel = weight.permute(0, 2, 3, 1)[:, None]
    share = torch.full((frames,), 1 / frames) if how == "average" else torch.eye(frames)[frames // 2]
    return (kernel * share.to(weight).view(1, -1, 1, 1, 1)).flatten(1)
