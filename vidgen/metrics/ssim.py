"""How much of the structure of its original a reconstruction keeps: SSIM of its frames.

Source: Wang et al., "Image quality assessment: from error visibility to structural similarity" (2004), K = (.01, .03), the mean
over channels. It compares brightness against black, so the videos are first moved to [0, 2], where black is 0 and the data range
2; a range that is guessed from the values, as some libraries do by default, gives another figure for every batch. Three windows
are in use:

- ``gaussian``, the paper's: 11 x 11 of sigma 1.5, wherever it lies wholly inside the frame, weighted (population) variances.
- ``uniform``: 7 x 7 of equal weights, wherever it lies inside, sample (n - 1) variances, which is scikit-image's default.
- ``padded``: the Gaussian one at every pixel, of a frame that is continued by reflection, which is torchmetrics'.

What is common to measures of frames, :mod:`vidgen.metrics.frames` says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vidgen.errors import UserError
from vidgen.metrics.frames import PEAK, FrameMean, check_choice, check_pair, compared, pixels_convention

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_K = (0.01, 0.03)


@dataclass(frozen=True)
class Window:
    """Where means and variances are taken: its side, the weight of an offset along an axis, and the convention in words.

    ``sample`` stands for variances over n - 1, and ``padding`` is how far the frame is continued by reflection.
    """

    words: str
    side: int
    weight: Callable[[Tensor], Tensor]
    sample: bool = False
    padding: int = 0

    @property
    def smallest(self) -> int:
        """Pixels that a frame must have in height and width."""
        return self.padding + 1 if self.padding else self.side


def _gaussian(offset: Tensor) -> Tensor:
    return torch.exp(-0.5 * (offset / SSIM_SIGMA) ** 2)


WINDOWS = {
    "gaussian": Window("11x11 Gaussian, sigma 1.5, valid window", SSIM_WINDOW, _gaussian),
    "uniform": Window("7x7 uniform, sample variances, valid window", 7, torch.ones_like, sample=True),
    "padded": Window("11x11 Gaussian, sigma 1.5, padded by reflection", SSIM_WINDOW, _gaussian, padding=SSIM_WINDOW // 2),
}


def ssim(video: Tensor, reference: Tensor, *, window: str = "gaussian", color: str = "rgb", eight_bit: bool = False) -> Tensor:
    """SSIM of each frame, in [-1, 1].

    Both videos are (B, C, T, H, W) in [-1, 1], and the options those of :class:`SSIM`. Returns (B, T) float64. Raises UserError
    for frames smaller than the window.
    """
    check_choice("window of SSIM", window, WINDOWS)
    check_pair(video, reference)
    check_size(video, WINDOWS[window].smallest, "SSIM")
    x, y = (brightness(one, color, eight_bit) for one in (video, reference))
    luminance, structure = similarity(x, y, WINDOWS[window])
    return (luminance * structure).mean(dim=(1, 3, 4))


class SSIM(FrameMean):
    """Mean SSIM per frame: 1 for equal frames. Frames must be at least ``smallest`` pixels high and wide.

    Args:
        window: ``gaussian``, ``uniform`` or ``padded``.
        color: ``rgb``, the mean over the channels, or ``luma``.
        eight_bit: round both videos to 8 bits first.

    Raises:
        UserError: on an unknown ``window`` or ``color``.
    """

    SMALLEST = SSIM_WINDOW
    higher_is_better = True

    def __init__(self, *, window: str = "gaussian", color: str = "rgb", eight_bit: bool = False) -> None:
        check_choice("window of SSIM", window, WINDOWS)
        super().__init__(f"{WINDOWS[window].words}, {pixels_convention(color, eight_bit)}")
        self.window, self.color, self.eight_bit = window, color, eight_bit
        self.smallest = WINDOWS[window].smallest

    def scores(self, video: Tensor, real: Tensor) -> Tensor:
        """(B, T); raises UserError for frames smaller than the window."""
        return ssim(video, real, window=self.window, color=self.color, eight_bit=self.eight_bit)


def check_size(video: Tensor, least: int, what: str) -> None:
    """Sees that frames are at least ``least`` pixels high and wide. Raises UserError that says what cannot be taken of them."""
    height, width = video.shape[-2:]
    if min(height, width) < least:
        raise UserError(
            f"{what} needs frames of at least {least}x{least} pixels and these are {height}x{width}: "
            f"use larger frames, or leave {what} out."
        )


def brightness(video: Tensor, color: str, eight_bit: bool) -> Tensor:
    """(B, C, T, H, W) in [-1, 1] -> what of it is compared, in [0, 2]."""
    return compared(video, color=color, eight_bit=eight_bit) + 1


def similarity(x: Tensor, y: Tensor, window: Window) -> tuple[Tensor, Tensor]:
    """The two factors of SSIM at each place of the window, for images (..., H, W) in [0, 2].

    Returns the likeness of the mean luminance, and that of contrast and structure together.
    """
    if window.padding:
        x, y = (_reflected(one, window.padding) for one in (x, y))
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = _blur(torch.stack((x, y, x * x, y * y, x * y)), window)
    c1, c2 = ((k * PEAK) ** 2 for k in SSIM_K)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    unbiased = window.side**2 / (window.side**2 - 1) if window.sample else 1.0
    variances = unbiased * (mean_xx - mean_x**2 + mean_yy - mean_y**2)
    structure = (2 * unbiased * (mean_xy - mean_x * mean_y) + c2) / (variances + c2)
    return luminance, structure


def _reflected(images: Tensor, by: int) -> Tensor:
    return F.pad(images.flatten(0, -3), (by,) * 4, mode="reflect").unflatten(0, images.shape[:-2])


def _blur(images: Tensor, window: Window) -> Tensor:
    """Weighted means of (..., H, W) over every window that lies wholly inside."""
    height, width = images.shape[-2:]
    return _band(height, window, images).T @ (images @ _band(width, window, images))


def _band(size: int, window: Window, like: Tensor) -> Tensor:
    """The window at each of its places along an axis, a column each: on a CPU faster than a convolution in float64."""
    places = size - window.side + 1
    pixel = torch.arange(size, dtype=like.dtype, device=like.device)[:, None]
    centre = torch.arange(places, dtype=like.dtype, device=like.device) + window.side // 2
    offset = pixel - centre
    weights = window.weight(offset).masked_fill(offset.abs() > window.side // 2, 0)
    return weights / weights.sum(dim=0)
