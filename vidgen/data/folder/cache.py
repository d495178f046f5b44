"""Decoded frames on disk: each video file once, small, uint8, found again by the sha256 of its bytes.

Layout: ``<cache>/<height>x<width>-<rate>-v<version>/<sha256>.u8`` holds the raw frames (n, H, W, 3) of one video; its size
tells n. Beside them ``seen-<hash of the folder>.json`` notes size and time of change of every file seen there, so that an
unchanged file is not read again, and why a broken one is broken. A file that was moved, renamed or touched is recognised
by its bytes and not decoded again. Everything is written under another name and then moved into place: whatever bears its
final name is whole, and processes that work at the same time can at worst do the same work twice.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidgen.data import decode
from vidgen.errors import UserError

Pixels = NDArray[np.uint8]

VERSION = 1  # raised when the same bytes and settings come to give other pixels
REPORT_EVERY = 10.0  # seconds between two lines of progress where there is no terminal


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A decoded video: the sha256 of its file, and its number of frames after conversion of the rate."""

    sha256: str
    frames: int


class FrameCache:
    """The frames of the videos below one folder, at one size and rate.

    Args:
        folder: Where caches live; made when absent.
        height: Of the frames kept, in pixels.
        width: Of the frames kept, in pixels.
        fps: Frames a second; None keeps every frame of every file.
    """

    def __init__(self, *, folder: Path, height: int, width: int, fps: float | None) -> None:
        rate = "native" if fps is None else f"{fps}fps"
        self.folder = folder / f"{height}x{width}-{rate}-v{VERSION}"
        self.height, self.width, self.fps = height, width, fps

    def add(self, root: Path, names: Sequence[str]) -> tuple[dict[str, Stored], dict[str, str], bool]:
        """Make sure that the files ``root / name`` are decoded.

        Returns:
            The files that are, by name; the reasons why the others are not, by name; whether any file had to be read.

        Raises:
            UserError: when the cache cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            place = self.folder / f"seen-{hashlib.sha256(str(root).encode()).hexdigest()[:16]}.json"
            notes = json.loads(place.read_text(encoding="utf-8")) if place.exists() else {}
            stale = [name for name in names if not self._holds(notes.get(name), root / name)]
            if stale:
                try:
                    with _Progress(len(stale)) as progress:
                        for name in stale:
                            notes[name] = self._take(root / name, progress)
                finally:  # Ctrl-C after an hour does not cost the hour
                    kept = {name: notes[name] for name in names if name in notes}
                    with _replacing(place) as partial:
                        partial.write_text(json.dumps(kept, indent=1), encoding="utf-8")
        except OSError as error:  # what cannot be read of the videos is a note, so that this is the cache's own
            raise UserError(
                f"The cache of decoded frames {self.folder} cannot be written ({error.strerror or error}): free some space "
                "or give data.cache=FOLDER on another disk, then run the same command again; what is decoded is kept."
            ) from error
        good = {name: notes[name]["sha256"] for name in names if notes[name]["reason"] is None}
        stored = {name: Stored(sha256=sha256, frames=self._count(sha256)) for name, sha256 in good.items()}
        return stored, {name: notes[name]["reason"] for name in names if name not in good}, bool(stale)

    def read(self, stored: Stored, begin: int, end: int, step: int = 1) -> Pixels:
        """Frames ``begin:end:step`` of a video: uint8 (T, H, W, 3), a copy.

        The file is mapped for each call: nothing stays open, so that the object can be pickled and there may be more videos
        than a process may hold open.
        """
        shape = (stored.frames, self.height, self.width, 3)
        return np.array(np.memmap(self._path(stored.sha256), np.uint8, "r", shape=shape)[begin:end:step])

    def _path(self, sha256: str) -> Path:
        return self.folder / f"{sha256}.u8"

    def _count(self, sha256: str) -> int:
        """Frames kept of a video; 0 when there are none."""
        path = self._path(sha256)
        return path.stat().st_size // (self.height * self.width * 3) if path.exists() else 0

    def _holds(self, note: dict[str, Any] | None, path: Path) -> bool:
        """Whether a note still tells the truth: about an unchanged file, and about frames or a decoder still there."""
        if note is None or note["stamp"] != _stamp(path):
            return False
        if note["reason"] is None:
            return self._count(note["sha256"]) > 0
        return bool(note["decoder"] == version("av"))

    def _take(self, path: Path, progress: _Progress) -> dict[str, Any]:
        """Decode one file unless its frames are there; the note to keep about it."""
        stamp, sha256, reason = _stamp(path), None, None
        progress.start(path.name)
        try:
            sha256 = _sha256(path)
            if not self._count(sha256):
                self._decode(path, self._path(sha256), progress)
        except _UnreadableError as error:
            reason = f"it cannot be read ({error})"
        except decode.DecodeError as error:
            reason = str(error)
        return {"stamp": stamp, "sha256": sha256, "reason": reason, "decoder": version("av")}

    def _decode(self, source: Path, target: Path, progress: _Progress) -> None:
        pixel_aspect = decode.probe(source).pixel_aspect
        with _replacing(target) as partial, partial.open("wb") as out:
            for _, frame in decode.frames(source, fps=self.fps):
                out.write(fit(frame, self.height, self.width, pixel_aspect).tobytes())
                progress.tick()


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


class _UnreadableError(Exception):
    """A video whose bytes the operating system does not give."""


def _stamp(path: Path) -> list[int] | None:
    """Size and time of change: while they stay, so do the bytes. None for a link to nowhere."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns]


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _UnreadableError(error.strerror or error) from error


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a name beside ``path`` to write to; move the file onto ``path`` when all went well, remove it otherwise."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class _Progress:
    """How far the reading of the files is: a live line in a terminal, elsewhere a line every ten seconds."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("reading videos", total=total)
        self._live = console.is_terminal
        self._total, self._files, self._frames, self._name = total, 0, 0, ""
        self._began = self._shown = time.monotonic()

    def __enter__(self) -> _Progress:
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

    def tick(self) -> None:
        """One frame more."""
        self._frames += 1
        now = time.monotonic()
        if not self._live and now - self._shown > REPORT_EVERY:
            self._shown = now
            where = f"video {self._files} of {self._total} ({self._name})"
            print(f"Reading {where}, {self._frames} frames so far.", file=sys.stderr)
