"""Buckets: every video where brute force puts it, shapes kept, budgets kept, every clip once an epoch, one order for all."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from footage import noise, number, write, write_lossless, write_rows

from vidgen.data.batches import BatchOrder, ClipBatches, Order, buckets_of, clips_a_step, eval_batches
from vidgen.data.buckets import MOST, SLACK, auto_lengths, auto_sizes, batch_sizes, listed, named, nearest, shared_out
from vidgen.data.folder import SPLITS, Folder
from vidgen.errors import UserError
from vidgen.latents import LatentSpec, Shape
from vidgen.protocols import Data

BUCKETS = ["4x16x16", "4x12x20", "4x20x12", "8x16x16", "1x16x16"]
PLAIN: dict[str, Any] = {"frames": 4, "height": 16, "width": 16, "mirror": 0.0, "zoom": 0.0, "light": 0.0}


def videos(root: Path, *, sizes: dict[tuple[int, int, int], int]) -> Path:
    """So many videos of each (frames, height, width), every one of another tone."""
    for tone, (shape, place) in enumerate((shape, place) for shape, count in sizes.items() for place in range(count)):
        write(root / f"{named(shape)}-{place}.mp4", count=shape[0], tone=3 * tone, size=shape[1:])
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Square, wide, upright and long videos, and single frames."""
    sizes = {(6, 24, 24): 5, (5, 24, 40): 4, (7, 40, 24): 3, (17, 24, 24): 4, (1, 24, 24): 3}
    return videos(tmp_path_factory.mktemp("videos"), sizes=sizes)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def folder(root: Path, cache: Path, **options: Any) -> Folder:
    return Folder(path=str(root), cache=str(cache), **PLAIN | {"buckets": BUCKETS} | options)


# ---- which bucket


def test_a_video_goes_where_brute_force_puts_it() -> None:
    """Of the buckets that it fills, where the least of the picture is cut away, then the longest, then the largest."""
    rng = np.random.default_rng(0)
    sides = [16, 24, 32, 48, 64]
    for _ in range(300):
        drawn = {(int(rng.choice([1, 5, 9])), int(rng.choice(sides)), int(rng.choice(sides))) for _ in range(8)}
        shapes = sorted(drawn, key=lambda shape: rng.random())
        height, width, frames = (int(value) for value in (*rng.integers(10, 100, 2), rng.integers(1, 12)))

        def seen(shape: Shape, height: int = height, width: int = width) -> float:
            """The share of the picture's area that a cut of the bucket's shape keeps."""
            scale = min(height / shape[1], width / shape[2])
            return round(shape[1] * shape[2] * scale**2 / (height * width), 12)

        fit = [shape for shape in shapes if shape[0] <= frames]
        most = max(map(seen, fit), default=0.0)
        best = [shape for shape in fit if seen(shape) == most]
        place = nearest(width / height, frames, shapes, lambda shape: shape[0])
        assert (None if place is None else shapes[place]) == max(
            best, key=lambda shape: (shape[0], shape[1] * shape[2]), default=None
        )


