"""What measures of frames share: their range, the comparison of two videos, and the mean over frames with its interval.

The same pair of videos scores 24.8 to 26.9 dB and .72 to .79 under the conventions in use, so a figure without its
convention says little. Here, and nowhere else in the library, they are chosen:

- Videos are (B, C, T, H, W) in [-1, 1]; values outside are clipped, as every player clips them, and nothing is rounded.
- The score of a set is the mean over its frames: not the PSNR of the mean error, which is lower.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchmetrics import Metric

PEAK = 2.0


class FrameMean(Metric):
    """The mean of a score over all frames seen, and how far it can be trusted.

    Kept as float64 sums, so the order and the grouping of batches and ranks do not matter. Frames of one clip resemble
    each other, so the interval is drawn from the spread between clips: for the ratio (sum of scores) / (number of
    frames), the residual of a clip is its sum minus mean times its frames, and the squared residuals expand into sums.
    """

    is_differentiable = False
    full_state_update = False

    clips: Tensor
    frames: Tensor
    total: Tensor
    total_squared: Tensor
    total_times_frames: Tensor
    frames_squared: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("clips", "frames", "total", "total_squared", "total_times_frames", "frames_squared"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def compute(self) -> Tensor:
        """The mean over frames; NaN where there was none."""
        return self.total / self.frames

    def interval(self) -> tuple[float, float] | None:
        """The 95 % normal interval of the mean over clips as drawn, of what this process saw; None below two clips."""
        clips, frames, total = self.clips.item(), self.frames.item(), self.total.item()
        if clips < 2:
            return None
        mean = total / frames
        residual = self.total_squared - 2 * mean * self.total_times_frames + mean**2 * self.frames_squared
        half = 1.96 * math.sqrt(max(residual.item(), 0.0) * clips / (clips - 1)) / frames
        return mean - half, mean + half

    def add(self, scores: Tensor) -> None:
        """Take in the scores (B, T) of a batch of clips; NaN marks a frame without one."""
        frames = scores.isfinite().sum(dim=1).double()
        total = scores.nansum(dim=1)
        self.clips += (frames > 0).sum()
        self.frames += frames.sum()
        self.total += total.sum()
        self.total_squared += total.square().sum()
        self.total_times_frames += (total * frames).sum()
        self.frames_squared += frames.square().sum()


def check_pair(video: Tensor, reference: Tensor) -> None:
    """Sees that two videos can be compared. Raises ValueError where their shapes differ or are not (B, C, T, H, W)."""
    if video.ndim != 5 or video.shape != reference.shape:
        raise ValueError(
            f"Two videos of one shape (B, C, T, H, W) are compared; got {tuple(video.shape)} and {tuple(reference.shape)}."
        )


def clipped(video: Tensor) -> Tensor:
    """As float64 within [-1, 1]."""
    return video.double().clamp(-1, 1)
