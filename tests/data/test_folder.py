"""Folders of videos: every mistake is a sentence, no file leaks across splits, and a clip is a function of its arguments."""

from __future__ import annotations

import errno
import inspect
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import yaml
from footage import number, write

from vidgen import viz
from vidgen.data import decode
from vidgen.data.folder import SPLITS, Folder
from vidgen.data.folder.cache import fit
from vidgen.errors import UserError

ASSETS = Path(__file__).parents[3] / "shared" / "assets" / "video"
needs_assets = pytest.mark.skipif(not ASSETS.is_dir(), reason=f"the real videos are not there ({ASSETS})")


@pytest.fixture
def root(tmp_path):
    """Ten flat videos of 12 frames."""
    for k in range(10):
        write(tmp_path / "videos" / f"v{k}.mp4", tone=k)
    return tmp_path / "videos"


@pytest.fixture
def make(tmp_path):
    """A small ``Folder`` with its cache out of the way, whose training clips are left as they are."""

    def build(path, **options):
        plain = {"frames": 4, "height": 8, "width": 8, "mirror": 0.0, "zoom": 0.0, "light": 0.0}
        return Folder(path=path and str(path), cache=str(tmp_path / "cache"), **{**plain, **options})

    return build


def python(code):
    """Another Python process, that can import what this one can."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)


def everything(data, epoch=0):
    return {split: [data.clip(split, i, epoch) for i in range(data.size(split))] for split in SPLITS}


def copy_of(clips):
    return json.dumps([{**c, "video": c["video"].tolist()} for c in clips])


# ---- what a clip is


def test_a_clip_has_its_parts_and_comes_from_where_it_says(root, make):
    data = make(root)
    assert data.shape == (4, 8, 8)
    assert data.class_names == ()
    for clips in everything(data).values():
        for clip in clips:
            assert clip["video"].shape == (4, 8, 8, 3)
            assert clip["video"].dtype == np.uint8
            assert clip["video"].flags.writeable
            assert clip["label"] == -1
            tone = int(clip["source"][1])
            assert [number(frame, tone) for frame in clip["video"]] == [clip["start"] + t for t in range(4)]


def test_the_protocol_is_kept_without_options_that_the_yaml_lacks():
    recipe = yaml.safe_load((Path(__file__).parents[2] / "configs" / "data" / "folder.yaml").read_text())
    assert recipe.pop("name") == "folder"
    defaults = {name: p.default for name, p in inspect.signature(Folder).parameters.items()}
    assert {name: list(v) if isinstance(v, tuple) else v for name, v in defaults.items()} == recipe


def test_stride_takes_every_second_frame(root, make):
    data = make(root, stride=3)  # 4 frames span 10 of the 12
    clip = data.clip("train", 0)
    assert data.size("train") == 8
    assert [number(frame, int(clip["source"][1])) for frame in clip["video"]] == [clip["start"] + 3 * t for t in range(4)]
    assert {data.clip("train", 0, epoch)["start"] for epoch in range(30)} == {0, 1, 2}


def test_training_clips_move_with_the_epoch_and_held_out_ones_stay(root, make):
    data = make(root)
    starts = {split: [[c["start"] for c in everything(data, epoch)[split]] for epoch in range(30)] for split in SPLITS}
    assert len({tuple(epoch) for epoch in starts["train"]}) > 20
    assert set(np.array(starts["train"]).flat) == set(range(9))  # every start that fits is used in time
    for split in ("val", "test"):
        assert all(epoch == [0, 4, 8] for epoch in starts[split])  # 12 frames: three clips that do not overlap
    assert [clip["start"] for clip in everything(make(root, frames=5))["val"]] == [0, 7]  # from one end to the other


def test_clips_of_one_video_spread_over_it_in_every_epoch(root, make):
    data = make(root)
    for epoch in range(20):
        clips = [data.clip("train", i, epoch) for i in range(3)]
        assert len({clip["source"] for clip in clips}) == 1
        starts = [clip["start"] for clip in clips]
        assert starts == sorted(set(starts))


def test_clips_are_a_pure_function(root, make):
    first, again = make(root), make(root)
    forward = everything(first, epoch=3)["train"]
    backward = [again.clip("train", i, 3) for i in reversed(range(again.size("train")))]
    assert copy_of(forward) == copy_of(backward[::-1])
    other = make(root, seed=1)
    assert copy_of(everything(first)["train"]) != copy_of(everything(other)["train"])
    assert first.fingerprint != other.fingerprint


def test_pickled_and_in_another_process_it_gives_the_same(root, make):
    data = make(root)
    data.clip("train", 0)
    travelling = pickle.dumps(data)
    assert len(travelling) < 10_000  # no pixels do
    code = "import pickle, sys; data = pickle.load(sys.stdin.buffer); print(data.clip('train', 7, 2)['video'].tobytes().hex())"
    with python(code) as process:
        said, _ = process.communicate(travelling, timeout=300)
    assert said.decode().strip() == data.clip("train", 7, 2)["video"].tobytes().hex()


def test_an_index_out_of_range_is_an_error(root, make):
    data = make(root)
    for index in (-1, data.size("val")):
        with pytest.raises(IndexError, match="val has 3 clips"):
            data.clip("val", index)


# ---- which files


def test_files_are_found_at_any_depth_and_hidden_ones_are_not(root, make):
    shutil.move(root / "v0.mp4", root / "V0.MP4")
    (root / "deep" / "deeper").mkdir(parents=True)
    shutil.move(root / "v1.mp4", root / "deep" / "deeper" / "v1.mp4")
    write(root / ".hidden.mp4", tone=50)
    write(root / ".trash" / "x.mp4", tone=51)
    (root / "notes.txt").write_text("no video")
    (root / "deep" / "loop").symlink_to(root)
    write(root.with_name("elsewhere") / "far.mp4", tone=52)
    (root / "link").symlink_to(root.with_name("elsewhere"))
    data = make(root, classes="none")
    expected = {"V0.MP4", "deep/deeper/v1.mp4", "link/far.mp4"} | {f"v{k}.mp4" for k in range(2, 10)}
    assert [video.name for video in data.videos] == sorted(expected)


def test_what_cannot_be_used_is_named_and_never_replaced(root, make, capsys):
    (root / "broken.mp4").write_bytes(b"not a video")
    write(root / "short.mp4", count=3, tone=77)
    shutil.copy(root / "v3.mp4", root / "w.mp4")
    (root / "gone.mp4").symlink_to(root / "nowhere")
    data = make(root)
    assert data.skipped == [
        ("broken.mp4", "it cannot be opened (Invalid data found when processing input)"),
        ("gone.mp4", "it cannot be read (No such file or directory)"),
        ("short.mp4", "it has 3 of the 4 frames needed"),
        ("w.mp4", "it is a copy of v3.mp4"),
    ]
    printed = capsys.readouterr()
    assert printed.out == ""
    for name, reason in data.skipped:
        assert f"{root / name}: {reason}." in printed.err
    assert sum(len(data.files(split)) for split in SPLITS) == 10

    assert make(root).skipped == data.skipped
    assert capsys.readouterr().err == ""  # said once, while reading


@needs_assets
def test_the_corrupted_file_is_reported(make, tmp_path):
    for name in ("corrupted.mp4", "h264_10bits.mp4", "h265_10bits.mp4", "h265_video.mp4"):
        shutil.copy(ASSETS / "robust" / name, tmp_path / name)
    data = make(tmp_path)
    assert data.skipped == [("corrupted.mp4", "it is damaged after 28 frames (Invalid data found when processing input)")]
    assert not list((tmp_path / "cache").rglob("*.partial"))


# ---- classes and splits


@pytest.fixture
def classes(tmp_path):
    for c, name in enumerate(("wave", "clap", "nod")):
        for k in range(10):
            write(tmp_path / "videos" / name / "more" / f"{k}.mp4", tone=10 * c + k)
    return tmp_path / "videos"


def test_sub_folders_are_classes_and_every_split_has_them_in_proportion(classes, make):
    data = make(classes)
    assert data.class_names == ("clap", "nod", "wave")
    for split, count in (("train", 8), ("val", 1), ("test", 1)):
        assert Counter(name.split("/")[0] for name in data.files(split)) == {"clap": count, "nod": count, "wave": count}
    for clips in everything(data).values():
        assert all(data.class_names[clip["label"]] == clip["source"].split("/")[0] for clip in clips)


def test_labels_can_be_left_out(classes, make):
    data = make(classes, classes="none")
    assert data.class_names == ()
    assert {clip["label"] for clip in everything(data)["train"]} == {-1}


def test_one_sub_folder_is_no_class(root, make):
    assert make(root.parent, classes="auto").class_names == ()


def test_a_video_beside_the_classes_is_an_error(classes, make):
    write(classes / "stray.mp4", tone=99)
    with pytest.raises(UserError, match=r"stray\.mp4 lies beside the class folders clap, nod, wave .* data\.classes=none"):
        make(classes)
    assert make(classes, classes="none").class_names == ()


@pytest.mark.parametrize("count", [3, 4, 5, 9, 20, 31])
def test_every_split_has_files_and_no_file_has_two(count, make, tmp_path):
    for k in range(count):
        write(tmp_path / "videos" / f"{k}.mp4", count=4, tone=k)
    data = make(tmp_path / "videos")
    files = [data.files(split) for split in SPLITS]
    assert all(files)
    assert sorted(chain(*files)) == sorted(f"{k}.mp4" for k in range(count))
    assert len(files[0]) == max(1, min(count - 2, round(0.8 * count)))


def test_the_split_depends_on_seed_and_names_only(root, make, tmp_path):
    data = make(root)
    assert data.files("train") == make(root, frames=3, fps=5).files("train")
    assert len({tuple(make(root, seed=seed).files("test")) for seed in range(12)}) > 4
    moved = shutil.copytree(root, tmp_path / "elsewhere")
    assert make(moved).files("test") == data.files("test")
    assert make(moved).fingerprint == data.fingerprint


def test_other_shares(root, make):
    data = make(root, split=[0.4, 0.4, 0.2])
    assert [len(data.files(split)) for split in SPLITS] == [4, 4, 2]
    data = make(root, split=[0.02, 0.02, 0.96])
    assert [len(data.files(split)) for split in SPLITS] == [1, 1, 8]


def test_split_folders_are_obeyed(tmp_path, make):
    for s, (split, count) in enumerate({"train": 6, "Test": 2}.items()):
        for k in range(count):
            write(tmp_path / "v" / split / ("up" if k % 2 else "down") / f"{k}.mp4", tone=10 * s + k)
    data = make(tmp_path / "v")
    assert data.class_names == ("down", "up")
    assert data.files("test") == ["Test/down/0.mp4", "Test/up/1.mp4"]
    assert len(data.files("val")) == 1
    assert len(data.files("train")) == 5
    assert all(name.startswith("train/") for name in data.files("val") + data.files("train"))
    with pytest.raises(UserError, match="split folders of its own"):
        make(tmp_path / "v", split_by="time")


def test_few_long_videos_are_cut_in_time_only_when_told(tmp_path, make):
    write(tmp_path / "v" / "long.mp4", count=50)
    with pytest.raises(UserError, match=r"1 for 3 splits \(train, val, test\): add videos, or say data\.split_by=time"):
        make(tmp_path / "v")
    data = make(tmp_path / "v", split_by="time", split=(0.6, 0.2, 0.2))
    seen = {split: set() for split in SPLITS}
    for epoch in range(40):
        for split, clips in everything(data, epoch).items():
            seen[split] |= {number(frame) for clip in clips for frame in clip["video"]}
    assert seen["train"] == set(range(30))
    assert seen["val"] <= set(range(30, 40))
    assert seen["test"] <= set(range(40, 50))
    assert data.size("val") == data.size("test") == 2
    with pytest.raises(UserError, match="has 50 frames"):
        make(tmp_path / "v", split_by="time", frames=17)


# ---- frames


def test_rates_are_converted_by_time(tmp_path, make):
    for k, fps in enumerate((10, 20, 30)):
        write(tmp_path / "v" / f"{fps}.mp4", count=24, tone=k, fps=fps)
    data = make(tmp_path / "v", fps=10)
    for clips in everything(data).values():
        for clip in clips:
            fps = int(clip["source"].split(".")[0])
            step = fps // 10
            shown = [number(frame, step - 1) for frame in clip["video"]]
            assert shown == [step * (clip["start"] + t) for t in range(4)]


def test_resizing_keeps_shapes_and_the_centre():
    y, x = np.mgrid[:90, :160]
    disc = ((y - 44.5) ** 2 + (x - 79.5) ** 2 < 30**2).astype(np.uint8) * 255
    small = fit(np.repeat(disc[..., None], 3, -1), 30, 30)
    rows, columns = np.nonzero(small[..., 0] > 127)
    assert small.shape == (30, 30, 3)
    assert np.ptp(rows) == np.ptp(columns) == 19  # radius 10 of 15
    assert rows.mean() == columns.mean() == 14.5
    wide = fit(np.repeat(disc[:, ::2, None], 3, -1), 30, 30, pixel_aspect=2.0)  # the same with pixels twice as wide
    assert np.abs(wide.astype(int) - small).mean() < 6
    assert fit(np.zeros((7, 5, 3), np.uint8), 16, 64).shape == (16, 64, 3)


def test_frames_that_are_not_square_stay_right(tmp_path, make):
    halves = np.zeros((4, 32, 32, 3), dtype=np.uint8)
    halves[:, :, 16:] = 255
    for k in range(3):
        halves[:, :4, :4] = 80 * k
        viz.write_mp4(tmp_path / "v" / f"{k}.mp4", halves)
    video = make(tmp_path / "v", height=8, width=16).clip("train", 0)["video"]
    assert video.shape == (4, 8, 16, 3)
    assert video[:, 2:, :6].max() < 60
    assert video[:, :, 10:].min() > 200


def test_resizing_averages_instead_of_skipping():
    fine = np.zeros((256, 256, 3), dtype=np.uint8)
    fine[:, ::2] = 255
    assert np.abs(fit(fine, 32, 32)[:, 1:-1].astype(int) - 127).max() <= 8


def test_memory_does_not_grow_with_the_length(tmp_path, make, monkeypatch):
    alive, most = set(), 0

    class Frame(np.ndarray):
        def __del__(self):
            alive.discard(id(self))

    def endless(path, **options):
        nonlocal most
        for n in range(500):
            frame = np.full((16, 16, 3), n % 256, dtype=np.uint8).view(Frame)
            alive.add(id(frame))
            most = max(most, len(alive))
            yield n / 30, frame
            del frame

    write(tmp_path / "v" / "x.mp4")
    monkeypatch.setattr(decode, "frames", endless)
    data = make(tmp_path / "v", split_by="time")
    assert data.videos[0].stored.frames == 500
    assert most <= 3


# ---- the cache


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that get decoded."""
    seen = []
    original = decode.frames

    def counting(path, **options):
        seen.append(Path(path).name)
        return original(path, **options)

    monkeypatch.setattr(decode, "frames", counting)
    return seen


