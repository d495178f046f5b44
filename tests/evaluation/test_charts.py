import itertools
import math
import random
import re
from xml.etree import ElementTree

import pytest

from vidgen.evaluation.charts import (
    HEIGHT,
    LEFT,
    LETTER,
    MOST_POINTS,
    RIGHT,
    TOP,
    WIDTH,
    Field,
    Mark,
    Series,
    heat_map,
    line_chart,
    pareto,
    rank_chart,
    scatter_chart,
)


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


def test_equal_factors_are_equally_far_across_where_that_is_asked():
    svg = line_chart([Series("codes", [(64, 1.0), (256, 2.0), (1024, 3.0)])], title="Usage", x_name="codes", log_x=True)
    (first, _), (second, _), (third, _) = line(svg)
    assert second - first == pytest.approx(third - second, abs=0.11)
    assert "codes (horizontal axis logarithmic)" in svg


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


def labels(svg: str) -> dict[str, tuple[float, float, float, float]]:
    """The boxes of the names in a scatter chart, by what they say."""
    found = {}
    for x, y, anchor, name in re.findall(r'class="name" x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)">([^<]+)<', svg):
        wide = LETTER * len(name)
        left = float(x) - {"start": 0, "middle": wide / 2, "end": wide}[anchor]
        found[name] = (left, float(y) - 10, left + wide, float(y) + 2)
    return found


def marks(svg: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r'class="mark s\d+" transform="translate\(([\d.]+) ([\d.]+)\)"', svg)]


def test_a_band_lies_about_its_curve_and_has_room():
    band = [(0, 1.0, 9.0), (1, 2.0, 4.0)]
    svg = line_chart([Series("val", [(0, 5.0), (1, 3.0)], style=7, band=band)], title="Loss", x_name="steps")
    shade = re.search(r'class="range s7" d="M([^"]+)Z"', svg).group(1)
    (_, top), (_, high), (_, low), (_, bottom) = (tuple(map(float, place.split())) for place in shade.split("L"))
    middle = [y for _, y in line(svg, "s7")]
    assert TOP <= top < middle[0] < bottom <= HEIGHT
    assert top < high < middle[1] < low < bottom
    assert "s0" not in svg


def test_equal_factors_are_equally_far_in_a_scatter_chart():
    svg = scatter_chart([Mark("", 0.1, 1), Mark("", 1, 2), Mark("", 10, 3)], title="Q", x_name="s", width=560, height=340)
    (a, top), (b, middle), (c, bottom) = marks(svg)
    assert b - a == pytest.approx(c - b, abs=0.11) and top - middle == pytest.approx(middle - bottom, abs=0.11)
    assert "horizontal axis logarithmic" in svg
    svg = scatter_chart([Mark("", 0.1, 1), Mark("", 1, 10), Mark("", 10, 100)], title="Q", x_name="s", log=True)
    (_, top), (_, middle), (_, bottom) = marks(svg)
    assert top - middle == pytest.approx(middle - bottom, abs=0.11) and "both axes logarithmic" in svg


@pytest.mark.parametrize("factor", [1.0, 1.3, 3.0, 30.0, 70.0, 300.0, 1e6, 1e20])
def test_logarithmic_axes_have_figures_however_far_they_go(factor):
    svg = scatter_chart([Mark("", 3.0, 3.0), Mark("", 3.0 * factor, 3.0 * factor)], title="Q", x_name="s", log=True)
    assert 3 <= len(ticks(svg, "end")) <= 8 and len(ticks(svg, "middle")) >= 2 and "nan" not in svg
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in marks(svg))


