"""Windows whose cells lie apart: the law that they are drawn by, where their tokens lie, and their key."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from vidgen import Condition, LatentSpec, UserError
from vidgen.nn.layout import token_layout
from vidgen.samplers.places import apart, at_places, draw_places, window_key

FRACTIONS = ((1.0, 0.5, 0.5), (1.0, 1.0, 1.0))
GROWING = ((0.5, 0.5, 0.5), (1.0, 1.0, 1.0))
PLAIN = LatentSpec(channels=1, stride=(1, 1, 1), causal=True)
SPECS = {
    "plain": PLAIN,
    "pyramid": replace(PLAIN, levels=(2,), scales=FRACTIONS),
    "growing": replace(PLAIN, levels=(2,), scales=GROWING, clip=2),
}
WINDOWS = [("plain", (0, 2, 5, 6)), ("plain", (2, 3, 6)), ("pyramid", (1, 4)), ("growing", (0, 3, 4)), ("growing", (1, 2, 5, 6))]


def test_cells_are_drawn_in_groups_of_all_spacings_and_sizes() -> None:
    """Ascending, inside, never all; every gap is there, near ones more often, and so is a spread over the whole clip."""
    rng, cells = torch.Generator().manual_seed(0), 9
    drawn = [draw_places(cells, generator=rng) for _ in range(4000)]
    assert all(sorted(set(places)) == list(places) and places[0] >= 0 and places[-1] < cells for places in drawn)
    assert {len(places) for places in drawn} == set(range(1, cells))
    gaps = Counter(b - a for places in drawn for a, b in zip(places, places[1:], strict=False))
    assert set(gaps) == set(range(1, cells)) and gaps[1] > gaps[2] > gaps[4] > gaps[8]
    assert {(0, 2, 4, 6, 8), (0, 4, 8), (0, 8), (3, 4, 5)} <= set(drawn)
    assert set(Counter(cell for places in drawn for cell in places)) == set(range(cells))


def test_what_is_drawn_is_a_function_of_the_generator() -> None:
    one, other = (draw_places(20, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert one == other
    torch.manual_seed(3)
    assert draw_places(20) == one


@pytest.mark.parametrize("cells", [3, 4, 50])
def test_short_and_long_clips(cells: int) -> None:
    rng = torch.Generator().manual_seed(1)
    assert all(1 <= len(draw_places(cells, generator=rng)) < cells for _ in range(200))


def test_places_that_follow_one_another_are_none() -> None:
    assert apart(None, 0, 3) is None
    assert apart(Condition(), 0, 3) is None
    assert apart(Condition(places=(4, 5, 6)), 4, 3) is None
    assert apart(Condition(places=(4, 6, 9)), 4, 3) == (4, 6, 9)


@pytest.mark.parametrize("places", [(4, 6), (3, 5, 6), (4, 6, 6), (4, 8, 6)])
def test_places_of_another_window_are_refused(places: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="of a window of 3 cells of which the first is cell 4"):
        apart(Condition(places=places), 4, 3)


@pytest.mark.parametrize(("name", "places"), WINDOWS)
def test_tokens_lie_where_they_lie_in_the_whole_video(name: str, places: tuple[int, ...]) -> None:
    """The positions of a window's tokens are those that its cells' tokens have in the layout of all cells."""
    spec = SPECS[name]
    whole = token_layout(spec, spec.grids((7, 2, 2)))
    start = places[0]
    window = token_layout(spec, spec.grids((len(places), 2, 2), start), start)
    found = at_places(window.positions, window.cell, places)
    of_cells = torch.isin(whole.cell, torch.tensor(places))
    expected, scale = whole.positions[of_cells], whole.scale[of_cells]
    for index in range(len(spec.scales or (1,))):  # pieces come one after another in both
        assert torch.equal(found[window.scale == index], expected[scale == index])
    adjacent = tuple(range(start, start + len(places)))
    assert torch.equal(at_places(window.positions, window.cell, adjacent), window.positions)
    assert at_places(window.positions, window.cell, None) is window.positions


def test_keys_of_windows_are_all_different() -> None:
    windows = [(0, None), (4, None), (0, (0, 4)), (0, (0, 4, 8)), (0, (0, 48)), (4, (4, 8))]
    assert len({window_key(*window) for window in windows}) == len(windows)
