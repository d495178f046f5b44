"""Where clips to be compared come from: a folder, an array, a data set's split, a run's samples or its reconstructions.

A source is named in one word, as one types it: ``VIDEOS`` (any layout that ``data=folder`` reads: videos, folders of frames,
arrays, lists), ``worlds:test`` (a data set that is built in, drawn at the protocol's size), ``runs/latest`` (samples of a run),
``runs/latest:test`` (clips that its data holds out) and ``runs/latest:reconstructions`` (what its tokenizer makes of these).
All give 8-bit frames, so that what a player would show is what is measured, and all are cut by one function,
:func:`vidgen.evaluation.cutting.cut`; a rule that a source cannot honour is refused. What a rule leaves open is drawn from the
seed and the names of the videos, without the folders that all lie in and without extensions: a video and its reconstruction, in
another folder and format, give the same clip.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain, islice
from itertools import count as counted_from
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
import yaml

from vidgen import hub
from vidgen.config import load, names
from vidgen.data import decode
from vidgen.data.batches import eval_batches, to_pixels, to_video
from vidgen.data.folder import Folder
from vidgen.data.folder.layout import FILES, read_table
from vidgen.data.folder.table import Item, UnreadableError
from vidgen.errors import UserError, did_you_mean
from vidgen.evaluation.cutting import Pixels, cut
from vidgen.evaluation.measure import Precision, ask, draw_samples
from vidgen.evaluation.protocol import DataRule
from vidgen.protocols import SPLITS, Data
from vidgen.registry import build

Videos = Sequence[tuple[str, Item]]
RECONSTRUCTIONS = "reconstructions"
VERSION = 2
"""Of the way clips are cut: features that were kept of another are of other clips."""

ENDLESS = 2**20
"""Clips of a split from which on nobody means all of them: worlds draws as many as one asks for."""

EXTENSIONS = decode.EXTENSIONS | FILES
SEVERAL = ("all", "every")
"""Rules of clips that take several of one video."""


@dataclass(kw_only=True)
class Source:
    """Clips in an order that does not change, of one size unless ``mixed``.

    Attributes:
        name: as it was typed.
        fingerprint: sha256 of all that decides the clips.
        clips: goes through (name, uint8 (T, H, W, 3)) once. Clips of one name in two sources are pairs.
        skipped: (name, reason) of what gave no clip, filled while ``clips`` goes through.
        notes: what a reader has to know of it, a sentence each.
        most: it gives no more clips than these; None where that is only known once it was gone through.
        mixed: whether clips may differ in size and length.
    """

    name: str
    fingerprint: str
    clips: Callable[[], Iterator[tuple[str, Pixels]]]
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    most: int | None = None
    mixed: bool = False

    def checked(self) -> Iterator[tuple[str, Pixels]]:
        """The clips one by one.

        Raises:
            UserError: where two clips differ in size and may not, or there is none.
        """
        first = None
        for name, clip in self.clips():
            first = first or (name, clip.shape)
            if clip.shape != first[1] and not self.mixed:
                raise UserError(
                    f"{self.name} holds clips of several sizes ({first[0]} is {_size(first[1])}, {name} is "
                    f"{_size(clip.shape)}): give protocol.data.height and protocol.data.width, to which all are brought."
                )
            yield name, clip
        if first is None:
            reason = f"; the first, {self.skipped[0][0]}: {self.skipped[0][1]}" if self.skipped else ""
            raise UserError(f"{self.name} gives no clip for this protocol{reason}: change its data rule, or give other videos.")

    def batches(self, size: int) -> Iterator[tuple[list[str], Pixels]]:
        """The clips in batches of one size, ``size`` clips at most: names, and uint8 (B, T, H, W, 3).

        Raises:
            UserError: as :meth:`checked`.
        """
        for batch in batched_by(self.checked(), size, lambda one: one[1].shape):
            found = [name for name, _ in batch], np.stack([clip for _, clip in batch])
            del batch  # so that no more than one is held while the next is gathered
            yield found


def batched_by(values: Iterable[Any], size: int, key: Callable[[Any], Any]) -> Iterator[list[Any]]:
    """Lists of ``size`` values that come one after another and agree in ``key``, or of fewer where no more do."""
    batch: list[Any] = []
    for value in values:
        if batch and (len(batch) == size or key(value) != key(batch[0])):
            yield batch
            batch = []
        batch.append(value)
    if batch:
        yield batch


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What sources that are models need: where they run, and how.

    Attributes:
        device: of the model.
        batch_size: clips at once.
        precision: a context to compute in.
        options: of the sampler.
        progress: called with the number of samples drawn.
    """

    device: torch.device
    batch_size: int
    precision: Precision
    options: dict[str, float | int | None]
    progress: Callable[[int], None] = lambda done: None


