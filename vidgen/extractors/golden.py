"""Distances that others published for clips that anyone can make, to tell whether weights are those of the published FVD.

Sources: the README of ``JunyaoHu/common_metrics_on_video_quality`` for black clips against white ones, where all clips of a side
are alike, so that the distance is that of the means; the README of ``universome/fvd-comparison`` for noise against noise, which
is given to the network as it is, within [0, 1]. Clips have the network's own size or one colour, so how frames are resized or
quantised is no part of it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from vidgen.extractors.i3d import SIZE

Network = Callable[[Tensor], Tensor]

CONSTANT = {10: 569.2296293622766, 16: 152.91750309134142, 30: 151.25648496845326}
"""Black against white by the number of frames, as StyleGAN-V's port has it; TensorFlow's original has 151.39244 for 30."""

NOISE = 10.138085
"""Noise against noise, of the original and of the port alike."""

TOLERANCE = 5e-3
"""Of a value, as a share: the original and the port differ by a fifth of that."""

NOISE_CLIPS, NOISE_FRAMES = 128, 16


@torch.no_grad()
def constant(network: Network, frames: int) -> float:
    """The Frechet distance of black clips of that length from white ones."""
    clips = torch.stack([torch.full((3, frames, SIZE, SIZE), value) for value in (-1.0, 1.0)])
    black, white = (network(clip.unsqueeze(0)).double() for clip in clips)
    return float((black - white).square().sum())


@torch.no_grad()
def noise(network: Network, seed: int, clips: int = NOISE_CLIPS) -> Tensor:
    """Features (clips, dim) of uniform noise, as numpy's old generator draws it."""
    draw = np.random.RandomState(seed)
    found = []
    for _ in range(clips):
        clip = torch.from_numpy(draw.rand(NOISE_FRAMES, SIZE, SIZE, 3).astype(np.float32))
        found.append(network(clip.permute(3, 0, 1, 2).unsqueeze(0)))
    return torch.cat(found)


def agrees(found: float, published: float) -> bool:
    """Whether two values are one."""
    return abs(found - published) <= TOLERANCE * abs(published)
