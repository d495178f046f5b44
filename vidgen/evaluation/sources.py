"""Where clips to be compared come from: a folder, an array, a data set's split, a run's samples or its reconstructions.

A source is named in one word, as one types it: ``VIDEOS`` (any layout that ``data=folder`` reads: videos, folders of frames,
arrays, lists), ``worlds:test`` (a data set that is built in, drawn at the protocol's size), ``runs/latest`` (samples of a run),
``runs/latest:test`` (clips that its data holds out) and ``runs/latest:reconstructions`` (what its tokenizer makes of these).
All give 8-bit frames, so that what a player would show is what is measured.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from vidgen import hub
from vidgen.config import load, names
from vidgen.data import decode
from vidgen.data.batches import eval_batches, to_pixels, to_video
from vidgen.data.folder.cache import fit
from vidgen.data.folder.layout import read_table
from vidgen.data.folder.table import Item, UnreadableError
from vidgen.errors import UserError, did_you_mean
from vidgen.evaluation.measure import Precision, ask, draw_samples
from vidgen.evaluation.protocol import DataRule
from vidgen.protocols import Data
from vidgen.registry import build

Pixels = NDArray[np.uint8]
Frame = tuple[Pixels, float]
Frames = Callable[[], Iterable[Frame]]
SPLITS = ("train", "val", "test")
RECONSTRUCTIONS = "reconstructions"


@dataclass(kw_only=True)
class Source:
    """Clips of one size, in an order that does not change.

    Attributes:
        name: as it was typed.
        fingerprint: sha256 of all that decides the clips.
        clips: goes through (name, uint8 (T, H, W, 3)) once.
        skipped: (name, reason) of what gave no clip, filled while ``clips`` goes through.
    """

    name: str
    fingerprint: str
    clips: Callable[[], Iterator[tuple[str, Pixels]]]
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def batches(self, size: int) -> Iterator[tuple[list[str], Pixels]]:
        """The clips in batches: names, and uint8 (B, T, H, W, 3).

        Raises:
            UserError: where two clips differ in size, or there is none.
        """
        clips, first = self.clips(), None
        while batch := list(islice(clips, size)):
            for name, clip in batch:
                first = first or (name, clip.shape)
                if clip.shape != first[1]:
                    raise UserError(
                        f"{self.name} holds clips of several sizes ({first[0]} is {_size(first[1])}, {name} is "
                        f"{_size(clip.shape)}): give protocol.data.height and protocol.data.width, to which all are brought."
                    )
            yield [name for name, _ in batch], np.stack([clip for _, clip in batch])
        if first is None:
            reason = f"; the first, {self.skipped[0][0]}: {self.skipped[0][1]}" if self.skipped else ""
            raise UserError(f"{self.name} gives no clip for this protocol{reason}: change its data rule, or give other videos.")


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


def open_source(text: str, rule: DataRule, drawing: Drawing, *, generated: bool) -> Source:
    """The source that ``text`` names, cut into clips by ``rule``; ``generated`` chooses the stride and the count of the two.

    Raises:
        UserError: where there is none of that name, or it cannot give clips of that length.
    """
    place, _, part = text.rpartition(":")
    stride, count = (rule.fake_stride, rule.fake_count) if generated else (rule.stride, rule.count)
    if place in names("data") and not Path(text).exists():
        return _split(text, _drawn_data(place, rule, stride), part, rule, count)
    if place and _is_run(Path(place)) and not Path(text).exists():
        data = _data_of(Path(place))
        if part == RECONSTRUCTIONS:
            return _reconstructions(text, Path(place), data, rule, count, drawing)
        return _split(text, data, part, rule, count)
    path = Path(text).expanduser()
    if _is_run(path):
        return _samples(text, path, rule, count, drawing)
    if path.exists():
        return _files(text, path, rule, stride, count, generated=generated)
    raise UserError(
        f"'{text}' is no source of clips.{did_you_mean(place or text, names('data'))} Give a folder of videos or of folders of "
        "frames, an .npy or .npz file, a run (its samples), RUN:test, RUN:reconstructions, or a data set with a split, "
        "such as worlds:test."
    )


def _is_run(path: Path) -> bool:
    return (path / "config.yaml").is_file()


def _data_of(run: Path) -> Data:
    """The data that a run was trained on."""
    data: Data = build("data", yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["data"])
    return data


def _drawn_data(name: str, rule: DataRule, stride: int) -> Data:
    """A data set by name, its clips of the rule's length and size."""
    recipe = load("data", name)
    size = {"frames": (rule.frames - 1) * stride + 1, "height": rule.height, "width": rule.width}
    data: Data = build("data", recipe | {key: value for key, value in size.items() if key in recipe and value is not None})
    return data


