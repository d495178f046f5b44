"""WebDataset tar shards: members that share a name up to its first dot are one sample, read in place by their offsets."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vidgen.data import decode
from vidgen.data.decode import DecodeError
from vidgen.data.folder.table import (
    SPLIT_WORDS,
    Item,
    Pixels,
    Table,
    UnreadableError,
    VideoFile,
    counted,
    file_stamp,
    split_named,
    whole_moves,
)
from vidgen.files import replacing

if TYPE_CHECKING:
    from vidgen.data.folder.layout import Place

EXTENSIONS = frozenset({".tar"})
VERSION = 1  # of the index that is kept
ARRAY = ".npy"  # a member of raw frames, uint8 [T,H,W,3]
ACTIONS = (".actions.npy", ".actions.json")  # members of the moves that lead to the frames (T,)


@dataclass(frozen=True)
class Member:
    """A video, or an array of frames, within a tar file; ``moves`` is the member that holds its actions, where one does."""

    archive: Path
    name: str
    begin: int
    size: int
    moves: Member | None = None

    def stamp(self) -> Any:
        found = file_stamp(self.archive)
        moves = [] if self.moves is None else [self.moves.name, self.moves.begin, self.moves.size]
        return None if found is None else [*found, self.name, self.begin, self.size, *moves]

    def sha256(self) -> str:
        moves = self.actions()
        return hashlib.sha256(self.read() + (b"" if moves is None else f"actions {moves.tolist()}".encode())).hexdigest()

    def frames(self, fps: float | None, room: tuple[int, int] | None = None) -> Iterator[tuple[Pixels, float]]:
        content = self.read()
        if not self.encoded:
            yield from ((frame, 1.0) for frame in _frames(content))
            return
        pixel_aspect = decode.probe(io.BytesIO(content)).pixel_aspect
        for _, frame in decode.frames(io.BytesIO(content), fps=fps, room=room):
            yield frame, pixel_aspect

    @property
    def encoded(self) -> bool:
        return not self.name.endswith(ARRAY)

    def video(self) -> io.BytesIO:
        return io.BytesIO(self.read())

    def rate(self) -> float | None:
        return decode.probe(self.video()).rate if self.encoded else None

    def actions(self) -> NDArray[np.int64] | None:
        return None if self.moves is None else whole_moves(_moves(self.moves))

    def read(self) -> bytes:
        """All of it."""
        try:
            with self.archive.open("rb") as file:
                file.seek(self.begin)
                content = file.read(self.size)
        except OSError as error:
            raise UnreadableError(error.strerror or str(error)) from error
        if len(content) < self.size:
            raise DecodeError(f"{self.archive.name} is cut short within it")
        return content


def _frames(content: bytes) -> Pixels:
    try:
        frames: Pixels = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DecodeError(f"it is no array ({error})") from error
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise DecodeError(f"it holds {frames.dtype} {list(frames.shape)}, and not uint8 [T,H,W,3]")
    return frames


def _moves(member: Member) -> NDArray[Any]:
    """The array of an npy, or the list of a JSON file: by itself, or as ``actions`` of an object."""
    content = member.read()
    try:
        if member.name.lower().endswith(ARRAY):
            moves: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
            return moves
        said = json.loads(content)
        return np.array(said["actions"] if isinstance(said, dict) else said)
    except (ValueError, EOFError, OSError, KeyError) as error:
        raise DecodeError(f"its actions in {member.name} cannot be read ({error})") from error


def is_tar(place: Place) -> bool:
    """Whether a tar file lies here."""
    return bool(place.named(EXTENSIONS))


def read_tar(place: Place) -> Table:
    """Every tar file, at any depth: ``KEY.mp4`` (or another video, or ``KEY.npy`` of frames) with what is said of it.

    ``KEY.cls`` is its class, ``KEY.txt`` its caption, ``KEY.json`` an object with ``label``, ``caption``, ``split``, ``group``
    and ``actions``, which ``KEY.actions.npy`` or ``KEY.actions.json`` may hold instead: the move that leads to each frame. The
    split is otherwise said by the name of the tar (``train-000000.tar``) or of the folder around it.
    """
    names = place.named(EXTENSIONS)
    items: list[Item] = []
    skipped = list(place.unreadable)
    for name in names:
        path = place.folder / name
        try:
            members, whole = _index(path, place.index)
        except OSError as error:
            skipped.append((name, f"it cannot be read ({error.strerror or error})"))
            continue
        except tarfile.TarError as error:
            skipped.append((name, f"it is no tar file ({error})"))
            continue
        if not whole:
            skipped.append((name, "it is cut short: what comes before the cut is used"))
        split = split_named(name.split("/")[0]) if "/" in name else None
        items += _samples(path, name, members, split or split_named(Path(name).stem), place.classes, skipped)
    return Table(layout="tar", words=f"WebDataset of {counted(len(names), 'shard')}", items=items, skipped=skipped)


def _samples(
    path: Path, shard: str, members: list[Member], split: str | None, classes: bool, skipped: list[tuple[str, str]]
) -> Iterator[Item]:
    """The videos of a shard, each with what the members of its name say."""
    told: dict[str, dict[str, Member]] = {}
    for member in members:
        folder, slash, file = member.name.rpartition("/")
        key, _, extension = file.partition(".")
        told.setdefault(folder + slash + key, {})[f".{extension.lower()}"] = member
    for key, parts in told.items():
        for extension in parts:
            if extension not in decode.EXTENSIONS and extension != ARRAY:
                continue
            name = f"{shard}/{key}{extension}"
            try:
                said, moves = _said(parts)
            except (UnreadableError, DecodeError, ValueError) as error:
                skipped.append((name, f"what is said of it cannot be read ({error})"))
                continue
            yield Item(
                name=name,
                source=replace(parts[extension], moves=moves),
                split=SPLIT_WORDS.get(said.get("split", ""), split),
                label=said.get("label") if classes else None,
                caption=said.get("caption"),
                group=said.get("group"),
            )


def _said(parts: dict[str, Member]) -> tuple[dict[str, str], Member | None]:
    """What is said of a sample in words, and the member that holds its actions."""
    said: dict[str, Any] = {}
    moves = next((parts[ending] for ending in ACTIONS if ending in parts), None)
    if ".json" in parts:
        content = json.loads(parts[".json"].read())
        said = content if isinstance(content, dict) else {}
        if moves is None and said.pop("actions", None) is not None:
            moves = parts[".json"]
    if ".cls" in parts:
        said["label"] = parts[".cls"].read().decode().strip()
    if ".txt" in parts:
        said["caption"] = parts[".txt"].read().decode().strip()
    return {key: str(value) for key, value in said.items() if value not in (None, "")}, moves


def _index(path: Path, folder: Path) -> tuple[list[Member], bool]:
    """The members of a tar and whether it ends as it should; kept in ``folder``, for reading every header takes a while."""
    stamp = file_stamp(path)
    place = folder / f"tar-{hashlib.sha256(str(path).encode()).hexdigest()[:16]}.json"
    try:
        kept = json.loads(place.read_text(encoding="utf-8"))
        if kept["version"] == VERSION and kept["stamp"] == stamp:
            return [Member(path, *member) for member in kept["members"]], kept["whole"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # there is none, or of another version: it is made again
    members, whole = _scan(path)
    content = {"version": VERSION, "stamp": stamp, "whole": whole, "members": [[m.name, m.begin, m.size] for m in members]}
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(place) as partial:
        partial.write_text(json.dumps(content), encoding="utf-8")
    return members, whole


def _scan(path: Path) -> tuple[list[Member], bool]:
    members: list[Member] = []
    size = path.stat().st_size
    with tarfile.open(path, "r:") as archive:
        try:
            members.extend(Member(path, found.name, found.offset_data, found.size) for found in archive if found.isfile())
        except tarfile.ReadError:
            return members, False
    return members, all(member.begin + member.size <= size for member in members)


# Writing


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A tar file to be written."""

    path: Path
    items: Sequence[Item]