@dataclass(frozen=True, kw_only=True)
class Role:
    """What the clips of a source are for, and so what of a rule is theirs.

    Attributes:
        rule: of the data.
        generated: whether they are the generated ones, and not the real ones.
    """

    rule: DataRule
    generated: bool

    @property
    def stride(self) -> int:
        return self.rule.fake_stride if self.generated else self.rule.stride

    @property
    def count(self) -> int | None:
        return self.rule.fake_count if self.generated else self.rule.count

    @property
    def length(self) -> int:
        """Frames that a clip needs of its video."""
        return (self.rule.frames - 1) * self.stride + 1

    def fingerprint(self, *parts: Any) -> str:
        """Of ``parts`` and of all that decides which clips are cut of them."""
        rule = {key: value for key, value in asdict(self.rule).items() if key != "reference"}
        return hub.fingerprint(VERSION, rule, self.generated, *parts)


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run's own recipe says of the clips that it is measured on.

    Attributes:
        path: its folder.
        data: what it was trained on, without augmentation.
        fps: that its videos were converted to; None for each one's own.
        clips: unseen ones that it measures; None where it does not say.
        samples: that it draws, likewise.
    """

    path: Path
    data: Data
    fps: float | None
    clips: int | None
    samples: int | None


def open_source(text: str, rule: DataRule, drawing: Drawing, *, generated: bool) -> Source:
    """The source that ``text`` names, cut into clips by ``rule``; ``generated`` chooses the stride and the count of the two.

    Raises:
        UserError: where there is none of that name, or it cannot give the clips that the rule asks for.
    """
    place, _, part = text.rpartition(":")
    role = Role(rule=rule, generated=generated)
    if place in names("data") and not Path(text).exists():
        return _split(text, _drawn_data(place, role), part, role, role.count, fps=None)
    if place and _is_run(Path(place)) and not Path(text).exists():
        run = _read_run(Path(place))
        if part == RECONSTRUCTIONS:
            return _reconstructions(text, run, role, drawing)
        return _split(text, run.data, part, role, _own_count(run, part, role), fps=run.fps)
    path = Path(text).expanduser()
    if _is_run(path):
        return _samples(text, _read_run(path), role, drawing)
    if path.exists():
        return _files(text, path, role)
    raise UserError(
        f"'{text}' is no source of clips.{did_you_mean(place or text, names('data'))} Give a folder of videos or of folders of "
        "frames, an .npy or .npz file, a run (its samples), RUN:test, RUN:reconstructions, or a data set with a split, "
        "such as worlds:test."
    )


# Data sets and runs ---------------------------------------------------------------------------------------------------------


def _is_run(path: Path) -> bool:
    return (path / "config.yaml").is_file()


def _read_run(path: Path) -> Run:
    config = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
    data: Data = build("data", config["data"])
    own: Mapping[str, Any] = config.get("evaluation") or {}
    return Run(
        path=path,
        data=data.plain() if isinstance(data, Folder) else data,
        fps=config["data"].get("fps"),
        clips=own.get("clips"),
        samples=own.get("samples"),
    )


def _own_count(run: Run, part: str, role: Role) -> int | None:
    """As many clips as the rule says, else as the run measures; of training clips, which it does not, all if they end."""
    all_of_it = part == "train" and run.data.size(part) < ENDLESS
    return run.clips if role.count is None and not all_of_it else role.count


def _drawn_data(name: str, role: Role) -> Data:
    """A data set by name, its clips of the rule's length and size."""
    recipe = load("data", name)
    size = {"frames": role.length, "height": role.rule.height, "width": role.rule.width}
    data: Data = build("data", recipe | {key: value for key, value in size.items() if key in recipe and value is not None})
    return data.plain() if isinstance(data, Folder) else data


