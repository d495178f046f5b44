"""``label``: the class of a clip, as one vector."""

from __future__ import annotations

import torch
from torch import Tensor

from vidgen.conditioning.base import Part
from vidgen.errors import UserError
from vidgen.latents import Condition
from vidgen.nn.embeddings import LabelEmbedding


class Label(Part):
    """A table of classes whose last row is the null label, as in DiT (Peebles and Xie, 2022).

    Args:
        width: channels of a token.
        num_classes: labels the data has, at least 1.
        dropout: share of training clips that are not told theirs, for guidance.
    """

    field = "label"

    def __init__(self, *, width: int, num_classes: int, dropout: float = 0.1) -> None:
        super().__init__(dropout)
        self.num_classes = num_classes
        self.embedding = LabelEmbedding(num_classes, width)

    def vector(self, condition: Condition, batch: int, cells: int, start: int) -> Tensor:
        label = condition.label
        if label is None:
            label = torch.full((batch,), -1, device=self.embedding.table.weight.device)
        return self.embedding(label).unsqueeze(1)

    def check(self, condition: Condition) -> None:
        label = condition.label
        assert label is not None
        if label.numel() and not -1 <= int(label.min()) <= int(label.max()) < self.num_classes:
            wrong = next(value for value in label.tolist() if not -1 <= value < self.num_classes)
            raise UserError(f"Labels go from 0 to {self.num_classes - 1}, and {wrong} is not one of them.")
