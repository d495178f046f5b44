"""Videos in arrays: npy and npz of many or of one (TECO's episodes with actions), and HDF5 as VideoGPT writes it."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vidgen.data.decode import DecodeError
from vidgen.data.folder.table import Item, Pixels, Table, UnreadableError, counted, file_stamp, split_named, whole_moves
from vidgen.data.folder.videos import class_folders, given_splits
from vidgen.errors import UserError, first_line
from vidgen.protocols import SPLITS

if TYPE_CHECKING:
    from vidgen.data.folder.layout import Place

NUMPY, HDF5 = frozenset({".npy", ".npz"}), frozenset({".h5", ".hdf5"})
EXTENSIONS = NUMPY | HDF5
KEYS = ("video", "videos", "frames", "arr_0")
"""Under which an npz holds its video or videos; the first that is there."""
WANTED = "uint8 of the shape [N,T,H,W,C] or [T,H,W,C], with 1, 3 or 4 channels last"


@dataclass(frozen=True)
class Frames:
    """An array of frames or a part of one in HDF5, or video ``row`` of an array of videos.

    Attributes:
        path: the file.
        key: the array's name in it; empty for npy.
        row: which of the videos; None where the array is one, or, in HDF5, frames of many end to end.
        begin: in HDF5 the first frame.
        end: in HDF5 the frame after the last.
        moves: the name of the actions' array in the same file; empty for none.
    """

    path: Path
    key: str = ""
    row: int | None = None
    begin: int = 0
    end: int | None = None
    moves: str = ""
    encoded: ClassVar[bool] = False

    def stamp(self) -> Any:
        found = file_stamp(self.path)
        return None if found is None else [*found, self.key, self.row, self.begin, self.end, self.moves]

    def sha256(self) -> str:
        pixels = self._pixels()
        moves = self.actions()
        said = f"array {pixels.dtype} {pixels.shape} {'' if moves is None else moves.tolist()}"
        digest = hashlib.sha256(said.encode())
        for frame in pixels:
            digest.update(np.ascontiguousarray(frame).tobytes())
        return digest.hexdigest()

    def frames(self, fps: float | None, room: tuple[int, int] | None = None) -> Iterator[tuple[Pixels, float]]:
        for frame in self._pixels():
            yield _rgb(frame), 1.0

    def video(self) -> Path:
        raise DecodeError("it is no video file")

    def rate(self) -> None:
        return None

    def actions(self) -> NDArray[np.int64] | None:
        if not self.moves:
            return None
        moves = _array(self.path, self.moves)
        return whole_moves(moves if self.row is None else moves[self.row])

    def _pixels(self) -> Any:
        if self.path.suffix.lower() in HDF5:
            pixels = _hdf5_rows(self.path, self.key, self.begin, self.end)
        else:
            array = _array(self.path, self.key)
            pixels = array if self.row is None else array[self.row]
        if len(pixels) == 0:
            raise DecodeError("it holds no frame")
        return pixels


def _rgb(frame: NDArray[np.uint8]) -> Pixels:
    """Grey and RGB with alpha (which is dropped, as that of videos is) to RGB."""
    return np.ascontiguousarray(np.repeat(frame, 3, axis=-1) if frame.shape[-1] == 1 else frame[..., :3])


def _hdf5_rows(path: Path, key: str, begin: int, end: int | None) -> Any:
    """Some rows of an array; the file is closed again, for it is locked while it is open."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return file[key][begin:end]
    except PermissionError as error:
        raise UnreadableError(error.strerror or str(error)) from error
    except (OSError, KeyError) as error:
        raise DecodeError(f"it is damaged ({first_line(error)})") from error


@lru_cache(maxsize=2)
def _opened(path: Path, key: str, stamp: tuple[int, ...]) -> Any:
    """An array that is mapped (npy) or decompressed (npz); the last two are kept, for they may hold many videos."""
    opened = np.load(path, mmap_mode="r", allow_pickle=False)
    return opened[key] if key else opened


def _array(path: Path, key: str) -> Any:
    try:
        return _opened(path, key, tuple(file_stamp(path) or ()))
    except PermissionError as error:
        raise UnreadableError(error.strerror or str(error)) from error
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DecodeError(f"it is damaged ({first_line(error)})") from error


# npy and npz


def is_arrays(place: Place) -> bool:
    """Whether an npy or npz file lies here."""
    return bool(place.named(NUMPY))


