"""Noise is a function of the sample alone: its keys, its splits, and the laws it is drawn from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vidgen.samplers.noise import key, sample_noise, sample_uniform
from vidgen.samplers.places import window_key

LAWS = pytest.mark.parametrize("law", [sample_noise, sample_uniform])


def draw(law: Any, num: int, *, first: int = 0, start: int | str = 0, seed: int = 0, number: int = 0) -> Tensor:
    return law(num, (2, 3), seed=seed, first=first, start=start, device=torch.device("cpu"), draw=number)


@LAWS
@pytest.mark.parametrize("splits", [[6], [1, 5], [2, 2, 2], [1] * 6])
def test_noise_is_a_function_of_the_sample_at_any_split(law: Any, splits: list[int]) -> None:
    parts, first = [], 10
    for count in splits:
        parts.append(draw(law, count, first=first))
        first += count
    assert torch.equal(torch.cat(parts), draw(law, 6, first=10))


@LAWS
def test_noise_leaves_the_global_generator_alone_and_does_not_read_it(law: Any) -> None:
    before = torch.random.get_rng_state()
    one = draw(law, 2)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(draw(law, 2), one)


@LAWS
def test_noise_never_repeats_between_samples_windows_draws_or_seeds(law: Any) -> None:
    """Also where sums of seed, sample and start would meet."""
    few = range(3)
    rows = [
        draw(law, 1, seed=seed, first=first, start=start, number=number)[0]
        for seed in few
        for first in few
        for start in few
        for number in few
    ]
    flat = torch.stack(rows).flatten(1)
    apart = (flat[:, None] - flat[None]).abs().amax(-1) + torch.eye(len(flat))
    assert bool((apart > 1e-3).all())


@LAWS
def test_noise_of_cells_that_lie_apart_is_that_of_no_other_window(law: Any) -> None:
    starts = [0, 4, *(window_key(places[0], places) for places in ((0, 4), (0, 4, 8), (0, 48), (4, 8)))]
    rows = [draw(law, 1, start=start, number=number)[0] for start in starts for number in (0, 1)]
    flat = torch.stack(rows).flatten(1)
    assert bool(((flat[:, None] - flat[None]).abs().amax(-1) + torch.eye(len(flat)) > 1e-3).all())


def test_noise_is_standard_normal() -> None:
    values = sample_noise(50, (4000,), seed=3, first=0, start=0, device=torch.device("cpu"))
    assert float(values.mean()) == pytest.approx(0, abs=0.01)
    assert float(values.std()) == pytest.approx(1, abs=0.01)
    assert off_diagonal(torch.corrcoef(values)) < 0.08


def test_uniforms_are_uniform_and_open() -> None:
    """Their moments, and those of the normals that they become: neither end is there, which would be infinite."""
    values = sample_uniform(50, (4000,), seed=3, first=0, start=0, device=torch.device("cpu"))
    assert values.dtype == torch.float64
    assert bool(((values > 0) & (values < 1)).all())
    for power in (1, 2, 3):
        assert float(values.pow(power).mean()) == pytest.approx(1 / (power + 1), abs=0.003)
    normals = torch.special.ndtri(values)
    assert bool(normals.isfinite().all())
    assert float(normals.std()) == pytest.approx(1, abs=0.01)
    assert off_diagonal(torch.corrcoef(values)) < 0.08


def off_diagonal(correlation: Tensor) -> float:
    return float((correlation - torch.eye(len(correlation))).abs().max())


def test_the_laws_are_not_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """A generator that draws both of the same sample does not draw the same stream twice; a zero is not let through."""
    assert float(torch.corrcoef(torch.stack([long(sample_noise), long(sample_uniform)]))[0, 1].abs()) < 0.08
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.zeros(shape, dtype=torch.float64))
    assert bool((draw(sample_uniform, 2) > 0).all())


def long(law: Any) -> Tensor:
    return law(1, (4000,), seed=1, first=0, start=0, device=torch.device("cpu"))[0].double()


def test_keys_do_not_care_for_the_kind_of_whole_number() -> None:
    """numpy's integers print differently in its versions, and 3 is 3."""
    import numpy as np

    assert key(3, "tokenizer", 7) == key(np.int64(3), "tokenizer", np.int32(7))
    assert key(3, 7) != key(7, 3)
    assert 0 <= key(1) < 2**63
