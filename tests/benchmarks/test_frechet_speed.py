"""Both sides of the benchmark of the Frechet distance do the work that they are compared by."""

from __future__ import annotations

import frechet
import pytest
import timing
import torch

from vidgen import UserError

torch.set_num_threads(1)


@pytest.mark.parametrize("measure", frechet.AGAINST)
def test_both_sides_come_to_one_value(measure: str) -> None:
    pytest.importorskip("scipy")
    ours, theirs = frechet.routes(12, measure, clips=60)
    assert ours() == pytest.approx(theirs(), rel=frechet.AGREE)
    other, _ = frechet.routes(13, measure, clips=60)
    assert ours() != pytest.approx(other(), rel=1e-3)


def test_a_side_that_is_wrong_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("scipy")
    monkeypatch.setattr(frechet, "by_scipy", lambda given: 1.0)
    with pytest.raises(UserError, match="Two routes to one distance differ"):
        frechet.speed(12, "from statistics, against scipy", clips=60)


def test_rows_are_of_all_dimensions_and_asked_what_they_should_be(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("scipy")
    monkeypatch.setattr(frechet, "PAIRS", 2)
    every = list(frechet.cases())
    assert len({(case.subject, case.measure) for case in every}) == len(every) == 3 * 4 + 1 + 2
    rows = [case.work() for case in frechet.cases(dims=(12,), clips=60, estimated=60) if "memory" not in case.measure]
    assert [(row.subject, row.wanted) for row in rows] == [
        ("d = 12", "at least 5 times as fast"),
        *[("d = 12", "")] * 3,
    ]


def peaks() -> list[float]:
    return [frechet.peak(kept, clips, 200) for kept, clips in ((False, 512), (False, 4096), (True, 4096))]


@pytest.mark.skipif(not timing.STATUS.exists(), reason="peak memory is read from /proc, which this system has not")
def test_statistics_alone_take_no_more_memory_for_more_clips() -> None:
    few, many, kept = timing.alone(peaks)
    assert many < few + 1
    assert kept > many + 4
