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

`frames` decodes a file from end to end. `pick` gives some of these frames, to the bit, and decodes little more than them: by an
`index` that one pass over the file made, with a checksum of every frame, so that no seek can give another one unnoticed.
"""

from __future__ import annotations

import heapq
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, pairwise
from multiprocessing import parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.reformatter import VideoReformatter
    from av.video.stream import VideoStream

T = TypeVar("T")
Pixels = NDArray[np.uint8]
Index = NDArray[np.void]
Video = str | os.PathLike[str] | BinaryIO
"""A video file by its path, or opened for reading and standing at its beginning."""

EXTENSIONS = frozenset(
    {".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts"}
    | {".vob", ".webm", ".wmv"}
)  # in lower case
REORDER = 8  # frames held back to sort them by time; decoders reorder by themselves, so that only odd files need any
LONGEST_GAP = 60.0  # seconds between two frames, beyond which a timestamp is broken and not the video still
UNTAGGED = 2  # FFmpeg's AVCOL_SPC_UNSPECIFIED
PLENTY = (
    3  # pixels left for each that is wanted when frames are converted at a smaller size: the result moves by two levels of 255
)
UNINDEXED = frozenset({"mpeg", "mpegts"})  # containers in which FFmpeg seeks by times of decoding, which are earlier
INDEX = np.dtype([("number", "<i8"), ("stamp", "<i8"), ("entry", "<i8"), ("check", "<u4")])
START = -(2**63)  # the entry of files whose stamps do not tell frames apart: such a file is decoded from its beginning
SKIPPING = frozenset({"h264", "hevc", "mpeg2video", "mpeg4"})  # codecs whose decoders leave out frames that no other needs
TRIES = 2  # key frames to begin at, the second the one before, until a file is decoded from its beginning


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
        return Probe(
            width=frame.height if swap else frame.width,
            height=frame.width if swap else frame.height,
            pixel_aspect=_pixel_aspect(frame, stream),
            rate=float(stream.average_rate) if stream.average_rate else None,
            codec=stream.codec_context.name,
        )


def frames(path: Video, *, fps: float | None = None, room: tuple[int, int] | None = None) -> Iterator[tuple[float, Pixels]]:
    """Stream the frames of a video file in order of time; memory does not grow with the length of the file.

    Args:
        path: The file.
        fps: Frames a second to convert to, as ``resample`` does; None gives every frame at its own time.
        room: Height and width that the frames are going to be cut and resized to. Where they are many times as large, both
            sides come divided by a whole number, `PLENTY` pixels or more being left for each wanted: that costs far less than
            converting and resizing all of them. None gives full size.

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
            yield time - begin, _rgb(frame, converter, _shrink(frame, stream, room))


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


def index(path: Video, *, fps: float | None = None, tick: Callable[[], object] = lambda: None) -> Index:
    """A row for each frame that `frames` gives, by decoding the file from end to end; next to nothing is converted.

    Args:
        path: The file.
        fps: As in `frames`.
        tick: Called for every frame.

    Returns:
        Rows of ``number``, which frame of the decoder's it is; ``stamp``, its time stamp; ``entry``, the stamp of the key frame
        at or before it, `START` in files whose stamps do not tell frames apart; ``check``, a checksum of its decoded pixels.

    Raises:
        DecodeError: when the file does not decode.
    """
    from av.video.reformatter import VideoReformatter

    rows, keys, kinds, converter = list[tuple[int, int | None, int]](), set[int](), set[Any](), VideoReformatter()

    def seen(number: int, frame: VideoFrame) -> int:
        kind = frame.format.name, frame.colorspace, frame.width, frame.height
        if kind not in kinds:  # to see that it can be
            _rgb(frame, converter)
            kinds.add(kind)
        rows.append((number, frame.pts, _checksum(frame)))
        if frame.key_frame:
            keys.add(number)
        tick()
        return number

    with _open(path) as (container, stream):
        timed = _timed(container, stream)
        order = list(_sorted((time, seen(number, frame)) for number, (time, frame) in enumerate(timed)))
    stamps = {stamp for _, stamp, _ in rows}
    apart = None not in stamps and len(stamps) == len(rows)
    entry, entries = START, dict[int, int]()
    for _, number in order:
        stamp = rows[number][1]
        entry = stamp if apart and stamp is not None and number in keys else entry
        entries[number] = entry
    taken = [number for _, number in (order if fps is None else resample(order, fps))]
    return np.array([(n, rows[n][1] if apart else n, entries[n], rows[n][2]) for n in taken], dtype=INDEX)


def pick(path: Video, rows: Index, begins: Sequence[int], *, room: tuple[int, int] | None = None) -> list[tuple[Pixels, float]]:
    """Some of the frames of a video file, to the bit those that `frames` gives, decoding little more than them.

    Args:
        path: The file.
        rows: Of its `index`, in order of time.
        begins: Stamps of key frames to begin at, the best first: where one does not give the frames, the next is tried.
        room: As in `frames`.

    Returns:
        The frame of each row, and the width of its pixels over their height.

    Raises:
        DecodeError: when the file is no longer the one that was indexed.
    """
    for begin in dict.fromkeys((*begins, START)):
        if not isinstance(path, str | os.PathLike):
            path.seek(0)
        found = _found(path, rows, begin, room)
        if found is not None:
            return [found[number] for number in rows["number"].tolist()]
    raise DecodeError("its frames are no longer those that were found in it at first")


