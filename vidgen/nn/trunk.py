"""The spacetime transformer that all generators share, so that what differs between two rows of a table is the idea.

Blocks are those of DiT (Peebles and Xie, "Scalable Diffusion Models with Transformers", 2022): layer norm without parameters,
modulated by the condition, and gates that start at zero (adaLN-Zero). Added to them: layer norm of queries and keys, rotary
positions over three axes instead of a fixed table (any size, any length), and a condition per clip or per token. On request:
cross-attention to a context, and attention within frames and along time in turn, after Ma et al., "Latte: Latent Diffusion
Transformer for Video Generation" (2024). GELU is the function itself and not DiT's approximation of it by tanh, from which it
differs by 0.0005 at most and which takes CPUs three times as long.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint as recomputed

from vidgen.errors import UserError, did_you_mean
from vidgen.nn.attention import Context, Mask, attend, attend_under
from vidgen.nn.cache import BlockCache, KVCache
from vidgen.nn.norm import ChannelNorm
from vidgen.nn.rope import rotate

Rope = tuple[Tensor, Tensor]
Axis = Literal["joint", "frame", "time"]
Layers = Literal["joint", "alternate", "divided"]


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm without parameters, then ``x * (1 + scale) + shift``; keeps the dtype of ``x``."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6).to(x.dtype), 1 + scale)


def _zero(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Attention(nn.Module):
    """Multi-head self-attention with normalised queries and keys and rotary positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = ChannelNorm(width // heads)
        self.k_norm = ChannelNorm(width // heads)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, rope: Rope, mask: Mask = None, cache: BlockCache | None = None) -> Tensor:
        """(..., N, width) -> (..., N, width): the tokens of each sample, or of each frame of each sample, see each other."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0).transpose(-3, -2)
        q, k = rotate(self.q_norm(q), rope), rotate(self.k_norm(k), rope)
        if cache is not None:
            k, v = cache.append(k, v)
        q, k, v = (part.flatten(0, -4) for part in (q, k, v))
        y = attend_under(q, k, v, mask)
        return self.out(y.transpose(1, 2).reshape(x.shape))


class CrossAttention(nn.Module):
    """Multi-head attention from tokens to a context; its output layer starts at zero, so that at first it is silent.

    Queries and keys are normalised, as in self-attention, and so are the tokens that they come from. There are no positions here:
    a context's tokens bring their own.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.q_norm = ChannelNorm(width // heads)
        self.k_norm = ChannelNorm(width // heads)
        self.out = _zero(nn.Linear(width, width))

    def forward(self, x: Tensor, context: Context, cache: BlockCache | None = None) -> Tensor:
        """Tokens (B, N, width) -> what they take from the context, zero for samples without any."""
        q = self.q(F.layer_norm(x, x.shape[-1:], eps=1e-6).to(x.dtype)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self._keys(context, cache)
        mask, some = _some(context.mask)
        y = self.out(attend(self.q_norm(q), k, v, mask).transpose(1, 2).flatten(2))
        return y if some is None else y * some.to(y.dtype)

    def _keys(self, context: Context, cache: BlockCache | None) -> tuple[Tensor, Tensor]:
        """(B, heads, M, head_dim) each; made once where there is a cache."""
        if cache is not None and cache.context is not None:
            return cache.context
        k, v = self.kv(context.tokens).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        k = self.k_norm(k)
        if cache is not None:
            cache.context = k.detach(), v.detach()
        return k, v


def _some(mask: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """A context's mask (B, M) for attention, and (B, 1, 1) which samples have any of it.

    A softmax over nothing is not a number: a sample without a context looks at all of it, and what it sees is then left out.
    """
    if mask is None:
        return None, None
    some = mask.any(-1, keepdim=True)
    return (mask | ~some)[:, None, None], some.unsqueeze(-1)


class Block(nn.Module):
    """Attention, once along each of ``axes``, and a feed-forward layer, each shifted, scaled and gated by the condition."""

    def __init__(
        self, width: int, heads: int, mlp_ratio: float, axes: tuple[Axis, ...] = ("joint",), context: bool = False
    ) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.axes = axes
        self.attention = Attention(width, heads)
        self.attention_time = Attention(width, heads) if len(axes) > 1 else None
        self.cross = CrossAttention(width, heads) if context else None
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.modulation = _zero(nn.Linear(width, 3 * (1 + len(axes)) * width))

    def forward(
        self,
        x: Tensor,
        c: Tensor,
        rope: Rope,
        mask: Mask = None,
        context: Context | None = None,
        cache: BlockCache | None = None,
        frames: int | None = None,
    ) -> Tensor:
        """As :meth:`Trunk.forward`; ``c`` after its SiLU."""
        parts = self._modulation(c, cache).to(x.dtype).chunk(3 + 3 * len(self.axes), dim=-1)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m, *along_time = parts
        attended = _along(self.axes[0], self.attention, modulate(x, shift_a, scale_a), rope, mask, cache, frames)
        x = torch.addcmul(x, gate_a, attended)
        if self.attention_time is not None:
            shift_t, scale_t, gate_t = along_time
            attended = _along(self.axes[1], self.attention_time, modulate(x, shift_t, scale_t), rope, mask, cache, frames)
            x = torch.addcmul(x, gate_t, attended)
        if self.cross is not None and context is not None:
            x = x + self.cross(x, context, cache)
        return torch.addcmul(x, gate_m, self.mlp(modulate(x, shift_m, scale_m)))

    def _modulation(self, c: Tensor, cache: BlockCache | None) -> Tensor:
        """Made once of each condition where there is a cache."""
        if cache is None:
            return self.modulation(c)
        if cache.modulation is None:
            cache.modulation = self.modulation(c).detach()
        return cache.modulation


def _along(
    axis: Axis, attention: Attention, x: Tensor, rope: Rope, mask: Mask, cache: BlockCache | None, frames: int | None
) -> Tensor:
    """Attention of all tokens, of those of a frame, or of those of a place in all frames; their order is frame by frame."""
    if axis == "joint":
        return attention(x, rope, mask, cache)
    x, *rope_parts = (part.unflatten(-2, (frames, -1)) for part in (x, *rope))
    if axis == "frame":
        return attention(x, tuple(rope_parts)).flatten(1, 2)
    swapped = tuple(part.transpose(-3, -2) for part in rope_parts)
    return attention(x.transpose(1, 2), swapped).transpose(1, 2).flatten(1, 2)


def _axes(attention: Layers, block: int) -> tuple[Axis, ...]:
    """What the attention of a block goes along."""
    if attention == "divided":
        return ("frame", "time")
    if attention == "alternate":
        return ("time",) if block % 2 else ("frame",)
    return ("joint",)


class Trunk(nn.Module):
    """A stack of blocks.

    Args:
        width: channels of a token; a multiple of ``heads``, with an even share for each.
        depth: blocks.
        heads: attention heads.
        mlp_ratio: hidden width of the feed-forward layers over ``width``.
        context: whether blocks have a cross-attention to a :class:`Context`, between attention and the feed-forward layer.
        attention: ``joint``: all tokens see each other; ``alternate``: even blocks attend within a frame, odd ones along time at
            each place (Latte's variant 1); ``divided``: every block does both, one after the other (its variant 3; here each has
            shift, scale and gate of its own).
        checkpoint: in training keep only what goes into each block and compute the rest again on the way back: about a third
            more time for a fraction of the memory.

    Raises:
        UserError: where a size is below 1, the width does not split, or ``attention`` is another word.
    """

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
        context: bool = False,
        attention: Layers = "joint",
        checkpoint: bool = False,
    ) -> None:
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
        choices = get_args(Layers)
        if attention not in choices:
            hint = did_you_mean(attention, choices)
            raise UserError(f"A transformer knows no attention '{attention}'.{hint} Use {', '.join(choices)}.")
        self.heads, self.head_dim = heads, width // heads
        self.attention, self.checkpoint = attention, checkpoint
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio, _axes(attention, i), context) for i in range(depth))
        for name, weight in self.named_parameters():
            if weight.ndim == 2 and not name.endswith(("modulation.weight", "cross.out.weight")):
                nn.init.xavier_uniform_(weight)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)

    def forward(
        self,
        x: Tensor,
        c: Tensor,
        rope: Rope,
        mask: Mask = None,
        *,
        cache: KVCache | None = None,
        context: Context | None = None,
        frames: int | None = None,
    ) -> Tensor:
        """Runs all blocks.

        Args:
            x: tokens (B, N, width).
            c: the condition, (B, 1, width), or (B, N, width) one a token.
            rope: :func:`vidgen.nn.rope.rotary_table` of the tokens' positions, (N, 3) or (B, N, 3).
            mask: what a token sees: None is all; True in a tensor that broadcasts to (B, heads, N, M); or the sizes of blocks of
                consecutive tokens, each of which sees itself and all blocks before it (all of size 1 is causal).
            cache: tokens that came before: all are seen, and ``x``, of which rope and mask tell, is added to them.
            context: what else is seen; None where there is none.
            frames: of ``alternate`` and ``divided`` attention: N is ``frames`` times the tokens of a frame, frame by frame.

        Returns:
            (B, N, width).

        Raises:
            ValueError: on a context that the blocks have no attention for, and with attention that is not joint on a missing
                ``frames``, a mask or a cache.
        """
        if context is not None and self.blocks[0].cross is None:
            raise ValueError("This trunk was built without context=True, and is given a context.")
        if self.attention != "joint" and (frames is None or mask is not None or cache is not None):
            raise ValueError(f"A trunk of {self.attention} attention needs frames, and takes no mask and no cache.")
        if cache is not None:
            cache.tell(c)
        c = F.silu(c)
        again = self.checkpoint and self.training and torch.is_grad_enabled() and cache is None
        for i, block in enumerate(self.blocks):
            held = None if cache is None else cache.blocks[i]
            if again:
                x = recomputed(block, x, c, rope, mask, context, held, frames, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x, c, rope, mask, context, held, frames)
        return x


class FinalNorm(nn.Module):
    """Layer norm modulated by the condition, a plain one at the start: what comes out of a trunk and into a head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.modulation = _zero(nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Tokens (B, N, width), condition (B, 1, width) or (B, N, width) -> (B, N, width)."""
        shift, scale = self.modulation(F.silu(c)).to(x.dtype).chunk(2, dim=-1)
        return modulate(x, shift, scale)


class FinalLayer(FinalNorm):
    """Modulated norm and a linear map, both zero at the start: the network's output is exactly zero before training."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__(width)
        self.linear = _zero(nn.Linear(width, out))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Tokens (B, N, width), condition (B, 1, width) or (B, N, width) -> (B, N, out)."""
        return self.linear(super().forward(x, c))
