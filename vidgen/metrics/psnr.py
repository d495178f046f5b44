"""How close a reconstruction is to its original: the peak signal-to-noise ratio of its frames.

It is taken of each frame over all its channels and pixels, against the peak of 2 that spans [-1, 1] (the same figure as 255 on
unrounded 8-bit values). A frame above 100 dB, which an exact copy would make infinite, counts as 100 dB, and is counted. What
is common to measures of frames, :mod:`vidgen.metrics.frames` says.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidgen.metrics.frames import PEAK, FrameMean, check_pair, clipped

CAP_DB = 100.0


def psnr(video: Tensor, reference: Tensor) -> Tensor:
    """PSNR in dB of each frame.

    Both videos are (B, C, T, H, W) in [-1, 1]. Returns (B, T) float64, at most 100 dB.
    """
    return decibel(squared_error(video, reference).mean(dim=(2, 3)))


class PSNR(FrameMean):
    """Mean PSNR per frame, in dB. ``capped`` counts the frames that reached 100 dB and were counted as that."""

    higher_is_better = True

    capped: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("capped", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, video: Tensor, real: Tensor) -> None:
        """Score a batch ``video`` against its originals ``real``, both (B, C, T, H, W) in [-1, 1]."""
        self.add(psnr(video, real))

    def add(self, scores: Tensor) -> None:
        """Take in scores (B, T) in dB; NaN marks a frame without one."""
        self.capped += (scores == CAP_DB).sum()
        super().add(scores)


def squared_error(video: Tensor, reference: Tensor) -> Tensor:
    """Mean over channels of the squared error of each pixel: (B, T, H, W) float64."""
    check_pair(video, reference)
    return (clipped(video) - clipped(reference)).square().mean(dim=1)


def decibel(mean_squared_error: Tensor) -> Tensor:
    """PSNR of a mean squared error, at most 100 dB."""
    return (10 * torch.log10(PEAK**2 / mean_squared_error)).clamp(max=CAP_DB)