def entries(index: Index, first: int) -> list[int]:
    """The key frames to begin at for row ``first`` and later ones, the nearest first."""
    found: list[int] = []
    while first >= 0 and len(found) < TRIES:
        found.append(int(index["entry"][first]))
        others = np.flatnonzero(index["entry"][:first] != found[-1])
        first = int(others[-1]) if len(others) else -1
    return found


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


def _found(path: Video, rows: Index, begin: int, room: tuple[int, int] | None) -> dict[int, tuple[Pixels, float]] | None:
    """The frames of ``rows`` by number, decoding from key frame ``begin`` on; None where that does not give these very frames."""
    import av
    from av.video.reformatter import VideoReformatter

    by = "number" if begin == START else "stamp"
    wanted = dict(zip(rows[by].tolist(), zip(rows["number"].tolist(), rows["check"].tolist(), strict=True), strict=True))
    first, last = min(wanted), max(wanted)
    found, converter, late = dict[int, tuple[Pixels, float]](), VideoReformatter(), 0
    with _open(path) as (container, stream):
        try:
            for count, frame in enumerate(_from(container, stream, begin, first)):
                key = count if begin == START else frame.pts
                if key in wanted:
                    number, check = wanted[key]
                    if _checksum(frame) != check:
                        return None
                    found[number] = _rgb(frame, converter, _shrink(frame, stream, room)), _pixel_aspect(frame, stream)
                    if len(found) == len(wanted):
                        return found
                late += key is None or key > last
                if late > REORDER:
                    return None
        except av.FFmpegError:
            return None
    return None


def _from(container: InputContainer, stream: VideoStream, begin: int, first: int) -> Iterator[VideoFrame]:
    """The frames from key frame ``begin`` on; of those before ``first`` only what others are predicted from."""
    if begin == START:
        yield from container.decode(stream)
        return
    assert stream.time_base is not None
    early = round(1 / stream.time_base) if container.format.name in UNINDEXED else 0  # a second
    container.seek(begin - early, stream=stream)
    able, skipping = stream.codec_context.name in SKIPPING, False
    for packet in container.demux(stream):
        skip = able and packet.pts is not None and packet.pts < first
        if skip != skipping:
            stream.codec_context.skip_frame, skipping = "NONREF" if skip else "DEFAULT", skip
        yield from packet.decode()


def _checksum(frame: VideoFrame) -> int:
    """CRC-32 of the pixels as they are decoded: of formats that do not lie in planes, as RGB."""
    if not frame.format.is_planar or min(plane.line_size for plane in frame.planes) < 0:  # upside down
        return zlib.crc32(frame.to_ndarray(format="rgb24").tobytes())
    check = 0
    for number, plane in enumerate(frame.planes):
        depth = [component.bits for component in frame.format.components if component.plane == number]
        used = plane.width * len(depth) * ((max(depth) + 7) // 8)
        lines = np.frombuffer(cast("memoryview", plane), np.uint8).reshape(-1, plane.line_size)  # typed as no buffer, and is one
        check = zlib.crc32(np.ascontiguousarray(lines[:, :used]).data, check)  # no copy where lines have no padding
    return check


def _pixel_aspect(frame: VideoFrame, stream: VideoStream) -> float:
    """The width of a pixel over its height when the frame is upright."""
    swap, _, _ = _orientation(frame)
    stored = float(stream.sample_aspect_ratio or 1)
    return 1 / stored if swap else stored


def _shrink(frame: VideoFrame, stream: VideoStream, room: tuple[int, int] | None) -> int:
    """The greatest whole number that divides both sides of a frame and leaves `PLENTY` pixels for each of ``room``."""
    if room is None:
        return 1
    swap, _, _ = _orientation(frame)
    rows, columns = (frame.width, frame.height) if swap else (frame.height, frame.width)
    aspect = _pixel_aspect(frame, stream)
    scale = min(rows / room[0], columns * aspect / room[1])  # rows for each wanted, and scale / aspect columns
    most = max(1, int(min(scale, scale / aspect) / PLENTY))
    return next(k for k in range(most, 0, -1) if rows % k == 0 == columns % k)


def _rgb(frame: VideoFrame, converter: VideoReformatter, shrink: int = 1) -> Pixels:
    """Convert to full-range RGB by the frame's own colour tags, at a ``shrink``th of its size, and turn upright."""
    from av.video.reformatter import ColorRange, Colorspace, Interpolation

    untagged_hd = frame.colorspace == UNTAGGED and (frame.width >= 1280 or frame.height > 576)
    accurate = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.BITEXACT
    try:
        converted = converter.reformat(
            frame,
            width=frame.width // shrink,
            height=frame.height // shrink,
            format="rgb24",
            src_colorspace=Colorspace.ITU709 if untagged_hd else None,  # None: as tagged, BT.601 without a tag
            dst_color_range=ColorRange.JPEG,
            interpolation=(Interpolation.BILINEAR if shrink == 1 else Interpolation.AREA) | accurate,
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
