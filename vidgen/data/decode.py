"""Video files to RGB frames through PyAV, one frame at a time, with time, colour and orientation put right.

What is put right, for every file alike:

- Order and time. Frames come sorted by presentation time; frame counts in headers are never read, for they are often
  wrong. AVI and raw streams store no presentation times: there the decoder's order and the nominal rate are the truth.
- Colour. The file's own matrix and range (full or limited) are applied, at any bit depth. Untagged files are BT.709 when
  high definition and BT.601 below, as players have it. The conversion is FFmpeg's accurate and bit-exact one: its fast
  default darkens by about one level of 255, green most, and differs between processors. Transfer curves are left alone,
  so HDR comes out flat.
- Orientation. The rotation and mirroring that phones store beside the pixels are applied.
- Damage. A frame that the decoder had to patch up, or a packet that it cannot read, ends the file with ``DecodeError``.
  (Decoders of HEVC do not report all patches, and a file cut off between two frames is only shorter.)
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, pairwise
from multiprocessing import parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.reformatter import VideoReformatter
    from av.video.stream import VideoStream

T = TypeVar("T")
Pixels = NDArray[np.uint8]
Video = str | os.PathLike[str] | BinaryIO
"""A video file by its path, or opened for reading and standing at its beginning."""

EXTENSIONS = frozenset(
    {".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts"}
    | {".vob", ".webm", ".wmv"}
)  # in lower case
REORDER = 8  # frames held back to sort them by time; decoders reorder by themselves, so that only odd files need any
LONGEST_GAP = 60.0  # seconds between two frames, beyond which a timestamp is broken and not the video still
UNTAGGED = 2  # FFmpeg's AVCOL_SPC_UNSPECIFIED


class DecodeError(Exception):
    """A file that does not decode from end to end. The message is the reason, without the name of the file."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What a file looks like when shown.

    ``width`` and ``height`` are in pixels, and ``pixel_aspect`` is the width of a pixel over its height, all three after
    rotation; ``rate`` is the nominal number of frames a second, None where the header states none.
    """

    width: int
    height: int
    pixel_aspect: float
    rate: float | None
    codec: str


def probe(path: Video) -> Probe:
    """Read the header and the first frame of a video file.

    Raises:
        DecodeError: when the file cannot be opened, holds no video, or its first frame is damaged.
    """
    with _open(path) as (container, stream):
        _, frame = next(_timed(container, stream))
        swap, _, _ = _orientation(frame)
        width, height, aspect = frame.width, frame.height, float(stream.sample_aspect_ratio or 1)
        return Probe(
            width=height if swap else width,
            height=width if swap else height,
            pixel_aspect=1 / aspect if swap else aspect,
            rate=float(stream.average_rate) if stream.average_rate else None,
            codec=stream.codec_context.name,
        )


def frames(path: Video, *, fps: float | None = None) -> Iterator[tuple[float, Pixels]]:
    """Stream the frames of a video file in order of time; memory does not grow with the length of the file.

    Args:
        path: The file.
        fps: Frames a second to convert to, as ``resample`` does; None gives every frame at its own time.

    Yields:
        Seconds since the first frame, and the frame: uint8 RGB (H, W, 3), its pixels as ``probe(path).pixel_aspect`` says.

    Raises:
        DecodeError: while iterating, as soon as the file turns out not to decode.
    """
    from av.video.reformatter import VideoReformatter

    with _open(path) as (container, stream):
        begin, converter = None, VideoReformatter()
        timed = _sorted(_timed(container, stream))
        for time, frame in timed if fps is None else resample(timed, fps):
            begin = time if begin is None else begin
            yield time - begin, _rgb(frame, converter)


def duration(path: Video) -> float | None:
    """Seconds that the header says the file lasts, None where it says nothing; often wrong, so for nothing but progress.

    Raises:
        DecodeError: when the file cannot be opened, or holds no video.
    """
    import av

    with _open(path) as (container, _):
        return container.duration / av.time_base if container.duration else None


def read(path: Video) -> Pixels:
    """Read all of a short video file: uint8 RGB (T, H, W, 3).

    Raises:
        DecodeError: when the file does not decode.
    """
    return np.stack([rgb for _, rgb in frames(path)])


def resample(timed: Iterable[tuple[float, T]], fps: float) -> Iterator[tuple[float, T]]:
    """Pick the item nearest in time to 0, 1 / fps, 2 / fps, ... seconds after the first item.

    An item stands for the times nearer to it than to its neighbours; the last one reaches as far past itself as back. A
    faster source loses items, a slower one repeats them.

    Args:
        timed: (seconds, item) pairs in order of time.
        fps: Items a second to give.

    Yields:
        (k / fps, item) for k = 0, 1, 2, ...

    Raises:
        DecodeError: when two neighbours lie more than ``LONGEST_GAP`` apart.
    """
    k, begin, gap = 0, None, 0.0
    for now, following in pairwise(chain(timed, (None,))):
        assert now is not None  # only the last one is
        time, item = now
        begin = time if begin is None else begin
        gap = gap if following is None else following[0] - time
        if gap > LONGEST_GAP:
            raise DecodeError(f"its timestamps jump by {gap:.0f} s")
        # Containers round times (Matroska to 1 ms), and when a rate is doubled every second target lies just half-way:
        # with a little slack the earlier item takes them all, instead of now this one and now that one.
        until = time + gap / 2 + min(0.001, gap / 10)
        while begin + k / fps <= until:
            yield k / fps, item
            k += 1


@contextmanager
def _open(path: Video) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A file and its first moving stream, ready to be decoded on all cores, by a worker process on one."""
    import av

    # An absolute path cannot be taken for a protocol ("a:b.mp4"), and a playlist named .mp4 cannot reach the network.
    place: Any = str(Path(path).absolute()) if isinstance(path, str | os.PathLike) else path
    options = {"protocol_whitelist": "file"} if isinstance(place, str) else {}
    try:
        container = av.open(place, options=options)
    except av.FFmpegError as error:
        raise DecodeError(f"it cannot be opened ({_reason(error)})") from error
    with container:
        streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not streams:
            raise DecodeError("it holds no video")
        streams[0].thread_type = "AUTO"
        if parent_process() is not None:  # one of several workers: together they would start cores times cores threads
            streams[0].thread_count = 1
        yield container, streams[0]


