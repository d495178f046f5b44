"""The frozen bottleneck of a tokenizer, which is all that a generator may know of it."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from vidgen.latents import Latent, LatentSpec, Shape


class Standardise(nn.Module):
    """Zero mean and unit variance per channel, by measured constants that are saved with the tokenizer."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def forward(self, h: Tensor) -> Tensor:
        """(B, C, t, h, w) in the bottleneck's own units -> standardised."""
        return (h - _per_channel(self.mean, h)) / _per_channel(self.std, h)

    def inverse(self, h: Tensor) -> Tensor:
        """Standardised -> the bottleneck's own units."""
        return h * _per_channel(self.std, h) + _per_channel(self.mean, h)


class BottleneckSpace:
    """A quantizer and its standardisation behind :class:`vidgen.protocols.LatentSpace`.

    A plain object that refers to the tokenizer's own modules: a copied generator shares it, and nothing is saved twice.
    """

    def __init__(self, *, spec: LatentSpec, quantizer: Any, standardise: Standardise) -> None:
        self.spec, self._quantizer, self._standardise = spec, quantizer, standardise

    def __deepcopy__(self, memo: dict[int, object]) -> BottleneckSpace:
        return self

    @property
    def h_channels(self) -> int:
        """Channels of ``h``."""
        return self._quantizer.channels

    @torch.no_grad()
    def embed(self, ids: Tensor, grids: tuple[Shape, ...]) -> Tensor:
        """(B, N, L) ids over a plain grid -> z (B, D, t, h, w)."""
        (grid,) = grids
        return self._quantizer.embed(ids.unflatten(1, grid))

    @torch.no_grad()
    def project(self, h: Tensor, *, num_frames: int | None = None, start: int = 0) -> Latent:
        """The nearest legal latent to ``h`` (B, D', t, h, w), with z, and ids where discrete.

        The law it keeps: ``embed(project(h).ids) == project(h).z``.
        """
        z, ids = self._quantizer.project(self._standardise.inverse(h))
        grid = (h.shape[2], h.shape[3], h.shape[4])
        return Latent(
            spec=self.spec,
            grids=(grid,),
            num_frames=self.spec.frames(grid[0], start) if num_frames is None else num_frames,
            start=start,
            z=z,
            h=self._standardise(z),
            ids=None if ids is None else ids.reshape(len(ids), prod(grid), -1),
        )


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.to(device=like.device, dtype=like.dtype).view(1, -1, 1, 1, 1)
