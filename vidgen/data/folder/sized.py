"""Videos of several sizes and lengths: the bucket that each is for, and its frames at the size of that bucket."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vidgen.data.buckets import AUTO, Size, auto_lengths, auto_sizes, listed, nearest, often
from vidgen.data.decode import DecodeError
from vidgen.data.folder.cache import FrameCache, Stored, choose
from vidgen.data.folder.each import each
from vidgen.data.folder.table import Item, Table, UnreadableError
from vidgen.errors import UserError
from vidgen.files import replacing
from vidgen.latents import Shape


@dataclass(frozen=True, kw_only=True)
class Sized:
    """What was found of the videos of a place.

    Attributes:
        shapes: of the buckets; where all clips have one size, that alone.
        caches: the frames of each bucket's videos.
        stored: the videos that are decoded, by name.
        broken: the reasons why the others are not, by name.
        fresh: whether any had to be read.
        bucket: the place among ``shapes`` that a video is for; none for one that is too short for all.
    """

    shapes: list[Shape]
    caches: list[FrameCache]
    stored: dict[str, Stored]
    broken: dict[str, str]
    fresh: bool
    bucket: dict[str, int]


def frames_needed(shape: Shape, *, stride: int, split_by: str) -> int:
    """Frames that a video must have for a clip of ``shape``, in each of the three splits where its own time is split."""
    return clip_length(shape[0], stride) * (3 if split_by == "time" else 1)


def clip_length(frames: int, stride: int) -> int:
    """Frames of a video that a clip of ``frames`` frames takes."""
    return (frames - 1) * stride + 1


def read_frames(
    root: Path,
    table: Table,
    *,
    shape: Shape,
    buckets: str | Sequence[str] | None,
    needed: Callable[[Shape], int],
    fps: float | None,
    decode: str,
    cache: Path,
    workers: int = 1,
) -> Sized:
    """See that the frames of all videos are at hand, each at the size of the bucket that it is for.

    Args:
        root: where the videos are.
        table: the videos.
        shape: of all clips, and what automatic buckets start from.
        buckets: as ``data.buckets``; None for one size.
        needed: how many frames a video must have for a bucket.
        fps: as ``data.fps``.
        decode: as ``data.decode``.
        cache: the folder of ``data.cache``.
        workers: processes that decode.

    Raises:
        UserError: when a bucket is none, when the videos state no times that ``fps`` could convert, when there is nothing to
            decode as it is needed, or when the cache cannot be written.
    """
    if fps is not None and table.timeless:
        raise UserError(f"{root} ({table.words}) states no times that data.fps={fps:g} could convert: use data.stride.")

    def at(sizes: Collection[Size]) -> dict[Size, FrameCache]:
        return choose(decode, root, table, folder=cache, sizes=sizes, fps=fps)

    if buckets is not None:
        return _read_buckets(
            root, table.items, buckets=buckets, shape=shape, needed=needed, index=cache, caches=at, workers=workers
        )
    (own,) = at([shape[1:]]).values()
    stored, broken, fresh = own.add(root, table.items, workers)
    everywhere = {item.name: 0 for item in table.items}
    return Sized(shapes=[shape], caches=[own], stored=stored, broken=broken, fresh=fresh, bucket=everywhere)


def _read_buckets(
    root: Path,
    items: Sequence[Item],
    *,
    buckets: str | Sequence[str],
    shape: Shape,
    needed: Callable[[Shape], int],
    index: Path,
    caches: Callable[[Collection[Size]], dict[Size, FrameCache]],
    workers: int,
) -> Sized:
    """Find each video's bucket and see that its frames are at hand at that size.

    The aspect is read from the first frame. The length is known after decoding alone, so that a video that turns out too short
    for the bucket it was decoded for is decoded once more.
    """
    frames, height, width = shape
    aspects = read_aspects(index, root, items, workers)
    teaching = [item.name for item in items if item.split in (None, "train") and item.name in aspects]
    if buckets == AUTO:
        sizes = auto_sizes([aspects[name] for name in teaching], height, width)
        candidates = [(length, *size) for length in auto_lengths(frames) for size in sizes]
    else:
        candidates = listed(buckets)

    def chosen(shapes: Sequence[Shape], lengths: Mapping[str, float]) -> dict[str, int]:
        """The bucket of every video that is long enough for one; what cannot be read counts as square until it is told."""
        places = {name: nearest(aspects.get(name, 1.0), count, shapes, needed) for name, count in lengths.items()}
        return {name: place for name, place in places.items() if place is not None}

    readers = caches(dict.fromkeys(shape[1:] for shape in candidates))
    shapes, fresh = candidates, False
    stored, broken = dict[str, Stored](), dict[str, str]()
    bucket = chosen(shapes, {item.name: float("inf") for item in items})
    wanted: dict[str, set[Size]] = {item.name: {shapes[bucket[item.name]][1:]} for item in items}
    while True:
        for size, own in readers.items():
            some = [item for item in items if size in wanted[item.name]]
            good, bad, read = own.add(root, some, workers) if some else ({}, {}, False)
            stored, broken, fresh = stored | good, broken | bad, fresh or read
        lengths = {name: video.frames for name, video in stored.items()}
        shapes, bucket = candidates, chosen(candidates, lengths)
        if buckets == AUTO and bucket:
            shapes = [candidates[place] for place in often([bucket[name] for name in teaching if name in bucket])] or candidates
            bucket = chosen(shapes, lengths)
        lacking = [(name, shapes[place][1:]) for name, place in bucket.items() if shapes[place][1:] not in wanted[name]]
        if not lacking:
            break
        for name, size in lacking:
            wanted[name].add(size)
    return Sized(
        shapes=shapes,
        caches=[readers[shape[1:]] for shape in shapes],
        stored={item.name: stored[item.name] for item in items if item.name in stored},
        broken=broken,
        fresh=fresh,
        bucket=bucket,
    )


def read_aspects(index: Path, root: Path, items: Sequence[Item], workers: int = 1) -> dict[str, float]:
    """Width over height of every video whose first frame can be read, as it is shown; noted in ``index`` while it is unchanged.

    Raises:
        UserError: when the note cannot be written.
    """
    place = index / f"aspects-{hashlib.sha256(str(root).encode()).hexdigest()[:16]}.json"
    notes, decoder = _noted(place), version("av")  # another one may open what this one cannot
    stamps = {item.name: [item.source.stamp(), decoder] for item in items}
    stale = [item for item in items if notes.get(item.name, [None])[0] != stamps[item.name]]
    try:
        for item, aspect in zip(stale, each(_aspect, stale, workers), strict=True):
            notes[item.name] = [stamps[item.name], aspect]
    finally:
        if stale:
            _note(place, notes)
    return {item.name: notes[item.name][1] for item in items if notes[item.name][1] is not None}


def _note(place: Path, notes: Mapping[str, Any]) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with replacing(place) as partial:
            partial.write_text(json.dumps(notes, indent=1), encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{place.parent} cannot be written ({error.strerror or error}): free some space or give data.cache=FOLDER on another "
            "disk."
        ) from error


def _noted(place: Path) -> dict[str, list[Any]]:
    """What is noted; nothing where that cannot be read, for it can be found out again."""
    try:
        notes = json.loads(place.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    whole = isinstance(notes, dict) and all(isinstance(note, list) and len(note) == 2 for note in notes.values())
    return notes if whole else {}


def _aspect(item: Item) -> float | None:
    """Of the first frame; None where there is none to be had, of which decoding will tell the reason."""
    try:
        frame, pixel_aspect = next(iter(item.source.frames(None)), (None, 1.0))
    except (DecodeError, UnreadableError):
        return None
    return None if frame is None else frame.shape[1] * pixel_aspect / frame.shape[0]
