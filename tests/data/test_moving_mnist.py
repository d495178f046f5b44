"""Moving MNIST: digits of the files and no others, on straight paths between borders, the same everywhere."""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest

from vidgen import config, registry
from vidgen.data.batches import ClipBatches
from vidgen.data.moving_mnist import SPLITS, MovingMNIST, read_idx
from vidgen.errors import UserError

MNIST = Path(__file__).parents[3] / "shared" / "assets" / "mnist"


def write_idx(path, array, shape=None):
    """An IDX file of bytes, compressed where its name says so."""
    shape = shape or array.shape
    content = b"\x00\x00\x08" + bytes([len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + array.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def digits(values):
    """Squares of 20 x 20 pixels of these values, so that a clip tells which digits it shows."""
    made = np.zeros((len(values), 28, 28), np.uint8)
    made[:, 4:24, 4:24] = np.array(values)[:, None, None]
    return made


@pytest.fixture
def both(tmp_path):
    write_idx(tmp_path / "raw" / "train-images-idx3-ubyte.gz", digits(range(1, 121)))
    write_idx(tmp_path / "raw" / "t10k-images-idx3-ubyte", digits(range(130, 160)))
    return tmp_path


def shown(data, split, count=150):
    return set(np.unique([data.clip(split, i)["video"] for i in range(count)])) - {0}


def test_no_digit_is_in_two_splits(both):
    data = MovingMNIST(path=str(both), frames=2)
    assert shown(data, "train") <= set(range(1, 101))
    assert shown(data, "val") <= set(range(101, 121))
    assert shown(data, "test") == set(range(130, 160))


def test_one_file_alone_is_cut_in_three(both):
    (both / "raw" / "train-images-idx3-ubyte.gz").unlink()
    data = MovingMNIST(path=str(both), frames=1)
    parts = [shown(data, split) for split in SPLITS]
    assert [set(range(130, 154)), {154, 155, 156}, {157, 158, 159}] == parts


def test_digits_go_straight_on_and_bounce(both):
    """A tenth of the way each frame, in a direction that changes sign at a border alone; the whole digit stays inside."""
    data = MovingMNIST(path=str(both), frames=60, digits=1)
    for index in range(20):
        video = data.clip("train", index)["video"][..., 0] > 0
        assert (video.sum((1, 2)) == 400).all()
        place = np.stack([video.any(axis).argmax(1) - 4 for axis in (2, 1)], 1)
        assert place.min() >= 0
        assert place.max() <= 36
        steps = np.diff(place, axis=0)
        inside = ((place[1:-1] > 4) & (place[1:-1] < 32)).all(1)
        assert (np.abs(np.diff(steps, axis=0))[inside] <= 1).all()  # rounding to pixels
        away = np.hypot(*np.abs(steps).max(0))
        assert 2.5 < away < 6
    first = [data.clip("train", i)["video"][0, ..., 0] for i in range(300)]
    starts = np.array([[frame.any(axis).argmax() - 4 for axis in (1, 0)] for frame in first])
    assert np.abs(starts.mean(0) - 18).max() < 2
    assert starts.min() == 0
    assert starts.max() == 35


def test_the_larger_value_wins_where_digits_overlap(both):
    data = MovingMNIST(path=str(both), frames=8, height=40, width=40)
    for index in range(10):
        values = set(np.unique(data.clip("test", index)["video"])) - {0}
        assert len(values) in (1, 2)
        assert (data.clip("test", index)["video"] == max(values)).any(axis=(1, 2, 3)).all()


def test_clips_are_a_pure_function(both):
    first, again = MovingMNIST(path=str(both)), MovingMNIST(path=str(both / "raw"))
    assert first.shape == (20, 64, 64)
    clip = first.clip("train", 2**32 - 1)
    assert clip["video"].shape == (20, 64, 64, 3)
    assert clip["video"].dtype == np.uint8
    assert clip["label"] == -1
    np.testing.assert_array_equal(clip["video"], again.clip("train", 2**32 - 1, epoch=5)["video"])
    assert first.fingerprint == again.fingerprint
    for other in (MovingMNIST(path=str(both), seed=1), MovingMNIST(path=str(both), digits=3)):
        assert other.fingerprint != first.fingerprint
        assert (other.clip("val", 0)["video"] != first.clip("val", 0)["video"]).any()
    assert (first.clip("val", 0)["video"] != first.clip("test", 0)["video"]).any()
    with pytest.raises(IndexError, match="val has 10000 clips"):
        first.clip("val", 10_000)


def test_these_bits_stay_the_same(both):
    """On every machine: raw random bits, sums, products and square roots decide all."""
    video = MovingMNIST(path=str(both)).clip("train", 7)["video"]
    found = hashlib.sha256(video.tobytes()).hexdigest()
    assert found == "84ec5e84ac8f76d29a38468a2aff38e51c9a07b47a14ef0fc9868dbbc7ed744f"


def test_it_is_found_by_name_and_batches(both):
    data = registry.build("data", config.load("data", "moving_mnist", {"path": str(both), "frames": 17}))
    batch = next(iter(ClipBatches(data, batch_size=2, seed=0, first=0, last=1)))
    assert batch["video"].shape == (2, 17, 64, 64, 3)


def test_mistakes_are_sentences(tmp_path):
    def sentence(**options):
        with pytest.raises(UserError) as caught:
            MovingMNIST(**options)
        return str(caught.value)

    assert "give data.path=FOLDER" in sentence()
    assert "say data.download=true to fetch them from https://" in sentence(path=str(tmp_path))
    assert "data.height=28 makes no clip: give a whole number from 29 on." in sentence(path=str(tmp_path), height=28)
    file = tmp_path / "t10k-images-idx3-ubyte"
    write_idx(file, digits(range(20)), shape=(21, 28, 28))
    assert f"{file} holds 15680 bytes of 16464: fetch it again." in sentence(path=str(tmp_path))
    write_idx(file, digits(range(20)).reshape(20, 14, 56))
    assert "holds [20, 14, 56], and not pictures of 28 x 28" in sentence(path=str(tmp_path))
    file.write_bytes(b"<html>")
    assert "is no IDX file of bytes" in sentence(path=str(tmp_path))
    file.write_bytes(gzip.compress(b"x" * 1000)[:20])
    assert "cannot be read (Compressed file ended" in sentence(path=str(tmp_path))
    with pytest.raises(UserError, match=r"no split 'tset'\. Did you mean 'test'"):
        write_idx(file, digits(range(20)))
        MovingMNIST(path=str(tmp_path)).size("tset")


@pytest.mark.skipif(not MNIST.is_dir(), reason=f"the real digits are not there ({MNIST})")
def test_real_digits():
    data = MovingMNIST(path=str(MNIST))
    images = read_idx(MNIST / "t10k-images-idx3-ubyte.gz")
    assert images.shape == (10_000, 28, 28)
    video = data.clip("test", 0)["video"]
    assert video.max() == 255
    assert 0.02 < (video > 127).mean() < 0.12