def test_names_hide_neither_one_another_nor_marks_and_none_is_lost_where_there_is_room():
    crowd = [Mark(f"name {i}", 1 + 0.02 * (i % 4), 1 + 0.02 * (i // 4)) for i in range(16)]
    svg = scatter_chart([*crowd, Mark("far", 3, 3)], title="Q", x_name="s", width=560, height=340)
    boxes = list(labels(svg).values())
    assert len(boxes) > 8 and "leader" in svg
    boxes += [(x - 4.5, y - 4.5, x + 4.5, y + 4.5) for x, y in marks(svg)]
    for one, other in itertools.combinations(boxes, 2):
        if one[2] - one[0] > 9 or other[2] - other[0] > 9:  # marks may lie on marks
            assert one[0] >= other[2] or other[0] >= one[2] or one[1] >= other[3] or other[1] >= one[3]
    assert all(left >= LEFT and right <= 560 for left, _, right, _ in labels(svg).values())
    led = {(float(x), float(y)) for x, y in re.findall(r'class="leader" d="M([\d.]+) ([\d.]+)L', svg)}
    for name, box in labels(svg).items():
        own = marks(svg)[int(name.partition(" ")[2] or 16)]
        away = {
            place: math.dist(place, (min(max(place[0], box[0]), box[2]), min(max(place[1], box[1]), box[3])))
            for place in marks(svg)
        }
        assert own in led or away[own] <= min(away.values()) + 0.2  # figures are rounded


def test_a_front_goes_by_steps_through_what_is_not_beaten():
    dice = random.Random(0)
    points = [(dice.random(), dice.random()) for _ in range(60)]
    for higher, sign in ((True, 1), (False, -1)):
        beaten = {
            one for one in points for other in points if other != one and other[0] <= one[0] and sign * other[1] >= sign * one[1]
        }
        assert pareto(points, higher=higher) == sorted(set(points) - beaten)
    assert pareto([(1.0, 2.0), (1.0, 2.0), (1.0, 1.0), (2.0, 2.0)], higher=True) == [(1.0, 2.0)]
    assert pareto([], higher=True) == []
    ends = [Mark("", x, y) for x, y in [(1, 1.0), (10, 3.0), (100, 2.0)]]
    svg = scatter_chart(ends, title="Q", x_name="s", front=pareto([(mark.x, mark.y) for mark in ends], higher=True))
    (a, low), (b, high), _ = marks(svg)
    assert f'class="front" d="M{a:.1f} {low:.1f}H{b:.1f}V{high:.1f}H{WIDTH - RIGHT}"' in svg


def test_levels_lines_and_spreads_are_drawn_where_they_are():
    svg = scatter_chart(
        [Mark("one", 1, 2, 3, "one: two", (1.0, 3.0))],
        title="Q",
        x_name="s",
        lines=[Series("codec", [(0.5, 1.0), (2, 4.0)], style=1)],
        levels={"copies": 3.0},
    )
    figures = ticks(svg, "end")
    ((_, y),) = marks(svg)
    top, bottom = re.search(r'class="spread s3" d="M[\d.]+ ([\d.]+)V([\d.]+)"', svg).groups()
    assert sorted([float(top), float(bottom)]) == pytest.approx([figures["3"] - 3.5, figures["1"] - 3.5], abs=0.06)
    assert y == pytest.approx(figures["2"] - 3.5, abs=0.06)
    assert f'class="equal" d="M{LEFT} {figures["3"] - 3.5:.1f}' in svg
    assert {"one", "codec", "copies"} == set(labels(svg)) and "<title>one: two</title>" in svg


def test_a_heat_map_writes_every_figure_into_its_field():
    fields = {("kl", "dit"): Field("1.5", 1.0, "dit × kl: 1.5", best=True), ("kl", "ar, head flow"): Field("<9>", 0.0)}
    fields |= {("lfq", "dit"): Field("4", 0.5)}
    svg = heat_map(fields, title="FD", rows=["kl", "lfq"], columns=["dit", "ar, head flow"])
    root = ElementTree.fromstring(svg)
    groups = root.findall("g")
    assert [group.find("text").text for group in groups] == ["1.5", "<9>", "4"]
    assert [group.find("text").attrib["class"] for group in groups] == ["t6", "t0", "t3"]
    assert [group.find("rect").attrib["class"] for group in groups] == ["field h6 best", "field h0", "field h3"]
    assert [group.find("title").text for group in groups] == ["dit × kl: 1.5", "kl, ar, head flow: <9>", "lfq, dit: 4"]
    for group in groups:
        box, word = group.find("rect").attrib, group.find("text").attrib
        assert float(box["x"]) < float(word["x"]) < float(box["x"]) + float(box["width"])
        assert float(box["y"]) < float(word["y"]) < float(box["y"]) + float(box["height"])
    assert {"head flow", "ar"} <= {text.text for text in root.findall("text")}
