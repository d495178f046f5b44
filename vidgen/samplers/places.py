"""Windows whose cells lie apart: which cells training takes, where their tokens lie, and what tells their noise from any other.

Source: Harvey et al., "Flexible Diffusion Modeling of Long Videos" (2022), and its released law of training: groups of cells,
each of a random size at an even spacing, until one of them does not fit. Deviations: the most cells of a window is drawn too, so
that rollouts may choose; which of them are observed is drawn cell by cell (:mod:`vidgen.samplers.masks`) and not group by group.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from vidgen.errors import UserError
from vidgen.latents import Condition

Places = tuple[int, ...]
"""The absolute index of every cell of a window, ascending."""


def draw_places(cells: int, *, generator: torch.Generator | None = None) -> Places:
    """Some of ``cells`` cells (3 or more), at least one and not all, in groups of spacings log-uniform from 1 to the widest."""
    most = int(torch.randint(2, cells, (), generator=generator))
    found: set[int] = set()
    while len(found) < most:
        size = int(torch.randint(1, most + 1, (), generator=generator))
        wide, early = torch.rand(2, dtype=torch.float64, generator=generator).tolist()
        spacing = ((cells - 1) / max(size - 1, 1)) ** wide
        first = early * (cells - (size - 1) * spacing)
        group = {min(int(first + place * spacing), cells - 1) for place in range(size)}
        if len(found | group) > most:
            break
        found |= group
    return tuple(sorted(found))


def apart(condition: Condition | None, start: int, cells: int) -> Places | None:
    """Where the cells of a window of ``cells`` cells from ``start`` on lie; None where they follow one another.

    Raises:
        UserError: where the condition's ``places`` are not ascending, or not those of such a window.
    """
    places = None if condition is None else condition.places
    if places is None:
        return None
    if len(places) != cells or places[0] != start or any(after <= before for before, after in pairwise(places)):
        raise UserError(
            f"The places {list(places)} are not those of a window of {cells} cells of which the first is cell {start}: give the "
            "absolute index of each, ascending."
        )
    return None if places[-1] - start == cells - 1 else places


def at_places(positions: Tensor, cell: Tensor, places: Places | None) -> Tensor:
    """The ``positions`` (N, 3) of a window's tokens, whose ``cell`` (N,) is counted from its first, moved in time to ``places``.

    A token that covers several cells moves with the first of them: in pyramids that grow in time these follow one another.
    """
    if places is None:
        return positions
    gap = torch.tensor([place - places[0] - index for index, place in enumerate(places)], device=positions.device)
    return torch.cat([positions[:, :1] + gap[cell].unsqueeze(1), positions[:, 1:]], dim=1)


def window_key(start: int, places: Places | None) -> int | str:
    """What a window's noise is a function of besides seed and sample: its first cell, or all of them where they lie apart.

    A word is never a number, so that no window has the noise of one of another kind, nor of one with other cells.
    """
    return start if places is None else " ".join(map(str, places))
