"""How close the changes from frame to frame are to the original's: PSNR of the differences of neighbouring frames.

An error that stands still costs nothing here, one that is another in every frame twice its square: 3 dB less than the PSNR of
the frames themselves. The peak stays that of the frames, so that the two can be read side by side; what would be above 100 dB
counts as 100 dB.
"""

from __future__ import annotations

from torch import Tensor

from vidgen.metrics.frames import FrameMean, check_frames, check_pair, clipped
from vidgen.metrics.psnr import decibel


def temporal_psnr(video: Tensor, reference: Tensor) -> Tensor:
    """PSNR in dB of each difference of neighbouring frames.

    Both videos are (B, C, T, H, W) in [-1, 1]. Returns (B, T - 1) float64. Raises UserError for clips of one frame.
    """
    check_pair(video, reference)
    check_frames(video, 2, "PSNR of the differences of frames")
    error = (clipped(video) - clipped(reference)).diff(dim=2)
    return decibel(error.square().mean(dim=(1, 3, 4)))


class TemporalPSNR(FrameMean):
    """Mean PSNR of the differences of neighbouring frames, in dB."""

    unit = "dB"
    framewise = False
    higher_is_better = True

    def __init__(self) -> None:
        super().__init__("differences of neighbouring frames against the peak of frames, mean over differences, RGB")

    def scores(self, video: Tensor, real: Tensor) -> Tensor:
        """(B, T - 1); raises UserError for clips of one frame."""
        return temporal_psnr(video, real)
