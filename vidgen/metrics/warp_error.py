"""How far a video departs from itself along its original's motion: the warping error.

Source: Lai et al., "Learning Blind Video Temporal Consistency" (2018), section 4: each frame is compared with its neighbour,
moved along the optical flow of the original, wherever that flow can be trusted (Ruder et al., 2016); mean squared error with
values in [0, 1], mean over pixels, then over pairs of frames. Deviations: the frame before is moved onto the frame, where the
paper moves the next one; the flow is that of :mod:`vidgen.metrics.flow`, where the paper has a trained network's, so that no
figure can be held against the paper's.
"""

from __future__ import annotations

from torch import Tensor

from vidgen.metrics.flow import FLOWS, backward_flow, check_flow, forward_flow, visible, warp
from vidgen.metrics.frames import FrameMean, check_pair, clipped


def warp_error(video: Tensor, reference: Tensor, *, flow: str = "blocks") -> Tensor:
    """The warping error of each frame but the first, with values in [0, 1]; NaN where no pixel's motion can be trusted.

    Both videos are (B, C, T, H, W) in [-1, 1], and ``flow`` is as in :class:`WarpError`. Returns (B, T - 1) float64. Raises
    UserError for clips of one frame.
    """
    check_pair(video, reference)
    back, forth = (way(reference, flow).transpose(1, 2).flatten(0, 1) for way in (backward_flow, forward_flow))
    before, now = ((clipped(part).transpose(1, 2).flatten(0, 1) + 1) / 2 for part in (video[:, :, :-1], video[:, :, 1:]))
    error = (now - warp(before, back)).square().mean(dim=1)
    seen = visible(back, forth)
    mean = error.masked_fill(~seen, 0).sum(dim=(1, 2)) / seen.sum(dim=(1, 2))
    return mean.unflatten(0, (len(video), -1))


class WarpError(FrameMean):
    """Mean warping error of a video along its original's motion: 0 where it moves like its original and changes in nothing else.

    What the originals have themselves, ``update(real, real)``, is the floor of the flow used. A video of plain colour has less:
    read it beside the PSNR.

    Args:
        flow: ``blocks`` or ``dis``, of :mod:`vidgen.metrics.flow`.

    Raises:
        UserError: on an unknown flow, or one whose package is not installed.
    """

    framewise = False
    higher_is_better = False

    def __init__(self, *, flow: str = "blocks") -> None:
        check_flow(flow)
        super().__init__(f"the original's motion by {FLOWS[flow]}, not hidden, values in [0, 1], mean over pairs of frames")
        self.flow = flow

    def scores(self, video: Tensor, real: Tensor) -> Tensor:
        """(B, T - 1); raises UserError for clips of one frame."""
        return warp_error(video, real, flow=self.flow)
