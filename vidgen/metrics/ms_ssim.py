"""How much of the structure of its original a reconstruction keeps from fine to coarse: multi-scale SSIM of its frames.

Source: Wang et al., "Multi-scale structural similarity for image quality assessment" (2003): contrast and structure at five
scales, luminance at the coarsest alone, each to the power of its weight in the paper. The window is the Gaussian one of
:mod:`vidgen.metrics.ssim`, of its K and data range. Choices that the paper leaves open: a scale is the mean of 2 x 2 pixels of
the one before, an odd last row or column left out; a structure that is negative on the mean counts as 0; the product is taken of
each channel and then averaged.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vidgen.metrics.frames import FrameMean, check_pair, pixels_convention
from vidgen.metrics.ssim import SSIM_WINDOW, WINDOWS, brightness, check_size, similarity

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
SMALLEST = SSIM_WINDOW * 2 ** (len(WEIGHTS) - 1)


def ms_ssim(video: Tensor, reference: Tensor, *, color: str = "rgb", eight_bit: bool = False) -> Tensor:
    """MS-SSIM of each frame, in [0, 1].

    Both videos are (B, C, T, H, W) in [-1, 1], and the options those of :class:`MSSSIM`. Returns (B, T) float64. Raises UserError
    for frames of less than 176 x 176 pixels, whose coarsest scale has no room for the window.
    """
    check_pair(video, reference)
    check_size(video, SMALLEST, "MS-SSIM")
    x, y = (brightness(one, color, eight_bit).transpose(1, 2) for one in (video, reference))
    found = torch.ones(x.shape[:3], dtype=x.dtype, device=x.device)
    for scale, weight in enumerate(WEIGHTS):
        if scale:
            x, y = (F.avg_pool3d(one, (1, 2, 2)) for one in (x, y))
        luminance, structure = similarity(x, y, WINDOWS["gaussian"])
        last = scale == len(WEIGHTS) - 1
        found = found * (luminance * structure if last else structure).mean(dim=(3, 4)).clamp(min=0) ** weight
    return found.mean(dim=2)


class MSSSIM(FrameMean):
    """Mean MS-SSIM per frame: 1 for equal frames. Frames must be at least 176 pixels high and wide.

    Args:
        color: ``rgb``, the mean over the channels, or ``luma``.
        eight_bit: round both videos to 8 bits first.

    Raises:
        UserError: on an unknown ``color``.
    """

    higher_is_better = True

    def __init__(self, *, color: str = "rgb", eight_bit: bool = False) -> None:
        super().__init__(f"five scales, {WINDOWS['gaussian'].words}, {pixels_convention(color, eight_bit)}")
        self.color, self.eight_bit = color, eight_bit

    def scores(self, video: Tensor, real: Tensor) -> Tensor:
        """(B, T); raises UserError for frames that are too small."""
        return ms_ssim(video, real, color=self.color, eight_bit=self.eight_bit)
