"""Small videos whose frames tell their number, and the same clips in every layout."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import av
import numpy as np

from vidgen import viz


def write(path, count=12, tone=0, size=(24, 32), fps=10):
    """A video whose frame n is grey of value 4 n + tone, so that a frame tells its number; tones keep files distinct."""
    viz.write_mp4(path, grey(count, tone, size), fps=fps)


def grey(count=12, tone=0, size=(24, 32)):
    """The frames of such a video, uint8 (T, H, W, 3)."""
    values = (4 * np.arange(count) + tone).astype(np.uint8)
    return np.array(np.broadcast_to(values[:, None, None, None], (count, *size, 3)))


def number(frame, tone=0):
    """The number of a frame, from its colour; the margin keeps clear of the padding of odd sizes."""
    return round((float(frame[2:-2, 2:-2].mean()) - tone) / 4)


def noise(count=6, frames=5, size=(16, 16), seed=0):
    """Clips that no two layouts could give alike by chance: uint8 (N, T, H, W, 3), smooth enough to be resized to."""
    return np.random.default_rng(seed).integers(0, 256, (count, frames, *size, 3), dtype=np.uint8)


def write_lossless(path, video, rate=10, form="bgr0"):
    """A video file that gives back the very same pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.height, stream.width, stream.pix_fmt = *video.shape[1:3], form
        for frame in video:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format=form)))
        container.mux(stream.encode())


def write_pictures(folder, video, name="frame_{}.png"):
    """A folder of pictures, numbered from 0 without zeros in front."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for k, frame in enumerate(video):
        Image.fromarray(frame).save(folder / name.format(k))


def write_hdf5(path, videos, **others):
    """VideoGPT's keys: all but the last two clips are for training."""
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for split, part in (("train", videos[:-2]), ("test", videos[-2:])):
            file[f"{split}_data"] = np.concatenate(part)
            file[f"{split}_idx"] = np.cumsum([0, *map(len, part)])[:-1]
        for key, value in others.items():
            file[key] = value


def write_tar(path, members):
    """A tar of (name, content), content bytes, text or JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            data = (
                content if isinstance(content, bytes) else (content if isinstance(content, str) else json.dumps(content)).encode()
            )
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def write_rows(path: Path, rows) -> None:
    """A csv with a header: dicts of the same keys."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def npy_bytes(array):
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()
