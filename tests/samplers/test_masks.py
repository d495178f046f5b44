"""The masks of given cells, cell by cell against MAGVIT's definitions, and how tasks are drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch

from vidgen import UserError
from vidgen.latents import Shape
from vidgen.samplers.masks import TASKS, Task, draw_tasks, task_mask, task_masks

Given = Callable[[int, int, int, Shape], bool]


def left(i: int, t: int, w: int) -> int:
    """The left edge of a moving region half as wide as the frame, in cell ``i`` of ``t``: it ends at the right border."""
    return round(i * (w // 2) / (t - 1)) if t > 1 else 0


def rows(y: int, h: int) -> bool:
    return h // 4 <= y < h * 3 // 4


# What is given at cell (i, y, x) of a grid (t, h, w): Yu et al., "MAGVIT", as its released masks of latent cells have it
MAGVIT: dict[str, Given] = {
    "generation": lambda i, y, x, g: False,
    "prediction": lambda i, y, x, g: i == 0,
    "interpolation": lambda i, y, x, g: i in (0, g[0] - 1),
    "outpaint_center": lambda i, y, x, g: rows(y, g[1]) and rows(x, g[2]),
    "outpaint_vertical": lambda i, y, x, g: rows(x, g[2]),
    "outpaint_horizontal": lambda i, y, x, g: rows(y, g[1]),
    "outpaint_dynamic": lambda i, y, x, g: left(i, g[0], g[2]) <= x < left(i, g[0], g[2]) + g[2] // 2,
    "inpaint_center": lambda i, y, x, g: not (rows(y, g[1]) and rows(x, g[2])),
    "inpaint_dynamic": lambda i, y, x, g: not (rows(y, g[1]) and left(i, g[0], g[2]) <= x < left(i, g[0], g[2]) + g[2] // 2),
}


@pytest.mark.parametrize("grid", [(4, 16, 16), (5, 8, 8), (5, 4, 6), (3, 6, 10), (4, 7, 9)])
@pytest.mark.parametrize("name", MAGVIT)
def test_magvit_s_tasks_give_what_they_are_defined_to(name: str, grid: Shape) -> None:
    t, h, w = grid
    expected = [[[MAGVIT[name](i, y, x, grid) for x in range(w)] for y in range(h)] for i in range(t)]
    assert task_mask(TASKS[name], grid).tolist() == expected


def test_counts_at_magvit_s_own_size() -> None:
    """16 frames of 128x128 are 4x16x16 cells."""
    counts = {name: int(task_mask(TASKS[name], (4, 16, 16)).sum()) for name in MAGVIT}
    frame = 16 * 16
    assert counts == {
        "generation": 0,
        "prediction": frame,
        "interpolation": 2 * frame,
        "outpaint_center": 4 * 8 * 8,
        "outpaint_vertical": 4 * 16 * 8,
        "outpaint_horizontal": 4 * 8 * 16,
        "outpaint_dynamic": 4 * 16 * 8,
        "inpaint_center": 4 * (frame - 8 * 8),
        "inpaint_dynamic": 4 * (frame - 8 * 8),
    }


def test_extension_gives_the_first_half() -> None:
    for cells, given in ((2, 1), (3, 1), (5, 2), (8, 4)):
        mask = task_mask(TASKS["extension"], (cells, 2, 2))
        assert mask.flatten(1).all(1).tolist() == [i < given for i in range(cells)]


@pytest.mark.parametrize("name", ["prefix", "scatter"])
def test_random_sets_of_cells_have_every_size(name: str) -> None:
    rng = torch.Generator().manual_seed(0)
    masks = [task_mask(TASKS[name], (5, 2, 3), generator=rng) for _ in range(400)]
    whole = torch.stack([mask.flatten(1).all(1) for mask in masks])
    assert all(torch.equal(mask, cells[:, None, None].expand(5, 2, 3)) for mask, cells in zip(masks, whole, strict=True))
    sizes = Counter(whole.sum(1).tolist())
    assert set(sizes) == {1, 2, 3, 4} and min(sizes.values()) > 60  # 100 each on average, deviation 8.7
    prefixes = sum(cells.tolist() == [i < int(cells.sum()) for i in range(5)] for cells in whole)
    assert prefixes == 400 if name == "prefix" else prefixes < 130


@pytest.mark.parametrize("name", TASKS)
def test_something_is_always_left_to_generate(name: str) -> None:
    """An image is one cell: to be told its first is to be told all."""
    for grid in ((1, 4, 4), (2, 2, 2), (1, 1, 1)):
        assert not bool(task_mask(TASKS[name], grid).all())


def test_what_a_task_says_is_given_together() -> None:
    mask = task_mask(Task(first=1, box=(0.5, 0.5)), (3, 4, 4))
    assert torch.equal(mask, task_mask(TASKS["prediction"], (3, 4, 4)) | task_mask(TASKS["outpaint_center"], (3, 4, 4)))


def test_tasks_are_drawn_by_their_weights() -> None:
    rng = torch.Generator().manual_seed(0)
    drawn = Counter(draw_tasks({"generation": 3.0, "prediction": 1.0, "scatter": 0.0}, 8000, generator=rng))
    assert set(drawn) == {"generation", "prediction"}
    assert abs(drawn["prediction"] / 8000 - 0.25) < 4 * (0.25 * 0.75 / 8000) ** 0.5


def test_each_clip_has_the_mask_of_its_task() -> None:
    names = ["prediction", "generation", "outpaint_center"]
    masks = task_masks(names, (3, 4, 4))
    assert all(torch.equal(mask, task_mask(TASKS[name], (3, 4, 4))) for mask, name in zip(masks, names, strict=True))


def test_mistakes_are_one_sentence() -> None:
    with pytest.raises(UserError, match=r"There is no task called 'inpaint_centre'\. Did you mean 'inpaint_center'"):
        task_masks(["inpaint_centre"], (2, 2, 2))
    with pytest.raises(UserError, match="There is no task called 'predict'"):
        draw_tasks({"predict": 1.0}, 2)
    for weights in ({}, {"generation": 0.0}, {"generation": 1.0, "prediction": -1.0}):
        with pytest.raises(UserError, match="give at least one above 0"):
            draw_tasks(weights, 2)
