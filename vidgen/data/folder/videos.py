"""Video files in folders: flat, in class folders, in train, val and test folders, and Kinetics and UCF-101 without its lists."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vidgen.data.decode import EXTENSIONS
from vidgen.data.folder.table import SPLIT_WORDS, Item, Table, VideoFile, counted
from vidgen.errors import UserError

if TYPE_CHECKING:
    from vidgen.data.folder.layout import Place

UCF = re.compile(r"v_(?P<action>\w+)_g(?P<group>\d+)_c(?P<clip>\d+)\.\w+")
KINETICS = re.compile(r"(?P<video>[\w-]{11})_\d{6}_\d{6}\.\w+")


def is_videos(place: Place) -> bool:
    """Whether a video lies here, at any depth."""
    return bool(place.named(EXTENSIONS))


def read_videos(place: Place) -> Table:
    """Every video file, at any depth, with the class and the split that its folders stand for.

    Raises:
        UserError: when there is none, or one lies beside the class folders.
    """
    names = place.named(EXTENSIONS)
    splits = given_splits(names)
    labels = class_folders(names, inside=bool(splits)) if place.classes else {}
    groups = ucf_groups(names)
    kinetics = all(KINETICS.fullmatch(name.rsplit("/", 1)[-1]) for name in names)
    words = "Kinetics" if kinetics else "UCF-101 without its lists of splits" if groups else "videos"
    words += f" in {counted(len(set(labels.values())), 'class folder')}" if labels else ""
    words += f" in {', '.join(split for split in ('train', 'val', 'test') if split in splits.values())}" if splits else ""
    return Table(
        layout="videos",
        words=words,
        items=[
            Item(
                name=name,
                source=VideoFile(place.folder / name),
                split=splits.get(name),
                label=labels.get(name),
                group=groups.get(name),
            )
            for name in names
        ],
        skipped=place.unreadable,
        named=True,
    )


def given_splits(names: Sequence[str]) -> dict[str, str]:
    """The split of every file where all top folders are named for splits, ``train`` among them; else nothing."""
    tops = {name: SPLIT_WORDS.get(name.split("/")[0].lower()) if "/" in name else None for name in names}
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


def ucf_groups(names: Sequence[str]) -> dict[str, str]:
    """``action/gXX`` of every file where all are called as UCF-101 calls them; clips of a group show one scene. Else nothing."""
    matches = {name: UCF.fullmatch(name.rsplit("/", 1)[-1]) for name in names}
    found = {name: f"{match['action'].lower()}/g{match['group']}" for name, match in matches.items() if match}
    return found if len(found) == len(names) else {}
