"""Files that people look at: right pixels, right colours after a round trip, playable by browsers, whole or absent."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image

from vidgen import viz


def ball(frames: int = 5, size: int = 32) -> viz.Pixels:
    """A red ball that moves right by 2 px a frame over dark blue."""
    y, x = np.mgrid[:size, :size]
    video = np.full((frames, size, size, 3), (20, 30, 50), dtype=np.uint8)
    for t in range(frames):
        video[t][(y - size // 2) ** 2 + (x - 6 - 2 * t) ** 2 <= 25] = (230, 60, 40)
    return video


def read(path) -> tuple[viz.Pixels, list[av.VideoFrame]]:
    """Decode independently of vidgen.data, by the colour tags that the file is meant to carry."""
    with av.open(path) as container:
        frames = list(container.decode(video=0))
    rgb = [
        f.reformat(
            format="rgb24",
            src_colorspace=Colorspace.ITU709,
            src_color_range=ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG,
        ).to_ndarray()
        for f in frames
    ]
    return np.stack(rgb), frames


def test_grid_places_every_clip_and_nothing_else():
    videos = np.arange(5, dtype=np.uint8)[:, None, None, None, None] * np.ones((1, 2, 4, 6, 3), dtype=np.uint8)
    out = viz.grid(videos, columns=3)
    assert out.shape == (2, 2 * 4 + viz.GAP, 3 * 6 + 2 * viz.GAP, 3)
    for i in range(5):
        y, x = (i // 3) * (4 + viz.GAP), (i % 3) * (6 + viz.GAP)
        assert (out[:, y : y + 4, x : x + 6] == i).all()
    assert (out == viz.GAP_VALUE).sum() == out.size - 5 * videos[0].size


@pytest.mark.parametrize(("num", "columns", "tiles"), [(5, None, (2, 3)), (4, None, (2, 2)), (2, 8, (1, 2)), (1, 1, (1, 1))])
def test_grid_shape(num, columns, tiles):
    out = viz.grid(np.zeros((num, 1, 8, 8, 3), dtype=np.uint8), columns)
    assert out.shape[1:3] == (tiles[0] * (8 + viz.GAP) - viz.GAP, tiles[1] * (8 + viz.GAP) - viz.GAP)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((1, 2, 4, 4, 3)),
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros((1, 2, 4, 4, 1), np.uint8),
        np.zeros((0, 2, 4, 4, 3), np.uint8),
    ],
)
def test_wrong_arrays_are_refused(bad, tmp_path):
    with pytest.raises(ValueError, match="expected non-empty uint8"):
        viz.grid(bad, 1)
    with pytest.raises(ValueError, match="expected non-empty uint8"):
        viz.contact_sheet(tmp_path / "x.png", bad)
    assert list(tmp_path.iterdir()) == []


def test_mp4_keeps_colours_frames_and_time(tmp_path):
    video = ball()
    viz.write_mp4(tmp_path / "deep" / "ball.mp4", video, fps=8, scale=4)
    pixels, frames = read(tmp_path / "deep" / "ball.mp4")
    assert pixels.shape == (5, 128, 128, 3)
    error = np.abs(pixels.astype(int) - viz.upscale(video, 4))
    assert error.mean() < 1.5  # 0.9; a wrong matrix (BT.601 for BT.709) makes 1.9, a wrong range 11
    assert [f.time for f in frames] == [t / 8 for t in range(5)]


def test_mp4_is_what_browsers_play(tmp_path):
    path = tmp_path / "ball.mp4"
    viz.write_mp4(path, ball())
    data = path.read_bytes()
    assert 0 < data.find(b"moov") < data.find(b"mdat")  # the index comes first: playback starts before the end arrives
    with av.open(path) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        frame = next(container.decode(stream))
        tags = (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc)
        assert [int(tag) for tag in tags] == [1, 1, 1, 1]  # BT.709, limited range


@pytest.mark.parametrize("shape", [(1, 7, 9, 3), (2, 1, 1, 3), (3, 8, 5, 3)])
def test_mp4_pads_odd_sizes_and_takes_one_frame(tmp_path, shape):
    video = np.full(shape, (200, 100, 50), dtype=np.uint8)
    viz.write_mp4(tmp_path / "odd.mp4", video)
    pixels, _ = read(tmp_path / "odd.mp4")
    assert pixels.shape == (shape[0], shape[1] + shape[1] % 2, shape[2] + shape[2] % 2, 3)
    assert np.abs(pixels.astype(int) - (200, 100, 50)).max() <= 4


def test_a_failed_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    def fail(image, file, **options):
        Path(file).write_bytes(b"half a picture")
        raise OSError("disk full")

    path = tmp_path / "sheet.png"
    path.write_bytes(b"old")
    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        viz.contact_sheet(path, ball()[None])
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["sheet.png"]


def test_contact_sheet_rows_frames_and_size(tmp_path):
    videos = np.stack([ball(17), ball(17)[::-1]])
    viz.contact_sheet(tmp_path / "sheet.png", videos, every=4)
    with Image.open(tmp_path / "sheet.png") as image:
        sheet = np.asarray(image)
    tile = 64 + viz.GAP  # 32 px are doubled to be legible
    assert sheet.shape == (2 * tile - viz.GAP, 5 * tile - viz.GAP, 3)
    assert (sheet[tile : tile + 64, 2 * tile : 2 * tile + 64] == viz.upscale(videos[1, 8], 2)).all()


def test_large_clips_are_not_enlarged(tmp_path):
    viz.contact_sheet(tmp_path / "sheet.png", np.zeros((1, 1, 70, 90, 3), dtype=np.uint8))
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.size == (90, 70)


def test_the_same_frames_make_the_same_file(tmp_path: Path) -> None:
    """Whatever lay in memory before: x264's macroblock tree would read it beside frames as small as these."""
    rng = np.random.default_rng(0)
    y, x, t = np.mgrid[:64, :48, :9]
    clip = np.stack([np.stack([2 * x + t, y + 3 * t, 200 - y - x], axis=-1)[:, :, k] for k in range(9)]).astype(np.uint8)

    def frames():
        for frame in clip:
            _ = [np.full(int(size), 1e9, dtype=np.float32) for size in rng.integers(100, 20000, 50)]
            yield frame

    files = set()
    for _ in range(8):
        viz.write_frames(tmp_path / "a.mp4", frames(), 8)
        files.add((tmp_path / "a.mp4").read_bytes())
    assert len(files) == 1