def _timed(container: InputContainer, stream: VideoStream) -> Iterator[tuple[float, VideoFrame]]:
    """Every frame in the decoder's order, with its time in seconds from an arbitrary origin."""
    import av

    step = 1 / float(stream.average_rate) if stream.average_rate else None
    # AVI has no presentation times. With B-frames, what FFmpeg puts in their place are times of decoding, out of order.
    stamped = container.format.name != "avi"
    count, time = 0, 0.0
    try:
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise DecodeError(f"frame {count} is damaged")
            if stamped and frame.time is not None:
                time = frame.time
            elif step is None:
                raise DecodeError("it states neither times nor a rate")
            elif count:
                time += step
            yield time, frame
            count += 1
    except av.FFmpegError as error:
        raise DecodeError(f"it is damaged after {count} frames ({_reason(error)})") from error
    if not count:
        raise DecodeError("it holds no frame")


def _sorted(timed: Iterable[tuple[float, T]]) -> Iterator[tuple[float, T]]:
    """Sort by time within a window of ``REORDER`` frames; frames of equal time keep their order."""
    waiting: list[tuple[float, int, T]] = []
    last = -float("inf")
    for count, (time, item) in enumerate(timed):
        if time < last:
            raise DecodeError(f"its timestamps go back by {last - time:.3f} s")
        heapq.heappush(waiting, (time, count, item))
        if len(waiting) > REORDER:
            last, _, first = heapq.heappop(waiting)
            yield last, first
    while waiting:
        time, _, item = heapq.heappop(waiting)
        yield time, item


def _rgb(frame: VideoFrame, converter: VideoReformatter) -> Pixels:
    """Convert to full-range RGB by the frame's own colour tags, and turn upright."""
    from av.video.reformatter import ColorRange, Colorspace, Interpolation

    untagged_hd = frame.colorspace == UNTAGGED and (frame.width >= 1280 or frame.height > 576)
    accurate = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.BITEXACT
    try:
        converted = converter.reformat(
            frame,
            format="rgb24",
            src_colorspace=Colorspace.ITU709 if untagged_hd else None,  # None: as tagged, BT.601 without a tag
            dst_color_range=ColorRange.JPEG,
            interpolation=Interpolation.BILINEAR | accurate,
            threads=1,  # starting more takes longer than they save
        )
    except OSError as error:  # FFmpeg's "not supported", for YCgCo among others
        reason = f"colour matrix {frame.colorspace} of {frame.format.name}: {_reason(error)}"
        raise DecodeError(f"its colours cannot be converted ({reason})") from error
    rgb = np.asarray(converted.to_ndarray(), dtype=np.uint8)
    swap, mirror_x, mirror_y = _orientation(frame)
    rgb = rgb.transpose(1, 0, 2) if swap else rgb
    return np.ascontiguousarray(rgb[:: -1 if mirror_y else 1, :: -1 if mirror_x else 1])


def _orientation(frame: VideoFrame) -> tuple[bool, bool, bool]:
    """How to turn a frame upright: whether to swap its axes, then to mirror it left-right, then top-bottom.

    The display matrix sends a pixel (x, y) to (a x + c y, b x + d y); its first five numbers are a, b, u, c, d. Angles that
    are no multiple of 90 degrees are rounded to one.
    """
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")  # PyAV types its values as text, and they are buffers
    if matrix is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(matrix, dtype=np.int32)[:5]
    if abs(int(b)) > abs(int(a)):
        return True, bool(c < 0), bool(b < 0)
    return False, bool(a < 0), bool(d < 0)


def _reason(error: Exception) -> str:
    """FFmpeg's own words, without the name of the function that failed."""
    return getattr(error, "strerror", None) or str(error)
