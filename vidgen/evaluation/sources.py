"""Where clips to be compared come from: a folder, an array, a data set's split, a run's samples or its reconstructions.

A source is named in one word, as one types it: ``VIDEOS`` (a folder of videos, or of folders of frames), ``clips.npy``,
``clips.npz``, ``worlds:test`` (a data set that is built in, drawn at the protocol's size), ``runs/latest`` (samples of a run),
``runs/latest:test`` (clips that its data holds out) and ``runs/latest:reconstructions`` (what its tokenizer makes of these).
All give 8-bit frames, so that what a player would show is what is measured.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
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
from vidgen.data.folder.layout import video_names
from vidgen.errors import UserError, did_you_mean
from vidgen.evaluation.measure import Precision, ask, draw_samples
from vidgen.evaluation.protocol import DataRule
from vidgen.protocols import Data
from vidgen.registry import build

Pixels = NDArray[np.uint8]
Frames = Callable[[], Iterable[Pixels]]
SPLITS = ("train", "val", "test")
IMAGES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})
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
    if path.suffix in (".npy", ".npz") and path.is_file():
        return _cut_source(text, _array(path), rule, stride, count)
    if path.is_dir():
        return _cut_source(text, _videos(path), rule, stride, count)
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
            yield f"{part}/{index}", sized(data.clip(part, index)["video"][: rule.frames], rule)

    return Source(name=text, fingerprint=_digest(data.fingerprint, part, count, asdict(rule)), clips=clips)


def _samples(text: str, run: Path, rule: DataRule, count: int | None, drawing: Drawing) -> Source:
    """What the model of a run draws, asked for every label equally often."""
    model, data = hub.load(run, drawing.device), _data_of(run)
    if model.generator is None:
        raise UserError(f"{text} has no generator to draw samples from: give {text}:{RECONSTRUCTIONS} for its tokenizer's.")
    _check_length(text, data.shape[0], rule)
    asked = ask(model, data, rule_count(count, data))

    def clips() -> Iterator[tuple[str, Pixels]]:
        pixels = draw_samples(
            model,
            asked=asked,
            batch_size=drawing.batch_size,
            shape=data.shape,
            seed=rule.seed,
            precision=drawing.precision,
            options=drawing.options,
            progress=drawing.progress,
        )
        for index, clip in enumerate(pixels):
            yield f"sample {index}", sized(clip[: rule.frames], rule)

    weights = hub.weights_hash(model.generator), hub.weights_hash(model.tokenizer)
    return Source(name=text, fingerprint=_digest(*weights, drawing.options, len(asked.labels), asdict(rule)), clips=clips)


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
                yield f"test/{index}", sized(clip[: rule.frames], rule)
                index += 1

    fingerprint = _digest(hub.weights_hash(tokenizer), data.fingerprint, count, asdict(rule))
    return Source(name=text, fingerprint=fingerprint, clips=clips)


def _check_length(text: str, frames: int, rule: DataRule) -> None:
    if frames < rule.frames:
        raise UserError(
            f"{text} gives clips of {frames} frames and the protocol compares {rule.frames}: say "
            f"protocol.data.frames={frames}, or measure longer clips."
        )


def _cut_source(text: str, videos: dict[str, tuple[str, Frames]], rule: DataRule, stride: int, count: int | None) -> Source:
    """Clips of whole videos, each by its name with a hash of its bytes and a way to go through its frames."""

    def clips() -> Iterator[tuple[str, Pixels]]:
        source.skipped.clear()
        return islice(_cut_all(videos, rule, stride, source.skipped), count)

    hashes = [(name, sha256) for name, (sha256, _) in videos.items()]
    source = Source(name=text, fingerprint=_digest(hashes, stride, count, asdict(rule)), clips=clips)
    return source


def _cut_all(
    videos: dict[str, tuple[str, Frames]], rule: DataRule, stride: int, skipped: list[tuple[str, str]]
) -> Iterator[tuple[str, Pixels]]:
    for name, (_, frames) in videos.items():
        found = 0
        try:
            for found, clip in enumerate(cut(frames, rule, stride, name), start=1):
                yield (name if rule.clip != "all" else f"{name} {found}"), clip
        except decode.DecodeError as error:
            skipped.append((name, str(error)))
            continue
        if not found:
            skipped.append((name, f"it has fewer than the {(rule.frames - 1) * stride + 1} frames needed"))


def cut(frames: Frames, rule: DataRule, stride: int, name: str) -> Iterator[Pixels]:
    """The clips that ``rule`` takes of one video, uint8 (T, H, W, 3), in memory that does not grow with its length."""
    length = (rule.frames - 1) * stride + 1
    if rule.clip == "random":
        windows = _one_at_random(frames(), length, int(_digest(rule.seed, name)[:16], 16))
    else:
        before = max(0, (sum(1 for _ in frames()) - length) // 2) if rule.clip == "center" else 0
        rest = islice(frames(), before, None)
        windows = iter(lambda: list(islice(rest, length)), [])
        windows = windows if rule.clip == "all" else islice(windows, 1)
    for window in windows:
        if len(window) == length:
            yield sized(np.stack([sized_frame(frame, rule) for frame in window[::stride]]), rule)


def _one_at_random(frames: Iterable[Pixels], length: int, seed: int) -> Iterator[list[Pixels]]:
    """One window of ``length`` frames, every start equally likely though their number is not known before the end."""
    drawn, window, chosen = np.random.default_rng(seed), deque[Pixels](maxlen=length), list[Pixels]()
    starts = 0
    for frame in frames:
        window.append(frame)
        if len(window) == length:
            starts += 1
            if drawn.random() * starts < 1:
                chosen = list(window)
    yield chosen


def sized(clip: Pixels, rule: DataRule) -> Pixels:
    """A clip with its frames in the rule's size."""
    if rule.height is None or clip.shape[1:3] == (rule.height, rule.width):
        return clip
    return np.stack([sized_frame(frame, rule) for frame in clip])


