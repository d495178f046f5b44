"""Frames at one size and rate: decoded once and kept small on disk, or decoded as clips need them, by an index.

`FrameCache` keeps each video once, uint8, found again by the sha256 of what it is made of.

Layout: ``<cache>/<height>x<width>-<rate>-v<version>/<sha256>.u8`` holds the raw frames (n, H, W, 3) of one video; its size
tells n. Actions, where a video has some, are in ``<sha256>.actions.npy``. Beside them ``seen-<hash of the folder>.json`` notes
size and time of change of every video seen there, so that an unchanged one is not read again, and why a broken one is broken.
A file that was moved, renamed or touched is recognised by its bytes and not decoded again. Notes and frames of another version
lie in another folder, and notes that cannot be read are made again. Everything is written under another name and then moved
into place: whatever bears its final name is whole, and processes that work at the same time can at worst do the same work twice.

`FrameIndex` keeps no frames, but where they are in their files (`vidgen.data.decode.index`), 28 bytes a frame, in the same way:
``<cache>/index-<rate>-v<version>-av<PyAV>/<sha256>.index.npy``. Both give the same frames to the bit.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidgen.data import decode
from vidgen.data.buckets import Size
from vidgen.data.decode import DecodeError
from vidgen.data.folder.each import each
from vidgen.data.folder.table import Item, Pixels, Table, UnreadableError, check_lengths
from vidgen.errors import UserError
from vidgen.files import replacing

VERSION = 2  # raised when the same bytes and settings come to give other pixels
INDEX_VERSION = 1  # raised when an index comes to hold something else
ROOM, PROBED = (
    0.5,
    32,
)  # share of the free disk that a cache may take when there is a choice, and videos looked at to tell its size
REPORT_EVERY = 10.0  # seconds between two lines of progress where there is no terminal


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A decoded video.

    Attributes:
        sha256: of what it is made of.
        frames: after conversion of the rate.
        moves: how many actions its frames may tell apart; 0 where none are known.
    """

    sha256: str
    frames: int
    moves: int = 0


