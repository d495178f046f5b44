"""Which layout lies at a path: every reader by name, in the order in which they are asked."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vidgen.data.decode import EXTENSIONS
from vidgen.data.folder import arrays, lists, pictures, shards, videos
from vidgen.data.folder.table import Table
from vidgen.errors import UserError, did_you_mean, nearest

Reader = Callable[["Place"], Table]


@dataclass(frozen=True, kw_only=True)
class Place:
    """What a reader is told.

    Attributes:
        root: the folder, or the file of a layout that is one file.
        files: names of all files below it relative to it, with forward slashes, sorted; of a file itself its name.
        unreadable: (name, reason) of folders that could not be looked into.
        classes: whether classes are wanted.
        fold: which of UCF-101's lists of splits.
        index: the folder where a reader may keep what takes long to find out.
    """

    root: Path
    files: Sequence[str]
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    classes: bool = True
    fold: int = 1
    index: Path

    @property
    def folder(self) -> Path:
        """The folder that the names are relative to."""
        return self.root if self.root.is_dir() else self.root.parent

    def named(self, extensions: frozenset[str]) -> list[str]:
        """The files with one of these extensions, in small letters."""
        return [name for name in self.files if f".{name.rpartition('.')[2].lower()}" in extensions]


READERS: dict[str, tuple[Callable[[Place], bool], Reader]] = {
    "ucf101": (lists.is_ucf101, lists.read_ucf101),
    "csv": (lists.is_csv, lists.read_csv),
    "jsonl": (lists.is_jsonl, lists.read_jsonl),
    "videos": (videos.is_videos, videos.read_videos),
    "tar": (shards.is_tar, shards.read_tar),
    "hdf5": (arrays.is_hdf5, arrays.read_hdf5),
    "arrays": (arrays.is_arrays, arrays.read_arrays),
    "frames": (pictures.is_frames, pictures.read_frames),
}
"""``data.layout``: whether it lies here, and what it reads. The first of which that is so is taken."""

FILES = lists.EXTENSIONS | shards.EXTENSIONS | arrays.EXTENSIONS
"""Extensions of files that hold a data set by themselves."""


def read_table(
    path: str | None, *, layout: str = "auto", classes: bool = True, fold: int = 1, index: str | Path = "runs/cache/folder"
) -> tuple[Path, Table]:
    """The place called ``path``, absolute, and the table of what lies there.

    Args:
        path: a folder, or a file of a layout that is one file.
        layout: ``auto``, or one of :data:`READERS`.
        classes: whether classes are wanted.
        fold: which of UCF-101's lists of splits, 1 to 3.
        index: the folder where a reader may keep what takes long to find out.

    Raises:
        UserError: when nothing is there, or nothing that can be read, saying what is there instead.
    """
    if layout != "auto" and layout not in READERS:
        known = ("auto", *READERS)
        raise UserError(f"There is no data.layout={layout}.{did_you_mean(str(layout), known)} There are {', '.join(known)}.")
    if isinstance(fold, bool) or fold not in (1, 2, 3):
        raise UserError(f"data.fold={fold} is no list of splits of UCF-101: give 1, 2 or 3.")
    root = existing_place(path)
    files, unreadable = _walk(root)
    place = Place(root=root, files=files, unreadable=unreadable, classes=classes, fold=fold, index=Path(index))
    reader = READERS[layout][1] if layout != "auto" else _detected(place)
    if reader is None:
        raise UserError(_nothing(root, files))
    table = reader(place)
    if layout == "auto":
        table.skipped.extend(_ignored(place, table))
    if not table.items:
        first = f" (the first, {table.skipped[0][0]}: {table.skipped[0][1]})" if table.skipped else ""
        raise UserError(f"No video can be read from {root} as {table.words}{first}: give data.path=FOLDER with videos in it.")
    return root, table


def _detected(place: Place) -> Reader | None:
    for lies, reader in READERS.values():
        if lies(place):
            return reader
    if place.named(lists.EXTENSIONS):  # nothing else is there, so that it was meant, and says by itself what it lacks
        return lists.read_csv if place.named(frozenset({".csv"})) else lists.read_jsonl
    return None


def _ignored(place: Place, table: Table) -> list[tuple[str, str]]:
    """Lists that lie at the top and were not taken for the data's, for whoever thinks that they were."""
    if table.layout in ("csv", "jsonl", "ucf101"):
        return []
    reason = f"it is no list of videos that are here, so that this is read as {table.words}; data.layout={{}} says why"
    return [(name, reason.format(Path(name).suffix[1:])) for name in place.named(lists.EXTENSIONS) if "/" not in name]


def existing_place(path: str | None) -> Path:
    """The folder, or the file of a layout that is one file, called ``path``, absolute.

    Raises:
        UserError: when no path is given or nothing is there, naming the nearest that is.
    """
    if not path:
        raise UserError("data=folder does not know which folder: give data.path=FOLDER, a folder of videos.")
    root = Path(path).expanduser()
    if root.is_dir() or (root.is_file() and root.suffix.lower() in FILES):
        return root.resolve()
    if root.exists():
        raise UserError(f"data.path={path} is a file and not a folder: give data.path={root.parent}, where it lies.")
    close = _nearest_folder(root)
    advice = f"did you mean data.path={close}?" if close else "give data.path=FOLDER, a folder of videos."
    raise UserError(f"There is no folder data.path={path}: {advice}")


def _nearest_folder(path: Path) -> Path | None:
    """``path`` with every part that does not exist replaced by the nearest that does; None where none is near."""
    found = Path(path.anchor)
    for part in path.parts[1:] if path.anchor else path.parts:
        if part == ".." or (found / part).is_dir():
            found /= part
            continue
        match = nearest(part, [entry.name for entry in found.iterdir() if entry.is_dir()])
        if match is None:
            return None
        found /= match
    return found


def _walk(root: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """The files below ``root`` by their names relative to it, sorted, and the folders that cannot be looked into, with why.

    Links are followed, but into no folder twice; hidden files and folders are left alone.
    """
    if root.is_file():
        return [root.name], []
    found: list[str] = []
    unreadable: list[tuple[str, str]] = []

    def refused(error: OSError) -> None:
        name = Path(error.filename).relative_to(root).as_posix()
        unreadable.append((name, f"it cannot be looked into ({error.strerror or error})"))

    visited: set[str] = set()
    for place, folders, files in os.walk(root, followlinks=True, onerror=refused):
        real = os.path.realpath(place)
        folders[:] = [] if real in visited else [name for name in folders if not name.startswith(".")]
        files = [] if real in visited else [name for name in files if not name.startswith(".")]
        visited.add(real)
        below = Path(place).relative_to(root)
        found.extend((below / name).as_posix() for name in files)
    return sorted(found), sorted(unreadable)


def _nothing(root: Path, files: Sequence[str]) -> str:
    others = Counter(Path(name).suffix.lower() or Path(name).name for name in files)
    holds = ", ".join(f"{count} {kind}" for kind, count in others.most_common(3))
    return (
        f"No video lies in {root} or below ({f'it holds {holds}' if holds else 'it is empty'}): give data.path=FOLDER, "
        f"a folder of {', '.join(sorted(EXTENSIONS))} files, or of another of the layouts that docs/data.md shows."
    )
