"""What lies at a path, looked at whole: sizes, rates, lengths, what is broken, what is there twice, and how to use it."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from statistics import median_high

import numpy as np

from vidgen.data.decode import DecodeError
from vidgen.data.folder.cache import Progress, fit
from vidgen.data.folder.each import each
from vidgen.data.folder.table import Item, Pixels, Table, UnreadableError, check_lengths, counted
from vidgen.protocols import SPLITS

LENGTHS = (17, 13, 9, 5, 1)
"""Frames that a clip may have for tokenizers of any stride of 4 along time, the longest that suits most videos first."""
SHOWN, ROWS, SIDE, FAR = 8, 16, 64, 150  # of the contact sheet: frames, videos, pixels, and how far into a video it looks


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What decoding a video from end to end tells of it; ``reason`` is why it cannot be, else empty."""

    item: Item
    reason: str = ""
    sha256: str = ""
    frames: int = 0
    sizes: tuple[tuple[int, int], ...] = ()
    rate: float | None = None


@dataclass(frozen=True, kw_only=True)
class Check:
    """All that was found at a path.

    Attributes:
        root: the path, absolute.
        table: what was read there.
        seen: every video of the table.
        options: what was given beside the path, as ``data.key=value``.
    """

    root: Path
    table: Table
    seen: Sequence[Seen]
    options: tuple[str, ...] = ()

    @cached_property
    def whole(self) -> list[Seen]:
        """The videos that decode from end to end."""
        return [one for one in self.seen if not one.reason]

    @cached_property
    def copies(self) -> list[tuple[Seen, Seen]]:
        """Every video that is there once more, after the one it is a copy of."""
        first: dict[str, Seen] = {}
        return [(first[one.sha256], one) for one in self.whole if first.setdefault(one.sha256, one) is not one]

    def report(self) -> str:
        """The findings, for people."""
        sections = [f"{self.root} is read as {self.table.words} (data.layout={self.table.layout}).", "\n".join(self._facts())]
        broken = [f"  {one.item.name}: {one.reason}" for one in self.seen if one.reason]
        left = [f"  {name}: {reason}" for name, reason in self.table.skipped]
        twice = [f"  {one.item.name} is a copy of {other.item.name}{_parted(other.item, one.item)}" for other, one in self.copies]
        for title, lines in (("Broken", broken), ("Left out", left), ("There twice", twice)):
            if lines:
                sections.append("\n".join([f"{title}:", *lines]))
        return "\n\n".join([*sections, f"To use it:\n  {self.command()}"])

    def _facts(self) -> Iterator[str]:
        whole, items = self.whole, self.table.items
        yield f"Videos    {len(items)}, {len(items) - len(whole)} of them broken"
        if whole:
            yield f"Sizes     {_counts(f'{w}x{h}' for one in whole for w, h in one.sizes)}"
            yield f"Rates     {_counts('none stated' if one.rate is None else f'{one.rate:.6g} a second' for one in whole)}"
            lengths = sorted(one.frames for one in whole)
            yield f"Lengths   {lengths[0]} to {lengths[-1]} frames, half of them {median_high(lengths)} or more"
        splits = Counter(item.split for item in items)
        named = ", ".join(f"{split} {splits[split]}" for split in SPLITS if splits[split])
        yield f"Splits    {named}" if named else "Splits    none of its own: data.split cuts them by chance"
        classes = Counter(item.label for item in items if item.label is not None)
        yield (
            f"Classes   {len(classes)}: {_counts(item.label for item in items if item.label is not None)}"
            if classes
            else ("Classes   none")
        )
        groups, captions = {item.group for item in items if item.group}, sum(item.caption is not None for item in items)
        if groups:
            yield f"Groups    {len(groups)}, which no split parts"
        if captions:
            yield f"Captions  of {counted(captions, 'video')}"

    def command(self) -> str:
        """A command that trains on it, ready for the shell."""
        frames = self._frames()
        words = [f"data.frames={frames}"] if frames != LENGTHS[0] else []
        words += ["data.split_by=time"] if self._in_time(frames) else []
        return command(self.root, [*self.options, *words])

    def _frames(self) -> int:
        lengths = [one.frames for one in self.whole] or [LENGTHS[0]]
        return next(frames for frames in LENGTHS if sum(length >= frames for length in lengths) * 2 >= len(lengths))

    def _in_time(self, frames: int) -> bool:
        """Whether there are too few videos for three splits, but long ones."""
        usable = [one for one in self.whole if one.frames >= frames]
        alone = {one.item.group or one.sha256 for one in usable}
        return len(alone) < 3 and not any(one.item.split for one in usable) and any(one.frames >= 3 * frames for one in usable)

    def sheet(self) -> Pixels | None:
        """Some frames of some videos, evenly spread: uint8 (N, T, H, W, 3); None where no video is whole."""
        chosen = [self.whole[k * len(self.whole) // ROWS] for k in range(ROWS)] if len(self.whole) > ROWS else self.whole
        return np.stack([_row(one) for one in chosen]) if chosen else None


def command(root: Path, options: Sequence[str]) -> str:
    """A command that trains on the videos of ``root``, ready for the shell; ``options`` are ``data.key=value``."""
    return " ".join(["vidgen fit", *map(shlex.quote, ["data=folder", f"data.path={quoted(str(root))}", *options])])


def look(items: Sequence[Item], workers: int = 1) -> list[Seen]:
    """Decodes every video from end to end, by ``workers`` processes (1: by this one)."""
    with Progress(len(items)) as progress:
        return [_told(one, progress) for one in each(examine, items, workers)]


def examine(item: Item) -> Seen:
    """What decoding one video tells."""
    frames, sizes, rate = 0, dict[tuple[int, int], None](), None
    try:
        sha256 = item.source.sha256()
        actions = item.source.actions()
        for frame, _ in item.source.frames(None):
            frames += 1
            sizes[frame.shape[1], frame.shape[0]] = None
        check_lengths(actions, frames)
        rate = item.source.rate()
    except UnreadableError as error:
        return Seen(item=item, reason=f"it cannot be read ({error})")
    except DecodeError as error:
        return Seen(item=item, reason=str(error))
    return Seen(item=item, sha256=sha256, frames=frames, sizes=tuple(sizes), rate=rate)


def _told(seen: Seen, progress: Progress) -> Seen:
    progress.start(seen.item.name)
    progress.tick(seen.frames)
    return seen


def _row(seen: Seen) -> Pixels:
    wanted = set(np.linspace(0, min(seen.frames, FAR) - 1, SHOWN).astype(int).tolist())
    timed = enumerate(islice(seen.item.source.frames(None), max(wanted) + 1))
    found = [fit(frame, SIDE, SIDE, aspect) for number, (frame, aspect) in timed if number in wanted]
    return np.stack(found + [np.zeros_like(found[0])] * (SHOWN - len(found)))


def _parted(one: Item, other: Item) -> str:
    return f", across splits ({one.split} and {other.split})" if one.split != other.split else ""


def _counts(values: Iterator[str | None], most: int = 8) -> str:
    found = Counter(values).most_common()
    listed = ", ".join(f"{value} ({count})" for value, count in found[:most])
    return f"{listed} and {len(found) - most} more" if len(found) > most else listed


def quoted(value: str) -> str:
    """A value as Hydra reads it: in quotes of its own where it holds more than letters, digits and the marks of paths."""
    if re.fullmatch(r"[A-Za-z0-9_./+-]+", value):
        return value
    # Backslashes before a quote, the closing one too, are read in pairs, and all others as they are.
    return "'" + re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), value) + "'"