def sized_frame(frame: Pixels, rule: DataRule) -> Pixels:
    """A frame in the rule's size: its largest centred part of that shape, or the whole, squashed."""
    if rule.height is None or rule.width is None or frame.shape[:2] == (rule.height, rule.width):
        return frame
    squash = rule.crop == "squash"
    rows, columns = frame.shape[:2]
    aspect = (rule.width / columns) / (rule.height / rows) if squash else 1.0
    return fit(frame, rule.height, rule.width, pixel_aspect=aspect)


def _videos(root: Path) -> dict[str, tuple[str, Frames]]:
    """Every video below a folder, or every folder of frames where there is none."""
    folders = sorted({path.parent for path in root.rglob("*") if path.suffix.lower() in IMAGES})
    if folders and not any(path.suffix.lower() in decode.EXTENSIONS for path in root.rglob("*")):
        return {place.relative_to(root).as_posix(): _frame_folder(place) for place in folders}
    return {name: (_file_hash(root / name), _reader(root / name)) for name in video_names(root)}


def _reader(path: Path) -> Frames:
    return lambda: (frame for _, frame in decode.frames(path))


def _frame_folder(place: Path) -> tuple[str, Frames]:
    """The pictures of one folder in the order of their names, numbers in them as numbers."""
    files = sorted((path for path in place.iterdir() if path.suffix.lower() in IMAGES), key=_natural)

    def frames() -> Iterator[Pixels]:
        from PIL import Image

        for file in files:
            with Image.open(file) as image:
                yield np.asarray(image.convert("RGB"))

    return _digest([(file.name, _file_hash(file)) for file in files]), frames


def _natural(path: Path) -> list[tuple[int, str]]:
    """A key that puts frame 10 after frame 9."""
    import re

    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", path.stem)]


def _array(path: Path) -> dict[str, tuple[str, Frames]]:
    """The videos of an array (N, T, H, W, 3) of uint8, or of the one such array of an npz file."""
    loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    arrays = {"": loaded} if path.suffix == ".npy" else {name: loaded[name] for name in loaded.files}
    fitting = [array for array in arrays.values() if array.ndim == 5 and array.shape[-1] == 3 and array.dtype == np.uint8]
    if len(fitting) != 1:
        found = ", ".join(f"{name or 'array'} {array.dtype} {array.shape}" for name, array in arrays.items())
        raise UserError(f"{path} does not hold one array of uint8 videos (N, T, H, W, 3), but {found}: save it as that.")
    (videos,) = fitting
    sha256 = _file_hash(path)
    return {f"{index}": (f"{sha256}/{index}", partial(iter, video)) for index, video in enumerate(videos)}


def _file_hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): mend its permissions, or move it away.") from error


def _digest(*values: object) -> str:
    return hub.fingerprint(*values)


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape[:3]))