class FrameCache:
    """The frames of the videos of one place, at one size and rate.

    Args:
        folder: Where caches live; made when absent.
        height: Of the frames kept, in pixels.
        width: Of the frames kept, in pixels.
        fps: Frames a second; None keeps every frame of every video.
    """

    def __init__(self, *, folder: Path, height: int, width: int, fps: float | None) -> None:
        rate = "native" if fps is None else f"{fps}fps"
        self.folder = folder / f"{height}x{width}-{rate}-v{VERSION}"
        self.height, self.width, self.fps = height, width, fps

    kept = "in"
    """Between what is kept and the folder that it is kept in, in words."""

    @property
    def bytes_a_frame(self) -> int:
        """What a frame takes on the disk."""
        return self.height * self.width * 3

    def add(self, root: Path, items: Sequence[Item], workers: int = 1) -> tuple[dict[str, Stored], dict[str, str], bool]:
        """Make sure that the videos of ``root`` are decoded, by ``workers`` processes (1: by this one).

        Returns:
            The videos that are, by name; the reasons why the others are not, by name; whether any had to be read.

        Raises:
            UserError: when the cache cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            place = self._place(root)
            notes = _notes(place)
            stale = self.missing(root, items)
            if stale:
                try:
                    with Progress(len(stale)) as progress:
                        for name, note in self._taken(stale, progress, workers):
                            notes[name] = note
                finally:  # Ctrl-C after an hour does not cost the hour; videos of other buckets have their notes here too
                    with replacing(place) as partial:
                        partial.write_text(json.dumps(notes, indent=1), encoding="utf-8")
        except OSError as error:  # what cannot be read of the videos is a note, so that this is the cache's own
            raise UserError(
                f"The cache of decoded frames {self.folder} cannot be written ({error.strerror or error}): free some space "
                "or give data.cache=FOLDER on another disk, then run the same command again; what is decoded is kept."
            ) from error
        good = {item.name: notes[item.name] for item in items if notes[item.name]["reason"] is None}
        stored = {
            name: Stored(sha256=note["sha256"], frames=self._count(note["sha256"]), moves=note.get("moves", 0))
            for name, note in good.items()
        }
        return stored, {item.name: notes[item.name]["reason"] for item in items if item.name not in good}, bool(stale)

    def read(self, stored: Stored, begin: int, end: int, step: int = 1) -> Pixels:
        """Frames ``begin:end:step`` of a video: uint8 (T, H, W, 3).

        The file is opened for each call: nothing stays open, so that the object can be pickled and there may be more videos than
        a process may hold open. To read is faster than to map a file and copy from it.

        Raises:
            UserError: where the file ends before them.
        """
        taken = range(stored.frames)[begin:end:step]
        frames = np.empty((len(taken), self.height, self.width, 3), np.uint8)
        with self._path(stored.sha256).open("rb", buffering=0) as file:
            for first, part in zip(taken, frames[None] if step == 1 else frames, strict=False):
                file.seek(first * self.bytes_a_frame)
                if file.readinto(part) != part.nbytes:
                    raise UserError(f"The cache of decoded frames {file.name} is cut short: delete it, and it is made anew.")
        return frames

    def missing(self, root: Path, items: Sequence[Item]) -> list[Item]:
        """The videos of ``root`` that `add` would have to read."""
        notes = _notes(self._place(root))
        return [item for item in items if not self._holds(notes.get(item.name), item)]

    def actions(self, stored: Stored, begin: int, end: int, step: int = 1) -> NDArray[np.int64]:
        """The moves that lead to frames ``begin:end:step`` of a video that has some: (T,)."""
        moves: NDArray[np.int64] = np.load(self._path(stored.sha256, ".actions.npy"))
        return moves[begin:end:step]

    def _place(self, root: Path) -> Path:
        """Where the notes on the videos of ``root`` are."""
        return self.folder / f"seen-{hashlib.sha256(str(root).encode()).hexdigest()[:16]}.json"

    def _path(self, sha256: str, ending: str = ".u8") -> Path:
        return self.folder / f"{sha256}{ending}"

    def _count(self, sha256: str) -> int:
        """Frames kept of a video; 0 when there are none."""
        path = self._path(sha256)
        return path.stat().st_size // self.bytes_a_frame if path.exists() else 0

    def _holds(self, note: dict[str, Any] | None, item: Item) -> bool:
        """Whether a note still tells the truth: about an unchanged video, and about frames or a decoder still there."""
        if note is None or note["stamp"] != item.source.stamp():
            return False
        if note["reason"] is None:
            return self._count(note["sha256"]) > 0
        return bool(note["decoder"] == version("av"))

    def _taken(self, items: Sequence[Item], progress: Progress, workers: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """The note on every item, as they are done."""
        if workers == 1:
            for item in items:
                progress.start(item.name)
                yield item.name, self.take(item, progress.tick)
            return
        for item, note in zip(items, each(self.take, items, workers), strict=True):
            progress.start(item.name)
            progress.tick(self._count(note["sha256"]) if note["reason"] is None else 0)
            yield item.name, note

    def take(self, item: Item, tick: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Decode one video unless its frames are there; the note to keep about it. ``tick`` is called for every frame."""
        stamp, sha256, reason, moves = item.source.stamp(), None, None, 0
        try:
            sha256 = item.source.sha256()
            actions = item.source.actions()
            if actions is not None:
                moves = int(actions.max(initial=0)) + 1
                if not self._path(sha256, ".actions.npy").exists():
                    _save(self._path(sha256, ".actions.npy"), actions)
            if not self._count(sha256):
                self._decode(item, sha256, tick)
            check_lengths(actions, self._count(sha256), self.fps)
        except UnreadableError as error:
            reason = f"it cannot be read ({error})"
        except DecodeError as error:
            reason = str(error)
        note = {"stamp": stamp, "sha256": sha256, "reason": reason, "decoder": version("av")}
        return {**note, "moves": moves} if moves else note

    def _decode(self, item: Item, sha256: str, tick: Callable[[], None]) -> None:
        """Makes what is kept of a video."""
        room = (self.height, self.width)
        with replacing(self._path(sha256)) as partial, partial.open("wb") as out:
            for frame, pixel_aspect in item.source.frames(self.fps, room):
                out.write(fit(frame, *room, pixel_aspect).tobytes())
                tick()


