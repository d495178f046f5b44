"""The spacetime transformer that all generators share, so that what differs between two rows of a table is the idea.

Blocks are those of DiT (Peebles and Xie, "Scalable Diffusion Models with Transformers", 2022): layer norm without parameters,
modulated by the condition, and gates that start at zero (adaLN-Zero). Added to them: layer norm of queries and keys, rotary
positions over three axes instead of a fixed table (any size, any length), and a condition per clip or per token.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgen.errors import UserError
from vidgen.nn.attention import attend
from vidgen.nn.norm import ChannelNorm
from vidgen.nn.rope import rotate


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm without parameters, then ``x * (1 + scale) + shift``; keeps the dtype of ``x``."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6).to(x.dtype), 1 + scale)


class Attention(nn.Module):
    """Multi-head self-attention with normalised queries and keys and rotary positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = ChannelNorm(width // heads)
        self.k_norm = ChannelNorm(width // heads)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = rotate(self.q_norm(q), rope), rotate(self.k_norm(k), rope)
        return self.out(attend(q, k, v, mask).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a feed-forward layer, each shifted, scaled and gated by the condition (adaLN-Zero)."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, c: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(c).to(x.dtype).chunk(6, dim=-1)
        x = torch.addcmul(x, gate_a, self.attention(modulate(x, shift_a, scale_a), rope, mask))
        return torch.addcmul(x, gate_m, self.mlp(modulate(x, shift_m, scale_m)))


class Trunk(nn.Module):
    """A stack of blocks.

    Args:
        width: channels of a token; a multiple of ``heads``, with an even share for each.
        depth: blocks.
        heads: attention heads.
        mlp_ratio: hidden width of the feed-forward layers over ``width``.

    Raises:
        UserError: where a size is below 1, or the width does not split.
    """

    def __init__(self, *, width: int, depth: int, heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        for option, value in (("width", width), ("depth", depth), ("heads", heads)):
            if value < 1:
                raise UserError(f"{option}={value} makes no transformer: give {option}=1 or more.")
        if int(width * mlp_ratio) < 1:
            raise UserError(f"mlp_ratio={mlp_ratio:g} leaves no hidden channels of a width of {width}: give mlp_ratio=1 or more.")
        if width % heads or (width // heads) % 2:
            fits = 2 * heads * max(1, round(width / (2 * heads)))
            raise UserError(
                f"The width {width} does not split into {heads} heads of an even size; the nearest that does is {fits}."
            )
        self.head_dim = width // heads
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth))
        for name, weight in self.named_parameters():
            if weight.ndim == 2 and "modulation" not in name:
                nn.init.xavier_uniform_(weight)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)

    def forward(self, x: Tensor, c: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None = None) -> Tensor:
        """Tokens (B, N, width), condition (B, 1, width) or (B, N, width), rotary table of the N positions -> (B, N, width)."""
        c = F.silu(c)
        for block in self.blocks:
            x = block(x, c, rope, mask)
        return x


class FinalLayer(nn.Module):
    """Modulated norm and a linear map, both zero at the start: the network's output is exactly zero before training."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 2 * width)
        self.linear = nn.Linear(width, out)
        for layer in (self.modulation, self.linear):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.modulation(F.silu(c)).to(x.dtype).chunk(2, dim=-1)
        return self.linear(modulate(x, shift, scale))
