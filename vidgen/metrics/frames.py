"""What measures of frames share: what of two videos is compared, and the mean over frames with its interval.

The same pair of videos scores 24.8 to 26.9 dB and .72 to .79 under the conventions in use, so a figure without its
convention says little: every measure has its own in words, as ``convention``. Common to all of them:

- Videos are (B, C, T, H, W) in [-1, 1]; values outside are clipped, as every player clips them. Nothing is rounded unless a
  measure is told ``eight_bit``, for protocols that write files of 8 bits and read them back: then both videos are rounded to
  the nearest level, before anything else.
- ``color`` is ``rgb``, all channels alike, or ``luma``: Y' = .299 R + .587 G + .114 B of BT.601 in full range, black at the
  bottom of the range and white at its top, as PyAV decodes ``gray``. (The luma of 16 to 235 that MATLAB's ``rgb2ycbcr``
  gives has errors that are 219/255 as large, so that its PSNR is 1.32 dB higher.) A video of one channel is its own luma.
- Unless a measure says otherwise, the score of a set is the mean over its frames.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Collection
from zlib import crc32

import torch
from torch import Tensor
from torchmetrics import Metric

from vidgen.errors import UserError
from vidgen.metrics.statistics import NORMAL_95
from vidgen.registry import unknown

PEAK = 2.0
COLORS = {"rgb": "RGB", "luma": "BT.601 luma of full range"}
LUMA = (0.299, 0.587, 0.114)


class ScoreMean(Metric):
    """The mean of scores over all frames, or all clips, and how far it can be trusted; who adds them says what they are.

    Kept as float64 sums, so the order and the grouping of batches and ranks do not matter. Frames of one clip resemble
    each other, so the interval is drawn from the spread between clips: for the ratio (sum of scores) / (number of
    frames), the residual of a clip is its sum minus mean times its frames, and the squared residuals expand into sums.

    Args:
        convention: how the score is taken, in a few words.
    """

    unit = ""
    is_differentiable = False
    full_state_update = False

    clips: Tensor
    frames: Tensor
    total: Tensor
    total_squared: Tensor
    total_times_frames: Tensor
    frames_squared: Tensor

    def __init__(self, convention: str = "mean over frames") -> None:
        super().__init__()
        self.convention = convention
        for name in ("clips", "frames", "total", "total_squared", "total_times_frames", "frames_squared"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        tell_apart(self)

    def compute(self) -> Tensor:
        """The mean; NaN where there was no score."""
        return self.total / self.frames

    def interval(self) -> tuple[float, float] | None:
        """The 95 % normal interval of the mean over clips as drawn, of what this process saw; None below two clips."""
        clips, frames, total = self.clips.item(), self.frames.item(), self.total.item()
        if clips < 2:
            return None
        mean = total / frames
        residual = self.total_squared - 2 * mean * self.total_times_frames + mean**2 * self.frames_squared
        half = NORMAL_95 * math.sqrt(max(residual.item(), 0.0) * clips / (clips - 1)) / frames
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


class FrameMean(ScoreMean):
    """The mean of what frames score against their originals.

    Attributes:
        framewise: whether there is a score for each frame, and not for a clip or for neighbouring frames.
    """

    framewise = True

    @abstractmethod
    def scores(self, video: Tensor, real: Tensor) -> Tensor:
        """The scores of a batch ``video`` against its originals ``real``: (B, T) float64, or however many a clip has."""

    def update(self, video: Tensor, real: Tensor) -> None:
        """Score a batch ``video`` against its originals ``real``, both (B, C, T, H, W) in [-1, 1]."""
        self.add(self.scores(video, real))


def tell_apart(metric: Metric) -> None:
    """Gives a metric a state ``kind`` that is its class's and its ``convention``'s own.

    A ``MetricCollection`` updates only one of several metrics whose states agree after the first batch, as those of two
    conventions may: every SSIM of equal videos is 1. This state never agrees.
    """
    words = f"{type(metric).__name__}: {metric.convention}"
    metric.add_state("kind", torch.tensor(crc32(words.encode())), dist_reduce_fx="max")


def check_pair(video: Tensor, reference: Tensor) -> None:
    """Sees that two videos can be compared. Raises ValueError where their shapes differ or are not (B, C, T, H, W)."""
    if video.ndim != 5 or video.shape != reference.shape:
        raise ValueError(
            f"Two videos of one shape (B, C, T, H, W) are compared; got {tuple(video.shape)} and {tuple(reference.shape)}."
        )


def check_choice(what: str, value: str, choices: Collection[str]) -> None:
    """Sees that ``value`` is one of ``choices``. Raises UserError with the nearest and all of them."""
    if value not in choices:
        raise unknown(what, value, choices)


def check_frames(video: Tensor, least: int, what: str) -> None:
    """Sees that clips have at least ``least`` frames. Raises UserError that says what cannot be taken of them."""
    if video.shape[2] < least:
        raise UserError(f"{what} needs clips of at least {least} frames and these have {video.shape[2]}: use longer clips.")


def compared(video: Tensor, *, color: str = "rgb", eight_bit: bool = False) -> Tensor:
    """What of a video (B, C, T, H, W) is compared: (B, C or 1, T, H, W) float64 within [-1, 1].

    Raises:
        UserError: on an unknown ``color``, or for the luma of other than one or three channels.
    """
    check_choice("color to compare", color, COLORS)
    video = clipped(video)
    if eight_bit:
        video = ((video + 1) * 127.5).round() / 127.5 - 1
    if color == "rgb" or video.shape[1] == 1:
        return video
    if video.shape[1] != 3:
        raise UserError(f"Luma is that of three channels, and these videos have {video.shape[1]}: use color=rgb, for all alike.")
    red, green, blue = video.split(1, dim=1)
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def pixels_convention(color: str, eight_bit: bool) -> str:
    """What :func:`compared` gives, in words. Raises UserError on an unknown ``color``."""
    check_choice("color to compare", color, COLORS)
    return f"{COLORS[color]}, rounded to 8 bits" if eight_bit else COLORS[color]


def clipped(video: Tensor) -> Tensor:
    """As float64 within [-1, 1]."""
    return video.double().clamp(-1, 1)
