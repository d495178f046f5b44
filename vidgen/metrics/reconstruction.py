"""How close a reconstruction is to its original: PSNR and SSIM, each with one stated convention.

The same pair of videos scores 24.8 to 26.9 dB and .72 to .79 under the conventions in use, so a figure without its
convention says little. Here, and nowhere else in the library, they are chosen:

- Videos are (B, C, T, H, W) in [-1, 1]; values outside are clipped, as every player clips them, and nothing is rounded.
- PSNR is taken of each frame over all its channels and pixels, against the peak of 2 that spans [-1, 1] (the same
  figure as 255 on unrounded 8-bit values). A frame above 100 dB, which an exact copy would make infinite, counts as
  100 dB, and is counted.
- SSIM is taken of each frame as Wang et al. (2004, "Image quality assessment: from error visibility to structural
  similarity") describe it: an 11 x 11 Gaussian window of sigma 1.5 wherever it lies wholly inside the frame, weighted
  (population) variances, K = (.01, .03), and the mean over channels. It compares brightness against black, so the
  videos are first moved to [0, 2], where black is 0 and the data range 2.
- The score of a set is the mean over its frames: not the PSNR of the mean error, which is lower.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchmetrics import Metric

from vidgen.errors import UserError

PEAK = 2.0
CAP_DB = 100.0
SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_K = (0.01, 0.03)
# Half a step between neighbouring 8-bit values: what differs from the ground by less is the ground, rounded.
HALF_STEP = 1.0 / 255.0


def psnr(video: Tensor, reference: Tensor) -> Tensor:
    """PSNR in dB of each frame.

    Both videos are (B, C, T, H, W) in [-1, 1]. Returns (B, T) float64, at most 100 dB.
    """
    return _decibel(_squared_error(video, reference).mean(dim=(2, 3)))


def region_psnr(video: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """PSNR in dB of each frame over the pixels where ``mask`` (B, T, H, W) is true.

    Both videos are (B, C, T, H, W) in [-1, 1]. Returns (B, T) float64, at most 100 dB, and NaN for a frame whose mask is
    empty: it has no score, rather than a perfect one.
    """
    error = _squared_error(video, reference)
    if mask.shape != error.shape:
        raise ValueError(f"mask is {tuple(mask.shape)}, but these videos need (B, T, H, W) = {tuple(error.shape)}.")
    inside = mask.to(error.device, torch.float64)
    return _decibel((error * inside).sum(dim=(2, 3)) / inside.sum(dim=(2, 3)))


def foreground(reference: Tensor, ground: Tensor) -> Tensor:
    """Where ``reference`` (B, C, T, H, W) differs in any channel from ``ground`` by more than half an 8-bit step.

    ``ground`` broadcasts against ``reference``: a colour per clip (B, C, 1, 1, 1), a still picture (B, C, 1, H, W) or a
    whole video. Returns a boolean (B, T, H, W), the objects' region that :func:`region_psnr` takes.
    """
    return ((reference - ground).abs() > HALF_STEP).any(dim=1)


def ssim(video: Tensor, reference: Tensor) -> Tensor:
    """SSIM of each frame, in [-1, 1].

    Both videos are (B, C, T, H, W) in [-1, 1]. Returns (B, T) float64. Raises UserError for frames smaller than the window.
    """
    _check_pair(video, reference)
    batch, _, frames, height, width = video.shape
    if min(height, width) < SSIM_WINDOW:
        raise UserError(
            f"SSIM needs frames of at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels and these are {height}x{width}: "
            "use larger frames, or leave SSIM out."
        )
    x, y = (_clipped(v).transpose(1, 2).flatten(0, 2) + 1 for v in (video, reference))
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = _blur(torch.stack((x, y, x * x, y * y, x * y)))
    c1, c2 = ((k * PEAK) ** 2 for k in SSIM_K)
    brightness = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    variances = mean_xx - mean_x**2 + mean_yy - mean_y**2
    structure = (2 * (mean_xy - mean_x * mean_y) + c2) / (variances + c2)
    return (brightness * structure).reshape(batch, frames, -1).mean(dim=2)


class _FrameMean(Metric):
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

    def _add(self, scores: Tensor) -> None:
        """Take in the scores (B, T) of a batch of clips; NaN marks a frame without one."""
        frames = scores.isfinite().sum(dim=1).double()
        total = scores.nansum(dim=1)
        self.clips += (frames > 0).sum()
        self.frames += frames.sum()
        self.total += total.sum()
        self.total_squared += total.square().sum()
        self.total_times_frames += (total * frames).sum()
        self.frames_squared += frames.square().sum()


class PSNR(_FrameMean):
    """Mean PSNR per frame, in dB. ``capped`` counts the frames that reached 100 dB and were counted as that."""

    higher_is_better = True

    capped: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("capped", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, video: Tensor, real: Tensor) -> None:
        """Score a batch ``video`` against its originals ``real``, both (B, C, T, H, W) in [-1, 1]."""
        self._add_decibel(psnr(video, real))

    def _add_decibel(self, scores: Tensor) -> None:
        self.capped += (scores == CAP_DB).sum()
        self._add(scores)


class RegionPSNR(PSNR):
    """Mean PSNR per frame of a region, in dB, over the frames that show any of it.

    On a plain ground a blank picture already scores 20 to 30 dB; the region of the objects is where it does not.
    """

    def update(self, video: Tensor, real: Tensor, mask: Tensor) -> None:  # type: ignore[override]
        """Score a batch over ``mask`` (B, T, H, W), both videos (B, C, T, H, W) in [-1, 1]."""
        self._add_decibel(region_psnr(video, real, mask))


class SSIM(_FrameMean):
    """Mean SSIM per frame: 1 for equal frames. Frames must be at least ``SMALLEST`` pixels high and wide."""

    SMALLEST = SSIM_WINDOW
    higher_is_better = True

    def update(self, video: Tensor, real: Tensor) -> None:
        """Score a batch ``video`` against its originals ``real``, both (B, C, T, H, W) in [-1, 1]."""
        self._add(ssim(video, real))


def _check_pair(video: Tensor, reference: Tensor) -> None:
    if video.ndim != 5 or video.shape != reference.shape:
        raise ValueError(
            f"Two videos of one shape (B, C, T, H, W) are compared; got {tuple(video.shape)} and {tuple(reference.shape)}."
        )


def _clipped(video: Tensor) -> Tensor:
    return video.double().clamp(-1, 1)


def _squared_error(video: Tensor, reference: Tensor) -> Tensor:
    """Mean over channels of the squared error of each pixel: (B, T, H, W) float64."""
    _check_pair(video, reference)
    return (_clipped(video) - _clipped(reference)).square().mean(dim=1)


def _decibel(mean_squared_error: Tensor) -> Tensor:
    return (10 * torch.log10(PEAK**2 / mean_squared_error)).clamp(max=CAP_DB)


def _blur(images: Tensor) -> Tensor:
    """Gaussian means of (..., H, W) over every window that lies wholly inside: H and W shrink by 10."""
    height, width = images.shape[-2:]
    return _band(height, images).T @ (images @ _band(width, images))


def _band(size: int, like: Tensor) -> Tensor:
    """The window at each of its places along an axis, a column each: on a CPU faster than a convolution in float64."""
    places = size - SSIM_WINDOW + 1
    pixel = torch.arange(size, dtype=like.dtype, device=like.device)[:, None]
    centre = torch.arange(places, dtype=like.dtype, device=like.device) + SSIM_WINDOW // 2
    offset = pixel - centre
    weights = torch.exp(-0.5 * (offset / SSIM_SIGMA) ** 2).masked_fill(offset.abs() > SSIM_WINDOW // 2, 0)
    return weights / weights.sum(dim=0)
