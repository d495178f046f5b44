"""How much of what changes in a video is motion: the share of the change from frame to frame that optical flow explains.

Our own: 1 - (squared error of each frame against the frame before, moved along the video's own flow) / (the same, not moved),
over all frames of a clip. A scene that moves as a whole comes near to 1; flicker, noise and changes of shape are explained by no
motion; and a frozen clip, in which nothing changes, has 0 by definition, so that it cannot win. What motion uncovers is not
explained either: the originals' own figure, ``update(real)``, is what to compare with, and
:mod:`vidgen.metrics.motion_magnitude` belongs beside both.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidgen.metrics.flow import FLOWS, backward_flow, check_flow, warp
from vidgen.metrics.frames import ScoreMean, clipped

LEAST = (0.1 / 255) ** 2
"""Mean squared change, with values in [0, 1], below which nothing changes: a tenth of a level of 8 bits."""


def motion_consistency(video: Tensor, *, flow: str = "blocks") -> Tensor:
    """Share of each clip's change from frame to frame that is motion, in [0, 1].

    ``video`` is (B, C, T, H, W) in [-1, 1], and ``flow`` as in :class:`MotionConsistency`. Returns (B,) float64. Raises UserError
    for clips of one frame.
    """
    back = backward_flow(video, flow).transpose(1, 2).flatten(0, 1)
    before, now = ((clipped(part).transpose(1, 2).flatten(0, 1) + 1) / 2 for part in (video[:, :, :-1], video[:, :, 1:]))
    moved, still = (
        (now - other).square().mean(dim=(1, 2, 3)).unflatten(0, (len(video), -1)).mean(dim=1)
        for other in (warp(before, back), before)
    )
    return torch.where(still > LEAST, 1 - moved / still.clamp(min=LEAST), 0).clamp(min=0)


class MotionConsistency(ScoreMean):
    """Mean over clips of the share of their change that is motion, in [0, 1]; 0 for frozen ones.

    Args:
        flow: ``blocks`` or ``dis``, of :mod:`vidgen.metrics.flow`.

    Raises:
        UserError: on an unknown flow, or one whose package is not installed.
    """

    unit = "%"
    higher_is_better = True

    def __init__(self, *, flow: str = "blocks") -> None:
        check_flow(flow)
        super().__init__(f"share of the change that the video's own motion explains, {FLOWS[flow]}, mean over clips")
        self.flow = flow

    def update(self, video: Tensor, real: Tensor | None = None) -> None:
        """Take in a batch ``video`` (B, C, T, H, W) in [-1, 1]; the originals are not looked at."""
        self.add(motion_consistency(video, flow=self.flow)[:, None])
