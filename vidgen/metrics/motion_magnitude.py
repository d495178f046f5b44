"""How much a video moves: the mean length of its optical flow.

No direction is better: as much as in the originals is right. It belongs beside every figure of consistency, for a video that
stands still is consistent with itself.
"""

from __future__ import annotations

from torch import Tensor

from vidgen.metrics.flow import FLOWS, backward_flow, check_flow
from vidgen.metrics.frames import ScoreMean


def motion_magnitude(video: Tensor, *, flow: str = "blocks") -> Tensor:
    """Mean length of the optical flow into each frame but the first, in pixels.

    ``video`` is (B, C, T, H, W) in [-1, 1], and ``flow`` as in :class:`MotionMagnitude`. Returns (B, T - 1) float64. Raises
    UserError for clips of one frame.
    """
    return backward_flow(video, flow).double().square().sum(dim=1).sqrt().mean(dim=(2, 3))


class MotionMagnitude(ScoreMean):
    """Mean over pixels and frames of how far a video moves from frame to frame, in pixels.

    ``update(real)`` says that of the originals.

    Args:
        flow: ``blocks`` or ``dis``, of :mod:`vidgen.metrics.flow`.

    Raises:
        UserError: on an unknown flow, or one whose package is not installed.
    """

    unit = "px"
    higher_is_better = None

    def __init__(self, *, flow: str = "blocks") -> None:
        check_flow(flow)
        super().__init__(f"{FLOWS[flow]}, pixels per frame at the size given, mean over frames")
        self.flow = flow

    def update(self, video: Tensor, real: Tensor | None = None) -> None:
        """Take in a batch ``video`` (B, C, T, H, W) in [-1, 1]; the originals are not looked at."""
        self.add(motion_magnitude(video, flow=self.flow))
