"""How much a world model's frames depend on its actions: the difference of two PSNR.

Source: Bruce et al., "Genie: Generative Interactive Environments" (2024), section 3: PSNR of frame t of what was generated with
the true actions, less that of what was generated with random ones, both against the true frame; the paper reports t = 4. Frames
are counted from 0, the frame that was given, so that four actions have shown in frame 4: from where the paper counts is our
reading of it.
"""

from __future__ import annotations

from torch import Tensor

from vidgen.metrics.frames import ScoreMean, check_frames
from vidgen.metrics.psnr import psnr


def controllability(video: Tensor, reference: Tensor, random: Tensor, *, frame: int = 4) -> Tensor:
    """PSNR of one frame with the true actions less that with random ones, in dB, of each clip.

    All three videos are (B, C, T, H, W) in [-1, 1]. Returns (B,) float64. Raises UserError where clips end before ``frame``.
    """
    check_frames(video, frame + 1, f"Controllability at frame {frame}")
    at = slice(frame, frame + 1)
    return (psnr(video[:, :, at], reference[:, :, at]) - psnr(random[:, :, at], reference[:, :, at]))[:, 0]


class Controllability(ScoreMean):
    """Mean over clips of how much better the true actions predict a frame than random ones do, in dB; 0 if actions do nothing.

    Args:
        frame: which one, counted from 0.
    """

    unit = "dB"
    higher_is_better = True

    def __init__(self, *, frame: int = 4) -> None:
        super().__init__(f"PSNR of frame {frame} with the true actions less that with random ones, mean over clips, RGB")
        self.frame = frame

    def update(self, video: Tensor, real: Tensor, random: Tensor) -> None:  # type: ignore[override]
        """Score samples ``video`` with the true actions and ``random`` with random ones against ``real``, all (B, C, T, H, W)."""
        self.add(controllability(video, real, random, frame=self.frame)[:, None])
