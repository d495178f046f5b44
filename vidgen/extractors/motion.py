"""``motion``: a small network of our own that has learnt to tell moving objects from broken ones; the default, and never FVD.

It is trained by ``benchmarks/train_motion.py`` on the worlds of :mod:`vidgen.data.worlds`, to say of a clip what was done to it,
by which law it moves, and how fast and how evenly. Its weights come with the package. What it has not seen there, such as
textures, faces and camera motion, it has no words for: distances in its features compare with others of the same file alone.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgen.download import sha256_of
from vidgen.extractors.base import Extractor
from vidgen.extractors.frames import resize_smooth
from vidgen.extractors.weights import load

WEIGHTS = Path(__file__).with_name("motion.safetensors")
LARGEST = 64
"""Pixels of the shorter side that the network sees at most."""


class Motion(Extractor):
    """128 features of a clip of any size: its pixels, their changes, and how those vary over the clip.

    A clip whose shorter side is longer than 64 pixels is reduced to that first, with antialiasing and its aspect; no other is
    resized. The features are those before the answers that the network was trained to give.
    """

    dim = 128
    min_frames = 4
    at_once = 64

    def __init__(self) -> None:
        super().__init__()
        self.network = MotionNetwork()
        self.network.load_state_dict(load(WEIGHTS))  # halves in the file, floats here
        self.rule = {
            "extractor": "motion",
            "weights": sha256_of(WEIGHTS),
            "feature": "128 before the answers",
            "range": [-1, 1],
            "size": f"shorter side {LARGEST} at most, aspect kept",
            "resize": "bilinear, antialias",
            "quantise": "none",
        }
        self.freeze()

    def features(self, video: Tensor) -> Tensor:
        height, width = video.shape[-2:]
        shorter = min(height, width)
        if shorter > LARGEST:
            video = resize_smooth(video, round(height * LARGEST / shorter), round(width * LARGEST / shorter))
        features: Tensor = self.network(video)
        return features


class MotionNetwork(nn.Module):
    """Convolutions in space and in time by turns; features from their mean and spread over the clip.

    The first sees every frame and its change from the one before (of the first frame there is none, and it is zero).
    """

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            Block(6, 16, kernel=5, stride=2),
            Block(16, 32, kernel=3, stride=2),
            Block(32, 64, kernel=3, stride=1),
            Block(64, 128, kernel=3, stride=2),
        )
        self.head = nn.Linear(3 * 128, 128)

    def forward(self, video: Tensor) -> Tensor:
        """Videos (B, 3, T, H, W) in [-1, 1] to features (B, 128)."""
        change = F.pad(video[:, :, 1:] - video[:, :, :-1], (0, 0, 0, 0, 1, 0))
        x = self.blocks(torch.cat([video, change], dim=1)).flatten(3)
        frames = x.mean(3)  # of each frame (B, 128, T)
        steps = (frames[:, :, 1:] - frames[:, :, :-1]).abs().mean(2)
        features: Tensor = self.head(torch.cat([frames.mean(2), x.amax((2, 3)), steps], dim=1))
        return features


class Block(nn.Module):
    """A convolution in space, which may halve its size, and one in time, each with normalisation and a ReLU."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int) -> None:
        super().__init__()
        pad = kernel // 2
        self.space = nn.Conv3d(inputs, outputs, (1, kernel, kernel), (1, stride, stride), (0, pad, pad), bias=False)
        self.time = nn.Conv3d(outputs, outputs, (3, 1, 1), padding=(1, 0, 0), bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm3d(outputs) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norms[0](self.space(x)))
        return F.relu(self.norms[1](self.time(x)))
