"""``frames``: cells that are given, in their places, or before or beside the window by cross-attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate

import torch
from torch import Tensor, nn

from vidgen.conditioning.base import Part
from vidgen.errors import UserError
from vidgen.latents import Condition, Latent
from vidgen.nn.embeddings import TimestepEmbedding
from vidgen.nn.parallel import own_rows, world_size
from vidgen.protocols import LatentSpace
from vidgen.samplers.masks import TASKS, draw_tasks, task_masks
from vidgen.samplers.places import draw_places

WEIGHTS = {"generation": 4.0, "prediction": 2.0, "interpolation": 1.0, "extension": 1.0, "prefix": 1.0, "scatter": 1.0}


class Frames(Part):
    """Training on given cells: every clip draws a task of :mod:`vidgen.samplers.masks` and is given the cells that it says.

    Cells in their places are the generator's business: it has ``known`` and ``known_mask`` and needs nothing else. Where the
    share ``context`` is above 0, that share of the clips has its cells by cross-attention instead, and a model so trained can be
    given frames that are not in the window at all. A token is a cell, with its place along each axis, counted from the window's
    first cell in time and from the middle in height and width; the window's own cells are told their time by a vector.

    A share ``spread`` of the steps trains on cells that lie apart (:func:`vidgen.samplers.places.draw_places`), of pyramids that
    grow in time on clips that do. A model so trained makes windows with gaps (``takes_places``), as rollouts by hierarchy need.

    Args:
        width: channels of a token.
        space: the latent space.
        dropout: share of the clips told by cross-attention that are not told, for guidance.
        context: share of the clips that are told by cross-attention.
        spread: share of the steps that train on cells that lie apart.
        tasks: a weight for each task by its name; a task that is not named has 0.

    Raises:
        UserError: on an unknown task or weights that cannot be, a share outside of [0, 1], and tasks that part cells in height or
            width where the latents are a pyramid.
    """

    field = "frames"

    def __init__(
        self,
        *,
        width: int,
        space: LatentSpace,
        dropout: float = 0.1,
        context: float = 0.0,
        spread: float = 0.0,
        tasks: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(dropout)
        self.space, self.share, self.spread = space, context, spread
        self.tasks = {name: weight for name, weight in (tasks or WEIGHTS).items() if weight}
        draw_tasks(self.tasks, 1, generator=torch.Generator())  # which complains of what cannot be drawn
        self.regions = any(TASKS[name].box is not None for name in self.tasks)
        if self.regions and space.spec.scales is not None:
            wrong = next(name for name in self.tasks if TASKS[name].box is not None)
            raise UserError(
                f"A pyramid's cells are given whole in height and width, so the task '{wrong}' cannot be: set it to 0."
            )
        for option, share in (("context", context), ("spread", spread)):
            if not 0 <= share <= 1:
                raise UserError(f"'frames.{option}' is between 0 and 1, and {share:g} is not.")
        self.context = context > 0
        if self.context:
            channels = space.spec.channels if space.spec.kind == "ids" else space.h_channels
            self.embedding = nn.Linear(channels, width)
            self.places = nn.ModuleList(TimestepEmbedding(width) for _ in range(3))
            self.time = TimestepEmbedding(width)

    def draw_cells(self, latent: Latent, condition: Condition | None) -> tuple[Latent, Condition | None]:
        """In a share of the calls, some of the cells of ``latent`` and what is told of these; else as it is.

        It is left as it is too where cells are given already, and where it is too short to have any gap.
        """
        spec, start = self.space.spec, latent.start
        edges = [0, *accumulate([1] * latent.full_grid[0] if spec.clip is None else spec.pieces(latent.full_grid[0], start))]
        told = condition or Condition()
        if len(edges) < 4 or told.known is not None or told.frames is not None or float(torch.rand(())) >= self.spread:
            return latent, condition
        cells = [cell for unit in draw_places(len(edges) - 1) for cell in range(edges[unit], edges[unit + 1])]
        frames = [
            frame
            for cell in cells
            for frame in range(spec.frames(cell, start), min(spec.frames(cell + 1, start), latent.num_frames))
        ]
        return latent.at(cells), replace(told.window(frames), places=tuple(start + cell for cell in cells))

    def draw(self, latent: Latent, condition: Condition) -> Condition:
        """``condition`` with the cells of ``latent`` that each clip's task gives; as it is where cells are given already.

        The mask is (B, t), or (B, t, h, w) where there are tasks with regions.
        """
        if condition.known is not None or condition.frames is not None:
            return condition
        batch, grid = len(latent), latent.full_grid
        device = next(iter(latent.tensors().values())).device
        clips = world_size() * batch
        mask = own_rows(task_masks(draw_tasks(self.tasks, clips), grid)).to(device)
        if not self.regions:
            mask = mask[:, :, 0, 0]
        if not self.context:
            return replace(condition, known=latent, known_mask=mask)
        told = own_rows(torch.rand(clips, device=device)) < self.share
        aside = mask.flatten(2).all(2) if self.regions else mask
        known = mask & ~told.view(-1, *[1] * (mask.ndim - 1))
        return replace(condition, known=latent, known_mask=known, frames=latent, frames_mask=aside & told[:, None], frames_at=0)

    def vector(self, condition: Condition, batch: int, cells: int, start: int) -> Tensor | None:
        """(batch, cells, width): each cell's time, by which it finds what is before or after it in the context."""
        if not self.context:
            return None
        places = range(start, start + cells) if condition.places is None else condition.places
        time = torch.tensor(places, device=self.embedding.weight.device) - start
        return self.time(time / 1000).expand(batch, -1, -1)

    def tokens(self, condition: Condition, batch: int) -> tuple[Tensor, Tensor] | None:
        given = condition.frames
        if given is None or not self.context:
            return None
        x = self._values(given).movedim(1, -1)
        t, h, w = x.shape[1:4]
        axes = [
            torch.arange(t, device=x.device) + condition.frames_at,
            *(torch.arange(n, device=x.device) - n // 2 for n in (h, w)),
        ]
        places = [embed(axis / 1000) for embed, axis in zip(self.places, axes, strict=True)]
        tokens = self.embedding(x) + places[0][:, None, None] + places[1][:, None] + places[2]
        there = condition.frames_mask
        there = torch.ones(batch, t, dtype=torch.bool, device=x.device) if there is None else there.to(x.device)
        return tokens.flatten(1, 3), there.repeat_interleave(h * w, dim=1)

    def _values(self, latent: Latent) -> Tensor:
        """What a cell is told by: h, but of ids, whose h may not be there, z."""
        weight = self.embedding.weight
        if self.space.spec.kind != "ids":
            assert latent.h is not None
            return latent.h.to(weight)
        assert latent.ids is not None
        return self.space.embed(latent.ids, latent.grids).to(weight)

    def silence(self, condition: Condition, clips: Tensor) -> Condition:
        given = condition.frames
        assert given is not None
        mask = condition.frames_mask
        if mask is None:
            mask = torch.ones(len(given), given.full_grid[0], dtype=torch.bool, device=clips.device)
        return replace(condition, frames_mask=mask & ~clips[:, None])