def test_files_are_decoded_once(root, make, decoded):
    first = make(root)
    assert sorted(decoded) == [f"v{k}.mp4" for k in range(10)]
    decoded.clear()
    assert make(root).fingerprint == first.fingerprint
    make(root, frames=3, seed=4, stride=2)  # other clips of the same frames
    os.utime(root / "v1.mp4")  # touched, not changed
    shutil.move(root / "v2.mp4", root / "renamed.mp4")
    make(root)
    assert decoded == []
    before = make(root).fingerprint
    write(root / "v5.mp4", tone=100)
    assert make(root).fingerprint != before
    assert decoded == ["v5.mp4"]
    decoded.clear()
    assert make(root, height=16).shape == (4, 16, 8)
    assert make(root, fps=5).videos[0].stored.frames == 6
    assert len(decoded) == 20


def test_broken_files_are_not_tried_again_until_the_decoder_changes(root, make, monkeypatch, decoded):
    (root / "broken.mp4").write_bytes((root / "v0.mp4").read_bytes()[:300])
    make(root)
    probed = []
    original = decode.probe
    monkeypatch.setattr(decode, "probe", lambda path: probed.append(Path(path).name) or original(path))
    assert len(make(root).skipped) == 1
    assert probed == []
    monkeypatch.setattr("vidgen.data.folder.cache.version", lambda package: "999")
    assert len(make(root).skipped) == 1
    assert probed == ["broken.mp4"]


