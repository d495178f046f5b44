import re

import pytest

from vidgen.evaluation.charts import HEIGHT, LEFT, MOST_POINTS, RIGHT, TOP, WIDTH, Series, line_chart, rank_chart


def line(svg: str, style: str = "s0") -> list[tuple[float, float]]:
    path = re.search(rf'class="line {style}" d="M([^"]+)"', svg).group(1)
    return [tuple(map(float, place.split())) for place in path.split("L")]


def ticks(svg: str, anchor: str) -> dict[str, float]:
    """Figure -> place along its axis: vertical figures are anchored at their end, horizontal ones at their middle."""
    found = re.findall(rf'<text x="([\d.]+)" y="([\d.]+)" text-anchor="{anchor}">([^<]+)</text>', svg)
    return {figure: float(y if anchor == "end" else x) for x, y, figure in found}


def test_a_straight_line_is_drawn_where_the_figures_say():
    svg = line_chart([Series("train", [(0, 0.0), (50, 5.0), (100, 10.0)])], title="Loss", x_name="steps")
    points = line(svg)
    assert points[0][0] == LEFT
    assert points[-1] == (WIDTH - RIGHT, TOP)
    vertical, horizontal = ticks(svg, "end"), ticks(svg, "middle")
    assert points[1] == pytest.approx((horizontal["50"], vertical["5"] - 3.5), abs=0.06)  # text sits 3.5 below its line
    assert "logarithmic" not in svg


def test_values_over_a_factor_of_20_are_drawn_logarithmically_and_equal_factors_equally_far():
    svg = line_chart([Series("train", [(1, 100.0), (2, 10.0), (3, 1.0)])], title="Loss", x_name="steps")
    (_, first), (_, second), (_, third) = line(svg)
    assert second - first == pytest.approx(third - second, abs=0.11)
    assert "logarithmic" in svg
    assert {"1", "10", "100"} <= set(ticks(svg, "end"))
    for values in ([0.0, 100.0], [-1.0, 100.0], [10.0, 100.0]):
        svg = line_chart([Series("train", list(enumerate(values)))], title="Loss", x_name="steps")
        assert "logarithmic" not in svg


def test_a_long_curve_is_thinned_to_means_within_its_range():
    points = [(float(i), 5.0 + (-1) ** i) for i in range(5000)]
    svg = line_chart([Series("train", points)], title="Loss", x_name="steps")
    drawn = line(svg)
    assert len(drawn) == MOST_POINTS
    assert len({y for _, y in drawn}) <= 3  # the mean of each span is 5, give or take one odd point
    assert 'class="range s0"' in svg
    assert len(svg) < 12_000
    short = line_chart([Series("train", points[:MOST_POINTS])], title="Loss", x_name="steps")
    assert 'class="range' not in short


@pytest.mark.parametrize("value", [0.0, 3.0, -2e-9, 1e12])
def test_one_point_and_constants_have_an_axis_too(value):
    for points in ([(7, value)], [(7, value), (8, value)]):
        svg = line_chart([Series("val", points)], title="Loss", x_name="steps")
        assert all(0 <= y <= HEIGHT for _, y in line(svg))
        assert "nan" not in svg


def test_two_curves_share_their_axes():
    svg = line_chart([Series("train", [(0, 1.0), (9, 3.0)]), Series("val", [(9, 3.0)])], title="Loss", x_name="steps")
    assert line(svg, "s1") == [line(svg, "s0")[-1]]


def test_names_are_escaped():
    svg = line_chart([Series('<b>"', [(0, 1.0)])], title="<i>", x_name="<u>")
    assert not re.search(r"<[biu]>", svg)


def test_codes_that_never_occur_leave_their_place_empty():
    svg = rank_chart([8, 4, 4], 5, title="Codes", x_name="codes")
    path = re.search(r'class="bars" d="M([^"]+)Z"', svg).group(1)
    places = [tuple(map(float, place.split())) for place in re.split(" ?L", path)]
    floor = places[0][1]
    heights = [round(floor - y, 1) for _, y in places[1:-1:2]]
    assert heights[0] == pytest.approx(2 * heights[1], abs=0.1)
    assert heights[1] == heights[2]
    assert heights[3:] == [0, 0]
    assert "3 of 5 used" in svg


def test_a_large_codebook_is_drawn_in_few_steps():
    svg = rank_chart([1] * 1000, 2**18, title="Codes", x_name="codes")
    assert len(svg) < 12_000
