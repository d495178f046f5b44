"""Every layout that people have: found out by what is there, named, and read to the same pixels, splits, classes and words."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from footage import (
    grey,
    noise,
    npy_bytes,
    number,
    write,
    write_hdf5,
    write_lossless,
    write_pictures,
    write_rows,
    write_tar,
)
from PIL import Image

from vidgen.conditioning.text import split_words
from vidgen.data.batches import ClipBatches, eval_batches, facts
from vidgen.data.folder import SPLITS, Folder, check, shards
from vidgen.data.folder.layout import READERS, read_table
from vidgen.errors import UserError
from vidgen.training.cache import condition_of


@pytest.fixture
def make(tmp_path):
    """A small ``Folder`` with its cache out of the way, whose training clips are left as they are."""

    def build(path, **options):
        plain = {"frames": 4, "height": 16, "width": 16, "mirror": 0.0, "zoom": 0.0, "light": 0.0}
        return Folder(path=path and str(path), cache=str(tmp_path / "cache"), **{**plain, **options})

    return build


def label_of(data):
    return {video.name: data.class_names[video.label] if video.label >= 0 else None for video in data.videos}


# ---- all of them


def as_videos(root, clips):
    for k, clip in enumerate(clips):
        write_lossless(root / f"{k}.mkv", clip)


def as_csv(root, clips):
    as_videos(root / "deep", clips)
    write_rows(root / "all.csv", [{"id": k, "path": f"deep/{k}.mkv", "action": "wave", "label": 0} for k in range(len(clips))])


def as_jsonl(root, clips):
    as_videos(root / "deep", clips)
    lines = [json.dumps({"path": f"deep/{k}.mkv", "caption": f"Number {k}."}) for k in range(len(clips))]
    (root / "all.jsonl").write_text("\n".join(lines))


def as_frames(root, clips):
    for k, clip in enumerate(clips):
        write_pictures(root / f"video{k}", clip)


def as_hdf5(root, clips):
    write_hdf5(root / "all.h5", clips)


def as_npy(root, clips):
    root.mkdir()
    np.save(root / "all.npy", clips)


def as_npz(root, clips):
    root.mkdir()
    for k, clip in enumerate(clips):
        np.savez_compressed(root / f"{k}.npz", video=clip)


def as_tar(root, clips):
    as_videos(root.with_name("files"), clips)
    content = [(f"{k}.mkv", (root.with_name("files") / f"{k}.mkv").read_bytes()) for k in range(len(clips))]
    write_tar(root / "a-000000.tar", content[:3])
    write_tar(root / "a-000001.tar", content[3:])


def as_ucf101(root, clips):
    for k, clip in enumerate(clips):
        write_lossless(root / "UCF-101" / "Wave" / f"v_Wave_g0{k}_c01.avi", clip)
    lists = root / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "trainlist01.txt").write_text("".join(f"Wave/v_Wave_g0{k}_c01.avi 1\n" for k in range(4)))
    (lists / "testlist01.txt").write_text("".join(f"Wave/v_Wave_g0{k}_c01.avi\n" for k in range(4, 6)))


LAYOUTS = {
    "videos": as_videos,
    "csv": as_csv,
    "jsonl": as_jsonl,
    "frames": as_frames,
    "hdf5": as_hdf5,
    "arrays": as_npy,
    "npz": as_npz,
    "tar": as_tar,
    "ucf101": as_ucf101,
}


def test_no_layout_is_forgotten():
    assert set(LAYOUTS) - {"npz"} == set(READERS)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_pixels_and_says_its_name(layout, make, tmp_path, capsys):
    clips = noise()
    LAYOUTS[layout](tmp_path / "data", clips)
    data = make(tmp_path / "data", frames=5)
    assert data.layout == {"npz": "arrays"}.get(layout, layout)
    assert f"Read {tmp_path / 'data'} as " in capsys.readouterr().err
    assert data.skipped == []
    got = sorted(data.clip(split, i)["video"].tobytes() for split in SPLITS for i in range(data.size(split)))
    assert got == sorted(clip.tobytes() for clip in clips)
    again = make(tmp_path / "data", frames=5, layout=data.layout)
    assert again.fingerprint == data.fingerprint
    assert capsys.readouterr().err == ""  # nothing was read again


def test_an_unknown_layout_names_the_nearest(tmp_path, make):
    with pytest.raises(UserError, match=r"There is no data\.layout=cvs\. Did you mean 'csv'\? There are auto, ucf101"):
        make(tmp_path, layout="cvs")
    with pytest.raises(UserError, match=r"data\.fold=4 is no list"):
        make(tmp_path, fold=4)


def test_a_layout_that_is_not_there_is_a_sentence(tmp_path, make):
    as_videos(tmp_path / "v", noise())
    for layout in READERS:
        if layout != "videos":
            with pytest.raises(UserError, match=str(tmp_path / "v")):
                make(tmp_path / "v", layout=layout)


def test_the_fingerprint_of_folders_of_videos_is_what_it_was(tmp_path, make):
    """Names and bytes tell it all, as before there were other layouts: runs find their data again."""
    from vidgen.data.folder import _digest
    from vidgen.data.folder.cache import VERSION

    for k, name in enumerate(("10", "9", "b") * 2):
        write(tmp_path / "v" / name / f"{k}.mp4", tone=k)
    data = make(tmp_path / "v")
    said = {
        "pixels": [VERSION, 16, 16, None],
        "clips": [4, 1, 0, [0.8, 0.1, 0.1], "file", "auto", 0.0, 0.0, 0.0],
        "files": [(video.name, video.stored.sha256) for video in data.videos],
    }
    assert data.fingerprint == _digest(said)
    assert data.class_names == ("10", "9", "b")


# ---- UCF-101


@pytest.fixture
def ucf(tmp_path):
    """Two actions of eight groups of two clips; lists in which two groups are for testing, as Windows writes them."""
    root = tmp_path / "ucf"
    lines = {"train": [], "test": []}
    for a, (folder, action) in enumerate((("HandstandPushups", "HandStandPushups"), ("Wave", "Wave"))):
        for group in range(1, 9):
            for clip in (1, 2):
                name = f"v_{action}_g{group:02d}_c{clip:02d}.avi"
                write(root / "UCF-101" / folder / name, count=4, tone=100 * a + 10 * group + clip, size=(16, 16))
                lines["test" if group <= 2 else "train"].append(f"{action}/{name}" + (f" {a + 1}" if group > 2 else ""))
    lists = root / "ucfTrainTestlist"
    lists.mkdir()
    for split, own in lines.items():
        (lists / f"{split}list01.txt").write_bytes("\r\n".join([*own, ""]).encode())
    return root


def groups(data, split):
    return {name.rpartition("_c")[0] for name in data.files(split)}


def test_ucf101_goes_by_its_lists(ucf, make):
    data = make(ucf)
    assert data.class_names == ("HandstandPushups", "Wave")
    assert {name.rpartition("_g")[2][:2] for name in data.files("test")} == {"01", "02"}
    assert len(data.files("test")) == 8
    for seed in range(8):
        data = make(ucf, seed=seed)
        assert data.files("val")
        assert not groups(data, "train") & groups(data, "val")  # val is cut from train, and not through a group


def test_ucf101_says_what_the_lists_and_the_folder_do_not_share(ucf, make):
    (ucf / "UCF-101" / "Wave" / "v_Wave_g03_c01.avi").unlink()
    write(ucf / "UCF-101" / "Wave" / "v_Wave_g09_c01.avi", tone=250)
    assert make(ucf).skipped == [
        ("UCF-101/Wave/v_Wave_g09_c01.avi", "neither trainlist01.txt nor testlist01.txt names it"),
        ("v_wave_g03_c01", "the lists name it, and it is not there"),
    ]
    with pytest.raises(UserError, match=r"has no trainlist02\.txt \(ucfTrainTestlist/trainlist01\.txt\)"):
        make(ucf, fold=2)


def test_ucf101_without_lists_never_parts_a_group(ucf, make):
    for seed in range(8):
        data = make(ucf / "UCF-101", seed=seed)
        assert data.layout == "videos"
        parts = [groups(data, split) for split in SPLITS]
        assert all(parts)
        assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
        assert [len(data.files(split)) for split in SPLITS] == [26, 2, 4]
    with pytest.raises(UserError, match="groups of videos that no split may part"):
        make(ucf / "UCF-101", split_by="time", frames=1)


# ---- Kinetics


def test_kinetics_is_split_folders_of_class_folders(tmp_path):
    for split in ("train", "val"):
        for action in ("abseiling", "yoga"):
            write(tmp_path / split / action / f"abcdefghij{split[0]}_000012_000022.mp4", tone=len(action))
    _, table = read_table(str(tmp_path))
    assert table.words == "Kinetics in 2 class folders in train, val"
    assert {item.split for item in table.items} == {"train", "val"}
    assert {item.label for item in table.items} == {"abseiling", "yoga"}


# ---- csv and JSONL


def test_csv_by_split_with_classes(tmp_path, make):
    for k in range(6):
        write(tmp_path / "v" / "videos" / f"{k}, é.mp4", count=4, tone=k)
    for split, numbers in (("train", range(4)), ("test", range(4, 6))):
        rows = [{"id": k, "path": f'"videos/{k}, é.mp4"', "action": "ab"[k % 2], "label": k % 2} for k in numbers]
        write_rows(tmp_path / "v" / f"ucf101_{split}.csv", rows)
    data = make(tmp_path / "v")
    assert data.class_names == ("a", "b")
    assert label_of(data)["videos/3, é.mp4"] == "b"
    assert data.files("test") == ["videos/4, é.mp4", "videos/5, é.mp4"]
    assert make(tmp_path / "v" / "ucf101_train.csv").layout == "csv"  # by itself it is a data set too
    with pytest.raises(UserError, match="split folders of its own, or lists"):
        make(tmp_path / "v", split_by="time", frames=1)


def test_csv_without_a_header_is_slowfasts(tmp_path, make):
    for k in range(4):
        write(tmp_path / f"a video {k}.mp4", count=4, tone=k)
    text = "".join(f"a video {k}.mp4 {(0, 2, 10, 10)[k]}\r\n" for k in range(4))
    (tmp_path / "train.csv").write_bytes(text.encode("utf-8-sig"))
    data = make(tmp_path)
    assert data.class_names == ("0", "2", "10")  # numbers by their value
    assert data.layout == "csv"
    (tmp_path / "train.csv").write_text(text.replace("10", "-1"))
    assert label_of(make(tmp_path))["a video 3.mp4"] is None


def test_csv_lines_that_lead_nowhere_are_named(tmp_path, make):
    for k in range(3):
        write(tmp_path / "v" / f"{k}.mp4", count=4, tone=k)
    write(tmp_path / "outside.mp4", tone=9)
    paths = ["0.mp4", "./1.mp4", "2.mp4", "x/../2.mp4", "gone.mp4", "../outside.mp4", str(tmp_path / "outside.mp4"), "notes.txt"]
    write_rows(tmp_path / "v" / "list.csv", [{"path": path, "label": 0} for path in paths])
    data = make(tmp_path / "v")
    assert [video.name for video in data.videos] == ["0.mp4", "1.mp4", "2.mp4"]
    out = f"leads out of {tmp_path / 'v'}: put list.csv in a folder above its videos"
    assert data.skipped == sorted(
        [
            ("x/../2.mp4", "line 5 of list.csv names it once more"),
            ("gone.mp4", "it cannot be read (No such file or directory)"),
            ("../outside.mp4", f"line 7 of list.csv {out}"),
            (str(tmp_path / "outside.mp4"), f"line 8 of list.csv {out}"),
            ("notes.txt", "line 9 of list.csv names it, and .txt is no video"),
        ]
    )


def test_csv_with_other_columns_is_a_sentence(tmp_path, make):
    listed = tmp_path / "list.csv"
    for text, says in (
        ("id,pth,label\n0,a.mp4,1\n", r"has the columns id, pth, label and no 'path'\. Did you mean 'pth'\?"),
        ("path,label\na.mp4\n", r"Line 2 of .*list\.csv has 1 columns and its header 2 \(path, label\)"),
        ("a.mp4;b\n", r"Line 1 of .*list\.csv is neither 'path label'"),
        ("path,split\na.mp4,tarin\n", r"line 2 of list\.csv has the split 'tarin', which is none of train, val and test"),
    ):
        listed.write_text(text)
        with pytest.raises(UserError, match=says):
            make(tmp_path)
    listed.write_bytes("path\né.mp4".encode("latin-1"))
    with pytest.raises(UserError, match="is not text in UTF-8"):
        make(tmp_path)


def test_a_csv_of_something_else_does_not_change_a_folder_of_videos(tmp_path, make):
    for k in range(3):
        write(tmp_path / f"{k}.mp4", count=4, tone=k)
    before = make(tmp_path).fingerprint
    (tmp_path / "weather.csv").write_text("day,rain\n1,2\n")
    data = make(tmp_path)
    assert (data.layout, data.fingerprint) == ("videos", before)
    (said,) = data.skipped
    assert said == (
        "weather.csv",
        "it is no list of videos that are here, so that this is read as videos; data.layout=csv says why",
    )


@pytest.fixture
def captioned(tmp_path):
    for k in range(5):
        write(tmp_path / "v" / f"{k}.mp4", count=4, tone=k)
    said = ["A man's horse, 2 of them!", "A grey WALL brightens.", "Un café — très bien_sûr", "", None]
    rows = [{"path": f"{k}.mp4", "caption": text, "label": "xy"[k % 2], "split": None} for k, text in enumerate(said)]
    (tmp_path / "v" / "captions.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return tmp_path / "v", [text or "" for text in said]


def test_captions_come_with_the_clips_and_their_words_are_known(captioned, make):
    root, said = captioned
    data = make(root)
    assert data.class_names == ("x", "y")
    assert set(data.vocabulary) == {word for text in said for word in split_words(text)}
    assert list(data.vocabulary) == sorted(data.vocabulary)
    assert facts(data)["vocabulary"] == data.vocabulary
    for split in SPLITS:
        for batch in eval_batches(data, split, 9, 2):
            condition = condition_of(batch, data)  # every word has its number
            assert len(condition.text) == len(batch["caption"])
    caption = {
        clip["source"]: clip["caption"] for split in SPLITS for clip in (data.clip(split, i) for i in range(data.size(split)))
    }
    assert caption == {f"{k}.mp4": text for k, text in enumerate(said)}


def test_other_captions_are_other_data(captioned, make):
    root, _ = captioned
    before = make(root).fingerprint
    listed = root / "captions.jsonl"
    listed.write_text(listed.read_text().replace("WALL", "hall"))
    assert make(root).fingerprint != before


def test_jsonl_that_cannot_be_read_is_a_sentence(tmp_path, make):
    listed = tmp_path / "captions.jsonl"
    for text, says in (
        ('{"path": "a.mp4"}\n{"path": \n', r"Line 2 of .*captions\.jsonl is not JSON"),
        ('{"video": "a.mp4"}\n', r'Line 1 of .*captions\.jsonl has no "path"'),
        ("[1]\n", 'has no "path"'),
    ):
        listed.write_text(text)
        with pytest.raises(UserError, match=says):
            make(tmp_path)


# ---- pictures


def test_pictures_are_in_the_order_of_their_numbers(tmp_path, make):
    for k in range(3):
        write_pictures(tmp_path / f"v{k}", grey(12, tone=k, size=(16, 16)))
    data = make(tmp_path, frames=12)
    assert [number(frame, data.clip("val", 0)["source"][1] == "x") for frame in data.clip("val", 0)["video"]] == list(range(12))


def test_nested_pieces_of_one_recording_are_never_parted(tmp_path, make):
    for recording in "abcdefgh":
        for piece in (1, 2, 3):
            tone = 10 * (ord(recording) - 97) + piece
            write_pictures(tmp_path / "v" / recording / f"{recording}_{piece}", grey(4, tone, (16, 16)), "{}.jpg")
    for seed in range(5):
        data = make(tmp_path / "v", seed=seed)
        parts = [{name.split("/")[0] for name in data.files(split)} for split in SPLITS]
        assert data.class_names == ()
        assert sum(map(len, parts)) == 8
        assert all(parts)


def test_skys_folders_are_train_and_test(tmp_path, make):
    for split, count in (("sky_train", 3), ("sky_test", 2)):
        for k in range(count):
            write_pictures(tmp_path / "v" / split / f"yt{k}" / f"yt{k}_1", noise(1, 4, seed=k + 10 * count)[0])
    data = make(tmp_path / "v")
    assert data.files("test") == ["sky_test/yt0/yt0_1", "sky_test/yt1/yt1_1"]
    assert len(data.files("train")) == 2


def test_class_folders_of_picture_folders(tmp_path, make):
    for action in ("nod", "wave"):
        for k in range(3):
            write_pictures(tmp_path / "v" / action / f"clip{k}", noise(1, 4, seed=k + len(action) * 10)[0])
    assert make(tmp_path / "v").class_names == ("nod", "wave")


def test_pictures_of_any_kind(tmp_path, make):
    """Grey, 16 bit, with a palette, with alpha, turned by a camera."""
    base = np.linspace(0, 255, 16 * 16).reshape(16, 16).astype(np.uint8)
    for k in range(3):
        folder = tmp_path / f"v{k}"
        folder.mkdir()
        picture = Image.fromarray(base + 0 * k)
        picture.save(folder / "0.png")
        Image.fromarray(base.astype(np.uint16) * 257).save(folder / "1.png")
        picture.convert("RGBA").save(folder / "2.png")
        picture.convert("P").save(folder / "3.png")
        turned = picture.convert("RGB").transpose(Image.Transpose.ROTATE_90)
        exif = Image.Exif()
        exif[0x0112] = 6  # shown a quarter turn clockwise
        turned.save(folder / "4.png", exif=exif)
        Image.fromarray(np.full((16, 16), k, np.uint8)).save(folder / "5.png")
    data = make(tmp_path, frames=6)
    for frame in data.clip("train", 0)["video"][:5]:
        np.testing.assert_array_equal(frame, np.repeat(base[..., None], 3, -1))


def test_a_picture_without_a_number_and_pictures_at_the_top_are_named(tmp_path, make):
    for k in range(3):
        write_pictures(tmp_path / f"v{k}", noise(1, 4, seed=k)[0])
    Image.fromarray(noise()[0, 0]).save(tmp_path / "v0" / "cover.jpg")
    Image.fromarray(noise()[0, 0]).save(tmp_path / "1.jpg")
    assert make(tmp_path).skipped == [
        ("1.jpg", "it lies beside the folders of frames: a video's frames are in a folder of their own"),
        ("v0/cover.jpg", "its name has no number to say where it belongs"),
    ]


def test_pictures_have_no_rate_to_convert(tmp_path, make):
    as_frames(tmp_path / "v", noise())
    with pytest.raises(UserError, match=r"\(frame folders\) states no times that data\.fps=5 could convert: use data\.stride"):
        make(tmp_path / "v", fps=5)


def test_a_changed_picture_is_noticed(tmp_path, make):
    as_frames(tmp_path / "v", noise())
    before = make(tmp_path / "v").fingerprint
    Image.fromarray(noise(seed=9)[0, 0]).save(tmp_path / "v" / "video3" / "frame_2.png")
    assert make(tmp_path / "v").fingerprint != before


# ---- arrays


def test_tecos_episodes_have_actions(tmp_path, make):
    for split, count in (("train", 4), ("test", 2)):
        for k in range(count):
            (tmp_path / "v" / split / str(k % 2)).mkdir(parents=True, exist_ok=True)
            moves = (np.arange(12) + k) % 3
            np.savez(tmp_path / "v" / split / str(k % 2) / f"{k}.npz", video=grey(12, k + 10 * count, (16, 16)), actions=moves)
    data = make(tmp_path / "v", stride=2)
    assert data.class_names == ()  # the folders are shards
    assert data.action_names == ("0", "1", "2")
    assert len(data.files("test")) == 2
    batch = next(iter(ClipBatches(data, batch_size=2, seed=0, first=0, last=1)))
    assert batch["actions"].shape == (2, 4)
    clip = data.clip("train", 0, 3)
    k = int(Path(clip["source"]).stem)
    assert clip["actions"].tolist() == [(clip["start"] + 2 * t + k) % 3 for t in range(4)]
    assert clip["actions"].dtype == np.int64


def test_grey_arrays_and_arrays_with_alpha(tmp_path, make):
    clips = noise(3)
    (tmp_path / "v").mkdir()
    np.save(tmp_path / "v" / "train.npy", clips[..., :1])
    np.save(tmp_path / "v" / "test.npy", np.concatenate([clips + 1, clips[..., :1]], -1))
    data = make(tmp_path / "v", frames=5)
    assert len(data.files("test")) == 3
    np.testing.assert_array_equal(data.clip("test", 0)["video"], clips[0] + 1)
    assert data.clip("train", 0)["video"].tobytes() in [np.repeat(clip[..., :1], 3, -1).tobytes() for clip in clips]


def test_arrays_of_something_else_are_named(tmp_path, make):
    as_npz(tmp_path / "v", noise())
    np.savez(tmp_path / "v" / "x.npz", weights=np.zeros(3))
    np.save(tmp_path / "v" / "float.npy", np.zeros((2, 5, 16, 16, 3), np.float32))
    np.save(tmp_path / "v" / "seq.npy", np.zeros((20, 3, 64, 64), np.uint8))
    np.savez(tmp_path / "v" / "moves.npz", video=noise(seed=3)[0], actions=np.zeros(4, np.int64))
    np.save(tmp_path / "v" / "bomb.npy", np.array([{}], dtype=object))
    (tmp_path / "v" / "cut.npz").write_bytes((tmp_path / "v" / "0.npz").read_bytes()[:300])
    wanted = "and not uint8 of the shape [N,T,H,W,C] or [T,H,W,C], with 1, 3 or 4 channels last"
    _, table = read_table(str(tmp_path / "v"), index=tmp_path)
    assert dict(table.skipped) == {
        "x.npz": "it holds weights, and none of video, videos, frames, arr_0",
        "float.npy": f"it holds float32 [2, 5, 16, 16, 3], {wanted}",
        "seq.npy": f"it holds uint8 [20, 3, 64, 64], {wanted}",
        "bomb.npy": f"it holds object [1], {wanted}",
        "cut.npz": "it cannot be opened (File is not a zip file)",
    }


# ---- HDF5


def test_hdf5_keeps_its_splits_and_an_end_marker_is_no_video(tmp_path, make):
    import h5py

    clips = [grey(count, tone, (16, 16)) for count, tone in ((6, 0), (9, 1), (5, 2), (7, 3), (8, 4))]
    write_hdf5(tmp_path / "v" / "ucf.hdf5", clips)
    data = make(tmp_path / "v" / "ucf.hdf5")
    assert data.layout == "hdf5"
    assert data.files("test") == ["ucf.hdf5/test[0]", "ucf.hdf5/test[1]"]
    assert sorted(video.stored.frames for video in data.videos) == [5, 6, 7, 8, 9]
    with h5py.File(tmp_path / "v" / "ucf.hdf5", "a") as file:
        begins = [*file["train_idx"][:], len(file["train_data"])]
        del file["train_idx"]
        file["train_idx"] = begins
    assert [video.name for video in make(tmp_path / "v").videos] == [video.name for video in data.videos]


def test_hdf5_with_other_keys_is_a_sentence(tmp_path, make):
    import h5py

    def written(**content):
        with h5py.File(tmp_path / "x.h5", "w") as file:
            for key, value in content.items():
                file[key] = value
        with pytest.raises(UserError) as caught:
            make(tmp_path)
        return str(caught.value)

    assert "holds clips, labels, and neither train_data nor test_data" in written(clips=noise()[0], labels=[1])
    assert "holds train_data and no train_idx" in written(train_data=noise()[0])
    assert "holds train_data of float64 [5, 2, 2, 3]" in written(train_data=np.zeros((5, 2, 2, 3)), train_idx=[0])
    assert "holds train_idx that do not go up from 0 to the 5 frames" in written(train_data=noise()[0], train_idx=[3, 1])
    for places, what in (([[0, 1]], "int64 [1, 2]"), ([0.0, 1.0], "float64 [2]"), (0, "int64 []")):
        said = written(train_data=noise()[0], train_idx=places)
        assert f"holds train_idx of {what}, and not whole numbers [videos]" in said
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_group("train_data")
        file["train_idx"] = [0]
    with pytest.raises(UserError, match=r"holds train_data of a group, and not uint8"):
        make(tmp_path)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["train_data"] = noise()[0]
        file.create_group("train_idx")
    with pytest.raises(UserError, match=r"holds train_idx of a group, and not whole numbers"):
        make(tmp_path)


def test_hdf5_needs_its_package(tmp_path, make, monkeypatch):
    (tmp_path / "x.h5").touch()
    monkeypatch.setattr("vidgen.data.folder.arrays.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'is not installed: pip install "vidgen\[hdf5\]"'):
        make(tmp_path)


# ---- tar shards


@pytest.fixture
def samples(tmp_path):
    clips = noise(8)
    as_videos(tmp_path / "files", clips)
    videos = [(tmp_path / "files" / f"{k}.mkv").read_bytes() for k in range(8)]
    train = [[(f"a/{k}.mkv", videos[k]), (f"a/{k}.cls", str(k % 2)), (f"a/{k}.txt", f"Number {k}")] for k in range(3)]
    train += [[(f"{k}.json", {"label": 1, "caption": f"Number {k}"}), (f"{k}.npy", npy_bytes(clips[k]))] for k in range(3, 6)]
    test = [[(f"{k}.mkv", videos[k]), (f"{k}.json", {"label": k % 2})] for k in (6, 7)]
    write_tar(tmp_path / "v" / "train-000000.tar", [member for sample in train for member in sample])
    write_tar(tmp_path / "v" / "test-000000.tar", [member for sample in test for member in sample])
    return tmp_path / "v", clips


def test_shards_have_splits_classes_and_captions(samples, make):
    root, clips = samples
    data = make(root, frames=5)
    assert data.class_names == ("0", "1")
    assert data.files("test") == ["test-000000.tar/6.mkv", "test-000000.tar/7.mkv"]
    for split in SPLITS:
        for i in range(data.size(split)):
            clip = data.clip(split, i)
            k = int(Path(clip["source"]).stem)
            np.testing.assert_array_equal(clip["video"], clips[k])
            assert clip["label"] == (k % 2 if k not in (3, 4, 5) else 1)
            assert clip["caption"] == (f"Number {k}" if k < 6 else "")


def test_shards_are_indexed_once(samples, make, tmp_path, monkeypatch):
    root, _ = samples
    before = make(root, frames=5).fingerprint
    index = sorted((tmp_path / "cache").glob("tar-*.json"))
    assert len(index) == 2
    monkeypatch.setattr(shards, "_scan", lambda path: pytest.fail("scanned again"))
    assert make(root, frames=5).fingerprint == before
    monkeypatch.undo()
    for place in index:  # of another version, or no index at all
        place.write_text(place.read_text().replace('"version": 1', '"version": 0'))
    index[0].write_text("{")
    assert make(root, frames=5).fingerprint == before


def steered(root, spoilt=None, encoded=True):
    """A shard of videos of 12 frames with their actions in the three ways there are; those of ``spoilt`` as given."""
    members = []
    for k in range(6):
        moves = (np.arange(12) + k) % 3 if k != 2 or spoilt is None else spoilt
        write(root.parent / "files" / f"{k}.mp4", tone=20 * k, size=(16, 16))
        content = (root.parent / "files" / f"{k}.mp4").read_bytes() if encoded else npy_bytes(grey(12, 20 * k, (16, 16)))
        members.append((f"{k}{'.mp4' if encoded else '.npy'}", content))
        as_json = moves.tolist()
        ways = [
            (f"{k}.actions.npy", npy_bytes(moves)),
            (f"{k}.actions.json", as_json),
            (f"{k}.json", {"actions": as_json, "label": k}),
        ]
        members.append(ways[k % 3])
    write_tar(root / "a.tar", members)
    return root


@pytest.mark.parametrize("decode", ["cache", "direct"])
def test_shards_have_actions(tmp_path, make, decode):
    data = make(steered(tmp_path / "v"), stride=2, decode=decode, classes="none")
    assert data.skipped == []
    assert data.action_names == ("0", "1", "2")
    for split in SPLITS:
        for index in range(data.size(split)):
            clip = data.clip(split, index)
            k = int(Path(clip["source"]).stem)
            assert clip["actions"].tolist() == [(clip["start"] + 2 * t + k) % 3 for t in range(4)]
            assert number(clip["video"][0], 20 * k) == clip["start"]


@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        (np.zeros(11, np.int64), "it has 11 actions for 12 frames: each frame needs the one that leads to it, the first any"),
        (np.zeros(12), "its actions are float64 [12], and not whole numbers from 0 on, one for each frame"),
        (-np.ones(12, np.int64), "its actions are int64 [12], and not whole numbers from 0 on, one for each frame"),
        (np.zeros((12, 2), np.int64), "its actions are int64 [12, 2], and not whole numbers from 0 on, one for each frame"),
    ],
)
def test_actions_that_do_not_fit_are_told(tmp_path, make, spoilt, reason):
    for encoded in (True, False):
        root = steered(tmp_path / f"{encoded}", spoilt, encoded)
        data = make(root)
        assert data.skipped == [(f"a.tar/2{'.mp4' if encoded else '.npy'}", reason)]
        assert len(data.videos) == 5
        _, table = read_table(str(root), index=root)
        assert [one.reason for one in check.look(table.items)] == ["", "", reason, "", "", ""]


def test_actions_and_another_rate_do_not_go_together(tmp_path, make):
    with pytest.raises(UserError, match=r"it has 12 actions for 6 frames at data\.fps=5: each frame needs"):
        make(steered(tmp_path / "v"), fps=5)


def test_actions_that_cannot_be_read_are_told(tmp_path, make):
    root = steered(tmp_path / "v")
    with tarfile.open(root / "a.tar", "a") as archive:
        for name, content in (("x.mp4", (tmp_path / "files" / "0.mp4").read_bytes()), ("x.actions.npy", b"none")):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    ((name, reason),) = make(root).skipped
    assert name == "a.tar/x.mp4"
    assert reason.startswith("its actions in x.actions.npy cannot be read (")


def test_episodes_become_shards_with_their_actions(tmp_path, make):
    for k in range(4):
        (tmp_path / "v").mkdir(exist_ok=True)
        np.savez(tmp_path / "v" / f"{k}.npz", video=grey(12, 20 * k, (16, 16)), actions=(np.arange(12) + k) % 3)
    _, table = read_table(str(tmp_path / "v"), index=tmp_path)
    (shard,) = shards.plan_shards(table.items, tmp_path, 1)
    (tmp_path / "shards").mkdir()
    shard = replace(shard, path=tmp_path / "shards" / shard.path.name)
    assert shards.write_shard(shard) == []
    again = replace(shard, path=tmp_path / "again.tar", items=read_table(str(tmp_path / "shards"), index=tmp_path)[1].items)
    assert shards.write_shard(again) == []  # and shards from shards
    (tmp_path / "second").mkdir()
    again.path.rename(tmp_path / "second" / "again.tar")
    for place in ("shards", "second"):
        clip = make(tmp_path / place).clip("test", 0)
        k = int(Path(clip["source"]).stem)
        assert clip["actions"].tolist() == [(clip["start"] + t + k) % 3 for t in range(4)]


def test_a_shard_that_is_cut_short_gives_what_it_has(samples, make):
    root, _ = samples
    tar = root / "train-000000.tar"
    with tarfile.open(tar) as archive:
        last = archive.getmembers()[-1]
    tar.write_bytes(tar.read_bytes()[: last.offset_data + 100])
    data = make(root, frames=5)
    assert data.skipped == [
        ("train-000000.tar", "it is cut short: what comes before the cut is used"),
        ("train-000000.tar/5.npy", "train-000000.tar is cut short within it"),
    ]
    assert len(data.videos) == 7
    tar.write_bytes(b"not a tar" * 100)
    (root / "empty.tar").touch()
    assert [name for name, _ in read_table(str(root), index=root)[1].skipped] == ["empty.tar", "train-000000.tar"]
