"""Sources of clips: which frames a rule takes of a video, and that whatever is typed is found or named."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from vidgen import UserError
from vidgen.data.folder import Folder
from vidgen.data.worlds import Worlds
from vidgen.evaluation.cutting import cut
from vidgen.evaluation.protocol import DataRule
from vidgen.evaluation.sources import Drawing, open_source, plain_names
from vidgen.viz import write_mp4

RULE = DataRule(
    reference="made here",
    split="all",
    frames=3,
    height=None,
    width=None,
    crop="center",
    fps=None,
    stride=1,
    fake_stride=1,
    clip="first",
    count=None,
    fake_count=None,
    context=0,
    seed=0,
)
DRAWING = Drawing(device=torch.device("cpu"), batch_size=4, precision=torch.no_grad, options={})


def numbered(count: int) -> list[np.ndarray]:
    """Frames of one pixel whose value is their number."""
    return [np.full((1, 1, 3), number, dtype=np.uint8) for number in range(count)]


def taken(rule: DataRule, count: int, stride: int = 1, name: str = "a") -> list[list[int]]:
    """The numbers of the frames of every clip."""
    found = cut(lambda: ((frame, 1.0) for frame in numbered(count)), rule, stride, name)
    return [clip[:, 0, 0, 0].tolist() for _, clip in found]


@pytest.mark.parametrize(
    ("clip", "stride", "expected"),
    [
        ("first", 1, [[0, 1, 2]]),
        ("first", 2, [[0, 2, 4]]),
        ("center", 1, [[3, 4, 5]]),
        ("center", 2, [[2, 4, 6]]),
        ("all", 1, [[0, 1, 2], [3, 4, 5], [6, 7, 8]]),
        ("all", 2, [[0, 2, 4]]),
        ("every", 2, [[0, 2, 4], [1, 3, 5], [2, 4, 6], [3, 5, 7], [4, 6, 8]]),
        ("whole", 1, [[0, 1, 2]]),
    ],
)
def test_a_rule_takes_these_frames_of_a_video_of_nine(clip: str, stride: int, expected: list[list[int]]) -> None:
    assert taken(replace(RULE, clip=clip), 9, stride) == expected


@pytest.mark.parametrize("clip", ["first", "center", "random", "repeated", "all", "every"])
def test_a_video_that_is_too_short_gives_none(clip: str) -> None:
    rule = replace(RULE, clip=clip, count=9)
    assert taken(rule, 2) == []
    assert taken(rule, 4, stride=2) == []


def test_random_clips_start_anywhere_equally_often_and_are_a_function_of_seed_and_name() -> None:
    rule = replace(RULE, clip="random")
    starts = Counter(taken(rule, 7, name=str(name))[0][0] for name in range(2000))
    assert sorted(starts) == [0, 1, 2, 3, 4]
    assert max(abs(count - 400) for count in starts.values()) < 4 * (2000 * 0.2 * 0.8) ** 0.5
    assert taken(rule, 7, name="x") == taken(rule, 7, name="x")
    assert [taken(replace(rule, seed=1), 50, name=str(i)) for i in range(9)] != [taken(rule, 50, name=str(i)) for i in range(9)]


def clips_of(text: str | Path, rule: DataRule = RULE) -> list[tuple[list[str], np.ndarray]]:
    return list(open_source(str(text), rule, DRAWING, generated=True).batches(8))


def test_an_array_a_folder_of_frames_and_an_npz_hold_the_same(tmp_path: Path) -> None:
    videos = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 8, 3), dtype=np.uint8)
    np.save(tmp_path / "clips.npy", videos)
    np.savez(tmp_path / "clips.npz", video=videos, label=np.arange(2))
    for index, video in enumerate(videos):
        (tmp_path / "frames" / str(index)).mkdir(parents=True)
        for number, frame in enumerate(video):
            Image.fromarray(frame).save(tmp_path / "frames" / str(index) / f"frame{number + 8}.png")  # 8, 9, 10, 11
    found = [clips_of(tmp_path / name) for name in ("clips.npy", "clips.npz", "frames")]
    for ((names, pixels),) in found:
        assert len(names) == 2
        np.testing.assert_array_equal(pixels, videos[:, :3])


def test_fingerprints_tell_contents_and_rules_apart_and_not_places(tmp_path: Path) -> None:
    videos = np.zeros((2, 4, 6, 8, 3), dtype=np.uint8)
    for name, first in (("a", 0), ("b", 0), ("c", 1)):
        videos[0, 0, 0, 0, 0] = first
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "clips.npy", videos)

    def fingerprint(name: str, rule: DataRule = RULE) -> str:
        return open_source(str(tmp_path / name), rule, DRAWING, generated=False).fingerprint

    assert fingerprint("a") == fingerprint("b") != fingerprint("c")
    assert fingerprint("a") != fingerprint("a", replace(RULE, frames=2))


def test_a_folder_of_videos_is_cut_and_what_is_broken_is_named(tmp_path: Path) -> None:
    video = np.random.default_rng(0).integers(0, 256, (5, 32, 48, 3), dtype=np.uint8)
    write_mp4(tmp_path / "good.mp4", video, fps=8)
    write_mp4(tmp_path / "short.mp4", video[:2], fps=8)
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    source = open_source(str(tmp_path), replace(RULE, height=16, width=16), DRAWING, generated=False)
    ((names, pixels),) = source.batches(8)
    assert (names, pixels.shape) == (["good"], (1, 3, 16, 16, 3))
    assert [name for name, _ in source.skipped] == ["broken.mp4", "short.mp4"]
    assert "it has fewer than the 3 frames needed" in dict(source.skipped)["short.mp4"]


def test_a_data_set_is_drawn_at_the_size_of_the_protocol() -> None:
    ((names, pixels),) = clips_of("worlds:test", replace(RULE, frames=5, height=24, width=32, fake_count=3))
    assert (names, pixels.shape) == (["0", "1", "2"], (3, 5, 24, 32, 3))


def test_squashing_keeps_the_whole_and_cutting_the_middle(tmp_path: Path) -> None:
    video = np.zeros((1, 3, 8, 24, 3), dtype=np.uint8)
    video[..., :8, :], video[..., 16:, :] = 255, 255
    np.save(tmp_path / "v.npy", video)
    rule = replace(RULE, height=8, width=8)
    ((_, middle),) = clips_of(tmp_path / "v.npy", rule)
    ((_, whole),) = clips_of(tmp_path / "v.npy", replace(rule, crop="squash"))
    assert middle.max() == 0
    assert whole[..., 0, :].min() == 255


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("nowhere", "'nowhere' is no source of clips"),
        ("world:test", "Did you mean 'worlds'?"),
        ("worlds:tset", "Did you mean 'test'?"),
    ],
)
def test_what_is_no_source_is_answered(text: str, sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        clips_of(text)
    assert sentence in str(raised.value)


def test_an_array_of_numbers_that_are_no_pixels_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.zeros((2, 3, 4, 4, 3), np.float32))
    with pytest.raises(UserError, match="it holds float32"):
        clips_of(tmp_path / "v.npy")


def test_real_clips_are_of_the_split_of_the_protocol(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for index in range(2):
            (tmp_path / split).mkdir(exist_ok=True)
            write_mp4(tmp_path / split / f"{index}.mp4", np.full((3, 16, 16, 3), 40 * index, dtype=np.uint8), fps=8)

    def named(split: str, generated: bool) -> list[str]:
        source = open_source(str(tmp_path), replace(RULE, split=split), DRAWING, generated=generated)
        return [name for names, _ in source.batches(8) for name in names]

    assert named("train", False) == named("test", False) == ["0", "1"]
    assert named("all", False) == named("test", True) == ["test/0", "test/1", "train/0", "train/1"]
    with pytest.raises(UserError, match="has no videos in the split 'val' of the protocol"):
        named("val", False)


def test_clips_of_two_sizes_are_not_mixed(tmp_path: Path) -> None:
    for name, size in (("a", 16), ("b", 32)):
        write_mp4(tmp_path / f"{name}.mp4", np.zeros((3, size, 32, 3), dtype=np.uint8), fps=8)
    with pytest.raises(UserError, match=r"holds clips of several sizes \(a is 3x16x32, b is 3x32x32\)"):
        clips_of(tmp_path)


def clip_of(text: str | Path, rule: DataRule, *, generated: bool = False) -> np.ndarray:
    """The first clip of a source."""
    return next(open_source(str(text), rule, DRAWING, generated=generated).clips())[1]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The recipe of a run on worlds of 13 frames; nothing of it was trained."""
    text = "data: {name: worlds, frames: 13, height: 24, width: 32}\nevaluation: {clips: 5, samples: 6}\n"
    (tmp_path / "config.yaml").write_text(text)
    return tmp_path


