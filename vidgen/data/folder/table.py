"""What every layout is read into: a table of items, each of which knows its facts and how to open its frames.

Splits, classes, the cache and the clips are made of the table alone and know nothing of layouts.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from vidgen.data import decode
from vidgen.data.decode import DecodeError

Pixels = NDArray[np.uint8]

SPLIT_WORDS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class UnreadableError(Exception):
    """Bytes that the operating system does not give. The message is its reason."""


class Source(Protocol):
    """Where the frames of one video come from. Sources are plain values, so that other processes can be told them."""

    @property
    def encoded(self) -> bool:
        """Whether the frames have to be decoded, and do not lie there by themselves as pictures or arrays."""
        ...

    def stamp(self) -> Any:
        """A JSON value that stays while the bytes do, from size and time of change; None where nothing is there."""
        ...

    def sha256(self) -> str:
        """Of all that decides the frames. Raises `UnreadableError`, or `vidgen.data.decode.DecodeError`."""
        ...

    def frames(self, fps: float | None, room: tuple[int, int] | None = None) -> Iterator[tuple[Pixels, float]]:
        """Every frame, uint8 RGB (H, W, 3), and the width of its pixels over their height, at ``fps`` frames a second.

        Frames may come smaller, as `vidgen.data.decode.frames` has it, that are going to be cut and resized to ``room``.
        Raises `vidgen.data.decode.DecodeError` as soon as something is broken.
        """
        ...

    def video(self) -> decode.Video:
        """The file that its frames are decoded from, where they are ``encoded``.

        Raises `UnreadableError` or `vidgen.data.decode.DecodeError`.
        """
        ...

    def rate(self) -> float | None:
        """Frames a second that it says it has; None where it does not. Raises `vidgen.data.decode.DecodeError`."""
        ...

    def actions(self) -> NDArray[np.int64] | None:
        """(T,) the move that leads to each frame, counted from 0; None for a video of which none are known."""
        ...


@dataclass(frozen=True)
class VideoFile:
    """A video file by itself."""

    path: Path
    encoded: ClassVar[bool] = True

    def stamp(self) -> Any:
        return file_stamp(self.path)

    def sha256(self) -> str:
        return file_sha256(self.path)

    def frames(self, fps: float | None, room: tuple[int, int] | None = None) -> Iterator[tuple[Pixels, float]]:
        pixel_aspect = decode.probe(self.path).pixel_aspect
        for _, frame in decode.frames(self.path, fps=fps, room=room):
            yield frame, pixel_aspect

    def video(self) -> Path:
        return self.path

    def rate(self) -> float | None:
        return decode.probe(self.path).rate

    def actions(self) -> None:
        return None


@dataclass(frozen=True, kw_only=True)
class Item:
    """One video of a data set.

    Attributes:
        name: unlike any other's in the table, the same on every machine.
        source: where its frames come from.
        split: ``train``, ``val`` or ``test`` where the layout says it, else None.
        label: its class by name; None for none.
        caption: what is said of it; None for nothing.
        group: videos of one group share a scene, so that no split may part them; None for a video by itself.
    """

    name: str
    source: Source
    split: str | None = None
    label: str | None = None
    caption: str | None = None
    group: str | None = None


@dataclass(frozen=True, kw_only=True)
class Table:
    """What lies at a path.

    Attributes:
        layout: the reader's name, as ``data.layout`` takes it.
        words: the layout in a few words, for people.
        items: sorted by name.
        skipped: (name, reason) of what cannot be an item.
        named: whether splits and classes are read off the names alone, so that names tell all there is to tell.
        timeless: whether the items state no times, so that there is no rate to convert.
    """

    layout: str
    words: str
    items: list[Item]
    skipped: list[tuple[str, str]]
    named: bool = False
    timeless: bool = False


def file_stamp(path: Path) -> list[int] | None:
    """Size and time of change: while they stay, so do the bytes. None for a link to nowhere."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns]


def file_sha256(path: Path) -> str:
    """Of the bytes of a file. Raises `UnreadableError`."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UnreadableError(error.strerror or str(error)) from error


def whole_moves(actions: NDArray[Any]) -> NDArray[np.int64]:
    """Actions as int64 (T,), if they are whole numbers from 0 on. Raises `vidgen.data.decode.DecodeError`."""
    if actions.dtype.kind not in "iub" or actions.ndim != 1 or (len(actions) and int(actions.min()) < 0):
        raise DecodeError(
            f"its actions are {actions.dtype} {list(actions.shape)}, and not whole numbers from 0 on, one for each frame"
        )
    return actions.astype(np.int64)


def check_lengths(actions: NDArray[np.int64] | None, frames: int, fps: float | None = None) -> None:
    """Sees that a video of so many frames (at ``fps`` a second, where its rate is converted) has an action for each, or none.

    Raises:
        DecodeError: where it has more or fewer.
    """
    if actions is not None and len(actions) != frames:
        rate = "" if fps is None else f" at data.fps={fps:g}"
        raise DecodeError(
            f"it has {counted(len(actions), 'action')} for {counted(frames, 'frame')}{rate}: each frame needs the one that leads "
            "to it, the first any"
        )


def split_named(text: str) -> str | None:
    """The split that a name says (``ucf101_train.csv``, ``sky_test``, ``val-000017.tar``); None for none or several."""
    said = {SPLIT_WORDS[word] for word in re.findall(r"[a-z]+", text.lower()) if word in SPLIT_WORDS}
    return said.pop() if len(said) == 1 else None


def in_order(text: str) -> list[tuple[int, str]]:
    """A key that sorts numbers within names by their value: ``frame_9`` before ``frame_10``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", text) if part]


def counted(count: int, what: str) -> str:
    """``1 video`` or ``2 videos``."""
    return f"{count} {what}" if count == 1 else f"{count} {what}{'es' if what.endswith('s') else 's'}"