def _split(text: str, data: Data, part: str, role: Role, count: int | None, *, fps: float | None) -> Source:
    """The clips of a split of a data set, each cut by the rule."""
    if part not in SPLITS:
        raise UserError(f"'{part}' of {text} is no split.{did_you_mean(part, SPLITS)} There are: {', '.join(SPLITS)}.")
    _check_can(text, data, part, role, fps)
    if count is None and data.size(part) >= ENDLESS:
        option = "fake_count" if role.generated else "count"
        raise UserError(f"{text} has {data.size(part):,} clips, and the protocol takes all: give protocol.data.{option}=2048.")

    def clips() -> Iterator[tuple[str, Pixels]]:
        for index in range(data.size(part)):
            yield from _cut_clip(str(index), data.clip(part, index)["video"], role)

    return _source(text, role, role.fingerprint(data.fingerprint, part, count), clips, count, data.size(part))


def _samples(text: str, run: Run, role: Role, drawing: Drawing) -> Source:
    """What the model of a run draws, asked for every label equally often."""
    model, data = hub.load(run.path, drawing.device), run.data
    if model.generator is None:
        raise UserError(f"{text} has no generator to draw samples from: give {text}:{RECONSTRUCTIONS} for its tokenizer's.")
    _check_can(text, data, None, role, run.fps)
    count = _count(text, run.samples if role.count is None else role.count, "samples", role)
    asked = ask(model, data, count)

    def clips() -> Iterator[tuple[str, Pixels]]:
        drawn = draw_samples(
            model,
            asked=asked,
            batch_size=drawing.batch_size,
            shape=data.shape,
            seed=role.rule.seed,
            precision=drawing.precision,
            options=drawing.options,
            progress=drawing.progress,
        )
        for index, clip in enumerate(chain.from_iterable(drawn)):
            yield from _cut_clip(str(index), clip, role)

    weights = hub.weights_hash(model.generator), hub.weights_hash(model.tokenizer)
    return _source(text, role, role.fingerprint(*weights, data.fingerprint, drawing.options, count), clips, count, count)


def _reconstructions(text: str, run: Run, role: Role, drawing: Drawing) -> Source:
    """What the tokenizer of a run makes of the clips that its data holds out, in their order."""
    tokenizer, data = hub.load(run.path, drawing.device).tokenizer, run.data
    _check_can(text, data, "test", role, run.fps)
    count = _count(text, run.clips if role.count is None else role.count, "clips", role)

    def clips() -> Iterator[tuple[str, Pixels]]:
        index = 0
        for batch in eval_batches(data, "test", count, drawing.batch_size):
            with torch.no_grad(), drawing.precision():
                video = to_video(batch["video"].to(drawing.device))
                pixels = to_pixels(tokenizer.decode(tokenizer.encode(video)))
            for clip in pixels:
                yield from _cut_clip(str(index), clip, role)
                index += 1

    fingerprint = role.fingerprint(hub.weights_hash(tokenizer), data.fingerprint, count)
    return _source(text, role, fingerprint, clips, count, count)


def _count(text: str, count: int | None, option: str, role: Role) -> int:
    """How many clips a model makes. Raises UserError where neither the protocol nor the run says."""
    if count is None:
        own = "fake_count" if role.generated else "count"
        raise UserError(f"{text} does not say how many it measures (evaluation.{option}): give protocol.data.{own}=256.")
    return count


