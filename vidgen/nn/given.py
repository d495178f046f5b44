"""Cells that are given to a generator on plain grids of ``h``: read from a condition, and put into what was made, to the bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vidgen.errors import UserError
from vidgen.latents import Condition, Latent, Shape
from vidgen.nn.sequence import known_tokens

Given = tuple[Tensor, Tensor]
"""``h`` of a window (B, D, t, h, w), and which of its cells are given, (B, 1, t, 1 or h, 1 or w)."""


def given_cells(condition: Condition | None, grid: Shape, start: int) -> Given | None:
    """The given cells of a condition on a window of ``grid`` whose first cell is ``start``; None where there are none.

    Raises:
        UserError: where they are not of this window, or come without ``h``.
    """
    known = None if condition is None else condition.known
    if condition is None or known is None:
        return None
    check_window(condition, grid, start)
    if known.h is None:
        raise UserError("What is known has no h: give a latent as the tokenizer encodes it.")
    mask = condition.known_mask
    mask = torch.ones(len(known), grid[0], dtype=torch.bool) if mask is None else mask
    return known.h, per_cell(mask.to(known.h.device))


def check_window(condition: Condition | None, grid: Shape, start: int) -> None:
    """Sees that what is known, if anything, is a latent of the window of ``grid`` whose first cell is ``start``.

    Raises:
        UserError: naming both.
    """
    known = None if condition is None else condition.known
    if known is not None and (tuple(known.full_grid) != tuple(grid) or known.start != start):
        raise UserError(
            f"What is known has the cells {tuple(known.full_grid)} from cell {known.start} on, and the window is {tuple(grid)} "
            f"from cell {start} on: give a latent of the whole window, and say in known_mask which of its cells are known."
        )


def with_given(made: Latent, condition: Condition) -> Latent:
    """``made`` with every field of the known latent in the place of its own, at the known cells."""
    assert condition.known is not None
    tokens = known_tokens(condition, made.spec, made.grids, made.start)
    given = given_cells(condition, made.full_grid, made.start)
    assert tokens is not None and given is not None
    masks = {"z": given[1], "h": given[1], "ids": tokens.unsqueeze(-1)}
    fields: dict[str, Any] = {}
    for name, value in made.tensors().items():
        known = getattr(condition.known, name)
        if known is not None:
            fields[name] = torch.where(masks[name].to(value.device), known.to(value), value)
    return replace(made, **fields)


def per_cell(values: Tensor) -> Tensor:
    """(B,), (B, t) or (B, t, h, w), one a clip or one a cell, shaped to broadcast against (B, D, t, h, w)."""
    return values.unsqueeze(1) if values.ndim == 4 else values.view(len(values), 1, -1, 1, 1)