class FrameIndex(FrameCache):
    """The frames of the video files of one place, decoded as they are asked for; arguments as of `FrameCache`.

    A clip costs a seek and the decoding from the key frame before it, so that it takes many times as long as out of the cache.
    """

    def __init__(self, *, folder: Path, height: int, width: int, fps: float | None) -> None:
        super().__init__(folder=folder, height=height, width=width, fps=fps)
        rate = "native" if fps is None else f"{fps}fps"
        # Of some codecs another FFmpeg gives slightly other pixels, which the checksums would not let pass.
        self.folder = folder / f"index-{rate}-v{INDEX_VERSION}-av{version('av')}"
        self._items: dict[str, Item] = {}

    def add(self, root: Path, items: Sequence[Item], workers: int = 1) -> tuple[dict[str, Stored], dict[str, str], bool]:
        stored, broken, fresh = super().add(root, items, workers)
        self._items = {stored[item.name].sha256: item for item in reversed(items) if item.name in stored}  # of copies the first
        return stored, broken, fresh

    kept = "indexed in"

    @property
    def bytes_a_frame(self) -> int:
        return decode.INDEX.itemsize

    def read(self, stored: Stored, begin: int, end: int, step: int = 1) -> Pixels:
        """Frames ``begin:end:step`` of a video: uint8 (T, H, W, 3).

        Raises:
            UserError: when the file has gone or changed since `add`.
        """
        index, item = np.load(self._path(stored.sha256), mmap_mode="r"), self._items[stored.sha256]
        room = (self.height, self.width)
        try:
            found = decode.pick(item.source.video(), index[begin:end:step], decode.entries(index, begin), room=room)
        except (UnreadableError, DecodeError) as error:
            raise UserError(
                f"{item.name} cannot be decoded any more ({error}): put it back as it was, or run the same command again, which "
                "looks at the videos anew."
            ) from error
        return np.stack([fit(frame, *room, pixel_aspect) for frame, pixel_aspect in found])

    def _path(self, sha256: str, ending: str = ".index.npy") -> Path:
        return super()._path(sha256, ending)

    def _count(self, sha256: str) -> int:
        path = self._path(sha256)
        return len(np.load(path, mmap_mode="r")) if path.exists() else 0

    def _decode(self, item: Item, sha256: str, tick: Callable[[], None]) -> None:
        _save(self._path(sha256), decode.index(item.source.video(), fps=self.fps, tick=tick))


def choose(
    kind: str, root: Path, table: Table, *, folder: Path, sizes: Collection[Size], fps: float | None
) -> dict[Size, FrameCache]:
    """What reads the frames of the videos of a place at each of some sizes: for ``cache`` a `FrameCache`, for ``direct`` a
    `FrameIndex`.

    ``auto`` takes the cache, which is the faster by far, unless it would fill more than `ROOM` of what is free of the disk.

    Raises:
        UserError: for ``direct`` where there are frames that lie there by themselves.
    """

    def made(reader: type[FrameCache]) -> dict[Size, FrameCache]:
        return {(high, wide): reader(folder=folder, height=high, width=wide, fps=fps) for high, wide in sizes}

    caches = made(FrameCache)
    encoded = all(item.source.encoded for item in table.items)
    if kind == "direct" and not encoded:
        raise UserError(f"data.decode=direct is for video files, and {root} is {table.words}: say data.decode=cache.")
    if kind == "cache" or not encoded:
        return caches
    if kind == "direct":
        return made(FrameIndex)
    lacking = [{item.name for item in cache.missing(root, table.items)} for cache in caches.values()]
    missing = [item for item in table.items if item.name in set.intersection(*lacking)]  # each video is of one size
    if not missing:
        return caches
    free = shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free
    needed = _expected(missing, fps) * fmean(high * wide for high, wide in sizes) * 3
    if needed <= ROOM * free:
        return caches
    print(
        f"Clips of {root} are decoded as they are needed, for its frames would take about {needed / 1e9:.2g} GB of the "
        f"{free / 1e9:.2g} GB that are free at {folder}. Where that will do, data.decode=cache is far faster.",
        file=sys.stderr,
    )
    return made(FrameIndex)


