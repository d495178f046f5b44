"""Measures how clips come out of video files, against PyAV as it is commonly used and torchcodec: ``results/decoding.jsonl``.

    python benchmarks/decoding.py                measures what is not there yet of the code at hand
    python benchmarks/decoding.py --only direct  those rows alone

``direct``: clips from ``data.decode=direct``, which seeks by an index and decodes what a clip needs. ``cache``: clips of which
the frames were decoded and made small before. ``read``: a whole file decoded to RGB. Clips are drawn at random, or come one after
the other to the end of a file. The others open the file for each clip and make its frames small as we do; PyAV from the file's
start on, which is how it is most often used, or after a seek; in order they go through the file once. All sides decode on one
core, and convert to RGB by their own means: ours is FFmpeg's accurate conversion by the file's own colour tags, which theirs
leave out.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import timing
from timing import Case, Timing

from vidgen import viz
from vidgen.data import decode
from vidgen.data.folder.cache import FrameCache, Stored, choose, fit
from vidgen.data.folder.layout import read_table
from vidgen.data.worlds import Worlds

RESULTS = Path(__file__).parent / "results" / "decoding.jsonl"
CODE = ("vidgen/data/decode.py", "vidgen/data/folder", "benchmarks/decoding.py", "benchmarks/timing.py")
ASSETS = Path(__file__).parents[2] / "shared" / "assets" / "video"
PAIRS, SIDE, CLIP, SMALL, DRAWN = 5, 256, 17, 64, 4
MADE = {"short": (3, 120), "long": (2, 900)}
"""Files that are made, and the frames of each."""

GIVEN = {"gestures": "asl", "cameras": "intel"}
"""Folders of real videos: 20 of about 2 s of 640x480, and 3 of 30 to 140 s of 640x360 and 768x432."""

ORDERS = ("at random", "in order")
FASTER = 5
Clip = tuple[Path, int]


def names() -> list[str]:
    """The footage that is there."""
    return [*MADE, *(name for name, folder in GIVEN.items() if (ASSETS / folder).is_dir())]


@cache
def scratch() -> Path:
    """A folder that goes when we do."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def footage(name: str) -> Path:
    """A folder of video files; made ones are H.264 of 256 x 256, a key frame every so often as the encoder likes."""
    if name in GIVEN:
        return ASSETS / GIVEN[name]
    files, frames = MADE[name]
    world = Worlds(frames=frames, height=SIDE, width=SIDE, radius=(SIDE / 12, SIDE / 6), speed=(2.0, 6.0), objects=3)
    for k in range(files):
        viz.write_mp4(scratch() / name / f"{k}.mp4", world.clip("train", k)["video"], fps=30)
    return scratch() / name


@cache
def frames(name: str, kind: str) -> tuple[FrameCache, dict[Path, Stored]]:
    """What reads the frames of some footage, and the videos by their files."""
    root, table = read_table(str(footage(name)), index=scratch() / "cache")
    reader = choose(kind, root, table, folder=scratch() / "cache", sizes=[(SMALL, SMALL)], fps=None)[SMALL, SMALL]
    stored, _, _ = reader.add(root, table.items)
    return reader, {root / name: video for name, video in stored.items()}


def clips(name: str, order: str) -> list[Clip]:
    """Where clips begin: some at random, or all of one file from its beginning on."""
    videos = sorted((path, video.frames) for path, video in frames(name, "direct")[1].items())
    if order == "in order":
        path, length = min(videos, key=lambda video: video[1])
        return [(path, start) for start in range(0, length - CLIP + 1, CLIP)]
    drawn = np.random.default_rng(0)
    chosen = [videos[drawn.integers(len(videos))] for _ in range(DRAWN)]
    return [(path, int(drawn.integers(length - CLIP + 1))) for path, length in chosen]


def of_ours(wanted: list[Clip], name: str, kind: str) -> list[np.ndarray]:
    """Clips of ``data=folder``."""
    reader, stored = frames(name, kind)
    return [reader.read(stored[path], start, start + CLIP) for path, start in wanted]


def of_pyav(wanted: list[Clip], order: str, *, seek: bool) -> list[np.ndarray]:
    """Clips of PyAV, each after opening its file and going to it; in order by going through the file once."""
    if order == "in order":
        path, last = wanted[0][0], wanted[-1][1] + CLIP
        small = [fit(frame, SMALL, SMALL) for frame in islice(_from(path, 0), last)]
        return [np.stack(small[start : start + CLIP]) for _, start in wanted]
    found = []
    for path, start in wanted:
        rest = _from(path, start) if seek else islice(_from(path, 0, small_from=start), start, None)
        found.append(np.stack([fit(frame, SMALL, SMALL) for frame in islice(rest, CLIP)]))
    return found


