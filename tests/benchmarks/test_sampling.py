"""The sides of the benchmark of sampling do what they are compared by, each on the same trunk."""

from __future__ import annotations

import pytest
import sampling
import torch
from sampling import RECIPES, Side, cases

torch.set_num_threads(1)
TRUNK = {"width": 32, "depth": 2, "heads": 2}
CPU = torch.device("cpu")
AREA = (2, 2)
SHORT = {name: (*rest, {**options, "steps": 3} if name == "dit" else options) for name, (*rest, options) in RECIPES.items()}
"""Where 250 steps are 3."""


def side(name: str, cells: int = 2, batch: int = 2) -> Side:
    return Side(name, cells, batch, tuple(TRUNK.items()), CPU, AREA)


@pytest.mark.parametrize("name", RECIPES)
def test_every_side_samples_the_same_cells_in_as_many_calls_as_it_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of var that is four scales for each of two cells, and the first cell once more as the second sees it."""
    monkeypatch.setattr(sampling, "RECIPES", SHORT)
    one = side(name)
    latent = one.sample()
    assert latent.z.shape == (2, 10, 2, 2, 2)
    calls, operations = one.work
    assert calls == {"ar": 8, "ar without a cache": 8, "maskgit": 8, "var": 4 * 2 + 1, "dit": 3}[name]
    assert operations > 0


@pytest.mark.parametrize("name", RECIPES)
def test_every_call_of_the_trunk_is_guided(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "RECIPES", SHORT)
    one, seen = side(name), set[int]()
    one.model.trunk.blocks[0].register_forward_pre_hook(lambda _, given: seen.add(len(given[0])))
    one.sample()
    assert seen == {4}


def test_all_have_one_trunk_and_steps_as_published() -> None:
    assert RECIPES["dit"][2]["steps"] == 250
    assert RECIPES["maskgit"][2]["steps"] == 8
    sizes = {name: sum(weight.numel() for weight in side(name).model.trunk.parameters()) for name in RECIPES}
    assert len(set(sizes.values())) == 1


def test_without_a_cache_samples_are_the_same_and_cost_more() -> None:
    with_cache, without = side("ar"), side("ar without a cache")
    assert torch.equal(with_cache.sample().ids, without.sample().ids)
    assert without.work[1] > 2 * with_cache.work[1]


def test_the_first_frame_comes_first() -> None:
    """What is sampled of one cell is the first of more."""
    one = side("ar", cells=3)
    assert torch.equal(one.sample(1).ids, one.sample().ids[:, :4])


def test_rows_are_of_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "PAIRS", 2)
    rows = list(cases(TRUNK, CPU, lengths=(2,), usual=2, area=AREA))
    assert [case.subject for case in rows].count("maskgit, 8 steps against ar") == 2
    assert len({(case.subject, case.measure) for case in rows}) == len(rows)
    row = next(case for case in rows if case.subject == "ar against ar without a cache").work()
    assert (row.subject, row.measure, row.unit) == ("ar against ar without a cache", "8 cells, batch 1", "clips/s")
    assert "ar 8 calls" in row.settings
    assert "ar without a cache 8 calls" in row.settings
    frame = next(case for case in rows if "first frame" in case.measure).work()
    assert frame.unit == "ms"
