"""How much a video flickers where its original stands still.

Where a pixel of the original varies over the clip by no more than a camera's noise, all that varies in the video is flicker.
Its strength is the variance over time, less the original's own, as a standard deviation in levels of 8 bits: noise of s levels
that is drawn anew for every frame has a strength of s. A clip of which nothing stands still has none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidgen.metrics.frames import ScoreMean, check_frames, check_pair, clipped

LEVEL = 2 / 255


def static_flicker(video: Tensor, reference: Tensor, *, tolerance: float = 2.0) -> tuple[Tensor, Tensor]:
    """The strength of the flicker of each clip in levels of 8 bits, NaN where nothing stands still; and how much does.

    Both videos are (B, C, T, H, W) in [-1, 1], and ``tolerance`` is as in :class:`StaticFlicker`. Returns two of (B,) float64.
    Raises UserError for clips of one frame.
    """
    check_pair(video, reference)
    check_frames(video, 2, "Flicker")
    ours, theirs = (clipped(one).var(dim=2) / LEVEL**2 for one in (video, reference))  # (B, C, H, W)
    still = (theirs <= tolerance**2).all(dim=1)
    excess = (ours - theirs).mean(dim=1).masked_fill(~still, 0).sum(dim=(1, 2)) / still.sum(dim=(1, 2))
    return excess.clamp(min=0).sqrt(), still.double().mean(dim=(1, 2))


class StaticFlicker(ScoreMean):
    """Mean over clips of the flicker where their originals stand still, in levels of 8 bits; clips without such places count not.

    A video that keeps still altogether has none, whatever it shows: read it beside the PSNR.

    Args:
        tolerance: standard deviation over time, in levels of 8 bits and in every channel, up to which a pixel of the original
            stands still.
    """

    unit = "levels"
    higher_is_better = False

    share: Tensor
    seen: Tensor

    def __init__(self, *, tolerance: float = 2.0) -> None:
        super().__init__(f"where the original's deviation over time is at most {tolerance:g} levels of 8 bits, mean over clips")
        self.tolerance = tolerance
        for name in ("share", "seen"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, video: Tensor, real: Tensor) -> None:
        """Score a batch ``video`` against its originals ``real``, both (B, C, T, H, W) in [-1, 1]."""
        strength, still = static_flicker(video, real, tolerance=self.tolerance)
        self.share += still.sum()
        self.seen += len(still)
        self.add(strength[:, None])

    def estimate(self) -> dict[str, float]:
        """``value``, how many ``clips`` it is of, and the mean ``share`` of the originals' pixels that stand still."""
        return {
            "value": self.compute().item(),
            "clips": self.clips.item(),
            "share": (self.share / self.seen).item(),
        }