def _split(text: str, data: Data, part: str, rule: DataRule, count: int | None) -> Source:
    """The held-out clips of a data set, each cut to the rule's frames."""
    if part not in SPLITS:
        raise UserError(f"'{part}' of {text} is no split.{did_you_mean(part, SPLITS)} There are: {', '.join(SPLITS)}.")
    _check_length(text, data.shape[0], rule)

    def clips() -> Iterator[tuple[str, Pixels]]:
        for index in range(data.size(part) if count is None else min(count, data.size(part))):
            yield f"{part}/{index}", sized_clip(data.clip(part, index)["video"], rule)

    return Source(name=text, fingerprint=hub.fingerprint(data.fingerprint, part, count, asdict(rule)), clips=clips)


def _samples(text: str, run: Path, rule: DataRule, count: int | None, drawing: Drawing) -> Source:
    """What the model of a run draws, asked for every label equally often."""
    model, data = hub.load(run, drawing.device), _data_of(run)
    if model.generator is None:
        raise UserError(f"{text} has no generator to draw samples from: give {text}:{RECONSTRUCTIONS} for its tokenizer's.")
    _check_length(text, data.shape[0], rule)
    asked = ask(model, data, rule_count(count, data))

    def clips() -> Iterator[tuple[str, Pixels]]:
        drawn = draw_samples(
            model,
            asked=asked,
            batch_size=drawing.batch_size,
            shape=data.shape,
            seed=rule.seed,
            precision=drawing.precision,
            options=drawing.options,
            progress=drawing.progress,
        )
        for index, clip in enumerate(chain.from_iterable(drawn)):
            yield f"sample {index}", sized_clip(clip, rule)

    weights = hub.weights_hash(model.generator), hub.weights_hash(model.tokenizer)
    return Source(name=text, fingerprint=hub.fingerprint(*weights, drawing.options, len(asked.labels), asdict(rule)), clips=clips)


def rule_count(count: int | None, data: Data) -> int:
    """As many samples as the rule says, else as many as there are clips held out."""
    return data.size("test") if count is None else count


def _reconstructions(text: str, run: Path, data: Data, rule: DataRule, count: int | None, drawing: Drawing) -> Source:
    """What the tokenizer of a run makes of the clips that its data holds out, in their order."""
    tokenizer = hub.load(run, drawing.device).tokenizer
    _check_length(text, data.shape[0], rule)

    def clips() -> Iterator[tuple[str, Pixels]]:
        index = 0
        for batch in eval_batches(data, "test", rule_count(count, data), drawing.batch_size):
            with torch.no_grad(), drawing.precision():
                video = to_video(batch["video"].to(drawing.device))
                pixels = to_pixels(tokenizer.decode(tokenizer.encode(video)))
            for clip in pixels:
                yield f"test/{index}", sized_clip(clip, rule)
                index += 1

    fingerprint = hub.fingerprint(hub.weights_hash(tokenizer), data.fingerprint, count, asdict(rule))
    return Source(name=text, fingerprint=fingerprint, clips=clips)


def _check_length(text: str, frames: int, rule: DataRule) -> None:
    if frames < rule.frames:
        raise UserError(
            f"{text} gives clips of {frames} frames and the protocol compares {rule.frames}: say "
            f"protocol.data.frames={frames}, or measure longer clips."
        )


