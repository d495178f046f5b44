"""The benchmark of cached latents: both sides give a step the same latents."""

from __future__ import annotations

import caching
import pytest
import timing
import torch
from caching import Side


@pytest.fixture
def side(monkeypatch: pytest.MonkeyPatch) -> Side:
    monkeypatch.setattr(caching, "BATCH", 4)
    monkeypatch.setattr(caching, "CLIPS", 4)
    monkeypatch.setattr(caching, "PAIRS", 2)
    return Side("lfq", torch.device("cpu"))


def test_the_cache_holds_what_encoding_gives(side: Side) -> None:
    """Equal bits, but for those that bf16 turns near zero."""
    read, encoded = side.read(), side.encode()
    assert read.h is not None and encoded.h is not None and read.h.shape == encoded.h.shape
    assert float((encoded.ids == read.ids).float().mean()) > 0.98


@pytest.mark.parametrize("measure", [caching.READ, caching.TRAIN])
def test_a_row_says_what_was_compared(side: Side, measure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "provenance", lambda: {"load": 0.0, "hardware": {}, "versions": {}, "commit": None})
    row = caching.measured(side, measure, "lfq")
    assert row.ratio is not None and row.ratio > 0
    assert row.wanted == ("at least 10 times as fast" if measure == caching.READ else "")
    assert {case.subject for case in caching.cases()} == set(caching.TOKENIZERS)
