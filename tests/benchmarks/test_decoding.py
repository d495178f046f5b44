"""The sides of the decoding benchmark do the same work."""

from __future__ import annotations

import decoding
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(decoding, "LENGTH", 40)
    monkeypatch.setattr(decoding, "SIDE", 64)
    decoding.footage.cache_clear()
    decoding.data.cache_clear()
    yield
    decoding.footage.cache_clear()
    decoding.data.cache_clear()


@pytest.mark.parametrize("theirs", decoding.THEIRS)
def test_all_sides_give_the_same_frames(theirs):
    clip = decoding.data().clip("train", 1)
    path = decoding.footage()[0].parent / clip["source"]
    try:
        other = decoding.CLIPS[theirs](path, clip["start"])
    except ModuleNotFoundError as error:
        pytest.skip(f"needs {error.name}")
    assert other.shape == clip["video"].shape == (17, 64, 64, 3)
    assert np.abs(other.astype(int) - clip["video"]).mean() < 6  # their colours are converted less accurately
    assert decoding.READS[theirs](path) == decoding.read_of_ours(path) == 40


def test_rows_are_as_listed():
    assert [(case.subject, case.measure) for case in decoding.cases()] == [
        ("cache, PyAV", "a clip of 17x64x64"),
        ("cache, torchcodec", "a clip of 17x64x64"),
        ("read, PyAV", "a whole file as RGB"),
        ("read, torchcodec", "a whole file as RGB"),
    ]
