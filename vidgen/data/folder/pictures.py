"""Folders of numbered pictures, each folder one video: one level, in class folders, in train and test, and nested as Sky's."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from vidgen.data.decode import DecodeError
from vidgen.data.folder.table import Item, Pixels, Table, counted, file_sha256, file_stamp, in_order, split_named
from vidgen.data.folder.videos import class_folders

if TYPE_CHECKING:
    from vidgen.data.folder.layout import Place

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})


@dataclass(frozen=True)
class Pictures:
    """A folder of pictures in the order of their numbers."""

    folder: Path
    names: tuple[str, ...]
    encoded: ClassVar[bool] = False

    def stamp(self) -> Any:
        stamps = [(name, file_stamp(self.folder / name)) for name in self.names]
        return hashlib.sha256(json.dumps(stamps).encode()).hexdigest()

    def sha256(self) -> str:
        digest = hashlib.sha256(b"pictures")
        for name in self.names:
            digest.update(bytes.fromhex(file_sha256(self.folder / name)))
        return digest.hexdigest()

    def frames(self, fps: float | None, room: tuple[int, int] | None = None) -> Iterator[tuple[Pixels, float]]:
        for name in self.names:
            yield _picture(self.folder / name), 1.0

    def video(self) -> Path:
        raise DecodeError("it is no video file")

    def rate(self) -> None:
        return None

    def actions(self) -> None:
        return None


def _picture(path: Path) -> Pixels:
    """RGB, turned as the camera's tag says; 16-bit grey loses its lower half, alpha is dropped, as those of videos are."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened)
            if picture.mode.startswith("I"):
                grey = np.asarray(picture).astype(np.float64) / 257
                return np.repeat(np.rint(grey).clip(0, 255).astype(np.uint8)[..., None], 3, axis=-1)
            return np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "it is no picture" if isinstance(error, Image.UnidentifiedImageError) else str(error).split("\n")[0]
        raise DecodeError(f"its picture {path.name} cannot be read ({reason})") from error


def is_frames(place: Place) -> bool:
    """Whether numbered pictures lie in a folder below the root."""
    return any("/" in name and _number(name) is not None for name in place.named(EXTENSIONS))


def read_frames(place: Place) -> Table:
    """Every folder of numbered pictures as one video.

    The split is said by the first folder (``train``, ``sky_test``). A folder called after the one around it (Sky's ``yt/yt_1``)
    is a piece of that, and pieces of one are never parted; otherwise the folders around are classes, as those of video files.
    """
    folders: dict[str, list[str]] = defaultdict(list)
    skipped = list(place.unreadable)
    for name in place.named(EXTENSIONS):
        folder, _, file = name.rpartition("/")
        if _number(file) is None:
            skipped.append((name, "its name has no number to say where it belongs"))
        elif folder:
            folders[folder].append(file)
        else:
            skipped.append((name, "it lies beside the folders of frames: a video's frames are in a folder of their own"))
    splits = _splits(sorted(folders))
    groups = {name: group for name in folders if (group := _piece_of(name))}
    labels = class_folders(sorted(folders), inside=bool(splits)) if place.classes and not groups else {}
    items = [
        Item(
            name=name,
            source=Pictures(place.folder / name, tuple(sorted(files, key=_place))),
            split=splits.get(name),
            label=labels.get(name),
            group=groups.get(name),
        )
        for name, files in sorted(folders.items())
    ]
    words = "frame folders, nested" if groups else "frame folders"
    words += f" in {counted(len(set(labels.values())), 'class')}" if labels else ""
    return Table(layout="frames", words=words, items=items, skipped=skipped, timeless=True)


def _number(name: str) -> int | None:
    """The last number in a picture's name, which is its place in the video."""
    found = re.findall(r"\d+", Path(name).stem)
    return int(found[-1]) if found else None


def _place(name: str) -> tuple[int, list[tuple[int, str]]]:
    return _number(name) or 0, in_order(name)


def _splits(names: Sequence[str]) -> dict[str, str]:
    """The split of every folder where all top folders say one, ``train`` among them; else nothing."""
    tops = {name: split_named(name.split("/")[0]) if "/" in name else None for name in names}
    splits = {name: split for name, split in tops.items() if split}
    return splits if len(splits) == len(names) and "train" in splits.values() else {}


def _piece_of(name: str) -> str | None:
    """The folder around where this one is called after it."""
    around, _, own = name.rpartition("/")
    parent = around.rpartition("/")[2]
    return around if parent and re.fullmatch(rf"{re.escape(parent)}[_-]?\d+", own) else None