def test_lost_frames_are_decoded_again(root, make, decoded, tmp_path):
    before = copy_of(everything(make(root))["train"])
    shutil.rmtree(tmp_path / "cache")
    decoded.clear()
    assert copy_of(everything(make(root))["train"]) == before
    assert len(decoded) == 10
    decoded.clear()
    for path in (tmp_path / "cache").rglob("*.u8"):  # while the notes about them stay
        path.unlink()
    assert copy_of(everything(make(root))["train"]) == before
    assert len(decoded) == 10


def test_an_interrupted_reading_leaves_whole_files_and_goes_on(root, make, monkeypatch, tmp_path):
    original, seen = decode.frames, []

    def interrupted(path, **options):
        for n, timed in enumerate(original(path, **options)):
            if len(seen) == 4 and n == 6:
                raise KeyboardInterrupt
            yield timed
        seen.append(path)

    monkeypatch.setattr(decode, "frames", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(root)
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert not [path for path in files if "partial" in path.name]
    assert {path.stat().st_size for path in files if path.suffix == ".u8"} == {12 * 8 * 8 * 3}
    monkeypatch.setattr(decode, "frames", original)
    fresh = make(root)
    assert len(fresh.videos) == 10


def test_processes_may_read_the_same_folder_at_once(root, make, tmp_path):
    options = {"path": str(root), "cache": str(tmp_path / "cache"), "frames": 4, "height": 8, "width": 8, "zoom": 0.0}
    code = f"from vidgen.data.folder import Folder; print(Folder(**{options}).fingerprint)"
    both = [python(code), python(code)]
    said = {process.communicate(timeout=300)[0].decode().strip() for process in both}
    assert said == {make(root, mirror=0.5, light=0.02).fingerprint}
    assert not list((tmp_path / "cache").rglob("*.partial"))
    assert len(list((tmp_path / "cache").rglob("*.u8"))) == 10


def test_a_full_disk_is_one_sentence(root, make, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("vidgen.data.folder.cache.fit", full)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\): free some space or give data\.cache"):
        make(root)


# ---- mistakes


def sentence(call):
    with pytest.raises(UserError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert text[0].isupper() or text.startswith(("data", "/"))
    return text


def test_no_path(make):
    assert "give data.path=FOLDER" in sentence(lambda: make(None))


def test_a_missing_folder_names_the_nearest(root, make):
    assert f"did you mean data.path={root}?" in sentence(lambda: make(root.with_name("vidoes")))
    (root / "train_set").mkdir()
    nested = root.with_name("video") / "trainset"
    assert f"did you mean data.path={root / 'train_set'}?" in sentence(lambda: make(nested))
    assert "give data.path=FOLDER" in sentence(lambda: make(root / "qqqq" / "zzzz"))


def test_a_relative_path_names_a_relative_one(root, make, monkeypatch):
    monkeypatch.chdir(root)
    assert "did you mean data.path=../videos?" in sentence(lambda: make("../vidoes"))


def test_a_file_in_place_of_a_folder(root, make):
    text = sentence(lambda: make(root / "v1.mp4"))
    assert "is a file and not a folder" in text
    assert f"give data.path={root}" in text


def test_empty_and_wrong_folders(tmp_path, make):
    (tmp_path / "none").mkdir()
    assert "it is empty" in sentence(lambda: make(tmp_path / "none"))
    for k in range(3):
        (tmp_path / "none" / f"{k}.jpg").touch()
    text = sentence(lambda: make(tmp_path / "none"))
    assert "it holds 3 .jpg" in text
    assert ".mp4" in text


def test_a_folder_without_readable_video(tmp_path, make):
    for name in ("a.mp4", "b.avi"):
        (tmp_path / name).write_bytes(b"not a video")
    text = sentence(lambda: make(tmp_path))
    assert text.startswith("None of the 2 videos")
    assert "a.mp4: it cannot be opened" in text


def test_videos_shorter_than_a_clip(root, make):
    text = sentence(lambda: make(root, frames=13))
    assert "v0.mp4, has 12 frames" in text
    assert "need 13" in text


def test_too_few_videos_to_split(root, make):
    for k in range(8):
        (root / f"v{k}.mp4").unlink()
    (root / "broken.mp4").write_bytes(b"not a video")
    text = sentence(lambda: make(root))
    assert "2 for 3 splits" in text
    assert "1 left out; the first, broken.mp4" in text


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("frames", 0, "whole number"),
        ("height", -8, "whole number"),
        ("width", None, "whole number"),
        ("stride", 1.5, "whole number"),
        ("fps", 0, "frames a second"),
        ("fps", "ten", "frames a second"),
        ("fps", float("nan"), "frames a second"),
        ("split", (0.9, 0.1), "three positive numbers"),
        ("split", (0.9, 0.1, 0.0), "three positive numbers"),
        ("split", (0.9, 0.9, 0.9), "three positive numbers"),
        ("classes", "non", "Did you mean 'none'"),
        ("split_by", "files", "Did you mean 'file'"),
    ],
)
def test_options_out_of_range(root, make, option, value, says):
    text = sentence(lambda: make(root, **{option: value}))
    assert f"data.{option}=" in text
    assert says in text


