"""How a prediction fares the further it goes: a curve of any measure of frames, by frame after the context.

Source: Yan et al., "Temporally Consistent Transformers for Video Generation" (2023), TECO: of a clip the first frames are given,
the rest is predicted, and PSNR, SSIM and LPIPS are taken of what was predicted and of nothing else.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from vidgen.errors import UserError
from vidgen.metrics.frames import FrameMean, check_pair, tell_apart
from vidgen.metrics.statistics import NORMAL_95


class Horizon(Metric):
    """A measure's mean over clips at each frame after the context; as one figure, the mean of the curve.

    Args:
        measure: what is taken of each frame: ``PSNR()``, ``SSIM()``, ``LPIPS(...)``. It is only asked for scores.
        context: frames that were given, which are left out.
        frames: of a clip, the context included.

    Raises:
        UserError: where no frame is left, or the measure is not one of single frames.
    """

    is_differentiable = False
    full_state_update = False

    clips: Tensor
    total: Tensor
    total_squared: Tensor

    def __init__(self, *, measure: FrameMean, context: int, frames: int) -> None:
        super().__init__()
        if not 0 <= context < frames:
            raise UserError(f"A horizon needs frames after the context: context={context} of frames={frames} leaves none.")
        if not framewise(measure):
            raise UserError(f"A horizon is a curve of scores of single frames, and {type(measure).__name__} has none here.")
        self.measure, self.context, self.length = measure, context, frames
        self.convention = f"frames from {context} on of {frames}; {measure.convention}"
        for name in ("clips", "total", "total_squared"):
            self.add_state(name, torch.zeros(frames - context, dtype=torch.float64), dist_reduce_fx="sum")
        tell_apart(self)

    @property
    def unit(self) -> str:
        """The measure's."""
        return self.measure.unit

    @property
    def higher_is_better(self) -> bool | None:  # type: ignore[override]
        """As of the measure."""
        return self.measure.higher_is_better

    def update(self, video: Tensor, real: Tensor) -> None:
        """Score a batch ``video`` against its originals ``real``, both (B, C, frames, H, W) in [-1, 1], the context included."""
        check_pair(video, real)
        if video.shape[2] != self.length:
            given = video.shape[2]
            raise UserError(
                f"This horizon is of clips of {self.length} frames and these have {given}: build it with frames={given}."
            )
        scores = self.measure.scores(video[:, :, self.context :], real[:, :, self.context :])
        if scores.shape[1] != len(self.total):
            raise UserError(f"A horizon is a curve of scores of single frames, and {type(self.measure).__name__} has none.")
        self.clips += scores.isfinite().sum(dim=0)
        self.total += scores.nansum(dim=0)
        self.total_squared += scores.square().nansum(dim=0)

    def compute(self) -> Tensor:
        """The mean over all frames after the context; NaN where there was none."""
        return self.total.sum() / self.clips.sum()

    def curve(self) -> Tensor:
        """The mean over clips at each frame after the context (frames - context,); NaN where there was none."""
        return self.total / self.clips

    def estimate(self) -> dict[str, Any]:
        """``value`` and, as lists over the frames after the context, ``frame`` counted from 0, ``mean``, ``low`` and ``high``.

        The last two are the ends of the 95 % normal interval over clips, None of less than two.
        """
        mean = self.curve()
        variance = (self.total_squared / self.clips - mean.square()).clamp(min=0) * self.clips / (self.clips - 1)
        half = NORMAL_95 * (variance / self.clips).sqrt()
        return {
            "value": self.compute().item(),
            "frame": list(range(self.context, self.length)),
            "mean": mean.tolist(),
            "low": [end if math.isfinite(end) else None for end in (mean - half).tolist()],
            "high": [end if math.isfinite(end) else None for end in (mean + half).tolist()],
        }


def framewise(measure: Any) -> bool:
    """Whether a measure has a score for each frame, of which there is a curve over time."""
    return isinstance(measure, FrameMean) and measure.framewise


def horizon(video: Tensor, reference: Tensor, *, measure: FrameMean, context: int) -> Tensor:
    """The curve of a batch: the mean over its clips of the measure's score at each frame after the context."""
    metric = Horizon(measure=measure, context=context, frames=video.shape[2])
    metric.update(video, reference)
    return metric.curve()