def _expected(items: Sequence[Item], fps: float | None) -> float:
    """About how many frames some videos have, by the headers of `PROBED` of them."""
    looked = items[:: -(-len(items) // PROBED)]
    found = []
    for item in looked:
        try:
            found.append((decode.duration(item.source.video()) or 0.0) * (fps or item.source.rate() or 0.0))
        except (UnreadableError, DecodeError):  # it takes no room, and is named when all are read
            found.append(0.0)
    return fmean(found) * len(items)


def _save(target: Path, array: NDArray[Any]) -> None:
    with replacing(target) as partial, partial.open("wb") as out:
        np.save(out, array)


def _notes(place: Path) -> dict[str, Any]:
    """What is noted of the videos of a place; nothing where that cannot be read, for all of it can be found out again."""
    try:
        notes = json.loads(place.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    wanted = {"stamp", "sha256", "reason", "decoder"}
    whole = isinstance(notes, dict) and all(isinstance(note, dict) and wanted <= set(note) for note in notes.values())
    return notes if whole else {}


def fit(frame: Pixels, height: int, width: int, pixel_aspect: float = 1.0) -> Pixels:
    """Cut out the largest centred part that has the target's shape, and resize it: uint8 (h, w, 3) -> (height, width, 3).

    Bicubic with antialiasing (the filter widens as the picture shrinks). Shapes are kept: a circle stays a circle, also
    where the source's pixels are ``pixel_aspect`` times as wide as high.
    """
    from PIL import Image

    rows, columns = frame.shape[:2]
    scale = min(rows / height, columns * pixel_aspect / width)  # rows of the source for each row of the target
    high, wide = min(scale * height, rows), min(scale * width / pixel_aspect, columns)
    box = ((columns - wide) / 2, (rows - high) / 2, (columns + wide) / 2, (rows + high) / 2)
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC, box=box))


class Progress:
    """How far the reading of the files is: a live line in a terminal, elsewhere a line every ten seconds."""

    def __init__(self, total: int) -> None:
        from rich import progress
        from rich.console import Console

        console = Console(stderr=True)
        text = progress.TextColumn("{task.description}", markup=False)
        columns = (text, progress.BarColumn(), progress.MofNCompleteColumn(), progress.TimeRemainingColumn())
        self._bar = progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("reading videos", total=total)
        self._live = console.is_terminal
        self._total, self._files, self._frames, self._name = total, 0, 0, ""
        self._began = self._shown = time.monotonic()

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        seconds = time.monotonic() - self._began
        print(f"Read {self._files} videos and decoded {self._frames} frames in {seconds:.1f} s.", file=sys.stderr)

    def start(self, name: str) -> None:
        """The next file begins."""
        self._bar.update(self._task, completed=self._files, description=f"reading {name}")
        self._files, self._name = self._files + 1, name

    def tick(self, frames: int = 1) -> None:
        """So many frames more."""
        self._frames += frames
        now = time.monotonic()
        if not self._live and now - self._shown > REPORT_EVERY:
            self._shown = now
            where = f"video {self._files} of {self._total} ({self._name})"
            print(f"Reading {where}, {self._frames} frames so far.", file=sys.stderr)
