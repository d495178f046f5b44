"""How much of the structure of its original a reconstruction keeps: SSIM of its frames.

Source: Wang et al., "Image quality assessment: from error visibility to structural similarity" (2004): an 11 x 11 Gaussian window
of sigma 1.5 wherever it lies wholly inside the frame, weighted (population) variances, K = (.01, .03), the mean over channels.
It compares brightness against black, so the videos are first moved to [0, 2], where black is 0 and the data range 2. What is
common to measures of frames, :mod:`vidgen.metrics.frames` says.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidgen.errors import UserError
from vidgen.metrics.frames import PEAK, FrameMean, check_pair, clipped

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_K = (0.01, 0.03)


def ssim(video: Tensor, reference: Tensor) -> Tensor:
    """SSIM of each frame, in [-1, 1].

    Both videos are (B, C, T, H, W) in [-1, 1]. Returns (B, T) float64. Raises UserError for frames smaller than the window.
    """
    check_pair(video, reference)
    batch, _, frames, height, width = video.shape
    if min(height, width) < SSIM_WINDOW:
        raise UserError(
            f"SSIM needs frames of at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels and these are {height}x{width}: "
            "use larger frames, or leave SSIM out."
        )
    x, y = (clipped(v).transpose(1, 2).flatten(0, 2) + 1 for v in (video, reference))
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = _blur(torch.stack((x, y, x * x, y * y, x * y)))
    c1, c2 = ((k * PEAK) ** 2 for k in SSIM_K)
    brightness = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    variances = mean_xx - mean_x**2 + mean_yy - mean_y**2
    structure = (2 * (mean_xy - mean_x * mean_y) + c2) / (variances + c2)
    return (brightness * structure).reshape(batch, frames, -1).mean(dim=2)


class SSIM(FrameMean):
    """Mean SSIM per frame: 1 for equal frames. Frames must be at least ``SMALLEST`` pixels high and wide."""

    SMALLEST = SSIM_WINDOW
    higher_is_better = True

    def update(self, video: Tensor, real: Tensor) -> None:
        """Score a batch ``video`` against its originals ``real``, both (B, C, T, H, W) in [-1, 1]."""
        self.add(ssim(video, real))


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
