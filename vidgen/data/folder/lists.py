"""Layouts whose splits, classes and captions stand in text files beside the videos: UCF-101, csv and JSONL."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidgen.data import decode
from vidgen.data.folder.table import SPLIT_WORDS, Item, Table, VideoFile, counted, split_named
from vidgen.data.folder.videos import UCF, ucf_groups
from vidgen.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from vidgen.data.folder.layout import Place

EXTENSIONS = frozenset({".csv", ".jsonl"})
CSV, JSONL = frozenset({".csv"}), frozenset({".jsonl"})
COLUMNS = ("id", "path", "action", "label", "caption", "split", "group")
_UCF_LIST = re.compile(r"(?:.*/)?(?P<split>train|test)list0(?P<fold>[1-3])\.txt")


# UCF-101


def is_ucf101(place: Place) -> bool:
    """Whether videos called as in UCF-101 lie here, and its lists of splits."""
    return any(map(_UCF_LIST.fullmatch, place.files)) and any(
        UCF.fullmatch(name.rsplit("/", 1)[-1]) for name in place.named(decode.EXTENSIONS)
    )


def read_ucf101(place: Place) -> Table:
    """UCF-101 (Soomro et al., 2012) by the lists ``trainlist0N.txt`` and ``testlist0N.txt``; val is cut from train by groups.

    A file and a line of a list are the same where their names are, whatever the case: the archive itself writes both
    ``HandstandPushups`` and ``HandStandPushups``. Labels of the lists are not read: a video's folder is its class.

    Raises:
        UserError: when the lists of that fold are not there.
    """
    splits: dict[str, str] = {}
    for split in ("train", "test"):
        names = [name for name in place.files if (m := _UCF_LIST.fullmatch(name)) and m["split"] == split]
        wanted = [name for name in names if name.endswith(f"0{place.fold}.txt")]
        if not wanted:
            raise UserError(
                f"{place.root} has no {split}list0{place.fold}.txt ({', '.join(names) or 'nor any other'}): put UCF-101's "
                "ucfTrainTestlist beside its videos, or choose another with data.fold=1, 2 or 3."
            )
        for line in _text(place.folder / wanted[0]).splitlines():
            if words := line.split():
                splits[Path(words[0]).stem.lower()] = split
    names = place.named(decode.EXTENSIONS)
    groups = ucf_groups(names)
    items, skipped = [], list(place.unreadable)
    for name in names:
        split_found = splits.pop(Path(name).stem.lower(), None)
        if split_found is None:
            skipped.append((name, f"neither trainlist0{place.fold}.txt nor testlist0{place.fold}.txt names it"))
            continue
        items.append(
            Item(
                name=name,
                source=VideoFile(place.folder / name),
                split=split_found,
                label=name.split("/")[-2] if place.classes and "/" in name else None,
                group=groups.get(name),
            )
        )
    skipped += [(name, "the lists name it, and it is not there") for name in sorted(splits)]
    return Table(layout="ucf101", words=f"UCF-101 by its lists {place.fold}", items=items, skipped=skipped)


# Tables of paths


@dataclass(frozen=True, kw_only=True)
class _Line:
    """A line of a csv or JSONL file: what it says by column, and where it stands, for people."""

    said: Mapping[str, Any]
    where: str
    file: str


def is_csv(place: Place) -> bool:
    """Whether a csv file lies here whose first line tells of a video that is there."""
    return any(_tells(place, name, _csv_lines) for name in _tops(place, CSV))


def is_jsonl(place: Place) -> bool:
    """Whether a JSONL file lies here whose first line tells of a video that is there."""
    return any(_tells(place, name, _jsonl_lines) for name in _tops(place, JSONL))


def read_csv(place: Place) -> Table:
    """Every csv file: with a header (``id,path,action,label`` and more) or without one, ``path label`` on each line.

    Paths are relative to the csv's folder. ``action`` is the name of the class where both it and ``label`` are given. The
    split is the column ``split``, or said by the csv's own name (``ucf101_train.csv``).

    Raises:
        UserError: when a column is missing or a line cannot be read.
    """
    return _listed(place, "csv", _tops(place, CSV), _csv_lines)


def read_jsonl(place: Place) -> Table:
    """Every JSONL file: an object ``{"path": ..., "caption": ..., "label": ...}`` on each line, and ``split`` and ``group``.

    Raises:
        UserError: when a key is missing or a line cannot be read.
    """
    return _listed(place, "jsonl", _tops(place, JSONL), _jsonl_lines)


def _tops(place: Place, extensions: frozenset[str]) -> list[str]:
    """The files with these extensions that lie at the top: those deeper are somebody's notes."""
    return [name for name in place.named(extensions) if "/" not in name]


