"""The sides of the decoding benchmark do the same work."""

from __future__ import annotations

import decoding
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(decoding, "MADE", {"short": (2, 40), "long": (1, 60)})
    monkeypatch.setattr(decoding, "GIVEN", {})
    monkeypatch.setattr(decoding, "SIDE", 64)
    monkeypatch.setattr(decoding, "PAIRS", 2)
    monkeypatch.setattr(decoding.decode, "parent_process", lambda: True)  # which the benchmark sets for good
    for made in (decoding.footage, decoding.frames, decoding.scratch):
        made.cache_clear()
    yield
    for made in (decoding.footage, decoding.frames, decoding.scratch):
        made.cache_clear()


@pytest.mark.parametrize("order", decoding.ORDERS)
@pytest.mark.parametrize("theirs", decoding.CLIPS)
def test_all_sides_give_the_same_clips(theirs, order):
    wanted = decoding.clips("short", order)
    assert len(wanted) == {"at random": decoding.DRAWN, "in order": 40 // 17}[order]
    direct, cached = (np.stack(decoding.of_ours(wanted, "short", kind)) for kind in ("direct", "cache"))
    assert np.array_equal(direct, cached)
    assert direct.shape[1:] == (17, 64, 64, 3)
    try:
        other = np.stack(decoding.CLIPS[theirs](wanted, order))
    except ModuleNotFoundError as error:
        pytest.skip(f"needs {error.name}")
    assert np.abs(other.astype(int) - direct).mean() < 6  # their colours are converted less accurately


@pytest.mark.parametrize("theirs", decoding.READS)
def test_all_sides_read_the_same_frames(theirs):
    path = min(decoding.footage("short").glob("*.mp4"))
    try:
        assert decoding.READS[theirs](path) == decoding.read_of_ours(path) == 40
    except ModuleNotFoundError as error:
        pytest.skip(f"needs {error.name}")


def test_a_side_that_cannot_be_loaded_is_a_sentence_and_no_number(monkeypatch):
    def missing(wanted, order):
        raise ModuleNotFoundError(name="an FFmpeg")

    monkeypatch.setitem(decoding.CLIPS, "torchcodec", missing)
    row = decoding.of_clips("direct", "torchcodec", "long", "at random")
    assert row.against == "torchcodec was not measured: it needs an FFmpeg"
    assert row.theirs is row.ratio is row.met is None
    assert row.ours > 0


def test_rows_are_as_listed():
    rows = {(case.subject, case.measure) for case in decoding.cases()}
    assert ("direct, PyAV from the start", "clips at random, long files") in rows
    assert ("cache, PyAV with a seek", "clips in order, short files") in rows
    assert len(rows) == 2 * (5 + 4) + 2
    row = next(case for case in decoding.cases() if case.subject == "direct, the cache").work()
    assert (row.subject, row.measure) in rows
    assert row.unit == "clips/s"
