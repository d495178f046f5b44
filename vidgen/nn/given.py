"""Cells that are given to a generator: read from a condition, as cells and as tokens, and put into what was made, to the bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vidgen.errors import UserError
from vidgen.latents import Condition, Latent, LatentSpec, Shape
from vidgen.nn.sequence import full_grid


def known_cells(condition: Condition | None, grid: Shape, start: int) -> Tensor | None:
    """(B, t, h, w): which cells of the window of ``grid`` that begins at cell ``start`` are given; None where nothing is.

    Raises:
        UserError: where what is known is a latent of another window, or its mask is not one of these cells.
    """
    if condition is None or condition.known is None:
        return None
    latent, mask = condition.known, condition.known_mask
    if tuple(latent.full_grid) != tuple(grid) or latent.start != start:
        raise UserError(
            f"What is known has the cells {tuple(latent.full_grid)} from cell {latent.start} on, and the window is {tuple(grid)} "
            f"from cell {start} on: give a latent of the whole window, and say in known_mask which of its cells are known."
        )
    if mask is None:
        device = next(iter(latent.tensors().values())).device
        return torch.ones(len(latent), *grid, dtype=torch.bool, device=device)
    if tuple(mask.shape[1:]) not in (grid[:1], grid):
        t, h, w = grid
        raise UserError(f"A mask of known cells is (B, {t}) or (B, {t}, {h}, {w}) here, and this one is {tuple(mask.shape)}.")
    return mask if mask.ndim == 4 else mask[:, :, None, None].expand(-1, *grid)


def covered(cells: Tensor, grids: Sequence[Shape], scales: int) -> Tensor:
    """Which tokens of ``grids`` are given, (B, N): those of which all cells that they cover are, of ``cells`` (B, t, h, w).

    ``scales`` grids make a piece of the video; the pieces follow one another in time.
    """
    found, first = [], 0
    for index in range(0, len(grids), scales):
        piece = grids[index : index + scales]
        lacking = 1 - cells[:, first : first + piece[-1][0]].float()
        found += [F.adaptive_max_pool3d(lacking, grid).flatten(1) == 0 for grid in piece]
        first += piece[-1][0]
    return torch.cat(found, dim=1)


def known_tokens(condition: Condition | None, spec: LatentSpec, grids: tuple[Shape, ...], start: int) -> Tensor | None:
    """(B, N): which tokens are given, in every scale; None where nothing is. It raises as :func:`known_cells` does."""
    cells = known_cells(condition, full_grid(spec, grids), start)
    return None if cells is None else covered(cells, grids, len(spec.scales or (1,)))


def given_field(condition: Condition, name: str) -> Tensor:
    """``z``, ``h`` or ``ids`` of what is known.

    Raises:
        UserError: where it has none.
    """
    assert condition.known is not None
    value: Tensor | None = getattr(condition.known, name)
    if value is None:
        raise UserError(f"What is known has no {name}: give a latent as the tokenizer encodes it.")
    return value


def with_given(made: Latent, condition: Condition | None) -> Latent:
    """``made`` with every field of the known latent in the place of its own: z and h at known cells, ids of known tokens.

    Where a pyramid's cells are known in a part of a frame, its interpolation blurs over their border, so that z there is not
    quite that of the ids.
    """
    cells = known_cells(condition, made.full_grid, made.start)
    if condition is None or condition.known is None or cells is None:
        return made
    tokens = covered(cells, made.grids, len(made.spec.scales or (1,)))
    masks = {"z": cells.unsqueeze(1), "h": cells.unsqueeze(1), "ids": tokens.unsqueeze(-1)}
    fields: dict[str, Any] = {}
    for name, value in made.tensors().items():
        known = getattr(condition.known, name)
        if known is not None:
            fields[name] = torch.where(masks[name].to(value.device), known.to(value), value)
    return replace(made, **fields)


def per_cell(values: Tensor) -> Tensor:
    """(B,), (B, t) or (B, t, h, w), one a clip or one a cell, shaped to broadcast against (B, D, t, h, w)."""
    return values.unsqueeze(1) if values.ndim == 4 else values.view(len(values), 1, -1, 1, 1)
