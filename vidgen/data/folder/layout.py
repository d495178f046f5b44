"""What lies in a folder: its videos, the classes and the splits that its sub-folders stand for."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from vidgen.data.decode import EXTENSIONS
from vidgen.errors import UserError, nearest

SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def existing_folder(path: str | None) -> Path:
    """The folder called ``path``, absolute.

    Raises:
        UserError: when no path is given or no folder is there, naming the nearest that is.
    """
    if not path:
        raise UserError("data=folder does not know which folder: give data.path=FOLDER, a folder of videos.")
    root = Path(path).expanduser()
    if root.is_dir():
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


def video_names(root: Path) -> list[str]:
    """Every video below ``root``, by its name relative to it with forward slashes, sorted.

    Links are followed; hidden files and folders are left alone.

    Raises:
        UserError: when there is none, saying what is there instead.
    """
    found: list[str] = []
    others: Counter[str] = Counter()
    visited: set[str] = set()
    for place, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [] if real in visited else [name for name in folders if not name.startswith(".")]
        files = [] if real in visited else [name for name in files if not name.startswith(".")]
        visited.add(real)
        for file in (Path(place, name) for name in files):
            if file.suffix.lower() in EXTENSIONS:
                found.append(file.relative_to(root).as_posix())
            else:
                others[file.suffix.lower() or file.name] += 1
    if not found:
        holds = ", ".join(f"{count} {kind}" for kind, count in others.most_common(3))
        raise UserError(
            f"No video lies in {root} or below ({f'it holds {holds}' if holds else 'it is empty'}): give data.path=FOLDER, "
            f"a folder of {', '.join(sorted(EXTENSIONS))} files."
        )
    return sorted(found)


def given_splits(names: Sequence[str]) -> dict[str, str]:
    """The split of every file where all top folders are named for splits, ``train`` among them; else nothing."""
    tops = {name: SPLIT_FOLDERS.get(name.split("/")[0].lower()) if "/" in name else None for name in names}
    splits = {name: split for name, split in tops.items() if split}
    return splits if len(splits) == len(names) and "train" in splits.values() else {}


def class_folders(names: Sequence[str], *, inside: bool) -> dict[str, str]:
    """The class of every file: its first folder, or its second ``inside`` split folders; nothing below two classes.

    Raises:
        UserError: when a file lies beside the class folders.
    """
    parents = {name: name.split("/")[int(inside) : -1] for name in names}
    classes = {name: folders[0] for name, folders in parents.items() if folders}
    known = sorted(set(classes.values()))
    if len(known) < 2:
        return {}
    for name, folders in parents.items():
        if not folders:
            raise UserError(
                f"{name} lies beside the class folders {', '.join(known[:3])} and has no class: move it into one, or say "
                "data.classes=none to use all videos without labels."
            )
    return classes
