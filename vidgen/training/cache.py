"""The latents of a training set on disk, encoded once: one file a field, ids packed to their bits, the rest in bfloat16.

A field that is a function of the ids (z always, h of bits) is not stored but recomputed from them. Whatever is stored in
bfloat16 has been standardised before. The folder's name holds a fingerprint of tokenizer, data and count, and the folder appears
whole or not at all.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidgen.conditioning.text import word_ids
from vidgen.data.batches import Order, collate, facts, to_video
from vidgen.latents import Condition, Latent, LatentSpec, Shape
from vidgen.protocols import Data, LatentSpace, Tokenizer
from vidgen.samplers.noise import key

LAYOUT = 2
"""Of the files, for the names of caches: grows when what is read needs more than an older cache has."""


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
    bits = [(ids[..., i, None] >> np.arange(width)[::-1]) & 1 for i, width in enumerate(_widths(levels))]
    return np.packbits(np.concatenate(bits, axis=-1).reshape(len(ids), -1).astype(np.uint8), axis=1)


def unpack_ids(packed: np.ndarray, tokens: int, levels: Sequence[int]) -> np.ndarray:
    """The inverse of :func:`pack_ids`; int64 (B, N, L)."""
    widths = _widths(levels)
    bits = np.unpackbits(packed, axis=1, count=tokens * sum(widths)).reshape(len(packed), tokens, -1)
    if set(widths) == {1}:
        return bits.astype(np.int64)
    parts = np.split(bits, np.cumsum(widths)[:-1], axis=-1)
    return np.stack([part @ (1 << np.arange(part.shape[-1])[::-1]) for part in parts], axis=-1).astype(np.int64)


def _widths(levels: Sequence[int]) -> list[int]:
    return [max(1, math.ceil(math.log2(level))) for level in levels]


class LatentCache:
    """Random access to cached latents; opened once per process."""

    def __init__(self, folder: Path, space: LatentSpace) -> None:
        meta = json.loads((folder / "meta.json").read_text())
        self.spec = LatentSpec.from_dict(meta["spec"])
        self.space, self.count, self.num_frames = space, meta["count"], meta["num_frames"]
        self.grids: tuple[Shape, ...] = tuple((t, h, w) for t, h, w in meta["grids"])
        self.told = {name: torch.from_numpy(np.load(folder / f"{name}.npy")) for name in meta["told"]}
        self.fields = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in meta["fields"]}

    def __len__(self) -> int:
        return self.count

    def read(self, indices: Sequence[int]) -> tuple[Latent, Condition]:
        """The latents at ``indices`` and what the data tells of them: labels, captions as word ids, actions."""
        tensors: dict[str, Any] = {}
        for name, stored in self.fields.items():
            rows = stored[np.asarray(indices)]
            if name == "ids":
                assert self.spec.levels is not None
                tokens = sum(math.prod(grid) for grid in self.grids)
                tensors["ids"] = torch.from_numpy(unpack_ids(rows, tokens, self.spec.levels))
            else:
                tensors[name] = torch.from_numpy(rows.view(np.int16)).view(torch.bfloat16).float()
        latent = Latent(spec=self.spec, grids=self.grids, num_frames=self.num_frames, **tensors)
        if latent.h is None and latent.ids is not None and self.spec.kind == "bits":
            latent.h = latent.ids.unflatten(1, self.grids[0]).movedim(-1, 1).float() * 2 - 1
        chosen = torch.as_tensor(indices)
        values: dict[str, Any] = {name: stored[chosen].long() for name, stored in self.told.items()}
        return latent, Condition(**values)


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

    The folder is written beside its place and renamed at the end, so that a kill never leaves half a cache in its place.
    """
    if not folder.exists():
        partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        order = Order(data.size("train"), seed)

        def batches() -> Iterator[tuple[Latent, Condition]]:
            for begin in progress(iter(range(0, count, batch_size)), math.ceil(count / batch_size)):
                places = [order(position) for position in range(begin, min(begin + batch_size, count))]
                batch = collate([data.clip("train", item, epoch) for item, epoch in places])
                yield tokenizer.encode(to_video(batch["video"].to(device))), condition_of(batch, data)

        try:
            _write(partial, batches(), stored_fields(tokenizer.spec, wants), count)
            if not folder.exists():  # another process may have been quicker
                partial.replace(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return LatentCache(folder, tokenizer.space)


def _write(folder: Path, batches: Iterator[tuple[Latent, Condition]], names: Sequence[str], count: int) -> None:
    """Writes a cache, batch after batch. Plain writes: a full disk is then an error, where through a memory map it kills."""
    told: dict[str, list[np.ndarray]] = {"label": [], "text": [], "action": []}
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context((folder / f"{name}.npy").open("wb")) for name in names}
        for latent, condition in batches:
            if latent.logvar is None:  # not every continuous tokenizer has a posterior
                files.pop("logvar", None)
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
    meta = {"spec": latent.spec.to_dict(), "grids": latent.grids, "num_frames": latent.num_frames, "told": list(told)}
    (folder / "meta.json").write_text(json.dumps({**meta, "count": count, "fields": list(files)}))


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