@pytest.fixture
def world() -> np.ndarray:
    """The first clip that such a run holds out."""
    return Worlds(frames=13, height=24, width=32).clip("test", 0)["video"]


@pytest.mark.parametrize("generated", [False, True])
def test_a_data_set_and_a_run_give_every_so_many_frames(run: Path, world: np.ndarray, generated: bool) -> None:
    strides = {"fake_stride": 3, "stride": 1} if generated else {"stride": 3, "fake_stride": 1}
    rule = replace(RULE, frames=5, height=24, width=32, count=1, fake_count=1, **strides)
    np.testing.assert_array_equal(clip_of("worlds:test", rule, generated=generated), world[::3])
    np.testing.assert_array_equal(clip_of(f"{run}:test", rule, generated=generated), world[::3])
    with pytest.raises(
        UserError, match=r"gives clips of 13 frames and the protocol compares 6 at protocol.data.(fake_)?stride=3"
    ):
        clip_of(f"{run}:test", replace(rule, frames=6), generated=generated)


def test_the_clip_and_the_crop_of_a_rule_are_those_of_a_run_too(run: Path, world: np.ndarray) -> None:
    rule = replace(RULE, frames=5, count=40)
    np.testing.assert_array_equal(clip_of(f"{run}:test", replace(rule, clip="center")), world[4:9])
    sources = {clip: open_source(f"{run}:test", replace(rule, clip=clip), DRAWING, generated=False) for clip in ("random", "all")}
    drawn = dict(sources["random"].clips())["0"]
    assert any(np.array_equal(drawn, world[start : start + 5]) for start in range(9))
    starts = [clip for _, clip in sources["random"].clips()]
    firsts = [clip for _, clip in open_source(f"{run}:test", rule, DRAWING, generated=False).clips()]
    assert sum(map(np.array_equal, starts, firsts)) < 20  # one of nine starts is the first
    assert [name for name, _ in sources["all"].clips()][:4] == ["0 1", "0 2", "1 1", "1 2"]
    square = replace(rule, height=8, width=8)
    assert not np.array_equal(clip_of(f"{run}:test", square), clip_of(f"{run}:test", replace(square, crop="squash")))


