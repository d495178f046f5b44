"""``moving_mnist``: handwritten digits that drift over a black ground and bounce off its borders, drawn from MNIST's own files.

Source: Srivastava et al., "Unsupervised Learning of Video Representations using LSTMs" (2015): two digits of 28 x 28 pixels in
20 frames of 64 x 64, each in a direction of its own, the larger value where they overlap. As in the generator that its authors
released, and not as in the text, every digit goes one tenth of its free way a frame (3.6 pixels at this size), and a digit that
would leave stops at the border and turns back.

Deviations: clips are a pure function of (seed, split, index), so that they are others than those of ``mnist_test_seq.npy``;
test clips show digits of MNIST's test set alone, and val clips those that training clips never show.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidgen.data.worlds.draw import Draw
from vidgen.download import fetched
from vidgen.errors import UserError, did_you_mean
from vidgen.protocols import SPLITS

Digits = NDArray[np.uint8]

VERSION = 1  # raised when the same files and settings come to give other pixels
SIDE = 28
STEP = 0.1  # of the free way, a frame
URL = "https://storage.googleapis.com/cvdf-datasets/mnist/"
FILES = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
}
"""MNIST's digits (LeCun, Cortes and Burges; CC BY-SA 3.0) and the sha256 of each file."""
_SIZES = {"train": 2**32, "val": 10_000, "test": 10_000}


class MovingMNIST:
    """Clips of ``digits`` digits that move and bounce.

    **Splits.** With both files of MNIST, test shows the digits of its test set, val the last sixth of its training set and
    train the rest. With one file alone, its digits are cut in 8, 1 and 1 parts of ten. No digit is in two splits.

    Args:
        path: The folder with MNIST's IDX files, compressed or not; looked for at any depth.
        frames: T, frames of a clip.
        height: H in pixels, more than the 28 of a digit.
        width: W in pixels, likewise.
        digits: In every clip.
        seed: Another seed gives other clips.
        download: Whether to fetch the files (11 MB) into ``path`` when they are not there.

    Attributes:
        shape: (T, H, W).
        class_names: ().
        fingerprint: sha256 of all that decides the clips: the digits and every option but the path.

    Raises:
        UserError: when an option is out of range, or a file is missing or broken.
    """

    class_names: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        path: str | None = None,
        frames: int = 20,
        height: int = 64,
        width: int = 64,
        digits: int = 2,
        seed: int = 0,
        download: bool = False,
    ) -> None:
        least = {"frames": 1, "height": SIDE + 1, "width": SIDE + 1, "digits": 1}
        options = {"frames": frames, "height": height, "width": width, "digits": digits}
        for name, value in options.items():
            if not isinstance(value, int) or value < least[name]:
                raise UserError(f"data.{name}={value} makes no clip: give a whole number from {least[name]} on.")
        self.shape, self.digits, self.seed = (frames, height, width), digits, seed
        self._digits = _splits(_found(path, download))
        digests = {split: hashlib.sha256(own.tobytes()).hexdigest() for split, own in self._digits.items()}
        said = {"version": VERSION, **options, "seed": seed, **digests}
        self.fingerprint = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    def size(self, split: str) -> int:
        """Distinct clips in one epoch of ``train``, ``val`` or ``test``."""
        if split not in SPLITS:
            raise UserError(f"Moving MNIST has no split '{split}'.{did_you_mean(str(split), SPLITS)} It has {', '.join(SPLITS)}.")
        return _SIZES[split]

    def clip(self, split: str, index: int, epoch: int = 0) -> dict[str, Any]:
        """The clip at ``index`` of a split, the same at every ``epoch``: ``video`` uint8 (T, H, W, 3) and ``label``, -1.

        Raises:
            IndexError: when ``index`` is not in ``range(size(split))``.
        """
        if not 0 <= index < self.size(split):
            raise IndexError(f"{split} has {self.size(split)} clips, there is no number {index}")
        frames, height, width = self.shape
        draw = Draw(seed=self.seed, stream=SPLITS.index(split), index=index)
        canvas = np.zeros((frames, height, width), np.uint8)
        for _ in range(self.digits):
            digit = self._digits[split][draw.integer(len(self._digits[split]))]
            for frame, (y, x) in zip(canvas, _path(draw, frames), strict=True):
                top, left = int(y * (height - SIDE)), int(x * (width - SIDE))
                seen = frame[top : top + SIDE, left : left + SIDE]
                np.maximum(seen, digit, out=seen)
        return {"video": np.repeat(canvas[..., None], 3, axis=-1), "label": -1}


