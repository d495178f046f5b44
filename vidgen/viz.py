"""Pictures for people: uint8 clips in, tiled clips, mp4 files that browsers play and PNG contact sheets out.

Every clip here is numpy uint8 RGB (T, H, W, 3), values 0 to 255; a batch of them is (N, T, H, W, 3). Files appear whole
or not at all: they are written under another name beside their place, then moved onto it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidgen.files import replacing

Pixels = NDArray[np.uint8]

GAP = 2  # pixels between tiles
GAP_VALUE = 96  # mid grey: visible beside black and white tiles alike
LARGE = 512 * 512  # pixels of a frame from which on encoding pays for threads
LEGIBLE = 64  # a tile of a contact sheet is enlarged until its shorter side is at least this many pixels


def grid(videos: Pixels, columns: int | None = None) -> Pixels:
    """Tile N clips of one size, row by row, with a thin grey gap between them.

    Args:
        videos: uint8 (N, T, H, W, 3), N at least 1.
        columns: Tiles in a row; None makes the grid as square as it can be.

    Returns:
        uint8 (T, H', W', 3) with H' = rows * (H + GAP) - GAP and W' likewise; places without a clip are grey.

    Raises:
        ValueError: when ``videos`` has another shape or type, or ``columns`` is below 1.
    """
    _check(videos, ndim=5)
    num, frames, height, width, _ = videos.shape
    columns = math.ceil(math.sqrt(num)) if columns is None else min(columns, num)
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    rows = math.ceil(num / columns)
    shape = (frames, rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3)
    canvas = np.full(shape, GAP_VALUE, dtype=np.uint8)
    for i, video in enumerate(videos):
        y, x = (i // columns) * (height + GAP), (i % columns) * (width + GAP)
        canvas[:, y : y + height, x : x + width] = video
    return canvas


def upscale(video: Pixels, scale: int) -> Pixels:
    """Repeat every pixel ``scale`` times along H and W: uint8 (..., H, W, 3) -> (..., H * scale, W * scale, 3)."""
    if scale < 1:
        raise ValueError(f"scale must be at least 1, got {scale}")
    return video.repeat(scale, axis=-3).repeat(scale, axis=-2)


def write_mp4(path: str | os.PathLike[str], video: Pixels, fps: float = 8, scale: int = 1) -> None:
    """Write a clip as an mp4 that every browser plays, as :func:`write_frames` does.

    Args:
        path: Where the file goes; its folder is made when absent.
        video: uint8 (T, H, W, 3).
        fps: Frames a second.
        scale: Nearest-neighbour enlargement. Even factors keep edges of colour sharp: chroma has half the resolution.

    Raises:
        ValueError: when ``video`` has another shape or type, or ``scale`` is below 1.
        OSError: when the file cannot be written.
    """
    _check(video, ndim=4)
    write_frames(path, upscale(video, scale), fps)


def write_frames(path: str | os.PathLike[str], frames: Iterable[Pixels], fps: float) -> None:
    """Write frames as they come, as :func:`frame_writer` does; they are not kept, so that any number of them can be written.

    Args:
        path: Where the file goes; its folder is made when absent. Nothing is left of it where ``frames`` raises.
        frames: uint8 (H, W, 3), one or more of one size.
        fps: Frames a second.

    Raises:
        OSError: when the file cannot be written.
    """
    with frame_writer(path, fps) as write:
        for pixels in frames:
            write(pixels)


@contextmanager
def frame_writer(path: str | os.PathLike[str], fps: float) -> Iterator[Callable[[Pixels], None]]:
    """An mp4 that every browser plays, written frame by frame: H.264, yuv420p, tagged BT.709 limited range, index in front.

    Args:
        path: Where the file goes; its folder is made when absent. Nothing is left of it where its block raises.
        fps: Frames a second.

    Yields:
        what writes the next frame, uint8 (H, W, 3), all of one size. An odd height or width gets its last row or column once
        more, for 4:2:0 chroma needs even sizes.

    Raises:
        OSError: when the file cannot be written.
    """
    import av
    from av.video.reformatter import ColorRange, Colorspace

    stream: Any = None
    with replacing(path) as partial, av.open(str(partial), "w", "mp4", options={"movflags": "+faststart"}) as container:

        def write(pixels: Pixels) -> None:
            nonlocal stream
            if stream is None:
                stream = _video_stream(container, pixels.shape[0], pixels.shape[1], fps)
            height, width = pixels.shape[:2]
            even = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
            frame = frame.reformat(
                format="yuv420p",
                dst_colorspace=Colorspace.ITU709,
                src_color_range=ColorRange.JPEG,
                dst_color_range=ColorRange.MPEG,
                threads=1,
            )
            container.mux(stream.encode(frame))

        yield write
        assert stream is not None, "a video has one frame or more"
        container.mux(stream.encode())


def _video_stream(container: Any, height: int, width: int, fps: float) -> Any:
    """The stream of frames of that size in an open file."""
    from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

    rate = Fraction(fps).limit_denominator(1001)
    # CRF 12 cannot be told from the original by eye (flat ground within 2 of 255); a small clip is a few kB. Without x264's
    # macroblock tree, whose fast code reads beyond small frames, the same frames always make the same file.
    options = {"crf": "12", "preset": "medium", "x264-params": "mbtree=0"}
    stream = container.add_stream("libx264", rate=rate, options=options)
    stream.height, stream.width = height + height % 2, width + width % 2
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    # Clips are small: starting threads would take longer than encoding. 0 lets the encoder choose.
    context.thread_count = 0 if height * width > LARGE else 1
    # Players read untagged files as BT.601 or as BT.709, as they please: colours would differ from one to the next.
    context.colorspace = Colorspace.ITU709
    context.color_primaries = ColorPrimaries.BT709
    context.color_trc = ColorTrc.BT709
    context.color_range = ColorRange.MPEG
    return stream


def contact_sheet(path: str | os.PathLike[str], videos: Pixels, every: int = 1) -> None:
    """Write a PNG with a row for each clip, its frames from left to right, small clips enlarged until they can be seen.

    Args:
        path: Where the file goes; its folder is made when absent.
        videos: uint8 (N, T, H, W, 3).
        every: Show every such frame, beginning with the first.

    Raises:
        ValueError: when ``videos`` has another shape or type, or ``every`` is below 1.
        OSError: when the file cannot be written.
    """
    from PIL import Image

    _check(videos, ndim=5)
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    videos = videos[:, ::every]
    num, frames, height, width, _ = videos.shape
    scale = math.ceil(LEGIBLE / min(height, width))
    tiles = upscale(videos, scale).reshape(num * frames, 1, height * scale, width * scale, 3)
    with replacing(path) as partial:
        Image.fromarray(grid(tiles, columns=frames)[0]).save(partial, format="PNG")


def _check(video: Pixels, *, ndim: int) -> None:
    if video.dtype != np.uint8 or video.ndim != ndim or video.shape[-1] != 3 or 0 in video.shape:
        wanted = "(N, T, H, W, 3)" if ndim == 5 else "(T, H, W, 3)"
        raise ValueError(f"expected non-empty uint8 {wanted}, got {video.dtype} {video.shape}")
