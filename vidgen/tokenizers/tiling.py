"""Frames too large for memory, or for one process: encoded and decoded in tiles that overlap.

A tile is some rows and columns of cells, over all frames at hand. Where tiles overlap, what the encoder gives before quantization
(so that everything is quantized once) and the pixels that the decoder gives are blended linearly. At a tile's edge inside the
frame the network sees padding where the whole frame has pixels: ``halo`` cells there are computed and thrown away. As soon as the
halo covers what the network sees around a cell, the result is that of the whole frame; else :func:`seam_error` measures how far
from it. Norms over whole frames (``norm: group``) see everything, so no halo covers them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, distributed, nn

from vidgen.errors import UserError
from vidgen.latents import Latent
from vidgen.nn.stream import Stream
from vidgen.tokenizers.autoencoder import Autoencoder

Parts = dict[int, Tensor]
"""Tiles of clips, by their number: those of the first clip row by row, then those of the next."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """One process's share of the tiles of all clips: every ``ranks``-th, from ``rank`` on.

    Each tile of each clip is computed by itself whoever computes it, and they are added in the order of their numbers: the result
    is that of one process, to the bit.

    Attributes:
        rank: from 0.
        ranks: how many processes share the work.
        exchange: a process's own tiles -> the tiles of all; every process calls it equally often.
    """

    rank: int
    ranks: int
    exchange: Callable[[Parts], Parts]

    @classmethod
    def of_processes(cls) -> Share:
        """That of this process among those of ``torch.distributed``."""
        return cls(rank=distributed.get_rank(), ranks=distributed.get_world_size(), exchange=_gathered)


def _gathered(own: Parts) -> Parts:
    """Over main memory: an object would be unpacked on the device of the process that packed it."""
    every: list[Parts] = [{} for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(every, {index: part.cpu() for index, part in own.items()})
    return {index: part for parts in every for index, part in parts.items()}


def tiled(
    tokenizer: Autoencoder, *, tile: tuple[int, int], overlap: int, halo: int = 0, share: Share | None = None
) -> Autoencoder:
    """``tokenizer`` as one that encodes and decodes in tiles, whole or in streams; it shares all weights, and is not for saving.

    Args:
        tokenizer: whose bottleneck takes the cells of all tiles together.
        tile: rows and columns of cells in a tile.
        overlap: cells that neighbouring tiles share; the last tile of a row or column shares more where they do not fit.
        halo: of those, how many at each tile's edge are thrown away; the rest is blended.
        share: of this process, where several share the tiles and clips; each gets the whole result.

    Raises:
        UserError: unless 0 <= 2 * halo <= overlap < each side of the tile.
    """
    if not 0 <= 2 * halo <= overlap < min(tile):
        raise UserError(
            f"Tiles of {tile[0]}x{tile[1]} cells cannot overlap by {overlap} with a halo of {halo}: an overlap holds two halos, "
            f"and is less than either side."
        )
    view = copy.copy(tokenizer)
    view._modules = {**tokenizer._modules, "backbone": TiledBackbone(tokenizer.backbone, tile, overlap, halo, share)}
    return view


def encode_tiled(
    tokenizer: Autoencoder, video: Tensor, *, tile: tuple[int, int], overlap: int, halo: int = 0, share: Share | None = None
) -> Latent:
    """:meth:`Autoencoder.encode` in tiles; see :func:`tiled`."""
    return tiled(tokenizer, tile=tile, overlap=overlap, halo=halo, share=share).encode(video)


def decode_tiled(
    tokenizer: Autoencoder, latent: Latent, *, tile: tuple[int, int], overlap: int, halo: int = 0, share: Share | None = None
) -> Tensor:
    """:meth:`Autoencoder.decode` in tiles; see :func:`tiled`."""
    return tiled(tokenizer, tile=tile, overlap=overlap, halo=halo, share=share).decode(latent)


@dataclass(frozen=True, kw_only=True)
class SeamError:
    """How far tiles are from the whole, as absolute differences.

    Attributes:
        encode_max: the greatest, of what the encoder gives before quantization.
        encode_mean: the mean of the same.
        decode_max: the greatest, of pixels in [-1, 1], when the whole frame's latent is decoded.
        decode_mean: the mean of the same.
    """

    encode_max: float
    encode_mean: float
    decode_max: float
    decode_mean: float


@torch.no_grad()
def seam_error(tokenizer: Autoencoder, video: Tensor, *, tile: tuple[int, int], overlap: int, halo: int = 0) -> SeamError:
    """What tiling costs on ``video`` (B, C, T, H, W), whose length fits and which must fit into memory whole."""
    view, latent = tiled(tokenizer, tile=tile, overlap=overlap, halo=halo), tokenizer.encode(video)
    encoded = (view.backbone.encode(video) - tokenizer.backbone.encode(video)).abs()
    decoded = (view.decode(latent) - tokenizer.decode(latent)).abs()
    return SeamError(
        encode_max=float(encoded.max()),
        encode_mean=float(encoded.mean()),
        decode_max=float(decoded.max()),
        decode_mean=float(decoded.mean()),
    )


class TiledBackbone(nn.Module):
    """A backbone over tiles of the frame: :class:`vidgen.protocols.Backbone`; options as of :func:`tiled`."""

    def __init__(self, backbone: Any, tile: tuple[int, int], overlap: int, halo: int, share: Share | None) -> None:
        super().__init__()
        self.backbone, self.tile, self.overlap, self.halo, self.share = backbone, tile, overlap, halo, share
        self.stride, self.causal = backbone.stride, backbone.causal

    def encode(self, video: Tensor, start: int = 0, stream: Stream | None = None) -> Tensor:
        """As the backbone's; a stream holds one of its own for each tile of each clip."""
        _, height, width = self.stride
        grid = (video.shape[3] // height, video.shape[4] // width)
        return self._through(self.backbone.encode, video, start, stream, grid, made=(1, 1))

    def decode(self, z: Tensor, start: int = 0, stream: Stream | None = None) -> Tensor:
        """As the backbone's; a stream holds one of its own for each tile of each clip."""
        return self._through(self.backbone.decode, z, start, stream, (z.shape[3], z.shape[4]), made=self.stride[1:])

    def _through(
        self,
        step: Callable[[Tensor, int, Stream | None], Tensor],
        x: Tensor,
        start: int,
        stream: Stream | None,
        grid: tuple[int, int],
        made: tuple[int, int],
    ) -> Tensor:
        """``step`` over the tiles of ``x``, blended; a cell of ``grid`` becomes ``made`` positions."""
        rows, columns = (self._cuts(cells, side) for cells, side in zip(grid, self.tile, strict=True))
        tiles = list(product(rows, columns))
        taken = x.shape[3] // grid[0], x.shape[4] // grid[1]

        def part(index: int) -> Tensor:
            clip, number = divmod(index, len(tiles))
            own_rows, own_columns = (_scaled(cells, scale) for cells, scale in zip(tiles[number], taken, strict=True))
            return step(x[clip : clip + 1, :, :, own_rows, own_columns], start, stream and stream.part(index))

        weights = [self._weights(cuts, scale, x.device) for cuts, scale in zip((rows, columns), made, strict=True)]
        each = [down[:, None] * across for down, across in product(*weights)]
        blended: Tensor | None = None
        for index, own in self._parts(part, len(x) * len(tiles)):
            clip, number = divmod(index, len(tiles))
            if blended is None:
                blended = each[0].new_zeros(len(x), *own.shape[1:3], grid[0] * made[0], grid[1] * made[1], dtype=_sum_type(own))
            own_rows, own_columns = (_scaled(cells, scale) for cells, scale in zip(tiles[number], made, strict=True))
            blended[clip, :, :, own_rows, own_columns] += own[0].to(x.device) * each[number].to(blended.dtype)
        assert blended is not None
        return blended

    def _parts(self, part: Callable[[int], Tensor], count: int) -> Iterable[tuple[int, Tensor]]:
        """All parts in order: as they are asked for, or each process its share, exchanged."""
        if self.share is None:
            return ((index, part(index)) for index in range(count))
        own = {index: part(index) for index in range(self.share.rank, count, self.share.ranks)}
        return sorted(self.share.exchange(own).items())

    def _cuts(self, cells: int, side: int) -> list[slice]:
        """The cells of each tile along an axis of ``cells``; all are equally long, the last ends where the axis ends."""
        side = min(side, cells)
        starts = range(0, max(1, cells - self.overlap), max(1, side - self.overlap)) if side < cells else [0]
        return [slice(first, first + side) for first in (min(first, cells - side) for first in starts)]

    def _weights(self, cuts: list[slice], scale: int, device: torch.device) -> list[Tensor]:
        """The share of each tile in each of its positions along an axis, float64; they sum to 1 over the tiles."""
        cells, side = cuts[-1].stop, cuts[0].stop * scale
        position = torch.arange(side, dtype=torch.float64, device=device) + 0.5 - self.halo * scale
        rise = (position / max((self.overlap - 2 * self.halo) * scale, 0.5)).clamp(0, 1)
        ones, total = torch.ones_like(rise), torch.zeros(cells * scale, dtype=torch.float64, device=device)
        shares = []
        for cut in cuts:
            share = torch.minimum(rise if cut.start else ones, rise.flip(0) if cut.stop < cells else ones)
            total[_scaled(cut, scale)] += share
            shares.append(share)
        return [share / total[_scaled(cut, scale)] for cut, share in zip(cuts, shares, strict=True)]


def _scaled(cells: slice, scale: int) -> slice:
    return slice(cells.start * scale, cells.stop * scale)


def _sum_type(part: Tensor) -> torch.dtype:
    """Sums of halves are kept in full precision."""
    return torch.promote_types(part.dtype, torch.float32)
