"""What each bad input gets: one sentence for one video, and all the others are used. ``docs/data.md`` shows the same table."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path

import av
import numpy as np
import pytest
from footage import grey, noise, write, write_hdf5, write_lossless, write_rows, write_tar

from vidgen import viz
from vidgen.data import decode
from vidgen.data.folder import SPLITS, Folder
from vidgen.data.folder.cache import VERSION
from vidgen.errors import UserError

DOCUMENT = Path(__file__).parents[2] / "docs" / "data.md"


def build(path, tmp_path, **options):
    plain = {"frames": 4, "height": 16, "width": 16, "mirror": 0.0, "zoom": 0.0, "light": 0.0}
    return Folder(path=str(path), cache=str(tmp_path / "cache"), **{**plain, **options})


# ---- what is left out, and what for


def sound(root):
    with av.open(str(root / "bad.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), format="s16", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def hole(root):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 64, 64, 3), dtype=np.uint8)
    viz.write_mp4(root / "bad.mp4", pixels)
    content = (root / "bad.mp4").read_bytes()
    third = len(content) // 3
    (root / "bad.mp4").write_bytes(content[:third] + bytes(third) + content[2 * third :])


def cut_mp4(root):
    write(root / "bad.mp4")
    (root / "bad.mp4").write_bytes((root / "bad.mp4").read_bytes()[:700])


def looping(root):
    (root / "bad.mp4").symlink_to(root / "worse.mp4")
    (root / "worse.mp4").symlink_to(root / "bad.mp4")


def backwards(root):
    with av.open(str(root / "bad.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "bgr0"
        for n, image in enumerate(grey(20, size=(16, 16))):
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="bgr0")):
                packet.pts, packet.dts = (n + 100 if n < 15 else n), n - 1000
                container.mux(packet)


LEFT_OUT = {
    "zero bytes": lambda root: (root / "bad.mp4").touch(),
    "not a video": lambda root: (root / "bad.mp4").write_text("not a video"),
    "an mp4 cut short": cut_mp4,
    "damaged in the middle": hole,
    "sound alone": sound,
    "one frame": lambda root: write(root / "bad.mp4", count=1),
    "time stamps that run backwards": backwards,
    "a link to nowhere": lambda root: (root / "bad.mp4").symlink_to(root / "nowhere"),
    "links in a circle": looping,
    "a copy of another": lambda root: (root / "bad.mp4").write_bytes((root / "a.mkv").read_bytes()),
}


def reason_of(name, root, tmp_path):
    """Why the bad video is left out of three good ones."""
    for k, good in enumerate("abc"):
        write_lossless(root / f"{good}.mkv", noise(1, 4, seed=k)[0])
    LEFT_OUT[name](root)
    data = build(root, tmp_path)
    assert [video.name for video in data.videos] == ["a.mkv", "b.mkv", "c.mkv"]  # nothing else is lost
    reasons = {reason for _, reason in data.skipped}
    assert len(reasons) == 1
    return reasons.pop()


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_is_broken_is_left_out_with_the_reason_that_the_document_states(name, tmp_path):
    (tmp_path / "v").mkdir()
    assert re.fullmatch(pattern(documented("What is left out")[name]), reason_of(name, tmp_path / "v", tmp_path))


# ---- what is put right


def resized(root):
    """An HLS-like stream: the second half has another size."""
    parts = []
    for k, size in enumerate(((32, 32), (64, 48))):
        with av.open(str(root / f"{k}.h264"), "w") as container:
            stream = container.add_stream("libx264", rate=10, options={"qp": "0"})
            stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
            for image in grey(4, tone=100 * k, size=size):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")))
            container.mux(stream.encode())
        parts.append((root / f"{k}.h264").read_bytes())
        (root / f"{k}.h264").unlink()
    (root / "x.h264").write_bytes(b"".join(parts))
    return frames_sizes(root / "x.h264")


def frames_sizes(path):
    return [frame.shape[:2] for _, frame in decode.frames(path)]


def test_a_video_that_changes_its_size_keeps_all_frames(tmp_path):
    """Each frame is fitted by itself; nothing is dropped and nothing squashed."""
    assert resized(tmp_path) == [(32, 32)] * 4 + [(64, 48)] * 4
    for k in range(3):
        (tmp_path / "v").mkdir(exist_ok=True)
        content = (tmp_path / "x.h264").read_bytes() + bytes(k)
        (tmp_path / "v" / f"{k}.mpg").write_bytes(content)
    data = build(tmp_path / "v", tmp_path, frames=8)
    video = data.clip("train", 0)["video"]
    assert video.shape == (8, 16, 16, 3)
    shown = video.astype(int).mean((1, 2, 3))
    assert np.abs(shown[4:] - shown[:4] - 100).max() < 4


def test_odd_sizes_lose_no_row(tmp_path):
    clips = noise(3, 4, size=(15, 17))
    for k, clip in enumerate(clips):
        write_lossless(tmp_path / f"{k}.mkv", clip)
    data = build(tmp_path, tmp_path, height=15, width=17)
    assert {data.clip(split, 0)["video"].tobytes() for split in SPLITS} == {clip.tobytes() for clip in clips}


@pytest.mark.parametrize("form", ["gray", "gray10le", "yuv444p10le", "yuva444p", "bgra"])
def test_grey_ten_bit_and_alpha_come_as_rgb(tmp_path, form):
    """Alpha is dropped: what is under it is shown."""
    for k in range(3):
        write_lossless(tmp_path / f"{k}.mkv", grey(4, tone=40 + k, size=(16, 16)), form=form)
    clip = build(tmp_path, tmp_path).clip("val", 0)
    expected = 40 + int(clip["source"][0]) + 4 * np.arange(4)
    assert np.abs(clip["video"].astype(int) - expected[:, None, None, None]).max() <= 2


NAMES = ["two words.mp4", 'it\'s "quoted".mp4', "видео 影片 é.mp4", "-dash.mp4", "%20?#&.mp4", "$HOME;ls.mp4"]


def test_any_name_will_do(tmp_path):
    for k, name in enumerate(NAMES):
        write(tmp_path / "my 'data' é" / name, count=4, tone=k)
    data = build(tmp_path / "my 'data' é", tmp_path)
    assert sorted(video.name for video in data.videos) == sorted(NAMES)


def test_a_loop_of_folders_is_walked_once(tmp_path):
    for k in range(3):
        write(tmp_path / "v" / f"{k}.mp4", count=4, tone=k)
    (tmp_path / "v" / "again").symlink_to(tmp_path / "v")
    assert len(build(tmp_path / "v", tmp_path).videos) == 3


# ---- what the system does not allow


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_what_may_not_be_read_is_named(tmp_path):
    for k in range(3):
        write(tmp_path / "v" / f"{k}.mp4", count=4, tone=k)
    write(tmp_path / "v" / "file.mp4", count=4, tone=9)
    write(tmp_path / "v" / "folder" / "x.mp4", count=4, tone=10)
    (tmp_path / "v" / "file.mp4").chmod(0)
    (tmp_path / "v" / "folder").chmod(0)
    try:
        assert build(tmp_path / "v", tmp_path).skipped == [
            ("file.mp4", documented("What is left out")["a file without the right to read it"]),
            ("folder", documented("What is left out")["a folder without the right to look into it"]),
        ]
    finally:
        (tmp_path / "v" / "folder").chmod(0o755)


def test_what_may_not_be_read_is_named_when_simulated(tmp_path, monkeypatch):
    """As root, to whom nothing is forbidden: the system's answer is put in its place."""
    for name in ("a", "b", "c", "file"):
        write(tmp_path / "v" / f"{name}.mp4", count=4, tone=ord(name[0]))
    write(tmp_path / "v" / "folder" / "x.mp4", count=4, tone=10)
    scandir, opened = os.scandir, Path.open

    def forbidden(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", lambda path: forbidden(path) if Path(path).name == "folder" else scandir(path))
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: forbidden(self) if self.name == "file.mp4" else opened(self, *a, **k))
    assert build(tmp_path / "v", tmp_path).skipped == [
        ("file.mp4", documented("What is left out")["a file without the right to read it"]),
        ("folder", documented("What is left out")["a folder without the right to look into it"]),
    ]


