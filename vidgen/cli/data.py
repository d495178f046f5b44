"""``vidgen data``: looks at data before anything is trained on it, and decodes it ahead of time."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from vidgen.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from vidgen.data.folder.table import Table

READING = {"layout": "auto", "fold": 1, "classes": "auto"}
"""Options of both, as ``data=folder`` has them."""
OPTIONS: dict[str, dict[str, Any]] = {
    "check": {**READING, "workers": 1, "out": "data-check.png"},
    "prepare": {
        **READING,
        **{"height": 64, "width": 64, "fps": None, "cache": "runs/cache/folder"},
        **{"workers": 1, "shards": 0, "out": None},
    },
}


def run(words: Sequence[str]) -> int:
    """Does what ``words`` (``check|prepare PATH [key=value ...]``) ask for; 1 where a check finds something broken.

    Raises:
        UserError: on an unknown word or option, or a path where nothing is.
    """
    command, *rest = words or [""]
    if command not in OPTIONS:
        raise UserError(f"vidgen data takes check or prepare, and not '{command}'.{did_you_mean(command, OPTIONS)} {HELP}")
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

    root, table, given = _read(path, options)
    found = Check(root=root, table=table, seen=look(table.items, options["workers"]), options=given)
    print(found.report())
    sheet = found.sheet()
    if sheet is not None:
        contact_sheet(options["out"], sheet)
        print(f"\nContact sheet:\n  {options['out']}")
    leaking = any(one.item.split != other.item.split for one, other in found.copies)
    return int(len(found.whole) < len(table.items) or leaking)


def prepare(path: str, options: Mapping[str, Any]) -> int:
    """Decodes all of ``path`` into the cache that ``data=folder`` reads, or writes it as tar shards."""
    root, table, given = _read(path, options)
    if options["shards"]:
        return _write_shards(root, table, options)
    from vidgen.data.folder.cache import FrameCache

    height, width, fps = options["height"], options["width"], options["fps"]
    if fps is not None and table.timeless:
        raise UserError(f"{root} ({table.words}) states no times that fps={fps:g} could convert: leave fps out.")
    cache = FrameCache(folder=Path(options["cache"]).resolve(), height=height, width=width, fps=fps and float(fps))
    stored, broken, _ = cache.add(root, table.items, options["workers"])
    for name, reason in sorted([*table.skipped, *broken.items()]):
        print(f"Left out {name}: {reason}.")
    frames = sum(video.frames for video in stored.values())
    print(f"{len(stored)} videos, {frames} frames, {frames * height * width * 3 / 1e6:.1f} MB are in {cache.folder}.")
    sizes = [f"data.{name}={options[name]}" for name in ("height", "width", "fps", "cache") if options[name] != _default(name)]
    from vidgen.data.folder.check import command

    print(f"To use it:\n  {command(root, [*given, *sizes])}")
    return 0


def _default(name: str) -> Any:
    return OPTIONS["prepare"][name]


def _read(path: str, options: Mapping[str, Any]) -> tuple[Path, Table, tuple[str, ...]]:
    """The place, its table, and those options of reading that were given, for the command to use them with."""
    from vidgen.data.folder.layout import read_table

    index = options.get("cache", _default("cache"))
    given = tuple(f"data.{name}={options[name]}" for name, default in READING.items() if options[name] != default)
    classes = options["classes"] != "none"
    root, table = read_table(path, layout=options["layout"], fold=options["fold"], classes=classes, index=Path(index).resolve())
    return root, table, given


def _write_shards(root: Path, table: Table, options: Mapping[str, Any]) -> int:
    from vidgen.data.folder.cache import replacing
    from vidgen.data.folder.check import command
    from vidgen.data.folder.shards import plan_shards, write_shard

    if options["out"] is None:
        raise UserError("Shards need a folder of their own: give out=FOLDER.")
    folder = Path(options["out"]).resolve()
    planned = plan_shards(table.items, folder, options["shards"])
    said = [[shard.path.name, [[item.name, item.source.stamp()] for item in shard.items]] for shard in planned]
    digest = hashlib.sha256(json.dumps(said).encode()).hexdigest()
    note = folder / "shards.json"
    earlier = json.loads(note.read_text(encoding="utf-8"))["digest"] if note.exists() else None
    if earlier != digest and folder.exists() and any(folder.iterdir()):
        raise UserError(f"out={options['out']} holds something else than these shards, begun or done: give another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(note) as partial:
        partial.write_text(json.dumps({"digest": digest, "shards": len(planned)}), encoding="utf-8")
    missing = [shard for shard in planned if not shard.path.exists()]
    for shard, skipped in zip(missing, _each(write_shard, missing, options["workers"]), strict=True):
        for name, reason in skipped:
            print(f"Left out {name}: {reason}.")
        print(f"{shard.path.name}: {len(shard.items) - len(skipped)} videos.", flush=True)
    print(f"{len(planned)} shards are in {folder}, {len(planned) - len(missing)} of them from before.")
    print(f"To use them:\n  {command(folder, [])}")
    return 0


def _each(work: Callable[[Any], Any], things: Sequence[Any], workers: int) -> Any:
    """``work`` of each, in order, by ``workers`` processes."""
    if workers == 1:
        yield from map(work, things)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(work, things)


# Words


def _is_option(command: str, word: str) -> bool:
    """Whether a word is an option rather than a path with an equals sign in it."""
    key, equals, _ = word.partition("=")
    return bool(equals) and (key in OPTIONS[command] or (key.isidentifier() and not os.path.lexists(word)))


def _options(command: str, words: Sequence[str]) -> dict[str, Any]:
    options = dict(OPTIONS[command])
    for word in words:
        key, _, value = word.partition("=")
        if key not in options:
            raise UserError(
                f"vidgen data {command} has no option '{key}'.{did_you_mean(key, options)} It has {', '.join(options)}. {HELP}"
            )
        options[key] = value if key in ("out", "cache", "layout", "classes") else yaml.safe_load(value)
    for key, least in {"workers": 1, "shards": 0, "height": 1, "width": 1}.items():
        value = options.get(key, least)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UserError(f"{key}={value} is out of range: give a whole number from {least} on.")
    fps = options.get("fps")
    if fps is not None and (isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < float("inf")):
        raise UserError(f"fps={fps} is no frame rate: give frames a second, such as 10.")
    if options["classes"] not in ("auto", "none"):
        raise UserError(f"classes={options['classes']} is neither of auto and none.")
    return options