# ---- real footage


@needs_assets
def test_sign_gestures(make):
    data = make(ASSETS / "asl", frames=17, height=32, width=32)
    assert data.skipped == []
    assert data.class_names == ()
    assert [len(data.files(split)) for split in SPLITS] == [16, 2, 2]
    assert data.size("train") >= 40
    assert all(data.size(split) >= 2 for split in ("val", "test"))
    clip = data.clip("test", 0)
    original = np.stack([frame for _, frame in decode.frames(ASSETS / "asl" / clip["source"])])
    middle = original[clip["start"], :, 80:560].astype(float)  # the centre square of 640x480
    blocks = middle.reshape(32, 15, 32, 15, 3).mean(axis=(1, 3))
    assert np.abs(clip["video"][0] - blocks).mean() < 4
    assert clip["video"].max() - int(clip["video"].min()) > 150


# ---- augmentation


def test_only_training_clips_are_augmented_and_plain_ones_are_at_hand(make, root):
    """By chance, but the same for the same (seed, file, number, epoch); the clips of val and test stay as they are."""
    data, bare = make(root, mirror=0.5, zoom=0.3, light=0.1), make(root)
    assert copy_of([data.clip("train", i, 3) for i in range(data.size("train"))]) == copy_of(
        [make(root, mirror=0.5, zoom=0.3, light=0.1).clip("train", i, 3) for i in range(data.size("train"))]
    )
    assert copy_of(everything(data)["train"]) != copy_of(everything(bare)["train"])
    assert copy_of(everything(data, 1)["train"]) != copy_of(everything(data, 2)["train"])
    for split in ("val", "test"):
        assert copy_of(everything(data)[split]) == copy_of(everything(bare)[split])
    assert copy_of(everything(data.plain())["train"]) == copy_of(everything(bare)["train"])
    assert data.augment.active
    assert data.fingerprint != bare.fingerprint


def test_a_cache_that_was_cut_short_is_said_so(make, root):
    data = make(root)
    for file in data._cache.folder.glob("*.u8"):
        os.truncate(file, 8 * 8 * 3)
    with pytest.raises(UserError, match="is cut short: delete it"):
        data.clip("train", 0)
    for file in data._cache.folder.glob("*.u8"):
        file.unlink()
    assert make(root).clip("train", 0)["video"].shape == (4, 8, 8, 3)