def _files(text: str, path: Path, rule: DataRule, stride: int, count: int | None, *, generated: bool) -> Source:
    """Clips of the videos of whatever layout lies at ``path``; of real ones that say their split, those of the rule's."""
    _, table = read_table(str(path), classes=False)
    items = table.items
    if not generated and rule.split != "all" and any(item.split for item in items):
        items = [item for item in items if item.split == rule.split]
        if not items:
            raise UserError(f"{text} has no videos in the split '{rule.split}' of the protocol: say protocol.data.split=all.")
    hashes, broken = [], list(table.skipped)
    for item in items:
        try:
            hashes.append((item, item.source.sha256()))
        except (UnreadableError, decode.DecodeError) as error:
            broken.append((item.name, str(error)))

    def clips() -> Iterator[tuple[str, Pixels]]:
        source.skipped[:] = broken
        return islice(_cut_all([item for item, _ in hashes], rule, stride, source.skipped), count)

    names = [(item.name, sha256) for item, sha256 in hashes]
    source = Source(name=text, fingerprint=hub.fingerprint(names, stride, count, asdict(rule)), clips=clips)
    return source


def _cut_all(items: Iterable[Item], rule: DataRule, stride: int, skipped: list[tuple[str, str]]) -> Iterator[tuple[str, Pixels]]:
    for item in items:
        found = 0
        try:
            for found, clip in enumerate(cut(partial(item.source.frames, rule.fps), rule, stride, item.name), start=1):
                yield (item.name if rule.clip != "all" else f"{item.name} {found}"), clip
        except (UnreadableError, decode.DecodeError) as error:
            skipped.append((item.name, str(error)))
            continue
        if not found:
            skipped.append((item.name, f"it has fewer than the {(rule.frames - 1) * stride + 1} frames needed"))


def cut(frames: Frames, rule: DataRule, stride: int, name: str) -> Iterator[Pixels]:
    """The clips that ``rule`` takes of one video, uint8 (T, H, W, 3), in memory that does not grow with its length.

    Args:
        frames: goes through the frames, each with the width of its pixels over their height.
        rule: which to take.
        stride: every such frame.
        name: of the video, from which random starts are drawn.
    """
    length = (rule.frames - 1) * stride + 1
    if rule.clip == "random":
        windows = _one_at_random(frames(), length, int(hub.fingerprint(rule.seed, name)[:16], 16))
    else:
        before = max(0, (sum(1 for _ in frames()) - length) // 2) if rule.clip == "center" else 0
        rest = islice(frames(), before, None)
        windows = iter(lambda: list(islice(rest, length)), [])
        windows = windows if rule.clip == "all" else islice(windows, 1)
    for window in windows:
        if len(window) == length:
            yield np.stack([sized(frame, rule, aspect) for frame, aspect in window[::stride]])


def _one_at_random(frames: Iterable[Frame], length: int, seed: int) -> Iterator[list[Frame]]:
    """One window of ``length`` frames, every start equally likely though their number is not known before the end."""
    drawn, window, chosen = np.random.default_rng(seed), deque[Frame](maxlen=length), list[Frame]()
    starts = 0
    for frame in frames:
        window.append(frame)
        if len(window) == length:
            starts += 1
            if drawn.random() * starts < 1:
                chosen = list(window)
    yield chosen


def sized_clip(clip: Pixels, rule: DataRule) -> Pixels:
    """The first frames of a clip, as many as the rule compares, in its size."""
    return np.stack([sized(frame, rule) for frame in clip[: rule.frames]])


def sized(frame: Pixels, rule: DataRule, pixel_aspect: float = 1.0) -> Pixels:
    """A frame in the rule's size: its largest centred part of that shape, or the whole, squashed."""
    if rule.height is None or rule.width is None or frame.shape[:2] == (rule.height, rule.width):
        return frame
    rows, columns = frame.shape[:2]
    squashed = (rule.width / columns) / (rule.height / rows)
    return fit(frame, rule.height, rule.width, squashed if rule.crop == "squash" else pixel_aspect)


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape[:3]))