def _source(
    text: str, role: Role, fingerprint: str, clips: Callable[[], Iterator[tuple[str, Pixels]]], count: int | None, videos: int
) -> Source:
    return Source(
        name=text,
        fingerprint=fingerprint,
        clips=lambda: islice(clips(), count),
        most=_most(role, count, videos),
        mixed=role.rule.clip == "whole",
    )


def _most(role: Role, count: int | None, videos: int) -> int | None:
    """Clips that so many videos give at most."""
    if role.rule.clip in SEVERAL or (role.rule.clip == "repeated" and not role.generated):
        return count
    return videos if count is None else min(count, videos)


def _cut_clip(name: str, clip: Pixels, role: Role) -> Iterator[tuple[str, Pixels]]:
    """The clips that a rule cuts of one clip of a data set or a model."""
    for number, one in cut(lambda: ((frame, 1.0) for frame in clip), role.rule, role.stride, name):
        yield _named(name, number, role.rule), one


def _check_can(text: str, data: Data, part: str | None, role: Role, fps: float | None) -> None:
    """Sees that clips of ``data`` can be cut by the rule. Raises UserError that says what they cannot give."""
    rule, frames = role.rule, data.shape[0]
    if frames < role.length and rule.clip != "whole":
        stride = f" at protocol.data.{'fake_stride' if role.generated else 'stride'}={role.stride}" if role.stride > 1 else ""
        raise UserError(
            f"{text} gives clips of {frames} frames and the protocol compares {rule.frames}{stride}: say "
            f"protocol.data.frames={(frames - 1) // role.stride + 1}, or measure longer clips."
        )
    if rule.fps not in (None, fps):
        raise UserError(f"{text} has no times that protocol.data.fps={rule.fps:g} could convert: give protocol.data.fps=null.")
    if not role.generated and part is not None and rule.split not in ("all", part):
        raise UserError(
            f"{text} gives real clips of the split '{part}' and the protocol compares with '{rule.split}': give the clips of "
            f"that split, or protocol.data.split={part}."
        )


# Files ----------------------------------------------------------------------------------------------------------------------


def _files(text: str, path: Path, role: Role) -> Source:
    """Clips of the videos of whatever layout lies at ``path``; of real ones that say their split, those of the rule's."""
    _, table = read_table(str(path), classes=False)
    rule, items = role.rule, table.items
    notes: tuple[str, ...] = ()
    if rule.fps is not None and table.timeless:
        raise UserError(
            f"{text} ({table.words}) states no times that protocol.data.fps={rule.fps:g} could convert: give "
            "protocol.data.fps=null, or video files."
        )
    if not role.generated and rule.split != "all":
        if any(item.split for item in items):
            items = [item for item in items if item.split == rule.split]
            if not items:
                raise UserError(f"{text} has no videos in the split '{rule.split}' of the protocol: say protocol.data.split=all.")
        else:
            notes = (f"{text} does not say which split its videos are of: all are taken for the protocol's '{rule.split}'.",)
    hashes, broken = [], list(table.skipped)
    for name, item in sorted(zip(plain_names([item.name for item in items], path), items, strict=True), key=lambda one: one[0]):
        try:
            hashes.append((name, item, item.source.sha256()))
        except (UnreadableError, decode.DecodeError) as error:
            broken.append((item.name, str(error)))

    def clips() -> Iterator[tuple[str, Pixels]]:
        source.skipped[:] = broken
        return islice(_cut_all([(name, item) for name, item, _ in hashes], role, source.skipped), role.count)

    fingerprint = role.fingerprint([(name, sha256) for name, _, sha256 in hashes])
    most = _most(role, role.count, len(hashes))
    source = Source(name=text, fingerprint=fingerprint, clips=clips, notes=notes, most=most, mixed=rule.clip == "whole")
    return source


