"""Measures how clips come out of video files, against PyAV as it is commonly used and torchcodec: ``results/decoding.jsonl``.

    python benchmarks/decoding.py               measures what is not there yet of the code at hand
    python benchmarks/decoding.py --only cache  those rows alone

``cache``: a training clip from ``data=folder``, whose frames were decoded and made small before, against opening the file,
seeking the clip and making its frames small. ``read``: a whole file decoded to RGB. All sides decode on one core, and convert to
RGB by their own means: ours is FFmpeg's accurate conversion by the file's own colour tags, which theirs leave out.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import timing
from timing import Case, Timing

from vidgen import viz
from vidgen.data import decode
from vidgen.data.folder import Folder
from vidgen.data.folder.cache import fit
from vidgen.data.worlds import Worlds

RESULTS = Path(__file__).parent / "results" / "decoding.jsonl"
CODE = ("vidgen/data/decode.py", "vidgen/data/folder", "benchmarks/decoding.py", "benchmarks/timing.py")
PAIRS, FILES, LENGTH, SIDE, CLIP, SMALL = 9, 4, 120, 256, 17, 64
FASTER = 5
THEIRS = ("PyAV", "torchcodec")


@cache
def footage() -> list[Path]:
    """H.264 files of 120 frames of 256 x 256, a key frame every so often as the encoder likes."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    radius = (SIDE / 12, SIDE / 6)
    world = Worlds(frames=LENGTH, height=SIDE, width=SIDE, radius=radius, speed=(2.0, 6.0), objects=3)
    paths = [folder / f"{k}.mp4" for k in range(FILES)]
    for k, path in enumerate(paths):
        viz.write_mp4(path, world.clip("train", k)["video"], fps=30)
    return paths


@cache
def data() -> Folder:
    """The same files as ``data=folder`` has them, decoded."""
    paths = footage()
    options: dict[str, Any] = {"mirror": 0.0, "zoom": 0.0, "light": 0.0, "cache": str(paths[0].parent / ".cache")}
    return Folder(path=str(paths[0].parent), frames=CLIP, height=SMALL, width=SMALL, **options)


def clip_of_ours() -> np.ndarray:
    """A training clip."""
    return data().clip("train", 1)["video"]


def clip_of_pyav(path: Path, start: int) -> np.ndarray:
    """Frames ``start`` on: a seek to the key frame before, and what is decoded from there."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        rate, base = stream.average_rate, stream.time_base
        assert rate is not None
        assert base is not None
        container.seek(int(start / rate / base), stream=stream)
        found = []
        for frame in container.decode(stream):
            assert frame.time is not None
            if round(frame.time * rate) >= start:
                found.append(fit(frame.to_ndarray(format="rgb24"), SMALL, SMALL))
            if len(found) == CLIP:
                break
    return np.stack(found)


def torchcodec(path: Path, **options: Any) -> Any:
    """Its decoder of a file. Raises ModuleNotFoundError where it is not installed, or finds no FFmpeg of the system's to load."""
    from torchcodec.decoders import VideoDecoder

    try:
        return VideoDecoder(str(path), num_ffmpeg_threads=1, seek_mode="approximate", **options)
    except RuntimeError as error:
        if "libtorchcodec" not in str(error):
            raise
        raise ModuleNotFoundError(str(error), name="torchcodec and an FFmpeg that it can load") from error


def clip_of_torchcodec(path: Path, start: int) -> np.ndarray:
    """The same through torchcodec, opened for the clip as its documents advise."""
    decoder = torchcodec(path, dimension_order="NHWC")
    frames = decoder.get_frames_in_range(start, start + CLIP).data.numpy()
    return np.stack([fit(frame, SMALL, SMALL) for frame in frames])


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
    decoder = torchcodec(path)
    return sum(frame.shape[0] > 0 for frame in decoder)


CLIPS: dict[str, Callable[[Path, int], np.ndarray]] = {"PyAV": clip_of_pyav, "torchcodec": clip_of_torchcodec}
READS: dict[str, Callable[[Path], int]] = {"PyAV": read_of_pyav, "torchcodec": read_of_torchcodec}


def measured(subject: str, theirs: str) -> Timing:
    """One row."""
    decode.parent_process = lambda: True  # so that we, too, decode on one core
    path = footage()[0]
    clip = data().clip("train", 1)
    source, start = path.parent / clip["source"], clip["start"]
    ours, other = {
        "cache": (clip_of_ours, partial(CLIPS[theirs], source, start)),
        "read": (partial(read_of_ours, path), partial(READS[theirs], path)),
    }[subject]
    other()  # a package that is not there is told before anything is timed
    return timing.compared(
        ours,
        other,
        subject=f"{subject}, {theirs}",
        measure="a clip of 17x64x64" if subject == "cache" else "a whole file as RGB",
        against=f"{theirs} on the file",
        settings=f"H.264, {LENGTH} frames of {SIDE}x{SIDE}, one core",
        version=timing.code(*CODE),
        pairs=PAIRS,
        rate=(CLIP if subject == "cache" else LENGTH, "frames/s"),
        least=FASTER if subject == "cache" else None,
    )


def cases() -> Iterator[Case]:
    """All rows, in the order of the table."""
    for subject, measure in (("cache", "a clip of 17x64x64"), ("read", "a whole file as RGB")):
        for theirs in THEIRS:
            yield Case(f"{subject}, {theirs}", measure, partial(measured, subject, theirs))


if __name__ == "__main__":
    raise SystemExit(timing.run(RESULTS, cases(), timing.code(*CODE)))
