"""What every part of the conditioning is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vidgen.latents import Condition


class Part(nn.Module):
    """One thing that a generator may be told, as vectors for its modulation, tokens for its cross-attention, or both.

    A null, of a clip or of the whole batch, is embedded like any other value: dropped is the same as never told.

    Attributes:
        field: the field of :class:`vidgen.latents.Condition` that it reads.
        context: whether it gives tokens.
        dropout: the share of training clips that are not told.
    """

    field: str
    context = False

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout

    def vector(self, condition: Condition, batch: int, cells: int, start: int) -> Tensor | None:
        """(batch, 1, width), or (batch, cells, width) one a cell; None where it has no vector."""
        return None

    def tokens(self, condition: Condition, batch: int) -> tuple[Tensor, Tensor] | None:
        """(batch, M, width) and (batch, M) which of them are there; None where it has nothing to say of the batch."""
        return None

    def told(
        self, condition: Condition, batch: int, cells: int, start: int
    ) -> tuple[Tensor | None, tuple[Tensor, Tensor] | None]:
        """:meth:`vector` and :meth:`tokens`, for parts that make both of one thing."""
        return self.vector(condition, batch, cells, start), self.tokens(condition, batch)

    def check(self, condition: Condition) -> None:
        """Sees that the values are ones that it knows.

        Raises:
            UserError: naming what is right.
        """

    def silence(self, condition: Condition, clips: Tensor) -> Condition:
        """The condition with the null in the place of this part's for the ``clips`` (B,) that are True."""
        value: Tensor = getattr(condition, self.field)
        null: dict[str, Any] = {self.field: torch.where(clips.view(-1, *[1] * (value.ndim - 1)), -1, value)}
        return replace(condition, **null)
