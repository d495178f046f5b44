"""The table of corruptions: what is outside of chance is bold, and nothing else is."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import part_tables
import pytest
import sensitivity
from sensitivity import FRESH, TABLES, Point, sees


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "corruptions.jsonl"
    monkeypatch.setattr(sensitivity, "RESULTS", path)
    return path


def point(corruption: str, draw: int = 0, world: str = "one object", **figures: float | None) -> Point:
    found = {name: (value, 4 if value is not None else 0, 4) for name, value in figures.items()}
    return Point(world=world, corruption=corruption, draw=draw, clips=4, figures=found, seconds=1.0)


CHANCE = [point(FRESH, draw, travel=20.0 + draw, law_legal=1.0, psnr=17.0) for draw in range(3)]  # from 20 to 22


def write(path: Path, found: list[Point]) -> None:
    path.write_text("".join(json.dumps({**asdict(one), "seed": 0, "commit": "0123456789ab"}) + "\n" for one in found))


@pytest.mark.parametrize(
    ("value", "seen"), [(20.5, False), (18.1, False), (17.9, True), (23.9, False), (24.1, True), (None, False)]
)
def test_a_figure_sees_what_is_farther_out_than_fresh_clips_differ(value: float | None, seen: bool) -> None:
    one = point("frozen", travel=value)
    assert sees([*CHANCE, one], one, "travel") is seen


def test_the_clips_themselves_are_true_clips_too() -> None:
    one, itself = point("frozen", travel=25.0), point("none", travel=23.0)
    assert sees([*CHANCE, one], one, "travel") and not sees([*CHANCE, itself, one], one, "travel")
    assert not sees([*CHANCE, itself], itself, "travel")


def test_what_fresh_clips_agree_on_is_seen_at_the_least_difference_and_pairs_never_are() -> None:
    one = point("noise", law_legal=0.99, psnr=99.0)
    assert sees([*CHANCE, one], one, "law_legal") and not sees([*CHANCE, one], one, "psnr")
    other = point("noise", world="two discs", law_legal=0.0)
    assert not sees([*CHANCE, other], other, "law_legal")  # there is no chance to compare it with


def test_the_table_says_what_is_seen(results: Path) -> None:
    few = Point(
        world="one object",
        corruption="blur",
        draw=0,
        clips=4,
        seconds=1.0,
        figures={"travel": (30.0, 1, 4), "energy_error": (None, 0, 4)},
    )
    write(results, [point("none", travel=21.0, law_legal=1.0, psnr=100.0), *CHANCE, few])
    text = part_tables.corrupted()
    assert "**Pixels and features**" in text and "| none | 100 |" in text
    assert "| none | 100 | 21 |" in text and "| fresh true clips | 100 | 20–22 |" in text  # law-legal and travel
    assert "| blur | – | **(30)** |" in text
    assert "Energy error" not in text  # nothing has it
    assert "one object: 4 clips a row, 3 sets of fresh ones. Measured at `0123456789ab`." in text


def test_without_results_the_command_is_named(results: Path) -> None:
    assert "python benchmarks/corruptions.py" in part_tables.corrupted()


def test_tables_hold_figures_that_there_are() -> None:
    for parts in TABLES.values():
        for _, names in parts:
            assert set(names) <= set(sensitivity.FIGURES)
    assert [name for _, names in TABLES["one object"] for name in names] == list(sensitivity.FIGURES)
