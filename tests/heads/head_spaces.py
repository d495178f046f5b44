"""Latent spaces of tokens, which is all that a head looks at, and heads that are no longer at their start."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from vidgen import LatentSpec
from vidgen.heads import build_head

WIDTH = 12


def space(levels: tuple[int, ...] | None, stages: int = 1, channels: int = 3) -> Any:
    spec = LatentSpec(channels=channels, stride=(1, 1, 1), causal=True, levels=levels, stages=stages)
    return SimpleNamespace(spec=spec, h_channels=channels)


def shaken(head: Any, spread: float = 0.4) -> Any:
    """The head with noise on all of its weights, so that none of them is zero or has no effect."""
    with torch.no_grad():
        for weight in head.parameters():
            weight += spread * torch.randn_like(weight)
    return head


def built(name: str, levels: tuple[int, ...] | None, stages: int = 1, **options: Any) -> Any:
    """A shaken head in float64."""
    return shaken(build_head({"name": name, **options}, space=space(levels, stages), width=WIDTH)).double()


def every(levels: tuple[int, ...]) -> Tensor:
    """All tokens, (V, L)."""
    return torch.tensor(list(product(*map(range, levels))))


def features(*size: int) -> Tensor:
    return torch.randn(*size, WIDTH, dtype=torch.float64)


def uniforms(head: nn.Module, *size: int) -> Tensor:
    return torch.rand(*size, head.draws, dtype=torch.float64)
