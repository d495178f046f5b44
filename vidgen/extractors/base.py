"""What every extractor of features has in common: what it takes, what it gives, and that it never learns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from vidgen.errors import UserError


class Extractor(nn.Module, ABC):
    """A frozen network on clips; those in this room say what :meth:`features` are.

    Attributes:
        dim: features of a clip.
        min_frames: frames that a clip needs at least.
        at_once: clips that the network is given together, which bounds the memory and changes nothing else.
        rule: all that decides the features, as plain values, the sha256 of the weights too: two distances can only be compared
            where their rules are equal.
    """

    dim: int
    min_frames: int
    at_once: int = 8
    rule: dict[str, Any]

    def forward(self, video: Tensor) -> Tensor:
        """Videos (B, 3, T, H, W) in [-1, 1], clipped to that, to features (B, dim) in float32, without gradients.

        Raises:
            UserError: for other shapes and for clips of fewer than ``min_frames`` frames.
        """
        name = self.rule["extractor"]
        if video.ndim != 5 or video.shape[1] != 3:
            raise UserError(f"The {name} extractor takes videos (B, 3, T, H, W), and these are {tuple(video.shape)}.")
        if video.shape[2] < self.min_frames:
            raise UserError(
                f"The {name} extractor needs clips of {self.min_frames} frames or more, and these have {video.shape[2]}: take "
                "longer clips."
            )
        with torch.no_grad(), torch.autocast(video.device.type, enabled=False):
            return torch.cat([self.features(clips.float().clamp(-1, 1)).float() for clips in video.split(self.at_once)])

    @abstractmethod
    def features(self, video: Tensor) -> Tensor:
        """Float videos (B, 3, T, H, W) within [-1, 1] to (B, dim)."""

    def freeze(self) -> None:
        """In evaluation mode and without gradients, from now on."""
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Extractor:
        """Stays in evaluation mode whatever the model around it does: features must not depend on the batch."""
        super().train(False)
        return self
