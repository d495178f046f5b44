"""The latents of a training set on disk, encoded once: one file a field, ids packed to their bits, the rest in bfloat16.

A field that is a function of the ids (z always, h of bits) is not stored but recomputed from them. Whatever is stored in
bfloat16 has been standardised before. The folder's name holds a fingerprint of tokenizer, data and count, and the folder appears
whole or not at all; until then its finished shards lie beside it, so that a build that was stopped goes on where it was.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidgen.conditioning.text import word_ids
from vidgen.data.batches import Order, collate, facts, to_video
from vidgen.errors import UserError
from vidgen.latents import Condition, Latent, LatentSpec, Shape
from vidgen.protocols import Data, LatentSpace, Tokenizer
from vidgen.samplers.noise import key

LAYOUT = 3
"""Of the files, for the names of caches: grows when what is read needs more than an older cache has."""

SHARD = 4096
"""Clips in a shard, at most: what a kill costs."""


def condition_of(batch: Mapping[str, Any], data: Data) -> Condition:
    """What ``data`` tells of a batch of its clips: labels, captions as word ids and actions, where it has them."""
    known = facts(data)
    return Condition(
        label=batch["label"] if known["class_names"] else None,
        text=word_ids(batch["caption"], known["vocabulary"]) if known["vocabulary"] else None,
        action=batch["actions"] if known["action_names"] else None,
    )


def pack_ids(ids: np.ndarray, levels: Sequence[int]) -> np.ndarray:
    """(B, N, L) sub-ids -> (B, bytes): each sub-id in as many bits as its level needs."""
    bits = [(ids[..., i, None] >> np.arange(width)[::-1]) & 1 for i, width in enumerate(bits_of(levels))]
    return np.packbits(np.concatenate(bits, axis=-1).reshape(len(ids), -1).astype(np.uint8), axis=1)


def unpack_ids(packed: np.ndarray, tokens: int, levels: Sequence[int]) -> np.ndarray:
    """The inverse of :func:`pack_ids`; int64 (B, N, L)."""
    widths = bits_of(levels)
    bits = np.unpackbits(packed, axis=1, count=tokens * sum(widths)).reshape(len(packed), tokens, -1)
    if set(widths) == {1}:
        return bits.astype(np.int64)
    parts = np.split(bits, np.cumsum(widths)[:-1], axis=-1)
    return np.stack([part @ (1 << np.arange(part.shape[-1])[::-1]) for part in parts], axis=-1).astype(np.int64)


def bits_of(levels: Sequence[int]) -> list[int]:
    """The bits that the sub-ids of each level take when packed."""
    return [max(1, (level - 1).bit_length()) for level in levels]


class LatentCache:
    """Random access to cached latents; opened once per process. Each shard is held against its checksums when first read.

    Raises:
        UserError: while reading, where a shard is not what was written.
    """

    def __init__(self, folder: Path, space: LatentSpace) -> None:
        meta = json.loads((folder / "meta.json").read_text())
        self.spec = LatentSpec.from_dict(meta["spec"])
        self.folder, self.space = folder, space
        self.count, self.shard, self.num_frames = meta["count"], meta["shard"], meta["num_frames"]
        self.grids: tuple[Shape, ...] = tuple((t, h, w) for t, h, w in meta["grids"])
        self.fields: list[str] = meta["fields"]
        parts = [_shard_name(begin) for begin in range(0, self.count, self.shard)]
        self.told = {name: _padded([np.load(folder / part / f"{name}.npy") for part in parts]) for name in meta["told"]}
        self._open: dict[int, dict[str, np.ndarray]] = {}

    def __len__(self) -> int:
        return self.count

    def read(self, indices: Sequence[int]) -> tuple[Latent, Condition]:
        """The latents at ``indices`` and what the data tells of them: labels, captions as word ids, actions."""
        tensors: dict[str, Any] = {}
        chosen = np.asarray(indices)
        for name in self.fields:
            rows = self._rows(name, chosen)
            if name == "ids":
                assert self.spec.levels is not None
                tokens = sum(math.prod(grid) for grid in self.grids)
                tensors["ids"] = torch.from_numpy(unpack_ids(rows, tokens, self.spec.levels))
            else:
                tensors[name] = torch.from_numpy(rows.view(np.int16)).view(torch.bfloat16).float()
        latent = Latent(spec=self.spec, grids=self.grids, num_frames=self.num_frames, **tensors)
        if latent.h is None and latent.ids is not None and self.spec.kind == "bits":
            latent.h = latent.ids.unflatten(1, self.grids[0]).movedim(-1, 1).float() * 2 - 1
        values: dict[str, Any] = {name: torch.from_numpy(told[chosen].astype(np.int64)) for name, told in self.told.items()}
        return latent, Condition(**values)

    def _rows(self, name: str, chosen: np.ndarray) -> np.ndarray:
        """The rows ``chosen`` of a field, gathered from their shards."""
        shards = chosen // self.shard
        first = self._field(int(shards[0]), name)
        rows = np.empty((len(chosen), *first.shape[1:]), first.dtype)
        for shard in np.unique(shards):
            here = shards == shard
            rows[here] = self._field(int(shard), name)[chosen[here] - shard * self.shard]
        return rows

    def _field(self, shard: int, name: str) -> np.ndarray:
        if shard not in self._open:
            part = self.folder / _shard_name(shard * self.shard)
            for file, checksum in json.loads((part / "checksums.json").read_text()).items():
                if _checksum(part / file) != checksum:
                    raise UserError(
                        f"The cache of latents {part / file} is not what was written: remove the folder {self.folder} and give "
                        "the same command again; it is then made anew."
                    )
            self._open[shard] = {field: np.load(part / f"{field}.npy", mmap_mode="r") for field in self.fields}
        return self._open[shard][name]


def training_cells(spec: LatentSpec, cells: int, seed: int, step: int, *, windows: float, images: float) -> tuple[int, int]:
    """Which of a clip's ``cells`` a step trains on, as (first, last + 1); a function of (seed, step) alone.

    A share ``images`` of the steps trains on cell 0, which is an image. A share ``windows`` of the others trains on a window as
    rollouts have them: at least half of the clip, from a cell after cell 0 on. Pyramids that grow in time are cut between their
    clips. All other steps train on everything.
    """

    def drawn(what: str) -> float:
        return key(seed, what, step) / 2**63

    if drawn("images") < images:
        return 0, 1
    edges = [*range(cells), cells] if spec.clip is None else [0, *accumulate(spec.pieces(cells))]
    units = len(edges) - 1
    if units < 2 or drawn("windows") >= windows:
        return 0, cells
    shortest = math.ceil(units / 2)
    length = shortest + int(drawn("length") * (units - shortest))
    first = 1 + int(drawn("place") * (units - length))
    return edges[first], edges[first + length]


def stored_fields(spec: LatentSpec, wants: Sequence[str]) -> list[str]:
    """What a cache holds for a generator that wants ``wants``: never a function of the ids."""
    if spec.kind == "bits":
        return ["ids"]
    if spec.kind == "ids":
        return ["ids", "h"] if "h" in wants else ["ids"]
    return ["h", "logvar"] if "logvar" in wants else ["h"]


@torch.no_grad()
def build_cache(
    folder: Path,
    tokenizer: Tokenizer,
    data: Data,
    *,
    wants: Sequence[str],
    count: int,
    seed: int,
    batch_size: int,
    device: torch.device,
    progress: Callable[[Iterator[int], int], Iterator[int]],
) -> LatentCache:
    """Encodes ``count`` training clips (the first of the shuffled order) into ``folder``, or opens it where it exists.

    Shards are written beside their place and renamed, and so is the whole: a kill leaves finished shards, from which the next
    build goes on, and never half a cache in its place. Several processes may build the same one.
    """
    if not folder.exists():
        unfinished = folder.with_name(f"{folder.name}.{batch_size}.partial")  # other batches may round otherwise
        shard = max(1, SHARD // batch_size) * batch_size
        ends = {begin: min(begin + shard, count) for begin in range(0, count, shard)}
        absent = [begin for begin in ends if not (unfinished / _shard_name(begin)).exists()]
        todo = [place for begin in absent for place in range(begin, ends[begin], batch_size)]
        places, order = progress(iter(todo), len(todo)), Order(data.size("train"), seed)

        def batches(begin: int) -> Iterator[tuple[Latent, Condition]]:
            for place in islice(places, math.ceil((ends[begin] - begin) / batch_size)):
                items = [order(position) for position in range(place, min(place + batch_size, ends[begin]))]
                batch = collate([data.clip("train", item, epoch) for item, epoch in items])
                yield tokenizer.encode(to_video(batch["video"].to(device))), condition_of(batch, data)

        unfinished.mkdir(parents=True, exist_ok=True)
        try:
            for begin in absent:
                with _appearing(unfinished / _shard_name(begin)) as partial:
                    facts = _write(partial, batches(begin), stored_fields(tokenizer.spec, wants), ends[begin] - begin)
                    _put_json(unfinished / "meta.json", {**facts, "count": count, "shard": shard})
            for left in unfinished.glob(".shard-*"):  # of a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            unfinished.replace(folder)
        except OSError:
            if not folder.exists():  # else another process was quicker
                raise
        finally:
            if folder.exists() or not any(unfinished.glob("shard-*")):
                shutil.rmtree(unfinished, ignore_errors=True)
    return LatentCache(folder, tokenizer.space)


@contextlib.contextmanager
def _appearing(place: Path) -> Iterator[Path]:
    """A folder to write into that becomes ``place`` when all went well, unless another process has put one there."""
    partial = place.with_name(f".{place.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        if not place.exists():
            partial.replace(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _shard_name(begin: int) -> str:
    """The folder of the shard whose first clip is ``begin``."""
    return f"shard-{begin:09d}"


def _write(folder: Path, batches: Iterator[tuple[Latent, Condition]], names: Sequence[str], count: int) -> dict[str, Any]:
    """Writes a shard, batch after batch, and returns what all shards have in common.

    Plain writes: a full disk is then an error, where through a memory map it kills.
    """
    told: dict[str, list[np.ndarray]] = {"label": [], "text": [], "action": []}
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context((folder / f"{name}.npy").open("wb")) for name in names}
        for latent, condition in batches:
            if latent.logvar is None and "logvar" in files:  # not every continuous tokenizer has a posterior
                (folder / "logvar.npy").unlink()
                del files["logvar"]
            for name, kept in told.items():
                value = getattr(condition, name)
                kept.extend([] if value is None else [value.numpy()])
            for name, file in files.items():
                rows = _stored(latent, name)
                if file.tell() == 0:
                    descr = np.lib.format.dtype_to_descr(rows.dtype)
                    header = {"descr": descr, "fortran_order": False, "shape": (count, *rows.shape[1:])}
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(rows.tobytes())
    told = {name: kept for name, kept in told.items() if kept}
    for name, kept in told.items():
        np.save(folder / f"{name}.npy", _padded(kept))
    _put_json(folder / "checksums.json", {file.name: _checksum(file) for file in sorted(folder.glob("*.npy"))})
    facts = {"spec": latent.spec.to_dict(), "grids": latent.grids, "num_frames": latent.num_frames}
    return {**facts, "told": list(told), "fields": list(files)}


def _put_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values))


def _checksum(path: Path) -> str:
    """CRC-32 of a file: what finds a disk's mistakes; nobody forges a cache."""
    total = 0
    with path.open("rb") as file:
        while block := file.read(2**20):
            total = zlib.crc32(block, total)
    return f"{total:08x}"


def _padded(rows: list[np.ndarray]) -> np.ndarray:
    """Batches of whole numbers one after the other, filled up with 0 to the longest, in as few bytes as hold them."""
    longest = max(row.shape[-1] for row in rows)
    joined = np.concatenate([row if row.ndim == 1 else np.pad(row, ((0, 0), (0, longest - row.shape[1]))) for row in rows])
    return joined.astype(np.int16 if joined.max() < 2**15 else np.int64)


def _stored(latent: Latent, name: str) -> np.ndarray:
    value = getattr(latent, name).cpu()
    if name == "ids":
        return pack_ids(value.numpy(), latent.spec.levels or ())
    return value.bfloat16().view(torch.int16).numpy()