def test_a_full_disk_loses_nothing_that_is_done(tmp_path, monkeypatch):
    for k in range(4):
        write(tmp_path / "v" / f"{k}.mp4", count=4, tone=k)
    from vidgen.data.folder import cache

    fitted, done = cache.fit, []

    def full(*given):
        done.append(given)
        if len(done) > 9:
            raise OSError(errno.ENOSPC, "No space left on device")
        return fitted(*given)

    monkeypatch.setattr(cache, "fit", full)
    with pytest.raises(UserError, match=pattern(documented("What is refused")["a full disk"])):
        build(tmp_path / "v", tmp_path)
    kept = list((tmp_path / "cache").rglob("*.u8"))
    assert len(kept) == 2
    assert not list((tmp_path / "cache").rglob("*.partial"))
    monkeypatch.setattr(cache, "fit", fitted)
    stamps = {path: path.stat().st_mtime_ns for path in kept}
    assert len(build(tmp_path / "v", tmp_path).videos) == 4
    assert stamps == {path: path.stat().st_mtime_ns for path in kept}


@pytest.mark.parametrize("notes", ["", "{", "[]", '{"a.mp4": 3}', '{"0.mp4": {"frames": 7, "hash": "x"}}', "\udcff"])
def test_notes_of_another_version_are_made_again(tmp_path, notes):
    for k in range(3):
        write(tmp_path / "v" / f"{k}.mp4", count=4, tone=k)
    before = build(tmp_path / "v", tmp_path).fingerprint
    (place,) = (tmp_path / "cache").rglob("seen-*.json")
    place.write_bytes(notes.encode(errors="surrogateescape"))
    assert build(tmp_path / "v", tmp_path).fingerprint == before
    assert set(json.loads(place.read_text())) == {"0.mp4", "1.mp4", "2.mp4"}