def test_videos_of_a_folder_go_to_their_buckets(root: Path, cache: Path) -> None:
    data = folder(root, cache)
    found = {named(part.shape): {name for split in SPLITS for name in part.files(split)} for part in data.buckets}
    assert list(found) == BUCKETS
    of = {"4x16x16": "6x24x24", "4x12x20": "5x24x40", "4x20x12": "7x40x24", "8x16x16": "17x24x24", "1x16x16": "1x24x24"}
    for bucket, shape in of.items():
        assert found[bucket] == {path.name for path in root.glob(f"{shape}-*")}
    assert data.skipped == []
    assert [part.size("train") for part in data.buckets] == [3, 2, 7 // 4, 4, 1]


def test_a_video_too_short_for_the_bucket_of_its_aspect_goes_to_the_next(tmp_path: Path) -> None:
    videos(tmp_path / "videos", sizes={(6, 24, 24): 4, (5, 24, 40): 1, (9, 24, 40): 3})
    data = folder(tmp_path / "videos", tmp_path / "cache", buckets=["4x16x16", "8x12x20"])
    square, wide = ({name for split in SPLITS for name in part.files(split)} for part in data.buckets)
    assert {name for name in square if "x40" in name} == {"5x24x40-0.mp4"}
    assert len(wide) == 3
    for split in SPLITS:
        for index in range(data.size(split)):
            assert data.clip(split, index)["video"].shape == (4, 16, 16, 3)


@pytest.mark.parametrize("split_by", ["file", "time"])
def test_no_video_is_in_two_splits_and_each_bucket_has_all_of_them_where_it_can(tmp_path: Path, split_by: str) -> None:
    videos(tmp_path / "videos", sizes={(13, 24, 24): 6, (12, 24, 40): 4, (14, 40, 24): 2})
    data = folder(tmp_path / "videos", tmp_path / "cache", buckets=BUCKETS[:3], split_by=split_by)
    sizes = [[part.size(split) > 0 for split in SPLITS] for part in data.buckets]
    if split_by == "time":
        assert sizes == [[True] * 3] * 3
    else:
        assert sizes == [[True] * 3, [True] * 3, [True, False, False]]  # two videos are too few for three splits
        counts = Counter(name for part in data.buckets for split in SPLITS for name in part.files(split))
        assert set(counts.values()) == {1}
        assert len(counts) == 12


def test_videos_of_one_group_stay_in_one_split_whatever_their_buckets(tmp_path: Path) -> None:
    rows = []
    for tone in range(24):
        size = [(24, 24), (24, 40)][tone % 2]
        write(tmp_path / "listed" / f"{tone}.mp4", count=5, tone=9 * tone, size=size)
        rows.append({"path": f"{tone}.mp4", "group": f"scene {tone // 4}"})
    write_rows(tmp_path / "listed" / "all.csv", rows)
    data = folder(tmp_path / "listed", tmp_path / "cache", buckets=BUCKETS[:2])
    scenes = [{int(name[:-4]) // 4 for part in data.buckets for name in part.files(split)} for split in SPLITS]
    assert sum(map(len, scenes)) == len(set().union(*scenes)) == 6
    assert all(scenes)


def test_the_whole_is_its_first_bucket(root: Path, cache: Path) -> None:
    """For all that knows nothing of buckets, evaluation too."""
    data = folder(root, cache, buckets=[BUCKETS[1], BUCKETS[0], *BUCKETS[2:]])
    main = data.buckets[0]
    assert isinstance(data, Data)
    assert data.shape == main.shape == (4, 12, 20)
    assert {split: data.size(split) for split in SPLITS} == {split: main.size(split) for split in SPLITS}
    assert np.array_equal(data.clip("train", 1, 3)["video"], main.clip("train", 1, 3)["video"])
    batch = next(eval_batches(data, "test", 8, 8))
    assert batch["video"].shape == (1, 4, 12, 20, 3)
    assert len({part.fingerprint for part in (data, *data.buckets)}) == 6
    assert data.fingerprint != folder(root, cache).fingerprint
    assert folder(root, cache, mirror=0.5).plain().buckets[1].augment.active is False


# ---- nothing is squashed


def circle(height: int, width: int, frames: int = 5) -> np.ndarray:
    """A white disc of a third of the short side in the middle of black frames."""
    y, x = np.mgrid[:height, :width]
    disc = (y - (height - 1) / 2) ** 2 + (x - (width - 1) / 2) ** 2 < (min(height, width) / 3) ** 2
    return np.repeat((255 * disc).astype(np.uint8)[None, :, :, None], frames, axis=0).repeat(3, axis=-1)


@pytest.mark.parametrize("buckets", [["4x32x32", "4x24x40", "4x48x24"], ["4x32x32"], "auto"])
def test_a_circle_stays_a_circle(tmp_path: Path, buckets: Any) -> None:
    """Its width and height, by the white there is in its middle row and column, differ by the rounding of its edges alone."""
    for k, (height, width) in enumerate([(60, 60), (48, 80), (46, 82), (80, 48), (90, 40)] * 3):
        frames = circle(height, width)
        frames[:, 0, 0] = k  # no video is a copy of another
        write_lossless(tmp_path / "videos" / f"{k}.mkv", frames)
    data = folder(tmp_path / "videos", tmp_path / "cache", buckets=buckets, height=32, width=32)
    seen = 0
    for part in buckets_of(data):
        for split in SPLITS:
            for index in range(part.size(split)):
                frame = part.clip(split, index)["video"][0, :, :, 0] / 255.0
                high, wide = frame[:, frame.shape[1] // 2].sum(), frame[frame.shape[0] // 2].sum()
                assert min(high, wide) > 10
                assert abs(high - wide) < 1.5
                seen += 1
    assert seen == 15


# ---- automatic buckets


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (48, 80), (256, 256), (40, 40), (36, 60)])
def test_automatic_sizes_have_about_as_many_pixels_and_suit_the_aspects(size: tuple[int, int]) -> None:
    aspects = [1.0] * 30 + [16 / 9] * 30 + [9 / 16] * 20 + [4 / 3] * 19 + [7.0]
    sizes = auto_sizes(aspects, *size)
    step = math.gcd(*itertools.chain(*sizes))
    assert 1 < len(sizes) <= MOST
    assert step % 4 == 0
    assert all(math.prod(size) / SLACK <= h * w <= math.prod(size) * SLACK for h, w in sizes)
    for aspect in (1.0, 16 / 9, 9 / 16):
        assert min(max(aspect * h / w, w / h / aspect) for h, w in sizes) < 1.21
    assert auto_sizes([size[1] / size[0]] * 4, *size) == [size]


def test_automatic_lengths_suit_every_stride_up_to_four() -> None:
    spec = LatentSpec(channels=1, stride=(4, 1, 1), causal=True)
    for frames in (5, 9, 17, 33, 65):
        lengths = auto_lengths(frames)
        assert (lengths[0], lengths[-1]) == (frames, 1)
        assert all(spec.frames(spec.cells(length)) == length for length in lengths)
    assert auto_lengths(16) == [16, 8, 4]
    assert auto_lengths(10) == [10]
    assert auto_lengths(1) == [1]


def test_automatic_buckets_are_those_of_the_folder(root: Path, cache: Path, tmp_path: Path) -> None:
    """The fullest first; a rare length or aspect has none, and its videos go to the nearest, or are named."""
    data = folder(root, cache, buckets="auto", frames=9)
    found = {part.shape[0] for part in data.buckets}
    assert found == {9, 5, 1}
    assert all(part.size("train") for part in data.buckets)
    assert data.buckets[0].size("train") == max(part.size("train") for part in data.buckets if part.size("val"))
    assert sum(len(part.files(split)) for part in data.buckets for split in SPLITS) == 19
    videos(tmp_path / "videos", sizes={(5, 24, 24): 40, (1, 24, 24): 1, (5, 24, 90): 1})
    rare = folder(tmp_path / "videos", cache, buckets="auto", frames=5)
    assert [part.shape for part in rare.buckets] == [(5, 16, 16)]
    assert rare.skipped == [("1x24x24-0.mp4", "it has 1 of the 5 frames needed")]


def test_videos_are_decoded_once(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither frames nor aspects are read again while nothing has changed; broken notes are made again."""
    first = folder(root, tmp_path / "cache")
    (notes,) = (tmp_path / "cache").glob("aspects-*.json")
    whole = notes.read_text()
    notes.write_text("{")
    assert folder(root, tmp_path / "cache").fingerprint == first.fingerprint
    assert notes.read_text() == whole
    monkeypatch.setattr("vidgen.data.folder.table.VideoFile.frames", None)
    again = folder(root, tmp_path / "cache")
    assert again.fingerprint == first.fingerprint
    assert np.array_equal(again.buckets[3].clip("train", 0)["video"], first.buckets[3].clip("train", 0)["video"])


# ---- the budget


def test_a_batch_holds_as_many_clips_as_the_budget_and_never_more() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        shapes = [(int(t), int(h), int(w)) for t, h, w in rng.integers(1, 20, (4, 3))]
        parts = int(rng.integers(1, 4))
        budget = parts * max(map(math.prod, shapes)) + int(rng.integers(0, 5000))
        for shape, size in zip(shapes, batch_sizes(shapes, math.prod, budget, parts), strict=True):
            assert size % parts == 0
            assert size * math.prod(shape) <= budget < (size + parts) * math.prod(shape)


def test_a_budget_smaller_than_a_clip_is_told() -> None:
    shapes = [(4, 8, 8), (8, 8, 8)]
    with pytest.raises(UserError, match=r"100 tokens holds less than one clip of the bucket 8x8x8.*give data.tokens=512 or more"):
        batch_sizes(shapes, math.prod, 100)
    with pytest.raises(UserError, match=r"600 tokens holds less than 2 clips of the bucket 8x8x8.*give data.tokens=1024 or more"):
        batch_sizes(shapes, math.prod, 600, parts=2)


def test_what_is_shared_out_is_all_of_it() -> None:
    assert shared_out(100, [30, 10]) == [75, 25]
    assert shared_out(7, [1000, 1]) == [7, 1]


# ---- the order of batches


def test_an_epoch_has_every_item_once_and_none_is_dropped() -> None:
    """Each bucket's batches, one after the other, are its items in their shuffled order, epoch after epoch."""
    sizes, batches = [50, 7, 23], [4, 3, 8]
    order = BatchOrder(sizes, batches, seed=5)
    taken: list[list[tuple[int, int]]] = [[], [], []]
    epoch = sum(size / batch for size, batch in zip(sizes, batches, strict=True))
    for step in range(int(20 * epoch)):
        bucket, places = order(step)
        assert len(places) == batches[bucket]
        taken[bucket] += places
    for size, own in zip(sizes, taken, strict=True):
        expected = Order(size, 5)
        assert own == [expected(position) for position in range(len(own))]
        assert len(own) > 18 * size
        for begin in range(0, len(own) - size, size):
            assert sorted(item for item, _ in own[begin : begin + size]) == list(range(size))


def test_buckets_have_their_share_of_every_stretch_of_steps() -> None:
    """After e epochs each has had all but a rest of its e * size items; within an epoch the order is drawn."""
    sizes, batches = [60, 30, 10], [5, 5, 5]
    order = BatchOrder(sizes, batches, seed=0)
    drawn = [[order(epoch * 20 + step)[0] for step in range(20)] for epoch in range(6)]
    assert all(Counter(epoch) == {0: 12, 1: 6, 2: 2} for epoch in drawn)
    assert len({tuple(epoch) for epoch in drawn}) == 6
    assert clips_a_step(sizes, batches) == 5
    assert clips_a_step([10, 10], [10, 5]) == pytest.approx(20 / 3)


def test_a_rare_bucket_has_its_turn_too() -> None:
    """With fewer items than a batch takes it comes every few epochs."""
    order = BatchOrder([40, 2], [4, 8], seed=0)
    drawn = [order(step)[0] for step in range(4 * 41)]
    assert Counter(drawn) == {0: 160, 1: 4}


def test_the_order_is_a_function_of_seed_and_step() -> None:
    order, steps = BatchOrder([9, 31, 4], [2, 3, 5], seed=8), range(200)
    forwards = [order(step) for step in steps]
    assert [order(step) for step in reversed(steps)] == forwards[::-1]
    assert [BatchOrder([9, 31, 4], [2, 3, 5], seed=8)(step) for step in steps] == forwards
    assert [BatchOrder([9, 31, 4], [2, 3, 5], seed=9)(step) for step in steps] != forwards


def test_ranks_take_parts_of_one_bucket_s_batch() -> None:
    alone = BatchOrder([20, 11], [4, 6], seed=1)
    shared = BatchOrder([20, 11], [2, 3], seed=1, ranks=2)
    for step in range(60):
        parts = [shared(step, rank) for rank in range(2)]
        assert {bucket for bucket, _ in parts} == {alone(step)[0]}
        assert parts[0][1] + parts[1][1] == alone(step)[1]


def test_one_size_is_taken_as_ever() -> None:
    """Batch k is the items k*B to (k+1)*B of the order."""
    order, plain = BatchOrder([13], [4], seed=2), Order(13, 2)
    assert [order(step) for step in range(30)] == [(0, [plain(4 * step + k) for k in range(4)]) for step in range(30)]


# ---- batches of clips


def read(data: Folder, sizes: Any, workers: int = 0, first: int = 0, last: int = 24) -> list[dict[str, Any]]:
    return list(ClipBatches(data, batch_size=sizes, seed=3, first=first, last=last).loader(workers))


def test_every_batch_is_of_one_bucket_and_within_the_budget(root: Path, cache: Path) -> None:
    """And an epoch shows every training clip once."""
    data = folder(root, cache)
    budget = 2 * 4 * 16 * 16
    sizes = batch_sizes([part.shape for part in data.buckets], math.prod, budget)
    assert sizes == (2, 2, 2, 1, 8)
    shown: Counter[str] = Counter()
    for batch in read(data, sizes, last=64):
        assert math.prod(batch["video"].shape[:-1]) <= budget
        place = [part.shape for part in data.buckets].index(tuple(batch["video"].shape[1:-1]))
        assert len(batch["video"]) == sizes[place]
        shown[named(data.buckets[place].shape)] += len(batch["video"])
    clips = {named(part.shape): part.size("train") for part in data.buckets}
    epochs = 64 / sum(part.size("train") / size for part, size in zip(data.buckets, sizes, strict=True))
    for bucket, size in zip(clips, sizes, strict=True):
        assert abs(shown[bucket] - epochs * clips[bucket]) <= size + clips[bucket]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_and_resumption_see_the_same_batches(root: Path, cache: Path) -> None:
    data = folder(root, cache, mirror=0.5, zoom=0.2, light=0.05)
    alone = read(data, 2)
    for other in (read(data, 2, workers=3), alone[:9] + read(data, 2, workers=2, first=9)):
        assert all(torch.equal(one["video"], two["video"]) for one, two in zip(alone, other, strict=True))
    assert len({tuple(batch["video"].shape) for batch in alone}) == 5


def test_as_many_batch_sizes_as_buckets(root: Path, cache: Path) -> None:
    with pytest.raises(ValueError, match="5 buckets need as many batch sizes, or one for all, and not 2"):
        ClipBatches(folder(root, cache), batch_size=(2, 2), seed=0, first=0, last=1)


def test_labels_and_captions_stay_with_their_clips(tmp_path: Path) -> None:
    """Told by the frames' own tone; one vocabulary and one numbering of classes for all buckets."""
    shapes, lines = [(5, 24, 24), (5, 24, 40), (9, 24, 24)], []
    for tone in range(15):
        shape = shapes[tone % 3]
        write(tmp_path / "listed" / f"{tone}.mp4", count=shape[0], tone=16 * tone, size=shape[1:])
        lines.append({"path": f"{tone}.mp4", "caption": f"Number {tone}.", "label": f"class {tone % 5}"})
    (tmp_path / "listed/all.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = folder(tmp_path / "listed", tmp_path / "cache", buckets=["4x16x16", "4x12x20", "8x16x16"])
    assert data.class_names == tuple(f"class {k}" for k in range(5))
    assert all(part.class_names == data.class_names and part.vocabulary == data.vocabulary for part in data.buckets)
    seen = set()
    for batch in ClipBatches(data, batch_size=2, seed=0, first=0, last=30):
        for video, caption, label in zip(batch["video"].numpy(), batch["caption"], batch["label"].tolist(), strict=True):
            tone = int(caption.removeprefix("Number ").removesuffix("."))
            assert abs(float(video[0].mean()) - 16 * tone) < 18  # the frames of a clip go on by 4 each
            start = number(video[0], 16 * tone)
            assert [number(frame, 16 * tone) for frame in video] == list(range(start, start + len(video)))
            assert label == tone % 5
            seen.add(tone)
    assert len(seen) == sum(len(part.files("train")) for part in data.buckets)


# ---- one size, as before


def test_without_buckets_nothing_is_other_than_it_was(tmp_path: Path) -> None:
    """The fingerprint of a folder of fixed bytes, as it was before there were buckets."""
    for k in range(6):
        (tmp_path / "arrays").mkdir(exist_ok=True)
        np.save(tmp_path / "arrays" / f"{k}.npy", noise(1, seed=k)[0])
    data = Folder(path=str(tmp_path / "arrays"), cache=str(tmp_path / "cache"), frames=4, height=8, width=8)
    assert data.fingerprint == FINGERPRINT
    assert data.buckets == ()
    assert buckets_of(data) == (data,)


FINGERPRINT = "b60a365e854df6d01307b31b8a15e45689cf06ea29ef955507464478986d4831"


# ---- mistakes


@pytest.mark.parametrize(
    ("buckets", "sentence"),
    [
        (["4x16"], "data.buckets holds 4x16, which is no size: write frames x height x width in pixels, such as 17x64x64"),
        (["4x16x0"], "data.buckets holds 4x16x0, which is no size"),
        (["4x16x16", "4x16x16"], "data.buckets holds 4x16x16 twice"),
        ([], r"data.buckets=\[\] holds no size"),
        ("atuo", "data.buckets holds atuo, which is no size"),
    ],
)
def test_what_is_no_bucket(buckets: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        listed(buckets)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"buckets": ["4x16x16", "33x16x16"]},
            r"33x16x16, which no training video of .* is for \(the longest video has 17 of the 33",
        ),
        (
            {"buckets": ["4x16x16", "4x8x8"]},
            r"4x8x8, which no training video of .* is for \(those that are long enough are nearer",
        ),
        ({"buckets": ["65x16x16"]}, "the longest, 17x24x24-0.mp4, has 17 frames, and clips of 65 frames"),
        ({"buckets": None, "tokens": 5}, "data.tokens=5 is for buckets: say data.buckets=auto too"),
        ({"tokens": 0}, "data.tokens=0 is no number of tokens"),
    ],
)
def test_buckets_that_cannot_be_used(root: Path, cache: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        folder(root, cache, **options)


def test_the_document_states_the_sentences(tmp_path: Path) -> None:
    """But for their numbers and paths."""
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    section = text.split("## Several sizes: buckets\n")[1].split("\n## ")[0]
    stated = [re.sub(r"\d+", "N", row) for row in re.findall(r"^\| [^|]+ \| `(.+)` \|$", section, re.MULTILINE)]
    videos(tmp_path / "videos", sizes={(6, 24, 24): 4, (5, 24, 40): 2})
    spec = LatentSpec(channels=1, stride=(4, 4, 4), causal=True)
    said = []
    for mistake in (
        lambda: listed(["17x64"]),
        lambda: spec.grid((17, 62, 64)),
        lambda: folder(tmp_path / "videos", tmp_path / "cache", buckets=["4x16x16", "65x16x16"]),
        lambda: batch_sizes([(17, 64, 64)], spec.num_tokens, 100),
        lambda: folder(tmp_path / "videos", tmp_path / "cache", buckets=["4x12x20", "4x16x16"]),
    ):
        with pytest.raises(UserError) as caught:
            mistake()
        said.append(re.sub(r"\d+", "N", str(caught.value).replace(str(tmp_path / "videos"), "PATH")))
    assert stated[1].endswith(said[1])  # the command line names the bucket before it
    assert stated[0:1] + stated[2:] == said[0:1] + said[2:]


def test_the_first_bucket_has_clips_in_every_split(tmp_path: Path) -> None:
    videos(tmp_path / "videos", sizes={(6, 24, 24): 4, (5, 24, 40): 2})
    with pytest.raises(UserError, match=r"The first bucket, 4x12x20, .* has no val or test clips for it: begin with 4x16x16\."):
        folder(tmp_path / "videos", tmp_path / "cache", buckets=["4x12x20", "4x16x16"])
    with pytest.raises(UserError, match="has too few usable videos, 2 in the fullest bucket for 3 splits"):
        videos(tmp_path / "few", sizes={(6, 24, 24): 2, (5, 24, 40): 2})
        folder(tmp_path / "few", tmp_path / "cache", buckets=["4x12x20", "4x16x16"])