def _tells(place: Place, name: str, read: Any) -> bool:
    try:
        first = next(read(place.folder / name), None)
    except UserError:
        return False
    return first is not None and (place.folder / str(first.said["path"])).is_file()


def _listed(place: Place, layout: str, files: list[str], read: Any) -> Table:
    """The table of these files: lines whose file is missing or elsewhere are left out with the reason."""
    if not files:
        raise UserError(f"{place.root} holds no .{layout} file at its top: put it there, or leave data.layout={layout} out.")
    items: dict[str, Item] = {}
    skipped = list(place.unreadable)
    for file in files:
        for line in read(place.folder / file):
            path = str(line.said["path"])
            name = os.path.normpath(place.folder / path)
            if os.path.commonpath([name, place.folder]) != str(place.folder):
                skipped.append((path, f"{line.where} leads out of {place.folder}: put {file} in a folder above its videos"))
                continue
            name = Path(name).relative_to(place.folder).as_posix()
            if name in items:
                skipped.append((path, f"{line.where} names it once more"))
            elif Path(name).suffix.lower() not in decode.EXTENSIONS:
                skipped.append((path, f"{line.where} names it, and {Path(name).suffix or 'what has no extension'} is no video"))
            else:
                items[name] = _item(place, name, line)
    found = [items[name] for name in sorted(items)]
    return Table(
        layout=layout, words=f"{layout} of {counted(len(files), 'file')} ({', '.join(files)})", items=found, skipped=skipped
    )


def _item(place: Place, name: str, line: _Line) -> Item:
    said = {key: str(value).strip() for key, value in line.said.items() if value is not None and str(value).strip()}
    split = said.get("split")
    if split is not None and split.lower() not in SPLIT_WORDS:
        raise UserError(f"{line.where} has the split '{split}', which is none of train, val and test.")
    return Item(
        name=name,
        source=VideoFile(place.folder / name),
        split=SPLIT_WORDS[split.lower()] if split else split_named(line.file),
        label=said.get("action", said.get("label")) if place.classes else None,
        caption=said.get("caption"),
        group=said.get("group"),
    )


def _csv_lines(path: Path) -> Iterator[_Line]:
    text = _text(path)
    rows = list(csv.reader(io.StringIO(text, newline="")))
    head = [cell.strip().lower() for cell in rows[0]] if rows else []
    if not set(head) & set(COLUMNS):
        yield from _bare_lines(path, text)
        return
    if "path" not in head:
        raise UserError(
            f"{path} has the columns {', '.join(head)} and no 'path'.{did_you_mean('path', head)} Its first line has to name "
            "the columns: path, and of id, action, label, caption, split and group those that there are."
        )
    for number, row in enumerate(rows[1:], 2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) < len(head):
            raise UserError(f"Line {number} of {path} has {len(row)} columns and its header {len(head)} ({', '.join(head)}).")
        yield _Line(said=dict(zip(head, row, strict=False)), where=f"line {number} of {path.name}", file=path.name)


def _bare_lines(path: Path, text: str) -> Iterator[_Line]:
    """``path label`` on each line, the label a number, so that a path may hold spaces; commas do for the space too."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        match = re.fullmatch(r"\s*(?P<path>.+?)[\s,;]+(?P<label>-?\d+)\s*", line)
        if match is None:
            raise UserError(
                f"Line {number} of {path} is neither 'path label' with a number for the label nor under a header that names "
                "the columns, such as id,path,action,label."
            )
        label = None if match["label"].startswith("-") else match["label"]
        yield _Line(
            said={"path": match["path"].strip('"'), "label": label}, where=f"line {number} of {path.name}", file=path.name
        )


def _jsonl_lines(path: Path) -> Iterator[_Line]:
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            said = json.loads(line)
        except ValueError as error:
            raise UserError(f"Line {number} of {path} is not JSON ({error}): every line is an object of its own.") from error
        if not isinstance(said, dict) or not isinstance(said.get("path"), str):
            raise UserError(f'Line {number} of {path} has no "path": write {{"path": "a.mp4", "caption": "..."}}.')
        yield _Line(said=said, where=f"line {number} of {path.name}", file=path.name)


def _text(path: Path) -> str:
    """A text file, its line ends and a byte order mark put right.

    Raises:
        UserError: when it cannot be read or is not text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}).") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8.") from error
