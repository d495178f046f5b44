"""Videos of several sizes and lengths: the bucket that each is for, and its frames at the size of that bucket."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidgen.data.buckets import AUTO, Size, auto_lengths, auto_sizes, listed, nearest, often
from vidgen.data.decode import DecodeError
from vidgen.data.folder.cache import FrameCache, Stored, replacing
from vidgen.data.folder.table import Item, UnreadableError
from vidgen.errors import UserError
from vidgen.latents import Shape


@dataclass(frozen=True, kw_only=True)
class Sized:
    """What was found of the videos of a place.

    Attributes:
        shapes: of the buckets.
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


def read_sized(
    root: Path,
    items: Sequence[Item],
    *,
    buckets: str | Sequence[str],
    shape: Shape,
    needed: Callable[[Shape], int],
    cache: Callable[[int, int], FrameCache],
) -> Sized:
    """Find each video's bucket and see that its frames are decoded at that size.

    The aspect is read from the first frame. The length is known after decoding alone, so that a video that turns out too short
    for the bucket it was decoded for is decoded once more.

    Args:
        root: where the videos are.
        items: the videos.
        buckets: as ``data.buckets``.
        shape: what automatic buckets start from.
        needed: how many frames a video must have for a bucket.
        cache: given height and width, the frames of that size.

    Raises:
        UserError: when a bucket is none, or when the cache cannot be written.
    """
    frames, height, width = shape
    aspects = read_aspects(cache(height, width).folder.parent, root, items)
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

    caches = {size: cache(*size) for size in dict.fromkeys(shape[1:] for shape in candidates)}
    shapes, fresh = candidates, False
    stored, broken = dict[str, Stored](), dict[str, str]()
    bucket = chosen(shapes, {item.name: float("inf") for item in items})
    wanted: dict[str, set[Size]] = {item.name: {shapes[bucket[item.name]][1:]} for item in items}
    while True:
        for size, own in caches.items():
            some = [item for item in items if size in wanted[item.name]]
            good, bad, read = own.add(root, some) if some else ({}, {}, False)
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
        caches=[caches[shape[1:]] for shape in shapes],
        stored={item.name: stored[item.name] for item in items if item.name in stored},
        broken=broken,
        fresh=fresh,
        bucket=bucket,
    )


def read_aspects(index: Path, root: Path, items: Sequence[Item]) -> dict[str, float]:
    """Width over height of every video whose first frame can be read, as it is shown; noted in ``index`` while it is unchanged.

    Raises:
        UserError: when the note cannot be written.
    """
    place = index / f"aspects-{hashlib.sha256(str(root).encode()).hexdigest()[:16]}.json"
    notes = _noted(place)
    found: dict[str, tuple[object, float]] = {}
    for item in items:
        stamp, before = item.source.stamp(), notes.get(item.name)
        aspect = before[1] if before is not None and before[0] == stamp else _aspect(item)
        if aspect is not None:
            found[item.name] = stamp, aspect
    if json.loads(json.dumps(found)) != notes:
        try:
            index.mkdir(parents=True, exist_ok=True)
            with replacing(place) as partial:
                partial.write_text(json.dumps(found, indent=1), encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"{index} cannot be written ({error.strerror or error}): free some space or give data.cache=FOLDER on another "
                "disk."
            ) from error
    return {name: aspect for name, (_, aspect) in found.items()}


def _noted(place: Path) -> dict[str, list[Any]]:
    """What is noted; nothing where that cannot be read, for it can be found out again."""
    try:
        notes = json.loads(place.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return notes if isinstance(notes, dict) else {}


def _aspect(item: Item) -> float | None:
    """Of the first frame; None where there is none to be had, of which decoding will tell the reason."""
    try:
        frame, pixel_aspect = next(iter(item.source.frames(None)), (None, 1.0))
    except (DecodeError, UnreadableError):
        return None
    return None if frame is None else frame.shape[1] * pixel_aspect / frame.shape[0]
