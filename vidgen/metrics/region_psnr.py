"""PSNR of the region where there is something to be seen.

On a plain ground a blank picture already scores 20 to 30 dB; the region of the objects is where it does not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidgen.metrics.psnr import PSNR, decibel, difference

# Half a step between neighbouring 8-bit values: what differs from the ground by less is the ground, rounded.
HALF_STEP = 1.0 / 255.0


def region_psnr(video: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """PSNR in dB of each frame over the pixels where ``mask`` (B, T, H, W) is true.

    Both videos are (B, C, T, H, W) in [-1, 1]. Returns (B, T) float64, at most 100 dB, and NaN for a frame whose mask is
    empty: it has no score, rather than a perfect one.
    """
    error = difference(video, reference).double().square().mean(dim=1)
    if mask.shape != error.shape:
        raise ValueError(f"mask is {tuple(mask.shape)}, but these videos need (B, T, H, W) = {tuple(error.shape)}.")
    inside = mask.to(error.device, torch.float64)
    return decibel((error * inside).sum(dim=(2, 3)) / inside.sum(dim=(2, 3)))


def foreground(reference: Tensor, ground: Tensor) -> Tensor:
    """Where ``reference`` (B, C, T, H, W) differs in any channel from ``ground`` by more than half an 8-bit step.

    ``ground`` broadcasts against ``reference``: a colour per clip (B, C, 1, 1, 1), a still picture (B, C, 1, H, W) or a
    whole video. Returns a boolean (B, T, H, W), the objects' region that :func:`region_psnr` takes.
    """
    return ((reference - ground).abs() > HALF_STEP).any(dim=1)


class RegionPSNR(PSNR):
    """Mean PSNR per frame of a region, in dB, over the frames that show any of it."""

    def __init__(self) -> None:
        super().__init__()

    def update(self, video: Tensor, real: Tensor, mask: Tensor) -> None:  # type: ignore[override]
        """Score a batch over ``mask`` (B, T, H, W), both videos (B, C, T, H, W) in [-1, 1]."""
        self.add(region_psnr(video, real, mask))