def read_arrays(place: Place) -> Table:
    """Every npy and npz file, at any depth: an array of videos, or one video a file; TECO's npz hold its ``actions`` too.

    The split is the first folder's name or said by the file's (``train.npy``); class folders are those of video files, but
    not where there are actions, whose folders are only shards.
    """
    names = place.named(NUMPY)
    items: list[Item] = []
    skipped = list(place.unreadable)
    told = given_splits(names) or {name: split for name in names if (split := split_named(Path(name).stem))}
    shapes = {}
    for name in names:
        try:
            shapes[name] = _shapes(place.folder / name)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            skipped.append((name, f"it cannot be opened ({first_line(error)})"))
    acting = any("actions" in found for found in shapes.values())
    labels = class_folders(names, inside=bool(given_splits(names))) if place.classes and not acting else {}
    for name, found in shapes.items():
        key = "" if "" in found else next((key for key in KEYS if key in found), None)
        if key is None:
            skipped.append((name, f"it holds {', '.join(found) or 'nothing'}, and none of {', '.join(KEYS)}"))
            continue
        shape, dtype = found[key]
        if dtype != np.uint8 or len(shape) not in (4, 5) or shape[-1] not in (1, 3, 4):
            skipped.append((name, f"it holds {dtype} {list(shape)}, and not {WANTED}"))
            continue
        moves = "actions" if "actions" in found else ""
        rows: list[int | None] = [None] if len(shape) == 4 else [*range(shape[0])]
        items += [
            Item(
                name=name if row is None else f"{name}[{row}]",
                source=Frames(place.folder / name, key, row, moves=moves),
                split=told.get(name),
                label=labels.get(name),
            )
            for row in rows
        ]
    words = f"arrays of {counted(len(names), 'file')}{' with actions' if acting else ''}"
    return Table(layout="arrays", words=words, items=items, skipped=skipped, timeless=True)


def _shapes(path: Path) -> Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """The shape and type of every array of a file, from their headers alone; npy's has the name ''."""
    if path.suffix.lower() == ".npy":
        with path.open("rb") as file:
            return {"": _header(file)}
    with zipfile.ZipFile(path) as archive:
        found = {}
        for member in archive.namelist():
            with archive.open(member) as file:
                found[member.removesuffix(".npy")] = _header(file)
        return found


def _header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype


# HDF5


def is_hdf5(place: Place) -> bool:
    """Whether an HDF5 file lies here."""
    return bool(place.named(HDF5))


def read_hdf5(place: Place) -> Table:
    """HDF5 as VideoGPT has it: ``train_data`` uint8 [frames,H,W,C], ``train_idx`` where each video begins; ``test_`` likewise.

    Raises:
        UserError: when h5py is not installed, or a file has other keys.
    """
    if find_spec("h5py") is None:
        raise UserError('Data in HDF5 needs a package that is not installed: pip install "vidgen[hdf5]".')
    import h5py

    names = place.named(HDF5)
    items: list[Item] = []
    skipped = list(place.unreadable)
    for name in names:
        path = place.folder / name
        try:
            with h5py.File(path, "r") as file:
                items += _hdf5_items(path, name, file)
        except OSError as error:
            skipped.append((name, f"it cannot be opened ({first_line(error)})"))
    words = f"HDF5 of {counted(len(names), 'file')}"
    return Table(layout="hdf5", words=words, items=items, skipped=skipped, timeless=True)


def _hdf5_items(path: Path, name: str, file: Any) -> Iterator[Item]:
    splits = [split for split in SPLITS if f"{split}_data" in file]
    if not splits:
        raise UserError(
            f"{path} holds {', '.join(file) or 'nothing'}, and neither train_data nor test_data: write the frames of all videos "
            "end to end as train_data [frames,H,W,C], uint8, and where each begins as train_idx."
        )
    for split in splits:
        data, starts = file[f"{split}_data"], f"{split}_idx"
        if starts not in file:
            raise UserError(f"{path} holds {split}_data and no {starts}, the number of the frame at which each video begins.")
        if _held(data) is None or data.dtype != np.uint8 or data.ndim != 4 or data.shape[-1] not in (1, 3, 4):
            raise UserError(f"{path} holds {split}_data of {_held(data) or 'a group'}, and not uint8 [frames,H,W,C].")
        if _held(file[starts]) is None or file[starts].dtype.kind not in "iu" or file[starts].ndim != 1:
            raise UserError(
                f"{path} holds {starts} of {_held(file[starts]) or 'a group'}, and not whole numbers [videos]: the number of the "
                "frame at which each video begins."
            )
        begins = [int(place) for place in file[starts][:]]
        ends = [*begins[1:], len(data)]
        if any(not 0 <= begin <= end <= len(data) for begin, end in zip(begins, ends, strict=True)):
            raise UserError(f"{path} holds {starts} that do not go up from 0 to the {len(data)} frames of {split}_data.")
        for number, (begin, end) in enumerate(zip(begins, ends, strict=True)):
            if begin < end:  # some writers end the list with the number of frames, where no video begins
                yield Item(
                    name=f"{name}/{split}[{number}]",
                    source=Frames(path, f"{split}_data", begin=begin, end=end),
                    split=split,
                )


def _held(found: Any) -> str | None:
    """The type and the shape of an array of an HDF5 file; None for a group of arrays."""
    return f"{found.dtype} {list(found.shape)}" if hasattr(found, "shape") else None
