"""A block of the trunk against parts of other libraries, on the same weights."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from tiny import stirred
from torch import Tensor, nn

from vidgen.nn.attention import Context
from vidgen.nn.rope import grid_positions, rotary_table
from vidgen.nn.trunk import Block, CrossAttention

WIDTH, HEADS, GRID = 48, 2, (2, 3, 2)
HEAD_DIM = WIDTH // HEADS


def angles(theta: float = 10000.0) -> Tensor:
    """(N, head_dim / 2), term by term: pairs 0 to 3 turn with time, 4 to 7 with height, 8 to 11 with width."""
    rows = [
        [place * theta ** (-pair / 4) for place in (t, h, w) for pair in range(4)]
        for t in range(GRID[0])
        for h in range(GRID[1])
        for w in range(GRID[2])
    ]
    return torch.tensor(rows, dtype=torch.float64)


def copied(target: nn.Module, weights: dict[str, Tensor]) -> None:
    """Loads all weights of ``target``, but for the shift of its norms, which ours lack and which starts at zero."""
    left = target.load_state_dict(weights, strict=False)
    assert not left.unexpected_keys and set(left.missing_keys) <= {"norm_q.bias", "norm_k.bias"}


def test_a_block_is_that_of_timm_and_diffusers() -> None:
    """Modulation by diffusers' adaLN-Zero, rotary attention with normalised queries and keys and the perceptron by timm."""
    layers = pytest.importorskip("timm.layers")
    normalization = pytest.importorskip("diffusers.models.normalization")
    torch.manual_seed(0)
    block = stirred(Block(WIDTH, HEADS, 4.0).double())
    x, c = torch.randn(2, 12, WIDTH).double(), torch.randn(2, WIDTH).double()

    norm = normalization.AdaLayerNormZero(WIDTH).double()
    norm.linear.load_state_dict(block.modulation.state_dict())
    attention = layers.AttentionRope(
        WIDTH,
        HEADS,
        num_prefix_tokens=0,
        qk_norm=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6, bias=False),
        rotate_half=True,
    ).double()
    copied(
        attention,
        {
            "qkv.weight": block.attention.qkv.weight,
            "qkv.bias": block.attention.qkv.bias,
            "proj.weight": block.attention.out.weight,
            "proj.bias": block.attention.out.bias,
            "q_norm.weight": block.attention.q_norm.scale,
            "k_norm.weight": block.attention.k_norm.scale,
        },
    )
    mlp = layers.Mlp(WIDTH, 4 * WIDTH).double()
    mlp.fc1.load_state_dict(block.mlp[0].state_dict())
    mlp.fc2.load_state_dict(block.mlp[2].state_dict())

    turn = angles()
    rope = torch.cat([turn.sin(), turn.sin(), turn.cos(), turn.cos()], dim=-1)
    y, gate_a, shift_m, scale_m, gate_m = norm(x, emb=c)
    y = x + gate_a[:, None] * attention(y, rope)
    y = y + gate_m[:, None] * mlp(nn.functional.layer_norm(y, (WIDTH,), eps=1e-6) * (1 + scale_m[:, None]) + shift_m[:, None])

    ours = block(x, nn.functional.silu(c)[:, None], rotary_table(grid_positions(GRID).double(), HEAD_DIM))
    # The table's frequencies are float32.
    torch.testing.assert_close(ours, y, rtol=0, atol=1e-6)
    assert (ours - x).abs().mean() > 0.1


def test_cross_attention_is_that_of_diffusers() -> None:
    """With its norms of queries and keys, on normalised tokens, under a mask."""
    other = pytest.importorskip("diffusers.models.attention_processor").Attention(
        WIDTH, WIDTH, heads=HEADS, dim_head=HEAD_DIM, bias=True, qk_norm="layer_norm", eps=1e-6
    )
    torch.manual_seed(0)
    other.double()
    cross = stirred(CrossAttention(WIDTH, HEADS).double())
    (key, value), (key_bias, value_bias) = cross.kv.weight.chunk(2), cross.kv.bias.chunk(2)
    copied(
        other,
        {
            "to_q.weight": cross.q.weight,
            "to_q.bias": cross.q.bias,
            "to_k.weight": key,
            "to_k.bias": key_bias,
            "to_v.weight": value,
            "to_v.bias": value_bias,
            "norm_q.weight": cross.q_norm.scale,
            "norm_k.weight": cross.k_norm.scale,
            "to_out.0.weight": cross.out.weight,
            "to_out.0.bias": cross.out.bias,
        },
    )
    x, tokens = torch.randn(2, 12, WIDTH).double(), torch.randn(2, 5, WIDTH).double()
    mask = torch.tensor([[1, 1, 0, 1, 0], [1, 1, 1, 1, 1]]).bool()
    bias = torch.zeros(2, 1, 5).double().masked_fill(~mask[:, None], float("-inf"))
    theirs = other(nn.functional.layer_norm(x, (WIDTH,), eps=1e-6), encoder_hidden_states=tokens, attention_mask=bias)
    torch.testing.assert_close(cross(x, Context(tokens, mask)), theirs, rtol=0, atol=1e-10)