def _from(path: Path, start: int, small_from: int = 0) -> Iterator[Any]:
    """The frames of a file from number ``start`` on as RGB, those before ``small_from`` without being converted."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        rate, base = stream.average_rate, stream.time_base
        assert rate is not None
        assert base is not None
        if start:
            container.seek(int(start / rate / base), stream=stream)
        for count, frame in enumerate(container.decode(stream)):
            assert frame.time is not None
            if round(frame.time * rate) >= start:
                yield frame.to_ndarray(format="rgb24") if count >= small_from else None


def torchcodec(path: Path, **options: Any) -> Any:
    """Its decoder of a file. Raises ModuleNotFoundError where it is not installed, or finds no FFmpeg of the system's to load."""
    from torchcodec.decoders import VideoDecoder

    try:
        return VideoDecoder(str(path), num_ffmpeg_threads=1, seek_mode="approximate", **options)
    except RuntimeError as error:
        if "libtorchcodec" not in str(error):
            raise
        raise ModuleNotFoundError(str(error), name="torchcodec and an FFmpeg that it can load") from error


def of_torchcodec(wanted: list[Clip], order: str) -> list[np.ndarray]:
    """The same through torchcodec, opened for each clip as its documents advise; in order once."""
    found, decoder = [], None
    for path, start in wanted:
        if decoder is None or order == "at random":
            decoder = torchcodec(path, dimension_order="NHWC")
        rgb = decoder.get_frames_in_range(start, start + CLIP).data.numpy()
        found.append(np.stack([fit(frame, SMALL, SMALL) for frame in rgb]))
    return found


def read_of_ours(path: Path) -> int:
    """How many frames a file has, each as RGB."""
    return sum(1 for _ in decode.frames(path))


def read_of_pyav(path: Path) -> int:
    """The same by PyAV's own conversion."""
    import av

    with av.open(str(path)) as container:
        container.streams.video[0].thread_count = 1
        return sum(frame.to_ndarray(format="rgb24").shape[0] > 0 for frame in container.decode(video=0))


def read_of_torchcodec(path: Path) -> int:
    """The same by torchcodec."""
    return sum(frame.shape[0] > 0 for frame in torchcodec(path))


CLIPS: dict[str, Callable[[list[Clip], str], list[np.ndarray]]] = {
    "PyAV from the start": partial(of_pyav, seek=False),
    "PyAV with a seek": partial(of_pyav, seek=True),
    "torchcodec": of_torchcodec,
}
READS: dict[str, Callable[[Path], int]] = {"PyAV": read_of_pyav, "torchcodec": read_of_torchcodec}


def measured(subject: str, measure: str, ours: Callable[[], Any], theirs: Callable[[], Any], amount: int, unit: str) -> Timing:
    """One row; where the other side cannot be loaded it says why, and has our figure alone."""
    decode.parent_process = lambda: True  # so that we, too, decode on one core
    against = subject.split(", ")[1]
    least = FASTER if subject.startswith("cache") else None
    settings = f"clips of {CLIP}x{SMALL}x{SMALL}, one core" if unit == "clips/s" else f"{SIDE}x{SIDE}, one core"
    try:
        theirs()  # a package that is not there is told before anything is timed
    except ModuleNotFoundError as error:
        ours()
        return Timing(
            subject=subject,
            measure=measure,
            against=f"{against} was not measured: it needs {error.name}",
            ours=amount / median(_seconds(ours) for _ in range(PAIRS)),
            theirs=None,
            unit=unit,
            ratio=None,
            quartiles=None,
            pairs=PAIRS,
            wanted="",
            met=None,
            settings=settings,
            code=timing.code(*CODE),
            **timing.provenance(),
        )
    return timing.compared(
        ours,
        theirs,
        subject=subject,
        measure=measure,
        against=against,
        settings=settings,
        version=timing.code(*CODE),
        pairs=PAIRS,
        rate=(amount, unit),
        least=least,
    )


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def of_clips(kind: str, theirs: str, name: str, order: str) -> Timing:
    """A row of clips."""
    wanted = clips(name, order)
    ours = partial(of_ours, wanted, name, kind)
    other = partial(of_ours, wanted, name, "cache") if theirs == "the cache" else partial(CLIPS[theirs], wanted, order)
    return measured(f"{kind}, {theirs}", f"clips {order}, {name} files", ours, other, len(wanted), "clips/s")


def of_reading(theirs: str) -> Timing:
    """A row of whole files."""
    path = min(footage("short").glob("*.mp4"))
    ours, other = partial(read_of_ours, path), partial(READS[theirs], path)
    return measured(f"read, {theirs}", "a whole file as RGB", ours, other, MADE["short"][1], "frames/s")


def cases() -> Iterator[Case]:
    """All rows, in the order of the table."""
    for name in names():
        for order in ORDERS:
            for kind, theirs in (*(("direct", theirs) for theirs in (*CLIPS, "the cache")), ("cache", "PyAV with a seek")):
                if order == "in order" and theirs == "PyAV from the start":
                    continue  # it is the same as with a seek
                yield Case(f"{kind}, {theirs}", f"clips {order}, {name} files", partial(of_clips, kind, theirs, name, order))
    for theirs in READS:
        yield Case(f"read, {theirs}", "a whole file as RGB", partial(of_reading, theirs))


if __name__ == "__main__":
    raise SystemExit(timing.run(RESULTS, cases(), timing.code(*CODE)))
