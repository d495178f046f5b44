"""How many videos a classifier takes for what they are labelled as.

The classifier is whatever is given: a network, or the reader of a world that knows its laws. What it makes of real clips is the
most that samples can be expected to reach, so that its own figure belongs beside theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from vidgen.metrics.frames import tell_apart
from vidgen.metrics.legality import wilson


def class_accuracy(found: Tensor, label: Tensor) -> Tensor:
    """Whether each clip that has a label was taken for that.

    ``found`` are scores (B, K) or classes (B,), ``label`` is (B,) with -1 for none. Returns booleans, one for each label.
    """
    classes = found.argmax(dim=1) if found.ndim == 2 else found
    if classes.shape != label.shape:
        raise ValueError(
            "A classifier gives scores (B, K) or classes (B,) for labels (B,); "
            f"got {tuple(found.shape)} for {tuple(label.shape)}."
        )
    return (classes.to(label.device) == label)[label >= 0]


class ClassAccuracy(Metric):
    """Share of clips that a classifier takes for what they are labelled as.

    Args:
        classifier: videos (B, C, T, H, W) in [-1, 1] -> scores (B, K), or classes (B,) of which -1 is none.
        convention: what it is, in a few words.
    """

    unit = "%"
    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    correct: Tensor
    clips: Tensor

    def __init__(self, *, classifier: Callable[[Tensor], Tensor], convention: str) -> None:
        super().__init__()
        self.classifier, self.convention = classifier, convention
        for name in ("correct", "clips"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        tell_apart(self)

    @torch.no_grad()
    def update(self, video: Tensor, real: Tensor | None = None, *, label: Tensor) -> None:
        """Take in a batch ``video`` (B, C, T, H, W) in [-1, 1] with its labels (B,), -1 for none; ``real`` is not looked at."""
        right = class_accuracy(self.classifier(video), label)
        self.correct += right.sum()
        self.clips += right.numel()

    def compute(self) -> Tensor:
        """The share in [0, 1]; NaN where no clip had a label."""
        return self.correct / self.clips

    def estimate(self) -> dict[str, Any]:
        """``value``, the number of ``clips``, and Wilson's 95 % ``interval``, None of no clips."""
        clips = int(self.clips.item())
        interval = wilson(int(self.correct.item()), clips) if clips else None
        return {"value": self.compute().item(), "clips": clips, "interval": interval}
