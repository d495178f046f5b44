"""``vidgen data``: looks at data before anything is trained on it, and decodes it ahead of time."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from vidgen.config import load
from vidgen.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from vidgen.data.folder.table import Table

READING = ("layout", "fold", "classes")
"""Options of ``data=folder`` that a check takes; preparing takes all of them, with ``data.`` before them or not."""
OWN: dict[str, dict[str, Any]] = {
    "check": {"workers": 1, "out": "data-check.png"},
    "prepare": {"workers": 1, "shards": 0, "out": None},
}
"""Those that ``data=folder`` has not."""
LEAST = {"workers": 1, "shards": 0, "height": 1, "width": 1, "frames": 1, "stride": 1}


def run(words: Sequence[str]) -> int:
    """Does what ``words`` (``check|prepare PATH [key=value ...]``) ask for; 1 where a check finds something broken.

    Raises:
        UserError: on an unknown word or option, or a path where nothing is.
    """
    command, *rest = words or [""]
    if command not in OWN:
        raise UserError(f"vidgen data takes check or prepare, and not '{command}'.{did_you_mean(command, OWN)} {HELP}")
    paths = [word for word in rest if not _is_option(command, word)]
    if len(paths) != 1:
        raise UserError(
            f"vidgen data {command} takes one PATH, not {len(paths)}{': ' if paths else ''}{', '.join(paths)}. {HELP}"
        )
    options = _options(command, [word for word in rest if word not in paths])
    return check(paths[0], options) if command == "check" else prepare(paths[0], options)


HELP = "See: vidgen data --help"


def check(path: str, options: Mapping[str, Any]) -> int:
    """Prints what lies at ``path`` and writes a contact sheet; 1 where something is broken or in two splits."""
    from vidgen.data.folder.check import Check, look
    from vidgen.viz import contact_sheet

    root, table = _read(path, options)
    found = Check(root=root, table=table, seen=look(table.items, options["workers"]), options=_given(options))
    print(found.report())
    sheet = found.sheet()
    if sheet is not None:
        contact_sheet(options["out"], sheet)
        print(f"\nContact sheet:\n  {options['out']}")
    leaking = any(one.item.split != other.item.split for one, other in found.copies)
    return int(len(found.whole) < len(table.items) or leaking)


def prepare(path: str, options: Mapping[str, Any]) -> int:
    """Sees that all that ``data=folder`` reads of ``path`` with these options is at hand, or writes it as tar shards."""
    root, table = _read(path, options)
    if options["shards"]:
        return _write_shards(root, table, options)
    from vidgen.data.buckets import named
    from vidgen.data.folder import check_choices, check_options, check_tokens
    from vidgen.data.folder.check import command
    from vidgen.data.folder.sized import frames_needed, read_frames
    from vidgen.data.folder.table import counted

    fps, stride, split_by = options["fps"], options["stride"], options["split_by"]
    sizes = {side: options[side] for side in ("frames", "height", "width")}
    check_options(**sizes, fps=fps, stride=stride, split=options["split"])
    check_choices(split_by=split_by, decode=options["decode"])
    check_tokens(options["tokens"], options["buckets"])
    found = read_frames(
        root,
        table,
        shape=(sizes["frames"], sizes["height"], sizes["width"]),
        buckets=options["buckets"],
        needed=partial(frames_needed, stride=stride, split_by=split_by),
        fps=None if fps is None else float(fps),
        decode=options["decode"],
        cache=Path(options["cache"]).resolve(),
        workers=options["workers"],
    )
    short = {
        name: f"its {counted(video.frames, 'frame')} are too few for any bucket"
        for name, video in found.stored.items()
        if name not in found.bucket
    }
    for name, reason in sorted([*table.skipped, *found.broken.items(), *short.items()]):
        print(f"Left out {name}: {reason}.")
    for place, (shape, own) in enumerate(zip(found.shapes, found.caches, strict=True)):
        videos = [video.frames for name, video in found.stored.items() if found.bucket.get(name) == place]
        size = f"{named(shape)}: " if options["buckets"] is not None else ""
        kept = f"{counted(len(videos), 'video')}, {sum(videos)} frames, {sum(videos) * own.bytes_a_frame / 1e6:.1f} MB"
        print(f"{size}{kept} are {own.kept} {own.folder}.")
    print(f"To use it:\n  {command(root, _given(options))}")
    return 0


@cache
def _recipe() -> dict[str, Any]:
    """The options of ``data=folder`` with their defaults, but for the path."""
    return {name: value for name, value in load("data", "folder").items() if name not in ("name", "path")}


def _known(command: str) -> dict[str, Any]:
    """The options of a command with their defaults."""
    recipe = _recipe()
    return {**(recipe if command == "prepare" else {name: recipe[name] for name in READING}), **OWN[command]}


def _given(options: Mapping[str, Any]) -> tuple[str, ...]:
    """The options of ``data=folder`` that are not as they are by default, as one types them for ``vidgen fit``."""
    changed = {name: options[name] for name, default in _recipe().items() if options.get(name, default) != default}
    return tuple(f"data.{name}={_word(value)}" for name, value in changed.items())


def _word(value: Any) -> str:
    from vidgen.data.folder.check import quoted

    if isinstance(value, list):
        return f"[{','.join(map(_word, value))}]"
    return quoted(value) if isinstance(value, str) else json.dumps(value)


def _read(path: str, options: Mapping[str, Any]) -> tuple[Path, Table]:
    """The place and its table."""
    from vidgen.data.folder.layout import read_table

    index = Path(options.get("cache", _recipe()["cache"])).resolve()
    return read_table(path, layout=options["layout"], fold=options["fold"], classes=options["classes"] != "none", index=index)


def _write_shards(root: Path, table: Table, options: Mapping[str, Any]) -> int:
    from vidgen.data.folder.check import command
    from vidgen.data.folder.each import each
    from vidgen.data.folder.shards import plan_shards, write_shard
    from vidgen.files import replacing

    if options["out"] is None:
        raise UserError("Shards need a folder of their own: give out=FOLDER.")
    folder = Path(options["out"]).resolve()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"out={options['out']} is a file, and shards need a folder of their own: give another out=FOLDER.")
    planned = plan_shards(table.items, folder, options["shards"])
    said = [[shard.path.name, [[item.name, item.source.stamp()] for item in shard.items]] for shard in planned]
    digest = hashlib.sha256(json.dumps(said).encode()).hexdigest()
    note = folder / "shards.json"
    earlier = _noted(note)
    if earlier != digest and folder.exists() and any(folder.iterdir()):
        raise UserError(f"out={options['out']} holds something else than these shards, begun or done: give another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(note) as partial:
        partial.write_text(json.dumps({"digest": digest, "shards": len(planned)}), encoding="utf-8")
    missing = [shard for shard in planned if not shard.path.exists()]
    left_out = 0
    for shard, skipped in zip(missing, each(write_shard, missing, options["workers"]), strict=True):
        for name, reason in skipped:
            print(f"Left out {name}: {reason}.")
        left_out += len(skipped)
        print(f"{shard.path.name}: {len(shard.items) - len(skipped)} videos.", flush=True)
    if left_out == len(table.items):
        raise UserError(f"None of the {left_out} videos of {root} can be written, as said above: {folder} holds empty shards.")
    print(f"{len(planned)} shards are in {folder}, {len(planned) - len(missing)} of them from before.")
    print(f"To use them:\n  {command(folder, [])}")
    return 0


def _noted(note: Path) -> str | None:
    """What an earlier preparation says it wrote; None where there was none, or it cannot be told any more."""
    try:
        return str(json.loads(note.read_text(encoding="utf-8"))["digest"])
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


# Words


def _is_option(command: str, word: str) -> bool:
    """Whether a word is an option rather than a path with an equals sign in it."""
    key, equals, _ = word.partition("=")
    key = key.removeprefix("data.")
    return bool(equals) and (key in _known(command) or (key.isidentifier() and not os.path.lexists(word)))


def _options(command: str, words: Sequence[str]) -> dict[str, Any]:
    options = _known(command)
    for word in words:
        key, _, value = word.removeprefix("data.").partition("=")
        if key not in options:
            raise UserError(
                f"vidgen data {command} has no option '{key}'.{did_you_mean(key, options)} It has {', '.join(options)}. {HELP}"
            )
        options[key] = value if key in ("out", "cache", "layout", "classes") else yaml.safe_load(value)
    for key, least in LEAST.items():
        value = options.get(key, least)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UserError(f"{key}={value} is out of range: give a whole number from {least} on.")
    fps = options.get("fps")
    if fps is not None and (isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < float("inf")):
        raise UserError(f"fps={fps} is no frame rate: give frames a second, such as 10.")
    if options["classes"] not in ("auto", "none"):
        raise UserError(f"classes={options['classes']} is neither of auto and none.")
    return options
