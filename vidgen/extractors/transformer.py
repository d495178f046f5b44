"""What the video transformers share: tubelets as tokens, and blocks of attention; their tensors have their authors' names."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgen.errors import UserError


class Tubelets(nn.Module):
    """Tokens of ``frames`` x ``patch`` x ``patch`` pixels: videos (B, 3, T, H, W) to (B, N, width), time slowest."""

    def __init__(self, width: int, *, frames: int, patch: int) -> None:
        super().__init__()
        size = (frames, patch, patch)
        self.proj = nn.Conv3d(3, width, size, size)

    def forward(self, video: Tensor) -> Tensor:
        return self.proj(video).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Self-attention over all tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        out: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out


class MLP(nn.Module):
    """Two layers with a GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    """Attention and MLP, each after a normalisation and added to what came in."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn, self.mlp = Attention(width, heads), MLP(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def stretched(table: Tensor, known: tuple[int, int, int], grid: tuple[int, int, int]) -> Tensor:
    """Positions (1, N, width) of a grid for another, by linear interpolation along each axis; the same grid has the same."""
    if grid == known:
        return table
    volume = table.transpose(1, 2).unflatten(2, known)
    return F.interpolate(volume, grid, mode="trilinear", align_corners=False).flatten(2).transpose(1, 2)


def whole_tubelets(video: Tensor, frames: int) -> Tensor:
    """The video without the frames at its end that fill no tubelet."""
    return video[:, :, : video.shape[2] // frames * frames]


def check_heads(extractor: str, width: int, heads: int) -> None:
    """Sees that the channels split.

    Raises:
        UserError: where they do not.
    """
    if heads < 1 or width % heads:
        raise UserError(f"The {extractor} extractor's width {width} does not split into {heads} heads.")


def fill(network: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Gives a network, which may lie on the meta device, the tensors of its names; others in ``state`` are left.

    Raises:
        UserError: where one is missing or of another shape, naming the first.
    """
    wanted_state = network.state_dict()
    for name, wanted in wanted_state.items():
        if name not in state:
            raise UserError(f"'{source}' has no tensor '{name}', which this network needs: it holds another network.")
        if state[name].shape != wanted.shape:
            raise UserError(
                f"'{source}' holds '{name}' of the shape {tuple(state[name].shape)}, and this network's is "
                f"{tuple(wanted.shape)}: its options are another network's."
            )
    network.load_state_dict({name: state[name].to(wanted.dtype) for name, wanted in wanted_state.items()}, assign=True)


def sinusoids(positions: int, width: int) -> Tensor:
    """(1, positions, width): sine and cosine by turns, of wavelengths from 2 pi to 10000 times that, as in Transformers."""
    rate = 10000.0 ** (-(torch.arange(width, dtype=torch.float64) // 2 * 2) / width)
    angle = torch.arange(positions, dtype=torch.float64)[:, None] * rate
    return torch.where(torch.arange(width) % 2 == 0, angle.sin(), angle.cos()).float().unsqueeze(0)
