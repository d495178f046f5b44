"""Embeddings of what a generator is told besides its tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class TimestepEmbedding(nn.Module):
    """Noise level in [0, 1] -> vector: sinusoids of 1000 t (cosines first), then a two-layer perceptron (DiT).

    Without the factor 1000 the sinusoids would hardly move over [0, 1].
    """

    def __init__(self, width: int, *, frequencies: int = 128) -> None:
        super().__init__()
        self.frequencies = frequencies
        first, last = nn.Linear(2 * frequencies, width), nn.Linear(width, width)
        self.mlp = nn.Sequential(first, nn.SiLU(), last)
        for layer in (first, last):
            nn.init.normal_(layer.weight, std=0.02)

    def forward(self, t: Tensor) -> Tensor:
        """(...) -> (..., width)."""
        exponents = torch.arange(self.frequencies, device=t.device, dtype=torch.float32) / self.frequencies
        angle = 1000 * t.float().unsqueeze(-1) * torch.exp(-math.log(10000.0) * exponents)
        features = torch.cat([angle.cos(), angle.sin()], dim=-1)
        return self.mlp(features.to(next(self.mlp.parameters()).dtype))


class LabelEmbedding(nn.Module):
    """Class index -> vector; the table's last row is the null label, which -1 stands for."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.table = nn.Embedding(num_classes + 1, width)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, label: Tensor) -> Tensor:
        """(B,) of -1 to num_classes - 1 -> (B, width)."""
        return self.table(torch.where(label < 0, self.num_classes, label))