def plan_shards(items: Sequence[Item], folder: Path, shards: int) -> list[Shard]:
    """``shards`` files in all, at least one for each split, that share out the items in order."""
    by_split: dict[str, list[Item]] = {}
    for item in items:
        by_split.setdefault(item.split or "data", []).append(item)
    counts = dict.fromkeys(by_split, 1)
    for _ in range(len(counts), min(shards, len(items))):
        counts[max(counts, key=lambda split: len(by_split[split]) / counts[split])] += 1
    planned = []
    for split, own in by_split.items():
        count = counts[split]
        cuts = [len(own) * k // count for k in range(count + 1)]
        planned += [
            Shard(path=folder / f"{split}-{k:06d}.tar", items=own[begin:end])
            for k, (begin, end) in enumerate(zip(cuts[:-1], cuts[1:], strict=True))
        ]
    return planned


def write_shard(shard: Shard) -> list[tuple[str, str]]:
    """Write a shard: video files as they are, all else as raw frames, and actions; it appears whole or not at all.

    Returns:
        (name, reason) of the items that cannot be read and are left out.
    """
    skipped = []
    with replacing(shard.path) as partial, tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as archive:
        for number, item in enumerate(shard.items):
            try:
                extension, content = _content(item)
                actions = item.source.actions()
            except (UnreadableError, DecodeError) as error:
                skipped.append((item.name, str(error)))
                continue
            said = {"name": item.name, "label": item.label, "caption": item.caption, "split": item.split, "group": item.group}
            text = json.dumps({key: value for key, value in said.items() if value is not None}, ensure_ascii=False)
            moves = [] if actions is None else [(ACTIONS[0], _npy(actions))]
            for ending, part in ((extension, content), *moves, (".json", text.encode())):
                entry = tarfile.TarInfo(f"{number:08d}{ending}")
                entry.size = len(part)
                archive.addfile(entry, io.BytesIO(part))
    return skipped


def _content(item: Item) -> tuple[str, bytes]:
    source = item.source
    if isinstance(source, Member):
        return Path(source.name).suffix.lower(), source.read()
    if isinstance(source, VideoFile):
        decode.probe(source.path)
        try:
            return source.path.suffix.lower(), source.path.read_bytes()
        except OSError as error:
            raise UnreadableError(error.strerror or str(error)) from error
    frames = [frame for frame, _ in source.frames(None)]
    if len({frame.shape for frame in frames}) > 1:
        raise DecodeError("its frames differ in size, and raw frames of a shard cannot")
    return ARRAY, _npy(np.stack(frames))


def _npy(array: NDArray[Any]) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()
