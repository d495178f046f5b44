"""How close a reconstruction is to its original: the peak signal-to-noise ratio.

It is taken against the peak of 2 that spans [-1, 1] (the same figure as 255 on unrounded 8-bit values), of the squared error
over all channels and pixels of a frame, of a clip or of the whole set: three conventions, all in use and all called PSNR. The
logarithm is convex, so the mean of the frames' is the highest of them and that of the set's error the lowest. What would be
above 100 dB, as an exact copy is, counts as 100 dB, and is counted. What is common to measures of frames,
:mod:`vidgen.metrics.frames` says.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidgen.metrics.frames import COLORS, PEAK, FrameMean, check_choice, check_pair, compared, pixels_convention

CAP_DB = 100.0
OVER = {"frame": "mean over frames", "video": "of each clip's squared error", "set": "of the set's mean squared error"}


def psnr(video: Tensor, reference: Tensor, *, over: str = "frame", color: str = "rgb", eight_bit: bool = False) -> Tensor:
    """PSNR in dB, at most 100, as float64.

    Both videos are (B, C, T, H, W) in [-1, 1]. Returns that of each frame (B, T), of each clip (B,) or of the batch (), as
    ``over`` says; the other options are those of :class:`PSNR`.
    """
    check_choice("way of taking PSNR (over)", over, OVER)
    error = frame_errors(video, reference, color=color, eight_bit=eight_bit)
    return decibel({"frame": error, "video": error.mean(dim=1), "set": error.mean()}[over])


class PSNR(FrameMean):
    """PSNR in dB. ``capped`` counts the frames (or clips) that reached 100 dB and were counted as that.

    Args:
        over: ``frame``, the mean over frames of each frame's; ``video``, the mean over clips of that of a clip's error;
            ``set``, that of the mean error of all frames, whose interval is that of the mean error, in dB.
        color: ``rgb`` or ``luma``.
        eight_bit: round both videos to 8 bits first.

    Raises:
        UserError: on an unknown ``over`` or ``color``.
    """

    unit = "dB"
    higher_is_better = True

    capped: Tensor

    def __init__(self, *, over: str = "frame", color: str = "rgb", eight_bit: bool = False) -> None:
        check_choice("way of taking PSNR (over)", over, OVER)
        pixels = pixels_convention(color, eight_bit)
        super().__init__(f"{OVER[over]}, {pixels}" if eight_bit else f"{OVER[over]}, {pixels}, float in [-1, 1]")
        self.over, self.color, self.eight_bit = over, color, eight_bit
        self.framewise = over == "frame"
        self.add_state("capped", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def scores(self, video: Tensor, real: Tensor) -> Tensor:
        """In dB (B, T), or (B, 1) over clips; over a set the squared errors (B, T) of which it is taken in the end."""
        error = frame_errors(video, real, color=self.color, eight_bit=self.eight_bit)
        if self.over == "set":
            return error
        return decibel(error.mean(dim=1, keepdim=True) if self.over == "video" else error)

    def add(self, scores: Tensor) -> None:
        """Take in what :meth:`scores` gives; NaN marks a frame without a score."""
        self.capped += (scores == CAP_DB).sum()
        super().add(scores)

    def compute(self) -> Tensor:
        """In dB; NaN where there was no frame."""
        mean = super().compute()
        return decibel(mean) if self.over == "set" else mean

    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval in dB, as that of :class:`vidgen.metrics.frames.FrameMean`."""
        found = super().interval()
        if found is None or self.over != "set":
            return found
        least, most = (decibel(torch.tensor(max(error, 0.0), dtype=torch.float64)).item() for error in found)
        return most, least


def frame_errors(video: Tensor, reference: Tensor, *, color: str = "rgb", eight_bit: bool = False) -> Tensor:
    """The mean squared error of each frame: (B, T) float64."""
    off = difference(video, reference, color=color, eight_bit=eight_bit)
    return torch.linalg.vector_norm(off, dim=(3, 4), dtype=torch.float64).square().mean(dim=1) / (off.shape[3] * off.shape[4])


def difference(video: Tensor, reference: Tensor, *, color: str = "rgb", eight_bit: bool = False) -> Tensor:
    """What is compared of one video minus that of the other: (B, C or 1, T, H, W).

    Of colours as they are it is taken in float32, where it is exact to the last digit or two: errors of 1e-7 of a squared error.
    Where more is done to a pixel, in float64.
    """
    check_pair(video, reference)
    check_choice("color to compare", color, COLORS)
    if not eight_bit and (color == "rgb" or video.shape[1] == 1):
        ours, theirs = (one.to(torch.promote_types(one.dtype, torch.float32)).clamp(-1, 1) for one in (video, reference))
    else:
        ours, theirs = (compared(one, color=color, eight_bit=eight_bit) for one in (video, reference))
    return ours.sub_(theirs)  # both are copies


def decibel(mean_squared_error: Tensor) -> Tensor:
    """PSNR of a mean squared error, at most 100 dB."""
    return (10 * torch.log10(PEAK**2 / mean_squared_error)).clamp(max=CAP_DB)