def plain_names(found: Sequence[str], path: Path) -> list[str]:
    """What names say of the videos themselves: no folder that all lie in, no extension, the row of an array by its number.

    ``UCF-101/Archery/x.avi`` among its like is ``Archery/x``, and so is ``Archery/x.mp4``; of ``clips.npy[3]`` it is ``3``.
    """
    parts = [_parts(name) for name in found]
    if path.is_file():  # what one file is called says nothing of the videos in it
        parts = [one[1:] or ["0"] for one in parts]
    shared = 0
    while all(len(one) > shared + 1 and one[shared] == parts[0][shared] for one in parts):
        shared += 1
    return ["/".join(one[shared:]) for one in parts]


def _parts(name: str) -> list[str]:
    """``a/clips.h5/train[3]`` -> a, clips, train, 3."""
    path, _, row = name.removesuffix("]").partition("[") if re.search(r"\[\d+\]$", name) else (name, "", "")
    parts = [part[: -len(end)] if (end := PurePosixPath(part).suffix).lower() in EXTENSIONS else part for part in path.split("/")]
    return [*parts, row] if row else parts


def _cut_all(videos: Videos, role: Role, skipped: list[tuple[str, str]]) -> Iterator[tuple[str, Pixels]]:
    """The clips of all videos; where not all are wanted, in an order drawn from the seed and the names of the videos.

    For the first of a list in order are of the first classes alone.
    """
    rule, drawn = role.rule, videos
    if role.count is not None:
        drawn = sorted(videos, key=lambda one: hub.fingerprint(rule.seed, one[0]))
    if role.count is not None and rule.clip in SEVERAL:
        for name, item, numbers in _drawn_windows(drawn, role, role.count, skipped):
            yield from _cut_one(name, item, role, skipped, numbers=numbers)
        return
    for name, item in drawn:
        yield from _cut_one(name, item, role, skipped)
    short = {name for name, _ in skipped}
    drawn = [(name, item) for name, item in drawn if item.name not in short]
    for again in counted_from(1) if drawn and rule.clip == "repeated" and not role.generated else ():
        for name, item in drawn:
            yield from _cut_one(name, item, role, skipped, again=again)


def _cut_one(
    name: str, item: Item, role: Role, skipped: list[tuple[str, str]], *, again: int = 0, numbers: Sequence[int] | None = None
) -> Iterator[tuple[str, Pixels]]:
    """The clips of one video, or those with certain ``numbers``; ``again`` says how often it was drawn from before."""
    frames, clips = partial(item.source.frames, role.rule.fps), 0
    try:
        for number, clip in cut(frames, role.rule, role.stride, name, again=again, numbers=numbers):
            yield _named(name, number, role.rule), clip
            clips += 1
    except (UnreadableError, decode.DecodeError) as error:
        skipped.append((item.name, str(error)))
        return
    if not clips:
        skipped.append((item.name, f"it has fewer than the {role.length} frames needed"))


def _drawn_windows(
    videos: Videos, role: Role, wanted: int, skipped: list[tuple[str, str]]
) -> Iterator[tuple[str, Item, list[int]]]:
    """Of each video the numbers of its clips that are among the ``wanted`` of all, each clip as likely as any other.

    How many there are is not known before all videos were gone through, so that those which are drawn are decoded twice.
    """
    places = []
    for name, item in videos:
        try:
            frames = sum(1 for _ in item.source.frames(role.rule.fps))
        except (UnreadableError, decode.DecodeError) as error:
            skipped.append((item.name, str(error)))
            continue
        step = role.length if role.rule.clip == "all" else 1
        numbers = range(1, (frames - role.length) // step + 2)
        if not numbers:
            skipped.append((item.name, f"it has fewer than the {role.length} frames needed"))
        places += [(hub.fingerprint(role.rule.seed, name, number), name, number) for number in numbers]
    chosen: dict[str, list[int]] = {}
    for _, name, number in sorted(places)[:wanted]:
        chosen.setdefault(name, []).append(number)
    for name, item in videos:
        if name in chosen:
            yield name, item, sorted(chosen[name])


def _named(name: str, number: int, rule: DataRule) -> str:
    """What a clip of a video is called: as the video, with its number where there may be several."""
    return f"{name} {number}" if rule.clip in SEVERAL else name


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape[:3]))
