"""FVD that was measured elsewhere reaches the runs that it is of, and nothing else is taken for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import collect
import fvd
import pytest
import records

from vidgen import UserError
from vidgen.cli.between import write_results
from vidgen.evaluation.between import Comparison
from vidgen.evaluation.measure import Result
from vidgen.evaluation.protocol import preset

Make = Callable[..., Path]


def measured(run: Path, value: float, extractor: str = "i3d") -> Comparison:
    rule = {"extractor": extractor, "weights": "0123"}
    protocol = preset("run").with_extractor(rule)
    results = [Result(name="fake/frechet", value=value, n=64, protocol=protocol.label, interval=(value - 1, value + 1))]
    return Comparison(fake=str(run), real=f"{run}:test", protocol=protocol, results=results)


@pytest.fixture
def path(make_run: Make, tmp_path: Path) -> Path:
    """Results of two seeds."""
    path = tmp_path / "results" / "tiny.jsonl"
    for seed in (0, 1):
        made = make_run(f"run-{seed}", seed=seed)
        records.append(path, [*collect.collect(made)])
    return path


def test_a_distance_is_added_to_the_run_that_it_is_of_and_once(path: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write_results(tmp_path / "fvd", [measured(runs / "run-1", 200.0)])
    assert fvd.add(path, tmp_path / "fvd") == 1
    assert fvd.add(path, tmp_path / "fvd") == 0
    write_results(tmp_path / "fvd", [measured(runs / "run-1", 200.0), measured(runs / "run-0", 300.0)])
    assert fvd.add(path, tmp_path / "fvd") == 1
    found = [record for record in records.read(path) if record.row.name == "samples/fvd"]
    assert [(record.origin.seed, record.row.value, record.row.n) for record in found] == [(1, 200.0, 64), (0, 300.0, 64)]
    assert found[0].row.protocol == measured(runs / "run-1", 200.0).protocol.label
    assert found[0].origin == next(record.origin for record in records.read(path) if record.origin.seed == 1)


def test_another_distance_is_not_called_fvd(path: Path, tmp_path: Path) -> None:
    write_results(tmp_path / "fvd", [measured(tmp_path / "runs" / "run-0", 5.0, extractor="motion")])
    before = path.read_text()
    with pytest.raises(UserError, match="was measured with the extractor motion, which is no FVD"):
        fvd.add(path, tmp_path / "fvd")
    assert path.read_text() == before


def test_runs_of_other_suites_are_refused(path: Path, tmp_path: Path, make_run: Make) -> None:
    write_results(tmp_path / "fvd", [measured(make_run("other", generator={"depth": 9}), 5.0)])
    with pytest.raises(UserError, match="other is no run of the suite"):
        fvd.add(path, tmp_path / "fvd")
