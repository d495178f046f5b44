"""``folder``: videos as people have them, in any of the layouts that ``layout.py`` reads, of any size and frame rate.

The first use decodes every video (``vidgen/data/decode.py`` says what is put right), makes its frames small and keeps them, or
notes where they are (``cache.py``); later uses only look whether one has changed. A video that does not decode from end to
end, is too short for a clip, or is a copy of another is left out and never replaced: it is named with the reason, in print
and in ``skipped``.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from vidgen.data.buckets import AUTO, named
from vidgen.data.folder.augment import Augment
from vidgen.data.folder.cache import VERSION, FrameCache, Stored
from vidgen.data.folder.layout import read_table
from vidgen.data.folder.sized import clip_length, frames_needed, read_frames
from vidgen.data.folder.table import Item, Table
from vidgen.errors import UserError, did_you_mean
from vidgen.latents import Shape
from vidgen.protocols import SPLITS


@dataclass(frozen=True, kw_only=True)
class Video:
    """A usable video.

    Attributes:
        name: of its item; a file's is relative to the folder.
        stored: its decoded frames.
        label: its class, -1 for none.
        given: the split that the layout puts it in; None for none.
        group: of videos that no split may part, itself where there are no others.
        caption: what is said of it, empty for nothing.
        bucket: the place of the bucket that it is for; 0 where all clips have one size.
    """

    name: str
    stored: Stored
    label: int
    given: str | None
    group: str
    caption: str
    bucket: int


@dataclass(frozen=True, kw_only=True)
class Span:
    """Frames ``begin`` to ``end`` (exclusive) of a video, all in one split."""

    video: Video
    begin: int
    end: int


class Folder:
    """Clips of the videos of a folder, or of one file that holds many.

    **Layouts.** Class folders, train and test folders, UCF-101 with its lists, Kinetics, csv, JSONL with captions, folders of
    numbered pictures, HDF5, npy and npz, and tar shards: found out by what is there, or said by ``layout``.

    **Classes.** With ``classes="auto"`` the first sub-folder on the way to a video is its class, provided that all videos lie
    in sub-folders and there are at least two; a flat folder has no labels.

    **Splits.** By file, so that no test clip shares a scene with a training clip: class by class, in an order drawn from
    (seed, name), in the proportions ``split``, with at least one file in each. What the layout says (sub-folders called
    ``train``, ``val`` and ``test``, lists of splits) is obeyed instead; those missing are cut from ``train``. Videos of one
    group (UCF-101's gXX, the pieces of one recording) are never parted. ``split_by="time"`` is for one or a few long videos:
    each is cut into three spans, train first. Spans of one file share a scene, so held-out figures flatter then.

    **Augmentation.** Training clips are mirrored, seen more closely and in other light by chance, drawn from (seed, name, number
    of the clip, epoch), so that a tokenizer learns more than the few scenes of a small folder. `plain` leaves that out.

    **Clips.** A video of n frames gives floor(n / length) clips an epoch. In ``train`` they start at random within equal parts
    of the video, drawn from (seed, name, number of the clip, epoch); in ``val`` and ``test`` evenly spaced, always the same.

    **Sizes.** Every clip is ``frames`` x ``height`` x ``width``, or with ``buckets`` has the size that suits its video: nearest
    in aspect, then the longest that it fills (:mod:`vidgen.data.buckets`). Each bucket is then split by itself, so that it has
    clips in every split, where it has videos enough for that; else they are for training. The first bucket is the main one: what
    knows nothing of buckets sees its clips alone, and runs are compared by its figures. Automatic buckets come with the fullest
    first.

    Args:
        path: The folder, or a file of a layout that is one file. Hidden files and folders are ignored, links are followed.
        layout: "auto" or the name of one: ucf101, csv, jsonl, videos, tar, hdf5, arrays or frames.
        fold: Which of UCF-101's three lists of splits.
        frames: T, frames of a clip; of automatic buckets those of the longest.
        height: H in pixels. The largest centred part of the shape H x W is cut out and resized; automatic buckets have about as
            many pixels.
        width: W in pixels.
        buckets: Sizes such as ``17x64x64`` that clips are of, in place of T x H x W; "auto" for a few that suit what is there;
            None for one size.
        tokens: Of a training batch, at most, where there are buckets; None for as many as the recipe's ``batch_size`` clips of
            the main bucket have.
        fps: Frames a second, converted by time stamps: nearest frame, slower files repeat some; None keeps each file's own.
        stride: A clip takes every such frame; its length is ``(frames - 1) * stride + 1`` frames.
        classes: "auto" or "none".
        split: Shares of train, val and test; they add up to 1.
        split_by: "file" or "time".
        mirror: Chance that a training clip is mirrored; 0 where left and right matter (text, gestures, driving).
        zoom: Greatest share of the sides that a training clip leaves out, seen more closely then; 0 for none.
        light: Spread of the contrast and brightness of training clips; 0 for none.
        seed: Of the split and of the training clips.
        cache: Where decoded frames are kept: H * W * 3 bytes a frame.
        decode: "cache" to decode every video once, "direct" to decode what a clip needs when it needs it, the very same frames,
            or "auto": the cache where it fills no more than half of the free disk.

    Attributes:
        shape: (T, H, W), of the main bucket where there are several.
        buckets: The clips of each bucket, data by themselves; () where all have one size.
        layout: The name of the layout that was read.
        class_names: Sorted names of the classes that have usable videos, numbers by their value; () without classes.
        action_names: The numbers of the actions, as words; () of videos without.
        vocabulary: The words of the captions in small letters, sorted; () of videos without.
        fingerprint: sha256 of all that decides the clips: the bytes and names of the files, and every option but the paths.
        skipped: (name, reason) of every file left out.

    Raises:
        UserError: when an option is out of range, when the folder is missing or holds no video, too few, or too short ones,
            when a bucket cannot be used, or when the cache cannot be written.
    """

    length: int
    _cache: FrameCache
    _ends: dict[str, list[int]]

    def __init__(
        self,
        *,
        path: str | None = None,
        layout: str = "auto",
        fold: int = 1,
        frames: int = 17,
        height: int = 64,
        width: int = 64,
        buckets: str | Sequence[str] | None = None,
        tokens: int | None = None,
        fps: float | None = None,
        stride: int = 1,
        classes: str = "auto",
        split: Sequence[float] = (0.8, 0.1, 0.1),
        split_by: str = "file",
        mirror: float = 0.5,
        zoom: float = 0.15,
        light: float = 0.02,
        seed: int = 0,
        cache: str = "runs/cache/folder",
        decode: str = "auto",
    ) -> None:
        check_options(frames=frames, height=height, width=width, fps=fps, stride=stride, split=split)
        check_choices(classes=classes, split_by=split_by, decode=decode)
        check_tokens(tokens, buckets)
        self.augment = Augment(mirror=mirror, zoom=zoom, light=light)
        self.shape: Shape = (frames, height, width)
        self.seed, self.stride, self.tokens = seed, stride, tokens
        fps, split = None if fps is None else float(fps), [float(share) for share in split]
        self.root, table = read_table(path, layout=layout, classes=classes == "auto", fold=fold, index=Path(cache).resolve())
        self.layout = table.layout
        items, self._needed = table.items, partial(frames_needed, stride=stride, split_by=split_by)
        if split_by == "time":
            _check_free(self.root, items)
        found = read_frames(
            self.root,
            table,
            shape=self.shape,
            buckets=buckets,
            needed=self._needed,
            fps=fps,
            decode=decode,
            cache=Path(cache).resolve(),
        )
        self._shapes, self._caches, stored = found.shapes, found.caches, found.stored
        usable, unused = self._usable(stored, least=min(map(self._needed, self._shapes)))
        self.skipped = sorted([*table.skipped, *{**found.broken, **unused}.items()])
        if found.fresh:
            print(f"Read {self.root} as {table.words}.", file=sys.stderr)
            _report(self.skipped, self.root)
        if not usable:
            raise UserError(self._nothing_usable(stored, option="data.frames" if buckets in (None, AUTO) else "data.buckets"))

        kept = [item for item in items if item.name in usable]
        self.class_names = _class_names(table, kept)
        self.action_names = tuple(str(move) for move in range(max(stored[item.name].moves for item in kept)))
        self.vocabulary = tuple(sorted({word for item in kept for word in _words(item.caption or "")}))
        labels: dict[str | None, int] = {None: -1, **{name: number for number, name in enumerate(self.class_names)}}
        self.videos = [_video(item, stored[item.name], labels[item.label], found.bucket[item.name]) for item in kept]
        cut = self._split_by_file if split_by == "file" else self._split_by_time
        self._spans = cut(dict(zip(SPLITS, split, strict=True)))
        self.fingerprint = _digest(
            {
                "pixels": [VERSION, height, width, fps],
                "clips": [frames, stride, seed, split, split_by, classes, mirror, zoom, light],
                "files": [(video.name, video.stored.sha256) for video in self.videos],
                **_told(table, kept),
                **({} if buckets is None else {"buckets": self._shapes, "tokens": tokens}),
            }
        )
        self.buckets: tuple[Folder, ...] = ()
        parts = [self._only(place) for place in range(len(self._shapes))]
        if buckets is not None:
            self.buckets = self._filled(parts, auto=buckets == AUTO)
        main = (self.buckets or parts)[0]
        self.shape, self.length = main.shape, main.length
        self._cache, self._spans, self._ends = main._cache, main._spans, main._ends

    def size(self, split: str) -> int:
        """Distinct clips in one epoch of ``train``, ``val`` or ``test``."""
        return self._ends[split][-1] if self._ends[split] else 0

    def clip(self, split: str, index: int, epoch: int = 0) -> dict[str, Any]:
        """One clip, a pure function of the arguments, the seed and the files.

        Returns:
            ``video`` uint8 (T, H, W, 3); ``label`` int, -1 without classes; ``source``, the name of its file relative to the
            folder; ``start``, the number of its first frame there, counted at the converted rate; ``caption``, empty for none,
            where any video has one; ``actions`` int64 (T,) where the videos have some, ``actions[t]`` leading to frame t.

        Raises:
            IndexError: when ``index`` is not in ``range(size(split))``.
        """
        if not 0 <= index < self.size(split):
            raise IndexError(f"{split} has {self.size(split)} clips, there is no number {index}")
        which = bisect_right(self._ends[split], index)
        span = self._spans[split][which]
        number = index - (self._ends[split][which - 1] if which else 0)
        start = span.begin + self._start(span, number, epoch if split == "train" else None)
        video = self._cache.read(span.video.stored, start, start + self.length, self.stride)
        if split == "train" and self.augment.active:
            drawn = int(_digest(["augment", self.seed, span.video.name, number, epoch])[:32], 16)
            video = self.augment(video, np.random.default_rng(drawn))
        clip = {"video": video, "label": span.video.label, "source": span.video.name, "start": start}
        if self.vocabulary:
            clip["caption"] = span.video.caption
        if self.action_names:
            clip["actions"] = self._cache.actions(span.video.stored, start, start + self.length, self.stride)
        return clip

    def plain(self) -> Folder:
        """The same clips without augmentation."""
        other = copy(self)
        other.augment = Augment(mirror=0.0, zoom=0.0, light=0.0)
        other.buckets = tuple(bucket.plain() for bucket in self.buckets)
        return other

    def files(self, split: str) -> list[str]:
        """The names of the files that ``train``, ``val`` or ``test`` takes its clips from, in the order of the clips."""
        return [span.video.name for span in self._spans[split]]

    def _only(self, bucket: int) -> Folder:
        """The clips of one bucket alone."""
        other = copy(self)
        other.shape, other._cache = self._shapes[bucket], self._caches[bucket]
        other.length = clip_length(other.shape[0], self.stride)
        other._spans = {part: [span for span in spans if span.video.bucket == bucket] for part, spans in self._spans.items()}
        other._ends = {part: list(accumulate(map(other._clips, spans))) for part, spans in other._spans.items()}
        other.fingerprint = _digest([self.fingerprint, other.shape])
        return other

    def _filled(self, parts: Sequence[Folder], *, auto: bool) -> tuple[Folder, ...]:
        """The buckets that there are training clips for; the first has clips in every split.

        Automatic ones come with the most training clips first; of given ones none may be empty.
        """
        filled = [part for part in parts if part.size("train")]
        whole = [part for part in filled if all(map(part.size, SPLITS))]
        if auto:
            filled.sort(key=lambda part: (part not in whole, -part.size("train")))
        elif len(filled) < len(parts):
            empty = next(part for part in parts if part not in filled)
            longest, needed = max(video.stored.frames for video in self.videos), self._needed(empty.shape)
            reason = (
                f"the longest video has {longest} of the {needed} frames that it needs"
                if longest < needed
                else "those that are long enough are nearer in aspect to another, or fill a longer or larger one of that aspect"
            )
            raise UserError(
                f"data.buckets holds {named(empty.shape)}, which no training video of {self.root} is for ({reason}): leave it "
                "out, or say data.buckets=auto."
            )
        if filled[0] not in whole:
            lacking = " or ".join(split for split in SPLITS if not filled[0].size(split))
            instead = f"begin with {named(whole[0].shape)}" if whole else "add videos, or give fewer buckets"
            raise UserError(
                f"The first bucket, {named(filled[0].shape)}, is what evaluation is on, and {self.root} has no {lacking} clips "
                f"for it: {instead}."
            )
        return tuple(filled)

    def _clips(self, span: Span) -> int:
        return (span.end - span.begin) // self.length

    def _start(self, span: Span, number: int, epoch: int | None) -> int:
        """First frame of clip ``number`` within its span: drawn for an epoch, evenly spaced for None."""
        clips, last = self._clips(span), span.end - span.begin - self.length
        if epoch is None:
            return last * number // (clips - 1) if clips > 1 else last // 2
        low, high = (last + 1) * number // clips, (last + 1) * (number + 1) // clips
        drawn = int(_digest(["start", self.seed, span.video.name, number, epoch])[:16], 16)
        return low + drawn % (high - low)

    def _usable(self, stored: Mapping[str, Stored], least: int) -> tuple[set[str], dict[str, str]]:
        """Names of the videos to use, and why the others are not: they have less than ``least`` frames, or are copies."""
        usable: set[str] = set()
        unused: dict[str, str] = {}
        first: dict[str, str] = {}
        acting = any(video.moves for video in stored.values())
        for name, video in stored.items():
            if acting and not video.moves:
                unused[name] = "it has no actions, and others have"
            elif video.frames < least:
                unused[name] = f"it has {video.frames} of the {least} frames needed"
            elif video.sha256 in first:
                unused[name] = f"it is a copy of {first[video.sha256]}"  # or one clip could be in two splits
            else:
                first[video.sha256] = name
                usable.add(name)
        return usable, unused

    def _nothing_usable(self, stored: Mapping[str, Stored], *, option: str) -> str:
        if not stored:
            name, reason = self.skipped[0]
            return (
                f"None of the {len(self.skipped)} videos in {self.root} can be read (the first, {name}: {reason}): "
                "give data.path=FOLDER with videos that play."
            )
        longest = max(stored, key=lambda name: stored[name].frames)
        frames = min(shape[0] for shape in self._shapes)
        asked = f"{option}={frames}" if option == "data.frames" else f"{frames} frames (the shortest of {option})"
        return (
            f"No video in {self.root} is long enough: the longest, {longest}, has {stored[longest].frames} frames, and clips "
            f"of {asked} with data.stride={self.stride} need {clip_length(frames, self.stride)} (three times that with "
            f"data.split_by=time): lower {option} or data.stride, or give data.path=FOLDER with longer videos."
        )

    def _split_by_file(self, shares: Mapping[str, float]) -> dict[str, list[Span]]:
        parts: dict[str, list[Video]] = {part: [v for v in self.videos if v.given == part] for part in SPLITS}
        free = parts["train"] or [video for video in self.videos if video.given is None]
        empty = [part for part in SPLITS if part == "train" or not parts[part]]
        home: dict[str, int] = {}  # of a group: no split may part it, and its videos may be for several buckets
        for video in free:
            home.setdefault(video.group, video.bucket)
        pools = [self._stratified([v for v in free if home[v.group] == bucket]) for bucket in range(len(self._shapes))]
        fullest = max(pools, key=len)
        if len(fullest) < len(empty):
            grouped = f" in {len(fullest)} groups that no split may part" if any(len(group) > 1 for group in fullest) else ""
            where = " in the fullest bucket" if len(pools) > 1 else ""
            raise UserError(
                f"{self.root} has too few usable videos, {sum(map(len, fullest))}{where}{grouped} for {len(empty)} splits "
                f"({', '.join(empty)}){_left_out(self.skipped)}: add videos, or say data.split_by=time to cut each into three "
                "spans of time."
            )
        parts |= {part: [] for part in empty}
        for pool in pools:
            few = len(pool) < len(empty)  # too few for every split are for training
            ends = [len(pool)] * len(empty) if few else _ends(len(pool), [shares[part] for part in empty], least=1)
            begin = 0
            for part, end in zip(empty, ends, strict=True):
                parts[part] += [video for group in pool[begin:end] for video in group]
                begin = end
        whole = {part: sorted(videos, key=lambda video: video.name) for part, videos in parts.items()}
        return {part: [Span(video=v, begin=0, end=v.stored.frames) for v in videos] for part, videos in whole.items()}

    def _split_by_time(self, shares: Mapping[str, float]) -> dict[str, list[Span]]:
        spans: dict[str, list[Span]] = {part: [] for part in SPLITS}
        for video in self.videos:
            begin, length = 0, clip_length(self._shapes[video.bucket][0], self.stride)
            for part, end in zip(SPLITS, _ends(video.stored.frames, list(shares.values()), length), strict=True):
                spans[part].append(Span(video=video, begin=begin, end=end))
                begin = end
        return spans

    def _stratified(self, videos: Sequence[Video]) -> list[list[Video]]:
        """The groups in an order of which every stretch holds the classes in proportion; in a class drawn from (seed, name)."""
        groups: dict[str, list[Video]] = {}
        for video in videos:
            groups.setdefault(video.group, []).append(video)
        drawn = sorted(groups, key=lambda name: _digest(["split", self.seed, name]))
        label = {name: own[0].label for name, own in groups.items()}
        sizes, seen = Counter(label.values()), Counter[int]()
        place: dict[str, float] = {}
        for name in drawn:
            place[name] = seen[label[name]] / sizes[label[name]]
            seen[label[name]] += 1
        return [groups[name] for name in sorted(drawn, key=lambda name: place[name])]


def _ends(total: int, shares: Sequence[float], least: int) -> list[int]:
    """Where the parts of ``range(total)`` end when it is cut by ``shares``, each part at least ``least`` long."""
    ends: list[int] = []
    for k, share in enumerate(accumulate(shares), 1):
        low, high = (ends[-1] if ends else 0) + least, total - least * (len(shares) - k)
        ends.append(min(max(round(total * share / sum(shares)), low), high))
    return ends


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _video(item: Item, stored: Stored, label: int, bucket: int) -> Video:
    return Video(
        name=item.name,
        stored=stored,
        label=label,
        given=item.split,
        group=item.group or item.name,
        caption=item.caption or "",
        bucket=bucket,
    )


def _class_names(table: Table, items: Sequence[Item]) -> tuple[str, ...]:
    """The classes in order; the numbers of a list go by their value, so that they stay what they were."""
    names = {item.label for item in items if item.label is not None}
    numbers = not table.named and all(name.isdecimal() for name in names)
    return tuple(sorted(names, key=lambda name: (int(name) if numbers else 0, name)))


def _words(caption: str) -> set[str]:
    """The words of a caption as the conditioning on texts splits it: in small letters, marks of punctuation by themselves."""
    return set(re.findall(r"[^\W_]+|[^\w\s]|_", caption.lower()))


def _told(table: Table, items: Sequence[Item]) -> dict[str, Any]:
    """What decides the clips beside the names and bytes of the videos; nothing where the names tell it all."""
    shared = [size for size in Counter(item.group for item in items if item.group is not None).values() if size > 1]
    if table.named and not shared:
        return {}
    return {"told": [(item.split, item.label, item.caption, item.group) for item in items]}


def _check_free(root: Path, items: Sequence[Item]) -> None:
    """Sees that the videos may be cut in time: neither splits of their own nor groups forbid it."""
    if any(item.split for item in items):
        raise UserError(f"{root} has split folders of its own, or lists of splits: drop data.split_by=time.")
    if len({item.group for item in items if item.group}) < sum(item.group is not None for item in items):
        raise UserError(f"{root} has groups of videos that no split may part: drop data.split_by=time.")


def _left_out(skipped: Sequence[tuple[str, str]]) -> str:
    if not skipped:
        return ""
    name, reason = skipped[0]
    return f" ({len(skipped)} left out; the first, {name}: {reason})"


def _report(skipped: Sequence[tuple[str, str]], root: Path) -> None:
    for name, reason in skipped:
        print(f"Left out {root / name}: {reason}.", file=sys.stderr)


CHOICES = {"classes": ("auto", "none"), "split_by": ("file", "time"), "decode": ("auto", "cache", "direct")}
"""Options that are one of a few words."""


def check_tokens(tokens: int | None, buckets: str | Sequence[str] | None) -> None:
    """Sees that a budget of tokens is one, and that there are buckets for it. Raises UserError."""
    if tokens is None:
        return
    if buckets is None:
        raise UserError(f"data.tokens={tokens} is for buckets: say data.buckets=auto too, or set a recipe's training.batch_size.")
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
        raise UserError(f"data.tokens={tokens} is no number of tokens: give a whole number from 1 on.")


def check_choices(**options: str) -> None:
    """Sees that the options of :data:`CHOICES` are among them. Raises UserError."""
    for option, value in options.items():
        choices = CHOICES[option]
        if value not in choices:
            raise UserError(f"data.{option}={value} is neither of {' and '.join(choices)}.{did_you_mean(str(value), choices)}")


def check_options(**options: Any) -> None:
    """Sees that frames, height, width, stride, fps and split can make clips. Raises UserError."""
    for option in ("frames", "height", "width", "stride"):
        value = options[option]
        if not isinstance(value, int) or value < 1:
            raise UserError(f"data.{option}={value} makes no clip: give a whole number from 1 on.")
    fps = options["fps"]
    if fps is not None and not (isinstance(fps, int | float) and 0 < fps < math.inf):
        raise UserError(f"data.fps={fps} is no frame rate: give frames a second, such as 10, or null for each file's own.")
    split = options["split"]
    shares = len(split) == len(SPLITS) and all(share > 0 for share in split) and abs(sum(split) - 1) < 1e-6
    if not shares:
        raise UserError(
            f"data.split={list(split)} does not share out the videos: give three positive numbers for train, val and test "
            "that add up to 1, such as [0.8,0.1,0.1]."
        )
