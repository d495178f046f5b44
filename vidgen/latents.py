"""The contract between tokenizers and generators: what a latent is (`LatentSpec`) and a batch of them (`Latent`).

Tokenizers and generators never import each other; they meet here. Nothing in this module needs torch to be imported, so the
command line can count tokens and explain a size that does not fit without loading it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, Literal

from vidgen.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Shape = tuple[int, int, int]
"""Frames, height, width of a video, or cells along the same axes of a latent grid."""


def scale_grids(grid: Shape, scales: Sequence[tuple[float, float, float]]) -> tuple[Shape, ...]:
    """The grid of each scale of a pyramid over ``grid``: its fraction of every axis rounded half up, and at least 1."""
    grids = []
    for scale in scales:
        t, h, w = (max(1, math.floor(size * part + 0.5)) for size, part in zip(grid, scale, strict=True))
        grids.append((t, h, w))
    return tuple(grids)


@dataclass(frozen=True, kw_only=True)
class LatentSpec:
    """Everything a generator must know about the shape and kind of a tokenizer's latents; plain values only.

    Attributes:
        channels: channels of ``z``, what the decoder takes.
        stride: pixels per cell along (frames, height, width).
        causal: True when cell 0 is the first frame alone, so that 1 + s*k frames make 1 + k cells.
        levels: None for continuous latents, else the cardinality of each sub-id of a cell: ``(K,)`` for a codebook of K,
            ``(2,) * d`` for d bits. In a joint id the first sub-id is the most significant.
        stages: how many of the sub-ids come one after another (residual stages), 1 where all are independent.
        scales: None for one plain grid, else the fractions (t, h, w) of the full grid, coarse to fine.
        clip: None, or for pyramids that grow in time the number of cells of one clip after cell 0.
    """

    channels: int
    stride: Shape
    causal: bool
    levels: tuple[int, ...] | None = None
    stages: int = 1
    scales: tuple[tuple[float, float, float], ...] | None = None
    clip: int | None = None

    @property
    def kind(self) -> Literal["continuous", "bits", "ids"]:
        """``continuous`` without levels, ``bits`` where ``h`` is the binary sub-ids as -1 and 1, else ``ids``.

        The bits of residual stages and of a pyramid's scales are sub-ids like others: a cell's latent is a sum over them.
        """
        if self.levels is None:
            return "continuous"
        plain = self.stages == 1 and self.scales is None
        return "bits" if plain and all(level == 2 for level in self.levels) else "ids"

    @property
    def vocab_size(self) -> int | None:
        """Distinct joint ids of a cell (the full implicit codebook), None for continuous latents."""
        return None if self.levels is None else math.prod(self.levels)

    def cells(self, frames: int, start: int = 0) -> int:
        """Cells along time that ``frames`` frames fill, the first of them at absolute cell ``start``; lengths round up."""
        if frames < 1:
            raise UserError(f"A video needs at least 1 frame, and this one has {frames}.")
        first = 1 if self.causal and start == 0 else 0
        return first + math.ceil((frames - first) / self.stride[0])

    def frames(self, cells: int, start: int = 0) -> int:
        """Frames that ``cells`` whole cells decode to: the inverse of :meth:`cells` on lengths that fit."""
        first = 1 if self.causal and start == 0 and cells > 0 else 0
        return first + (cells - first) * self.stride[0]

    def grid(self, shape: Shape, start: int = 0) -> Shape:
        """The full grid (t, h, w) of cells of a video of ``shape`` (T, H, W).

        Raises:
            UserError: where the height or the width is not a multiple of its stride, naming the nearest sizes that fit.
        """
        frames, *sizes = shape
        cells = [self.cells(frames, start)]
        for axis, size, stride in zip(("height", "width"), sizes, self.stride[1:], strict=True):
            if size < 1 or size % stride:
                below, above = size // stride * stride, -(-size // stride) * stride
                fits = " or ".join(str(fit) for fit in (below, above) if fit > 0) or str(stride)
                raise UserError(
                    f"The {axis} {size} is not a multiple of the tokenizer's stride {stride}; the nearest that fits is {fits}."
                )
            cells.append(size // stride)
        return cells[0], cells[1], cells[2]

    def grids(self, shape: Shape, start: int = 0) -> tuple[Shape, ...]:
        """One grid, or one per scale, coarse to fine: the order in which ids are stored.

        A scale's size is its fraction of the full grid rounded half up and at least 1; equal sizes on small grids stay, so
        the number of scales is constant. With ``clip`` the scales of cell 0 come first, then those of each clip in turn.
        """
        full = self.grid(shape, start)
        if self.scales is None:
            return (full,)
        lengths = self.pieces(full[0], start)
        return tuple(grid for length in lengths for grid in scale_grids((length, *full[1:]), self.scales))

    def pieces(self, cells: int, start: int = 0) -> list[int]:
        """How many of ``cells`` cells are quantized together: all, or with ``clip`` cell 0, then each clip, then the rest."""
        if self.clip is None:
            return [cells]
        lengths = [1] if start == 0 and self.causal else []
        rest = cells - len(lengths)
        return lengths + [self.clip] * (rest // self.clip) + ([rest % self.clip] if rest % self.clip else [])

    def num_tokens(self, shape: Shape, start: int = 0) -> int:
        """Tokens a video of ``shape`` (T, H, W) becomes, over all scales."""
        return sum(math.prod(grid) for grid in self.grids(shape, start))

    def bits_per_pixel(self, shape: Shape) -> float | None:
        """Rate of the discrete code: log2 of the joint vocabulary per cell over the pixels (T*H*W); None if continuous."""
        if self.vocab_size is None:
            return None
        return self.num_tokens(shape) * math.log2(self.vocab_size) / math.prod(shape)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that survive JSON; :meth:`from_dict` gives an equal spec back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LatentSpec:
        """The spec whose :meth:`to_dict` (or its JSON round trip) is ``values``."""
        return cls(**{key: _tupled(value) for key, value in values.items()})


def _tupled(value: Any) -> Any:
    return tuple(_tupled(item) for item in value) if isinstance(value, list | tuple) else value


@dataclass(kw_only=True)
class Latent:
    """A batch of encoded clips. Each tensor is None where the tokenizer or the cache does not give it.

    Attributes:
        z: (B, D, t, h, w), what the decoder takes.
        h: (B, D', t, h, w), what a diffusion model learns: standardised per channel, or the -1/+1 bits.
        logvar: (B, D, t, h, w), log-variance of the posterior in ``h``'s units (``kl``).
        ids: (B, N, L) integers, L = len(spec.levels), N cells over the grids coarse to fine.
        spec: the tokenizer's :class:`LatentSpec`.
        grids: (t, h, w) per scale, coarse to fine; one for a plain grid.
        num_frames: frames of the video; decoding trims what rounding up added.
        start: absolute index of the first cell. Cell 0 is the one-frame cell of causal tokenizers.
    """

    spec: LatentSpec
    grids: tuple[Shape, ...]
    num_frames: int
    start: int = 0
    z: Tensor | None = None
    h: Tensor | None = None
    logvar: Tensor | None = None
    ids: Tensor | None = None

    FIELDS = ("z", "h", "logvar", "ids")

    def tensors(self) -> dict[str, Tensor]:
        """The fields that are present, by name."""
        return {name: value for name in self.FIELDS if (value := getattr(self, name)) is not None}

    def __len__(self) -> int:
        return len(next(iter(self.tensors().values())))

    def __getitem__(self, index: slice | Sequence[int] | Tensor) -> Latent:
        """Some clips of the batch, by a slice or a list of indices."""
        return self._map(lambda value: value[index])

    def clone(self) -> Latent:
        """The same latent in memory of its own."""
        return self._map(lambda value: value.clone())

    def expand(self, num: int) -> Latent:
        """A latent of one clip as one of ``num``, which share its memory."""
        return self._map(lambda value: value.expand(num, *value.shape[1:]))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Latent:
        """The same latent elsewhere; ``dtype`` touches floating fields only."""
        return self._map(lambda value: value.to(device=device, dtype=dtype if value.is_floating_point() else None))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Latent:
        return self._map_named(lambda name: change(getattr(self, name)))

    def _map_named(self, change: Callable[[str], Tensor]) -> Latent:
        changed: dict[str, Any] = {name: change(name) for name in self.tensors()}
        return replace(self, **changed)

    def cells(self, first: int, last: int) -> Latent:
        """The cells ``first`` to ``last`` (exclusive) along time, counted from this latent's own start, in every scale.

        Of a pyramid that grows in time (``spec.clip``) whole clips are cut: cell 0 and each clip have scales of their own.

        Raises:
            UserError: on an empty or reversed range, one beyond the end, or one that cuts a clip of ``spec.clip`` in two.
        """
        total = self._length
        if not 0 <= first < last <= total:
            raise UserError(f"Cells {first} to {last} are not inside this latent's {total} cells.")
        cut = {name: getattr(self, name)[:, :, first:last] for name in ("z", "h", "logvar") if getattr(self, name) is not None}
        if self.spec.clip is not None:
            own = self._clip_grids(first, last)
            grids = self.grids[own]
            if self.ids is not None:
                begin = sum(math.prod(grid) for grid in self.grids[: own.start])
                cut["ids"] = self.ids[:, begin : begin + sum(math.prod(grid) for grid in grids)]
        else:
            grids = tuple((last - first, *grid[1:]) for grid in self.grids)
            if self.ids is not None:
                cut["ids"] = self._join([scale[:, first:last] for scale in self.scale_ids()])
        before, after = self.spec.frames(first, self.start), self.spec.frames(last, self.start)
        return replace(
            self,
            **cut,
            grids=grids,
            num_frames=min(after, self.num_frames) - before,
            start=self.start + first,
        )

    def at(self, cells: Sequence[int]) -> Latent:
        """Some cells, ascending, counted from this latent's own start: a window whose cells lie apart.

        It is as if they followed one another from the first of them on; :attr:`Condition.places` tells where they are.

        Raises:
            UserError: as :meth:`cells` does, of each part without a gap.
        """
        parts, place = [], self.start + cells[0]
        breaks = [0, *(index for index, (a, b) in enumerate(pairwise(cells), start=1) if b != a + 1), len(cells)]
        for first, last in pairwise(breaks):
            parts.append(replace(self.cells(cells[first], cells[last - 1] + 1), start=place))
            place += last - first
        return Latent.cat(parts)

    def _clip_grids(self, first: int, last: int) -> slice:
        """Which of the grids are those of the clips that cells ``first`` to ``last`` are."""
        assert self.spec.scales is not None
        edges = [0, *accumulate(self.spec.pieces(self._length, self.start))]
        if first not in edges or last not in edges:
            raise UserError(
                f"A pyramid that grows in time is cut between its clips, which begin at {edges[:-1]}, not at {first} or {last}."
            )
        scales = len(self.spec.scales)
        return slice(edges.index(first) * scales, edges.index(last) * scales)

    def drawn(self, noise: Tensor) -> Tensor:
        """``h`` as standard normal ``noise`` draws it from the posterior; without one, ``h`` itself."""
        assert self.h is not None
        return self.h if self.logvar is None else self.h + (self.logvar / 2).exp() * noise

    @property
    def full_grid(self) -> Shape:
        """The full grid (t, h, w), all clips of a pyramid together."""
        return (self._length, *self.grids[-1][1:])

    @property
    def _length(self) -> int:
        """Cells along time, those of all clips together."""
        scales = len(self.spec.scales or (1,))
        return sum(grid[0] for grid in self.grids[scales - 1 :: scales])

    def scale_ids(self) -> Iterator[Tensor]:
        """The ids of each scale, coarse to fine, as (B, t, h, w, L)."""
        assert self.ids is not None
        sizes = [math.prod(grid) for grid in self.grids]
        for part, grid in zip(self.ids.split(sizes, dim=1), self.grids, strict=True):
            yield part.unflatten(1, grid)

    @staticmethod
    def _join(scales: Sequence[Tensor]) -> Tensor:
        import torch

        return torch.cat([scale.flatten(1, 3) for scale in scales], dim=1)

    @classmethod
    def cat(cls, parts: Sequence[Latent]) -> Latent:
        """Joins latents that follow one another in time (each starts where the one before it ends) into one.

        Raises:
            UserError: where a part does not start at the end of the one before it, or a part but the last is not whole, in its
                frames or, in a pyramid that grows in time, its clips.
        """
        import torch

        head = parts[0]
        for before, after in zip(parts, parts[1:], strict=False):
            end = before.start + before._length
            if after.start != end:
                raise UserError(f"A latent that starts at cell {after.start} cannot follow one that ends before cell {end}.")
            if before.num_frames != before.spec.frames(before._length, before.start):
                raise UserError("Only the last of the latents to be joined may end in a partly filled cell.")
            if head.spec.clip is not None and head.spec.pieces(end + 1, 0)[-1] != 1:
                raise UserError(f"Only the last of the latents to be joined may end inside a clip, not before cell {end}.")
        joined: dict[str, Any] = {}
        for name in ("z", "h", "logvar"):
            if getattr(head, name) is not None:
                joined[name] = torch.cat([getattr(part, name) for part in parts], dim=2)
        if head.spec.clip is not None:
            if head.ids is not None:
                joined["ids"] = torch.cat([part.ids for part in parts if part.ids is not None], dim=1)
            grids = tuple(grid for part in parts for grid in part.grids)
        else:
            if head.ids is not None:
                by_scale = zip(*(part.scale_ids() for part in parts), strict=True)
                joined["ids"] = cls._join([torch.cat(scale, dim=1) for scale in by_scale])
            cells = sum(part._length for part in parts)
            grids = tuple((cells, *grid[1:]) for grid in head.grids)
        return replace(
            head,
            **joined,
            grids=grids,
            num_frames=sum(part.num_frames for part in parts),
        )


@dataclass(kw_only=True)
class Losses:
    """Named scalar losses and the ``total`` that is minimised (their weighted sum, formed by whoever owns the weights).

    Attributes:
        total: of the batch.
        scalars: what it is made of.
        count: how many values ``total`` is the mean of, where batches differ in that: of a batch that comes in parts each counts
            by it. None: all batches count alike.
    """

    total: Tensor
    scalars: dict[str, Tensor] = field(default_factory=dict)
    count: Tensor | None = None


@dataclass(kw_only=True)
class Condition:
    """What a generator is told; every field is optional, batch first, and has its own null, for a batch (None) and for a clip.

    Attributes:
        label: (B,) class indices; -1 is the null label.
        text: B captions, or their words as ids (B, M) with 0 for padding; the null caption is empty.
        action: (B, T) integers, one a frame, the move that leads to it; -1 is the null action.
        known: cells that are given, in a latent that spans the whole window; every known field is copied to the output.
        known_mask: (B, t) or, on plain grids, (B, t, h, w): which cells of ``known`` are given. None: all of them.
        frames: given frames that are not a prefix of the window, for cross-attention.
        frames_mask: (B, t): which cells of ``frames`` are given; the null has none. None: all of them.
        frames_at: where ``frames`` begins, in cells counted from the window's first, so that what was before is negative.
        places: the absolute index of every cell of a window whose cells do not follow one another (hierarchical rollouts), for
            generators with ``takes_places``; None: they do, from ``start`` on.
        negative: what guidance leads away from, in the place of no condition.
    """

    label: Tensor | None = None
    text: list[str] | Tensor | None = None
    action: Tensor | None = None
    known: Latent | None = None
    known_mask: Tensor | None = None
    frames: Latent | None = None
    frames_mask: Tensor | None = None
    frames_at: int = 0
    places: tuple[int, ...] | None = None
    negative: Condition | None = None

    @property
    def batch(self) -> int | None:
        """How many clips are spoken of; None where nothing is said."""
        return next((len(value) for value in self._said().values() if not isinstance(value, Condition)), None)

    def _said(self) -> dict[str, Any]:
        """The fields that are there, clip by clip; ``frames_at`` and ``places`` are none of them."""
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in ("frames_at", "places")}
        return {name: value for name, value in values.items() if value is not None}

    def __getitem__(self, index: slice | Sequence[int] | Tensor) -> Condition:
        """The conditions of some clips of the batch, by a slice, a list of indices, or a tensor of indices or flags."""

        def some(value: Any) -> Any:
            return _some_of(value, index) if isinstance(value, list) else value[index]

        return self._map(some)

    def to(self, device: torch.device | str) -> Condition:
        """The same conditions elsewhere."""
        return self._map(lambda value: value if isinstance(value, list) else value.to(device))

    def _map(self, change: Callable[[Any], Any]) -> Condition:
        return replace(self, **{name: change(value) for name, value in self._said().items()})

    @classmethod
    def cat(cls, parts: Sequence[Condition], batch: int) -> Condition:
        """The conditions of ``batch`` clips each, one after the other; a field that a part lacks is null for its clips.

        ``negative`` is left behind: whoever guides has made a part of it. Latents have to span the same cells.
        """
        import torch

        said = {name for part in parts for name in part._said()} - {"negative"}
        joined: dict[str, Any] = {}
        for name in said:
            values = [getattr(part, name) for part in parts]
            like = next(value for value in values if value is not None)
            if name in ("known", "frames"):
                filled = [like if value is None else value for value in values]
                given = [value for part in parts if (value := getattr(part, f"{name}_mask")) is not None]
                rest = given[0].shape[1:] if given else (like._length,)
                joined[name] = like._map_named(lambda field, latents=filled: torch.cat([getattr(one, field) for one in latents]))
                joined[f"{name}_mask"] = torch.cat([part._flags(name, (batch, *rest), like) for part in parts])
            elif isinstance(like, list):
                joined[name] = [text for value in values for text in (value or [""] * batch)]
            elif name in ("label", "action", "text"):
                joined[name] = _cat_padded(values, batch, null=0 if name == "text" else -1)
        frames_at = next((part.frames_at for part in parts if part.frames is not None), 0)
        return cls(**joined, frames_at=frames_at, places=next((part.places for part in parts if part.places is not None), None))

    def window(self, frames: Sequence[int] | slice) -> Condition:
        """What is said of some frames of the video, by their indices: of all fields ``action`` alone is told frame by frame."""
        negative = None if self.negative is None else self.negative.window(frames)
        return replace(self, action=None if self.action is None else self.action[:, frames], negative=negative)

    def _flags(self, name: str, shape: tuple[int, ...], like: Latent) -> Tensor:
        """The mask of ``known`` or ``frames``: all where it has none, nothing where that latent is not there."""
        import torch

        there, mask = getattr(self, name) is not None, getattr(self, f"{name}_mask")
        if there and mask is not None:
            return mask
        device = next(iter(like.tensors().values())).device
        return torch.full(shape, there, device=device)


def _some_of(values: list[str], index: slice | Sequence[int] | Tensor) -> list[str]:
    import torch

    chosen: list[int] = torch.arange(len(values))[index if isinstance(index, slice) else torch.as_tensor(index).cpu()].tolist()
    return [values[place] for place in chosen]


def _cat_padded(values: Sequence[Tensor | None], batch: int, null: int) -> Tensor:
    """(B, ...) integers one after the other; what is missing, or shorter than the longest, is filled with ``null``."""
    import torch

    there = [value for value in values if value is not None]
    shape = tuple(max(sizes) for sizes in zip(*(value.shape[1:] for value in there), strict=True))
    rows = []
    for value in values:
        row = there[0].new_full((batch, *shape), null)
        if value is not None:
            row[(slice(None), *(slice(size) for size in value.shape[1:]))] = value
        rows.append(row)
    return torch.cat(rows)


def joint_ids(ids: Tensor, levels: Sequence[int]) -> Tensor:
    """(..., L) sub-ids as (...) joint ids, the first sub-id most significant; int64, so the vocabulary is at most 2**63."""
    joint = ids[..., 0].long()
    for position, level in enumerate(levels[1:], start=1):
        joint = joint * level + ids[..., position]
    return joint


def split_ids(joint: Tensor, levels: Sequence[int]) -> Tensor:
    """The inverse of :func:`joint_ids`: (...) joint ids as (..., L) sub-ids."""
    import torch

    parts = []
    for level in reversed(levels):
        parts.append(joint % level)
        joint = joint // level
    return torch.stack(parts[::-1], dim=-1)