@pytest.mark.parametrize(
    ("part", "change", "sentence"),
    [
        ("test", {"fps": 10.0}, "has no times that protocol.data.fps=10 could convert"),
        ("train", {"split": "test"}, "gives real clips of the split 'train' and the protocol compares with 'test'"),
        ("test", {"frames": 14}, "gives clips of 13 frames and the protocol compares 14: say protocol.data.frames=13"),
    ],
)
def test_what_a_run_cannot_give_is_refused(run: Path, part: str, change: dict, sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        clip_of(f"{run}:{part}", replace(RULE, **change))
    assert sentence in str(raised.value)


def test_what_has_no_times_cannot_be_converted(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.zeros((2, 4, 8, 8, 3), np.uint8))
    with pytest.raises(UserError, match=r"states no times that protocol.data.fps=10 could convert"):
        clip_of(tmp_path / "v.npy", replace(RULE, fps=10.0))
    with pytest.raises(UserError, match=r"worlds:test has no times"):
        clip_of("worlds:test", replace(RULE, fps=10.0, frames=5, count=2))


def test_a_run_is_measured_on_as_many_clips_as_it_measures_itself(run: Path) -> None:
    assert len(list(open_source(f"{run}:test", RULE, DRAWING, generated=False).clips())) == 5
    assert len(list(open_source(f"{run}:test", replace(RULE, count=2), DRAWING, generated=False).clips())) == 2
    assert len(list(open_source(f"{run}:train", RULE, DRAWING, generated=False).clips())) == 5  # which have no end
    with pytest.raises(UserError, match=r"worlds:test has 1,048,576 clips, and the protocol takes all: give protocol.data.count"):
        clip_of("worlds:test", RULE)
    with pytest.raises(UserError, match=r"give protocol.data.fake_count"):
        clip_of("worlds:test", RULE, generated=True)


def test_training_clips_of_a_run_are_shown_as_they_are(tmp_path: Path) -> None:
    """Mirrored or seen more closely they would hide copies."""
    videos = np.random.default_rng(0).integers(0, 256, (6, 5, 16, 16, 3), dtype=np.uint8)
    (tmp_path / "run").mkdir()
    np.save(tmp_path / "videos.npy", videos)
    how = {"frames": 5, "height": 16, "width": 16, "cache": str(tmp_path / "cache"), "mirror": 1.0}
    lines = [f"  {key}: {value}" for key, value in {"name": "folder", "path": tmp_path / "videos.npy", **how}.items()]
    (tmp_path / "run" / "config.yaml").write_text("\n".join(["data:", *lines, "evaluation: {clips: 2}"]))
    data = Folder(path=str(tmp_path / "videos.npy"), **how)
    found = [
        clip for _, clip in open_source(f"{tmp_path / 'run'}:train", replace(RULE, frames=5), DRAWING, generated=False).clips()
    ]
    assert len(found) == data.size("train") == 4
    assert not any(np.array_equal(clip, data.clip("train", index)["video"]) for index, clip in enumerate(found))
    np.testing.assert_array_equal(found, [data.plain().clip("train", index)["video"] for index in range(4)])


def test_names_are_without_folders_extensions_and_files(tmp_path: Path) -> None:
    folder = ["UCF-101/Archery/x.avi", "UCF-101/Bowling/y.mp4"]
    assert plain_names(folder, tmp_path) == ["Archery/x", "Bowling/y"] == plain_names(["Archery/x.mp4", "Bowling/y"], tmp_path)
    assert plain_names(["only/one.mp4"], tmp_path) == ["one"]
    assert plain_names(["v1.2", "v1.3"], tmp_path) == ["v1.2", "v1.3"]
    rows = ["clips.npy[0]", "clips.npy[1]"]
    (tmp_path / "clips.npy").touch()
    assert plain_names(rows, tmp_path) == ["0", "1"] == plain_names(rows, tmp_path / "clips.npy")
    assert plain_names(["clips.npy"], tmp_path / "clips.npy") == ["0"]
    assert plain_names(["a.h5/train[3]", "a.h5/test[3]"], tmp_path) == ["train/3", "test/3"]


def test_a_video_and_its_copy_in_another_folder_and_format_give_the_same_random_clip(tmp_path: Path) -> None:
    video = np.arange(60, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2).repeat(3, 3)
    for name in "xy":
        (tmp_path / "a" / "UCF-101" / name).mkdir(parents=True)
        (tmp_path / "b").mkdir(exist_ok=True)
        np.savez(tmp_path / "a" / "UCF-101" / name / f"{name}.npz", video=video)
        np.save(tmp_path / "b" / f"{name}.npy", video)
    (tmp_path / "b2").mkdir()
    for name in "xy":
        (tmp_path / "b2" / name).mkdir()
        np.save(tmp_path / "b2" / name / f"{name}.npy", video)
    rule = replace(RULE, clip="random")
    one, other = (dict(open_source(str(tmp_path / name), rule, DRAWING, generated=False).clips()) for name in ("a", "b2"))
    assert one.keys() == other.keys() == {"x/x", "y/y"}
    for name, clip in one.items():
        np.testing.assert_array_equal(clip, other[name])
    flat = dict(open_source(str(tmp_path / "b"), rule, DRAWING, generated=False).clips())
    assert {name: clip[0, 0, 0, 0] for name, clip in flat.items()} != {name[0]: clip[0, 0, 0, 0] for name, clip in one.items()}


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    """Twenty videos of 6 to 25 frames of 4x4 pixels, each frame of the colour of its number, each video with its own red."""
    for video in range(20):
        frames = np.zeros((6 + video, 4, 4, 3), np.uint8)
        frames[..., 0], frames[..., 1] = video, np.arange(6 + video)[:, None, None]
        np.save(tmp_path / f"{video:02d}.npy", frames)
    return tmp_path


def places(folder: Path, rule: DataRule, *, generated: bool = False) -> list[tuple[int, int]]:
    """The video and the first frame of every clip."""
    clips = open_source(str(folder), rule, DRAWING, generated=generated).clips()
    return [(int(clip[0, 0, 0, 0]), int(clip[0, 0, 0, 1])) for _, clip in clips]


def test_fewer_clips_than_there_are_videos_are_of_videos_drawn_at_random(numbers: Path) -> None:
    found = [{video for video, _ in places(numbers, replace(RULE, count=8, seed=seed))} for seed in range(40)]
    assert all(len(one) == 8 for one in found)
    often = Counter(video for one in found for video in one)
    assert len(often) == 20
    assert max(abs(count - 16) for count in often.values()) < 4 * (40 * 0.4 * 0.6) ** 0.5
    assert [video for video, _ in places(numbers, RULE)] == list(range(20))


def test_random_clips_are_repeated_at_other_starts_until_there_are_enough_real_ones(numbers: Path) -> None:
    rule = replace(RULE, clip="repeated", count=47, fake_count=47)
    found = places(numbers, rule)
    assert sorted(Counter(video for video, _ in found).values()) == [2] * 13 + [3] * 7
    assert len(set(found)) > 35
    assert sorted(found[:20]) == sorted(places(numbers, replace(rule, clip="random")))
    assert len(places(numbers, rule, generated=True)) == 20
    np.save(numbers / "short.npy", np.zeros((2, 4, 4, 3), np.uint8))
    source = open_source(str(numbers), rule, DRAWING, generated=False)
    assert len(list(source.clips())) == 47
    assert [name for name, _ in source.skipped] == ["short.npy"]


@pytest.mark.parametrize(("clip", "each"), [("all", lambda frames: frames // 3), ("every", lambda frames: frames - 2)])
def test_some_of_all_clips_are_drawn_each_as_likely_as_any(numbers: Path, clip: str, each) -> None:
    everything = places(numbers, replace(RULE, clip=clip))
    assert Counter(video for video, _ in everything) == {video: each(6 + video) for video in range(20)}
    drawn = [places(numbers, replace(RULE, clip=clip, count=40, seed=seed)) for seed in range(6)]
    assert all(len(set(one)) == 40 and set(one) <= set(everything) for one in drawn)
    late = sum(video >= 10 for one in drawn for video, _ in one) / 240
    true = sum(video >= 10 for video, _ in everything) / len(everything)
    assert abs(late - true) < 4 * (true * (1 - true) / 240) ** 0.5


def test_whole_videos_are_clips_of_their_own_length(numbers: Path) -> None:
    rule = replace(RULE, clip="whole", frames=20)
    batches = list(open_source(str(numbers), rule, DRAWING, generated=False).batches(8))
    assert [pixels.shape[:2] for _, pixels in batches] == [*((1, 6 + video) for video in range(14)), (6, 20)]


def test_videos_that_do_not_say_their_split_are_taken_for_the_protocols(numbers: Path) -> None:
    (note,) = open_source(str(numbers), replace(RULE, split="test"), DRAWING, generated=False).notes
    assert "does not say which split" in note
    assert not open_source(str(numbers), replace(RULE, split="test"), DRAWING, generated=True).notes


def test_samples_of_a_run_are_drawn_as_they_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that memory does not grow with their number."""
    asked: list[int] = []

    def sample(num: int, shape: tuple[int, int, int], **how: object) -> torch.Tensor:
        asked.append(num)
        return torch.zeros(num, 3, *shape)

    model = SimpleNamespace(generator=torch.nn.Linear(1, 1), tokenizer=torch.nn.Linear(1, 1), sample=sample)
    monkeypatch.setattr("vidgen.hub.load", lambda *_: model)
    (tmp_path / "config.yaml").write_text("data: {name: worlds, frames: 5, height: 24, width: 24}\n")
    clips = open_source(str(tmp_path), replace(RULE, fake_count=10), DRAWING, generated=True).clips()
    assert next(clips)[1].shape == (3, 24, 24, 3)
    assert asked == [4]
    assert len(list(clips)) == 9
    assert asked == [4, 4, 2]