def test_frames_of_another_version_are_left_alone(tmp_path, monkeypatch):
    for k in range(3):
        write(tmp_path / "v" / f"{k}.mp4", count=4, tone=k)
    build(tmp_path / "v", tmp_path)
    monkeypatch.setattr("vidgen.data.folder.cache.VERSION", VERSION + 1)
    build(tmp_path / "v", tmp_path)
    names = {path.name for path in (tmp_path / "cache").iterdir()}
    assert names == {f"16x16-native-v{VERSION}", f"16x16-native-v{VERSION + 1}"}


# ---- what is refused


def of_csv(root):
    write_rows(root / "list.csv", [{"id": 0, "label": 1}])


def of_hdf5(root):
    write_hdf5(root / "x.h5", noise(4))
    import h5py

    with h5py.File(root / "x.h5", "a") as file:
        for key in list(file):
            file.move(key, f"my_{key}")


def of_tar(root):
    write_tar(root / "x.tar", [("0.mp4", b"x" * 5000)])
    (root / "x.tar").write_bytes((root / "x.tar").read_bytes()[:300])


REFUSED = {
    "an empty folder": lambda root: None,
    "no video in it": lambda root: (root / "notes.txt").touch(),
    "nothing but broken ones": lambda root: (root / "bad.mp4").touch(),
    "too few videos": lambda root: write(root / "a.mp4"),
    "too short videos": lambda root: [write(root / f"{k}.mp4", count=3, tone=k) for k in range(3)],
    "csv without a column": of_csv,
    "HDF5 with other keys": of_hdf5,
    "a tar cut short in its first header": of_tar,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_at_all_is_refused_with_the_sentence_that_the_document_states(name, tmp_path):
    root = tmp_path / "v"
    root.mkdir()
    REFUSED[name](root)
    with pytest.raises(UserError) as caught:
        build(root, tmp_path)
    assert "\n" not in str(caught.value)
    assert re.fullmatch(pattern(documented("What is refused")[name]), str(caught.value))


# ---- the document


def documented(section):
    """The rows of a table of the document: what is given, and what it gets."""
    text = DOCUMENT.read_text(encoding="utf-8").split(f"## {section}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (?!---)(.+?) \| `?(.+?)`? \|$", text, re.MULTILINE)
    return dict(rows[1:])


def pattern(sentence):
    """A sentence of the document, in which words in capitals stand for paths and … for what is left out of it."""
    return re.sub(r"\b(PATH|CACHE)\b", r"\\S+", re.escape(sentence)).replace("…", ".*")


def test_every_row_of_the_document_is_tested():
    assert set(documented("What is left out")) == {
        *LEFT_OUT,
        "a file without the right to read it",
        "a folder without the right to look into it",
    }
    assert set(documented("What is refused")) == {*REFUSED, "a full disk"}
    tests = "".join(path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("test_*.py")))
    named = re.findall(r"`(test_\w+_\w+)`", DOCUMENT.read_text(encoding="utf-8"))
    assert len(named) > 5
    assert [name for name in named if f"def {name}(" not in tests] == []
