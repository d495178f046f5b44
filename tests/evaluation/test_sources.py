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
from vidgen.evaluation.protocol import DataRule
from vidgen.evaluation.sources import Drawing, cut, open_source
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
    return [clip[:, 0, 0, 0].tolist() for clip in cut(lambda: ((frame, 1.0) for frame in numbered(count)), rule, stride, name)]


@pytest.mark.parametrize(
    ("clip", "stride", "expected"),
    [
        ("first", 1, [[0, 1, 2]]),
        ("first", 2, [[0, 2, 4]]),
        ("center", 1, [[3, 4, 5]]),
        ("center", 2, [[2, 4, 6]]),
        ("all", 1, [[0, 1, 2], [3, 4, 5], [6, 7, 8]]),
        ("all", 2, [[0, 2, 4]]),
    ],
)
def test_a_rule_takes_these_frames_of_a_video_of_nine(clip: str, stride: int, expected: list[list[int]]) -> None:
    assert taken(replace(RULE, clip=clip), 9, stride) == expected


@pytest.mark.parametrize("clip", ["first", "center", "random", "all"])
def test_a_video_that_is_too_short_gives_none(clip: str) -> None:
    assert taken(replace(RULE, clip=clip), 2) == []
    assert taken(replace(RULE, clip=clip), 4, stride=2) == []


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
    assert (names, pixels.shape) == (["good.mp4"], (1, 3, 16, 16, 3))
    assert [name for name, _ in source.skipped] == ["broken.mp4", "short.mp4"]
    assert "it has fewer than the 3 frames needed" in dict(source.skipped)["short.mp4"]


def test_a_data_set_is_drawn_at_the_size_of_the_protocol() -> None:
    ((names, pixels),) = clips_of("worlds:test", replace(RULE, frames=5, height=24, width=32, fake_count=3))
    assert (names, pixels.shape) == (["test/0", "test/1", "test/2"], (3, 5, 24, 32, 3))


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

    assert named("train", False) == ["train/0.mp4", "train/1.mp4"]
    assert named("test", False) == ["test/0.mp4", "test/1.mp4"]
    assert len(named("all", False)) == len(named("test", True)) == 4
    with pytest.raises(UserError, match="has no videos in the split 'val' of the protocol"):
        named("val", False)


def test_clips_of_two_sizes_are_not_mixed(tmp_path: Path) -> None:
    for name, size in (("a", 16), ("b", 32)):
        write_mp4(tmp_path / f"{name}.mp4", np.zeros((3, size, 32, 3), dtype=np.uint8), fps=8)
    with pytest.raises(UserError, match=r"holds clips of several sizes \(a.mp4 is 3x16x32, b.mp4 is 3x32x32\)"):
        clips_of(tmp_path)


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
