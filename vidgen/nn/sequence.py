"""Tokens as a sequence: in which order they come, which of them are known, what each of them sees."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from vidgen.latents import LatentSpec, Shape
from vidgen.nn.layout import Layout

ORDERS = ("raster", "frames", "columns", "snake")
"""The orders of :func:`generation_order`."""


def full_grid(spec: LatentSpec, grids: tuple[Shape, ...]) -> Shape:
    """The cells that a latent of these ``grids`` has, those of all its clips together."""
    last = len(spec.scales or (1,)) - 1
    return sum(grid[0] for grid in grids[last :: last + 1]), grids[last][1], grids[last][2]


@lru_cache(maxsize=64)
def generation_order(spec: LatentSpec, grids: tuple[Shape, ...], order: str) -> Tensor:
    """(N,) a latent's tokens, by their index in it, in the order in which they are generated.

    ``raster``: along width, then height, then time; a pyramid scale by scale. ``frames``: the same, but a pyramid cell by cell in
    time, all scales of one before the next. ``columns``: the whole time of a place before the next place. ``snake``: raster with
    every other row, and every other frame, backwards, so that a token always lies next to the one before it. The clips of a
    pyramid that grows in time follow one another in every order.
    """
    scales = len(spec.scales or (1,))
    keys: list[tuple[int, ...]] = []
    for index, (t, h, w) in enumerate(grids):
        clip, scale = divmod(index, scales)
        cells = grids[(clip + 1) * scales - 1][0]
        for time, row, column in product(range(t), range(h), range(w)):
            if order == "columns":
                keys.append((clip, scale, row, column, time))
            elif order == "frames":
                keys.append((clip, time * cells // t, scale, time, row, column))
            elif order == "snake":
                row = h - 1 - row if time % 2 else row
                keys.append((clip, scale, time, row, w - 1 - column if (time * h + row) % 2 else column))
            else:
                keys.append((clip, scale, time, row, column))
    with torch.inference_mode(False):
        return torch.tensor(sorted(range(len(keys)), key=keys.__getitem__))


@dataclass(frozen=True, kw_only=True)
class Places:
    """A sequence of L places, at each of which a token is predicted, or stands known; b is 1 where all samples' are the same.

    Attributes:
        token: (b, L) the token of the place, by its index in the latent; N, one more than there is, where there is none.
        there: (b, L) whether there is one.
        before: (b, L) the token whose embedding goes in: the one before, or itself.
        known: (b, L) whether it is given. Known ones come first.
        first: (b, L) whether it is the first of the others, with nothing before it.
        position: (b, L, 3) of the token.
        displacement: (b, L, 3) from it to ``before``.
        scale: (b, L) of the token.
        scale_before: (b, L) of ``before``.
        cell: (b, L) of the token, along time.
        prefix: places that known ones take, filled up to the most that a sample has.
        padded: whether there are places without a token.
        plain: whether nothing is known.
    """

    token: Tensor
    there: Tensor
    before: Tensor
    known: Tensor
    first: Tensor
    position: Tensor
    displacement: Tensor
    scale: Tensor
    scale_before: Tensor
    cell: Tensor
    prefix: int
    padded: bool
    plain: bool

    @classmethod
    def of(cls, layout: Layout, order: Tensor, known: Tensor | None, aligned: bool = False) -> Places:
        """Known tokens first, then the others, both in ``order`` (N,).

        Args:
            layout: of the N tokens.
            order: their indices.
            known: (B, N) which are given.
            aligned: whether the first to be predicted is at the same place in all samples, as sampling needs it, and places stay
                empty; else they all have N tokens without a gap, as training likes it.
        """
        count, prefix, least = len(order), 0, 0
        if known is None:
            token, held = order.unsqueeze(0), torch.zeros_like(order, dtype=torch.bool).unsqueeze(0)
            first = torch.arange(count, device=order.device).unsqueeze(0) == 0
        else:
            given = known[:, order]
            number = given.sum(dim=1, keepdim=True)
            if aligned:
                least, prefix = int(number.min()), int(number.max())
            begin = torch.full_like(number, prefix) if aligned else number
            index = torch.arange(count + prefix - least, device=order.device).unsqueeze(0)
            place = torch.where(given, given.cumsum(dim=1) - 1, begin + (~given).cumsum(dim=1) - 1)
            token = torch.full_like(index, count).repeat(len(known), 1).scatter(1, place, order.expand_as(place))
            held, first = index < number, index == begin
        before = torch.where(held | first, token, token.roll(1, dims=1))
        position, scale, cell = (
            F.pad(part.movedim(0, -1), (0, 1)).movedim(-1, 0) for part in (layout.positions, layout.scale, layout.cell)
        )
        return cls(
            token=token,
            there=token < count,
            before=before,
            known=held,
            first=first,
            position=position[token],
            displacement=position[before] - position[token],
            scale=scale[token],
            scale_before=scale[before],
            cell=cell[token],
            prefix=prefix,
            padded=prefix != least,
            plain=known is None,
        )

    @property
    def length(self) -> int:
        """L."""
        return self.token.shape[1]

    def part(self, begin: int, end: int) -> Places:
        """The places ``begin`` to ``end`` (exclusive)."""
        cut = {name: value[:, begin:end] for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **cut)  # type: ignore[arg-type]

    def mask(self, window: int = 0) -> Tensor:
        """(b, 1, L, L) what each place sees: all that is known, and of the others itself and those before it in the window.

        Known ones see those that are known. Empty places are seen by themselves alone, for a softmax needs something.
        """
        index = torch.arange(self.length, device=self.token.device)
        seen = (index[:, None] >= index) & ~self.known[:, :, None]
        if window:
            seen = seen & (self.cell[:, None, :] > self.cell[:, :, None] - window)
        seen = (seen | self.known[:, None, :]) & self.there[:, None, :] | torch.eye(
            self.length, dtype=torch.bool, device=seen.device
        )
        return seen.unsqueeze(1)

    def oldest(self, window: int) -> list[int]:
        """For each place the first that it sees, of a plain sequence in the order of time."""
        cells = self.cell[0].tolist()
        return [bisect_right(cells, cell - window) for cell in cells]