def _path(draw: Draw, frames: int) -> list[tuple[float, float]]:
    """Where a digit is in each frame, in [0, 1] of its free way down and to the right."""
    place = [draw.uniform(), draw.uniform()]
    speed = [STEP * part for part in _direction(draw)]
    places = []
    for _ in range(frames):
        places.append((place[0], place[1]))
        for axis in (0, 1):
            place[axis] += speed[axis]
            if not 0 < place[axis] < 1:
                place[axis], speed[axis] = min(max(place[axis], 0.0), 1.0), -speed[axis]
    return places


def _direction(draw: Draw) -> tuple[float, float]:
    """A unit vector, every angle alike: points of a disc by rejection, for sine and cosine differ between machines."""
    while True:
        y, x = draw.uniform(-1, 1), draw.uniform(-1, 1)
        length = math.sqrt(y * y + x * x)
        if 0.01 < length <= 1:
            return y / length, x / length


def _found(path: str | None, download: bool) -> dict[str, Path]:
    """MNIST's files of images below ``path``, by how their names begin."""
    if not path:
        raise UserError("data=moving_mnist does not know where MNIST is: give data.path=FOLDER with its IDX files.")
    root = Path(path).expanduser()
    names = {name.partition("-")[0]: name for name in FILES}
    here = {path.name: path for path in sorted(root.rglob("*idx3-ubyte*")) if path.suffix != ".partial"}
    found = {kind: path for name, path in here.items() if (kind := name.partition("-")[0]) in names}
    if download:
        missing = {kind: name for kind, name in names.items() if kind not in found}
        found |= {kind: fetched(URL + name, root / name, sha256=FILES[name]) for kind, name in missing.items()}
    if not found:
        raise UserError(
            f"No digits of MNIST lie in data.path={path}: put {' and '.join(FILES)} there, or say data.download=true to fetch "
            f"them from {URL}."
        )
    return found


def _splits(files: dict[str, Path]) -> dict[str, Digits]:
    """The digits of train, val and test, (N, 28, 28) each."""
    images = {kind: read_idx(path) for kind, path in files.items()}
    for kind, own in images.items():
        if own.ndim != 3 or own.shape[1:] != (SIDE, SIDE) or len(own) < 10:
            raise UserError(f"{files[kind]} holds {list(own.shape)}, and not pictures of {SIDE} x {SIDE}, ten or more.")
    if len(images) == 2:
        cut = len(images["train"]) * 5 // 6
        return {"train": images["train"][:cut], "val": images["train"][cut:], "test": images["t10k"]}
    (own,) = images.values()
    first, second = len(own) * 8 // 10, len(own) * 9 // 10
    return {"train": own[:first], "val": own[first:second], "test": own[second:]}


def read_idx(path: Path) -> Digits:
    """The array of an IDX file of bytes, compressed by gzip or not.

    Raises:
        UserError: when it is no such file or cut short.
    """
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}): fetch it again.") from error
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise UserError(f"{path} is no IDX file of bytes: fetch it again.")
    axes = content[3]
    shape = np.frombuffer(content, ">u4", count=min(axes, (len(content) - 4) // 4), offset=4).astype(int)
    begin = 4 + 4 * axes
    if len(shape) < axes or len(content) - begin != math.prod(shape.tolist()):
        raise UserError(f"{path} holds {max(len(content) - begin, 0)} bytes of {math.prod(shape.tolist())}: fetch it again.")
    return np.frombuffer(content, np.uint8, offset=begin).reshape(shape)
