"""Schedules by brute force over their arguments, and against FDM's rules worked out by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from vidgen.errors import UserError
from vidgen.samplers.rollout import COLOURS, SCHEDULES, Stage, image, schedule, table, text


def arguments(name: str) -> list[tuple[int, int, int, tuple[int, ...]]]:
    """Every video, window, overlap and given cells of small size."""
    found: list[tuple[int, int, int, tuple[int, ...]]] = []
    for cells, window in itertools.product(range(1, 11 if name == "interpolation" else 15), range(1, 8)):
        if name == "interpolation":
            codes = range(1, 2**cells, 11)  # some of all sets of given cells
            given = [tuple(cell for cell in range(cells) if code >> cell & 1) for code in codes]
        else:
            given = [tuple(range(count)) for count in {0, 1, 2, 5, cells} if count <= cells]
        found += [(cells, window, overlap, some) for overlap in range(1, max(2, window)) for some in given]
    fits = [one for one in found if one[0] <= one[1] or one[2] < one[1]]
    return [one for one in fits if one[0] <= one[1] or one[1] > 2 or not name.startswith("hierarchy")]


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_cell_is_made_once_from_finished_ones_in_windows_that_fit(name: str) -> None:
    for cells, window, overlap, given in arguments(name):
        made = list(given)
        stages = schedule(name, cells, window=window, overlap=overlap, given=given)
        for place, stage in enumerate(stages):
            assert stage.generated, (name, cells, window, overlap, given)
            assert set(stage.observed) <= set(made), (name, cells, window, overlap, given, stage)
            assert len(stage.cells) == len(set(stage.cells)) <= window, (name, cells, window, overlap, given, stage)
            assert stage.observed or (place == 0 and not given), (name, cells, window, overlap, given, stage)
            made += stage.generated
        assert sorted(made) == list(range(cells)), (name, cells, window, overlap, given)


@pytest.mark.parametrize("name", ["autoregressive", "interpolation"])
def test_windows_without_gaps(name: str) -> None:
    for cells, window, overlap, given in arguments(name):
        assert all(len(stage.runs) == 1 for stage in schedule(name, cells, window=window, overlap=overlap, given=given))


def test_hierarchies_observe_both_sides_and_everything_between() -> None:
    for name, cells, window in itertools.product(("hierarchy_2", "hierarchy_3"), range(4, 25), range(3, 8)):
        for overlap in range(1, window):
            if cells <= window:
                continue
            stages = schedule(name, cells, window=window, overlap=overlap)
            done = set(stages[0].generated)
            assert {0, cells - 1} <= done
            for stage in stages[1:]:
                assert min(stage.observed) < min(stage.generated) <= max(stage.generated) < max(stage.observed)
                inside = done & set(range(stage.generated[0], stage.generated[-1]))
                assert inside <= set(stage.observed)
                done |= set(stage.generated)


# FDM (2022) by hand: windows of 4, 2 made at a time, 10 frames; its figures' order of stages.
BY_HAND = {
    "autoregressive": [
        ((), (0, 1, 2, 3)),
        ((2, 3), (4, 5)),
        ((4, 5), (6, 7)),
        ((6, 7), (8, 9)),
    ],
    "long_range": [
        ((), (0, 1, 2, 3)),
        ((2, 3), (4, 5)),  # the last one, 3, and the last of the first window that is another
        ((3, 5), (6, 7)),
        ((3, 7), (8, 9)),
    ],
    # level 1: 0, 3, 6, 9. Level 2 takes every cell: one observed after, one before.
    "hierarchy_2": [
        ((), (0, 3, 6, 9)),
        ((0, 3), (1, 2)),
        ((3, 6), (4, 5)),
        ((6, 9), (7, 8)),
    ],
}


@pytest.mark.parametrize("name", BY_HAND)
def test_published_rules_by_hand(name: str) -> None:
    stages = schedule(name, 10, window=4, overlap=2)
    assert [(stage.observed, stage.generated) for stage in stages] == BY_HAND[name]


def test_published_hierarchy_of_three_levels_by_hand() -> None:
    """20 frames, windows of 6, 3 made: level 1 spreads six; (20 - 6) / 2 = 7, whose root is 2: level 2 takes every 2nd.

    It begins at 2, two after frame 0; 4 and 6 follow. One frame is there between them, 3, so two more are seen: 7 and 0.
    """
    stages = schedule("hierarchy_3", 20, window=6, overlap=3)
    assert stages[:3] == [
        Stage((), (0, 3, 7, 11, 15, 19)),
        Stage((0, 3, 7), (2, 4, 6)),
        Stage((7, 11, 15), (8, 10, 12)),
    ]


def published_hierarchy_2(cells: int, window: int, step: int) -> list[tuple[set[int], list[int]]]:
    """FDM's Hierarchy-2 without given frames, in words: spread a window, then go from left to right over what is missing."""
    spread = [int(place) for place in np.linspace(0, cells - 1, window)]
    stages, done = [(set[int](), spread)], set(spread)
    while missing := [cell for cell in range(cells) if cell not in done]:
        make = missing[:step]
        count = step
        while window - count - sum(make[0] < cell < make[-1] for cell in done) < 2:
            count -= 1
            make = missing[:count]
        inside = {cell for cell in done if make[0] < cell < make[-1]}
        room = window - count - len(inside)
        later = sorted(cell for cell in done if cell > make[-1])[: room // 2]
        earlier = sorted((cell for cell in done if cell < make[0]), reverse=True)[: room - len(later)]
        stages.append((inside | set(later) | set(earlier), make))
        done |= set(make)
    return stages


def test_published_hierarchy_of_two_levels() -> None:
    for cells, window in itertools.product(range(5, 40), range(3, 9)):
        for step in range(1, window - 1):
            if cells > window:
                stages = schedule("hierarchy_2", cells, window=window, overlap=window - step)
                assert [(set(one.observed), list(one.generated)) for one in stages] == published_hierarchy_2(cells, window, step)


def test_given_cells_are_gone_on_from() -> None:
    stages = schedule("autoregressive", 7, window=4, overlap=2, given=range(3))
    assert stages == [Stage((1, 2), (3, 4)), Stage((3, 4), (5, 6))]
    level_1 = schedule("hierarchy_2", 12, window=5, overlap=2, given=range(4))[0]
    assert level_1 == Stage((0, 3), (4, 7, 11))


def test_interpolation_observes_both_sides_of_a_gap_that_fits() -> None:
    assert schedule("interpolation", 6, window=6, overlap=2, given=(0, 5)) == [Stage((0, 5), (1, 2, 3, 4))]
    stages = schedule("interpolation", 10, window=5, overlap=2, given=(0, 9))
    assert stages == [Stage((0,), (1, 2, 3)), Stage((2, 3), (4, 5, 6)), Stage((5, 6, 9), (7, 8))]
    assert schedule("interpolation", 5, window=3, overlap=1, given=(4,))[0] == Stage((4,), (2, 3))


def test_mistakes() -> None:
    with pytest.raises(UserError, match="Did you mean 'autoregressive'"):
        schedule("autoregresive", 9, window=4, overlap=2)
    for overlap in (0, 4):
        with pytest.raises(UserError, match=f"rollout.overlap={overlap} is not from 1 to 3"):
            schedule("autoregressive", 9, window=4, overlap=overlap)
    with pytest.raises(UserError, match="A window of 1 cell"):
        schedule("autoregressive", 2, window=1, overlap=1)
    with pytest.raises(UserError, match="begin the video"):
        schedule("long_range", 9, window=4, overlap=2, given=(3,))
    with pytest.raises(UserError, match="none is given"):
        schedule("interpolation", 9, window=4, overlap=2)
    with pytest.raises(UserError, match="windows of 3 cells"):
        schedule("hierarchy_2", 9, window=2, overlap=1)
    with pytest.raises(UserError, match="the video has 2"):
        schedule("autoregressive", 2, window=4, overlap=2, given=range(3))


def test_pictures_show_the_same_table() -> None:
    stages = schedule("autoregressive", 6, window=4, overlap=1, given=(0,))
    assert text(stages, 6) == "o###  \n...o##"
    drawn = image(stages, 6, size=3)
    assert drawn.shape == (6, 18, 3) and drawn.dtype == np.uint8
    assert np.array_equal(drawn[::3, ::3], COLOURS[table(stages, 6)])
