"""Parts that stand in for trained ones, so that figures have a closed form."""

from __future__ import annotations

import math

import torch

from vidgen.latents import Latent, LatentSpec


class Same(torch.nn.Module):
    """A tokenizer that gives back what it is given."""

    spec = LatentSpec(channels=1, stride=(4, 4, 4), causal=True, levels=(4,))

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def encode(self, video: torch.Tensor) -> Latent:
        grid = self.spec.grid(tuple(video.shape[2:]))
        ids = torch.zeros(len(video), math.prod(grid), 1, dtype=torch.long)
        return Latent(spec=self.spec, grids=(grid,), num_frames=video.shape[2], z=video, h=video, ids=ids)

    def decode(self, latent: Latent) -> torch.Tensor:
        assert latent.z is not None
        return latent.z
