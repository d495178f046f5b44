"""``gmsd``: how unevenly a reconstruction keeps the edges of its original.

Source: Xue et al., "Gradient Magnitude Similarity Deviation: A Highly Efficient Perceptual Image Quality Index" (2014): luma at
half of the size, the magnitude of its gradient by Prewitt's filter, the likeness of the two magnitudes at each pixel, and the
standard deviation of that over the frame.

Deviations: filters are taken wherever they lie wholly inside the frame, not over zeros beyond it, and the deviation is that of
the population; on equal frames it is 0 either way.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vidgen.metrics.frames import FrameMean, check_pair, compared
from vidgen.metrics.ssim import check_size

SMALLEST = 8


def gmsd(video: Tensor, reference: Tensor, *, constant: float = 170.0) -> Tensor:
    """The deviation of each frame (B, T), float64, 0 for equal frames; both videos are (B, C, T, H, W) in [-1, 1].

    Raises UserError for frames of less than 8 x 8 pixels.
    """
    check_pair(video, reference)
    check_size(video, SMALLEST, "GMSD")
    a, b = (_slopes(one) for one in (video, reference))
    alike = (2 * a * b + constant) / (a.square() + b.square() + constant)
    return alike.std(dim=(1, 2), correction=0).unflatten(0, (len(video), -1))


def _slopes(video: Tensor) -> Tensor:
    """(B, C, T, H, W) in [-1, 1] -> the magnitude of each frame's gradient (B * T, h, w), of luma from 0 to 255."""
    luma = (compared(video, color="luma") + 1) * 127.5
    frames = F.avg_pool2d(luma.transpose(1, 2).flatten(0, 1), 2)
    across = torch.tensor([[1, 0, -1]] * 3, dtype=frames.dtype, device=frames.device) / 3
    x, y = F.conv2d(frames, torch.stack([across, across.T])[:, None]).unbind(dim=1)
    return torch.hypot(x, y)


class GMSD(FrameMean):
    """Mean over frames of the deviation.

    Args:
        constant: what keeps flat places stable, for luma from 0 to 255; the paper's is 170.
    """

    higher_is_better = False

    def __init__(self, *, constant: float = 170.0) -> None:
        super().__init__(f"BT.601 luma of full range at half of the size, constant {constant:g}, mean over frames")
        self.constant = constant

    def scores(self, video: Tensor, real: Tensor) -> Tensor:
        """(B, T)."""
        return gmsd(video, real, constant=self.constant)
