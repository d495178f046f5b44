"""The frozen bottleneck of a tokenizer, which is all that a generator may know of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from vidgen.latents import Latent, LatentSpec, Shape
from vidgen.protocols import Quantized


class Standardise(nn.Module):
    """Zero mean and unit variance per channel, by measured constants that are saved with the tokenizer."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def forward(self, h: Tensor) -> Tensor:
        """(B, C, t, h, w) in the bottleneck's own units -> standardised."""
        return (h - _per_channel(self.mean, h)) / _per_channel(self.std, h)

    def inverse(self, h: Tensor) -> Tensor:
        """Standardised -> the bottleneck's own units."""
        return h * _per_channel(self.std, h) + _per_channel(self.mean, h)


class BottleneckSpace:
    """A quantizer and its standardisation behind :class:`vidgen.protocols.LatentSpace`.

    A plain object that refers to the tokenizer's own modules: a copied generator shares it, and nothing is saved twice.
    """

    def __init__(self, *, spec: LatentSpec, quantizer: Any, standardise: Standardise) -> None:
        self.spec, self._quantizer, self._standardise = spec, quantizer, standardise

    def __deepcopy__(self, memo: dict[int, object]) -> BottleneckSpace:
        return self

    @property
    def h_channels(self) -> int:
        """Channels of ``h``."""
        return self._quantizer.channels

    @torch.no_grad()
    def embed(self, ids: Tensor, grids: tuple[Shape, ...]) -> Tensor:
        """(B, N, L) ids over ``grids`` -> z (B, D, t, h, w).

        ``grids`` always names every scale, as :meth:`LatentSpec.grids` does. The ids of a pyramid's first scales alone give the
        partial z. Of a pyramid that grows in time ids may end anywhere between two scales: z then has the cells of cell 0 and of
        the clips that have been reached, the last of them partial.

        Raises:
            ValueError: where ids end inside a scale, or are more than the grids hold.
        """
        return torch.cat([self._quantizer.embed(part, own) for part, own in self._pieces(ids, grids)], dim=2)

    @torch.no_grad()
    def project(self, h: Tensor, *, num_frames: int | None = None, start: int = 0) -> Latent:
        """The nearest legal latent to ``h`` (B, D', t, h, w), with z, and ids where discrete.

        The law it keeps: ``embed(project(h).ids) == project(h).z``.
        """
        code = in_pieces(self._quantizer.project, self._standardise.inverse(h), self.spec.pieces(h.shape[2], start))
        return as_latent(code, self.spec, self._standardise, num_frames=num_frames, start=start)

    @torch.no_grad()
    def pyramid(self, latent: Latent, flip: float = 0.0) -> tuple[list[Tensor], list[Tensor]]:
        """What a next-scale generator learns, in the order of ``latent.grids``: per scale the ids to predict and z so far.

        Args:
            latent: with ``ids``; with ``h`` instead where bits are flipped.
            flip: largest chance that a bit is flipped before the sum goes on, so that the next scales' targets are what mends it
                (bitwise self-correction, Infinity); each scale of each clip draws its own below it. 0 gives the stored ids.

        Returns:
            targets (B, n, L) and z (B, D, t, h, w) with that scale added, over the cells that are quantized together.

        Raises:
            UserError: where ``flip`` is above 0 and the ids are not bits.
        """
        if flip:
            assert latent.h is not None
            lengths = self.spec.pieces(latent.h.shape[2], latent.start)
            parts = [self._quantizer.decompose(h, flip) for h in self._standardise.inverse(latent.h).split(lengths, dim=2)]
        else:
            assert latent.ids is not None
            parts = [self._quantizer.sums(ids, own) for ids, own in self._pieces(latent.ids, latent.grids)]
        return [ids for targets, _ in parts for ids in targets], [z for _, sums in parts for z in sums]

    def _pieces(self, ids: Tensor, grids: tuple[Shape, ...]) -> list[tuple[Tensor, tuple[Shape, ...]]]:
        """The ids and grids of what is quantized together, in order, as far as there are ids."""
        scales = len(self.spec.scales or (1,))
        pieces = []
        for first in range(0, len(grids), scales):
            own = grids[first : first + scales]
            size = sum(math.prod(grid) for grid in own)
            pieces.append((ids[:, :size], own))
            ids = ids[:, size:]
            if ids.shape[1] == 0:
                return pieces
        raise ValueError(f"There are {ids.shape[1]} more ids than the grids {[tuple(grid) for grid in grids]} hold.")


def in_pieces(quantize: Callable[[Tensor], Quantized], x: Tensor, lengths: Sequence[int]) -> Quantized:
    """``quantize`` over the parts of ``x`` (B, C, t, h, w) that are quantized together (:meth:`LatentSpec.pieces`), joined.

    Parts of one length are one batch, so that a codebook learns from all of them at once, the longest run of parts first.
    """
    if len(lengths) == 1:
        return quantize(x)
    runs = [(length, len(list(run))) for length, run in groupby(lengths)]
    own = x.split([length * count for length, count in runs], dim=2)
    made: dict[int, Quantized] = {}
    for index in sorted(range(len(runs)), key=lambda index: -own[index].shape[2]):
        length, count = runs[index]
        made[index] = _side_by_side(quantize(own[index].unflatten(2, (count, length)).transpose(1, 2).flatten(0, 1)), count)
    codes = [made[index] for index in range(len(runs))]
    return Quantized(
        z=torch.cat([code.z for code in codes], dim=2),
        h=torch.cat([code.h for code in codes], dim=2),
        ids=None if codes[0].ids is None else torch.cat([code.ids for code in codes if code.ids is not None], dim=1),
        losses={
            name: torch.stack([code.losses[name] * code.z.shape[2] / x.shape[2] for code in codes]).sum()
            for name in codes[0].losses
        },
    )


def _side_by_side(code: Quantized, count: int) -> Quantized:
    """Codes of ``count`` parts of each clip, a batch of B x ``count``, as those of B clips with the parts in a row."""
    if count == 1:
        return code
    z, h = (part.unflatten(0, (-1, count)).transpose(1, 2).flatten(2, 3) for part in (code.z, code.h))
    ids = None if code.ids is None else code.ids.unflatten(0, (-1, count)).flatten(1, 2)
    return replace(code, z=z, h=h, ids=ids)


def as_latent(code: Quantized, spec: LatentSpec, standardise: Standardise, *, num_frames: int | None, start: int) -> Latent:
    """A quantizer's result as a latent: h and the log-variance standardised, the grids named; whole cells without a length."""
    cells, height, width = code.z.shape[2:]
    frames = spec.frames(cells, start)
    logvar = code.logvar
    if logvar is not None:
        logvar = logvar - 2 * _per_channel(standardise.std, logvar).log()
    return Latent(
        spec=spec,
        grids=spec.grids((frames, height * spec.stride[1], width * spec.stride[2]), start),
        num_frames=frames if num_frames is None else num_frames,
        start=start,
        z=code.z,
        h=standardise(code.h),
        logvar=logvar,
        ids=code.ids,
    )


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.to(device=like.device, dtype=like.dtype).view(1, -1, 1, 1, 1)
