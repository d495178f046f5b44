"""The pictures of suites: what they hold, that they are legible, and that the same records give the same bytes."""

from __future__ import annotations

import math
import re
import statistics
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import suite_charts
from made_suites import GENERATORS, TOKENIZERS, curve, grid, records, results, sizes

SVG = "{http://www.w3.org/2000/svg}"


def drawn(made: list[Any], name: str = "cpu") -> dict[str, str]:
    suite: Any = SimpleNamespace(name=name, title="What is <it> & why?")
    return suite_charts.charts(suite, made)


@pytest.fixture(scope="module")
def pictures() -> dict[str, str]:
    return drawn(list(grid()))


def texts(svg: str, style: str = "") -> list[str]:
    found = [text for text in ElementTree.fromstring(svg).iter(f"{SVG}text") if not style or text.attrib.get("class") == style]
    return [text.text or "" for text in found]


def test_a_suite_of_all_pairs_has_its_pictures_and_the_same_ones_again(pictures: dict[str, str]) -> None:
    assert list(pictures) == [f"suite-cpu-{what}.svg" for what in ("rate-distortion", "quality-time", "training", "pairs")]
    assert pictures == drawn(list(grid()))
    for svg in pictures.values():
        root = ElementTree.fromstring(svg)
        assert root.find(f"{SVG}title").text.startswith("What is <it> & why?")
        assert "nan" not in svg and "http" not in svg.replace("http://www.w3.org/2000/svg", "") and len(svg) < 50_000


def test_tokenizers_are_marked_once_each_over_the_line_of_h264(pictures: dict[str, str]) -> None:
    svg = pictures["suite-cpu-rate-distortion.svg"]
    names = {*TOKENIZERS, *(f"{name} with pyramid" for name in TOKENIZERS if name != "kl"), "H.264"}
    assert set(texts(svg, "name")) == names
    assert svg.count('class="mark') == 11 and 'class="front"' in svg
    (codec,) = re.findall(r'class="line s1" d="M([^"]+)"', svg)
    assert codec.count("L") == 4


def test_continuous_tokenizers_are_told_beside_the_rates() -> None:
    made = [
        *records(results(reconstruction__psnr=30.0, tokenizer__bits_per_pixel=0.2), generator=None),
        *records(results(reconstruction__psnr=31.0, tokenizer__bits_per_pixel=0.3), tokenizer="vq", generator=None),
        *records(results(reconstruction__psnr=34.0), tokenizer="kl", generator=None),
    ]
    (svg,) = drawn(made).values()
    assert texts(svg, "name") == ["lfq", "vq"] and "Continuous, and so without a rate: kl (34.00 dB)." in texts(svg, "note")


def test_every_pair_is_a_mark_of_its_generators_shape(pictures: dict[str, str]) -> None:
    svg = pictures["suite-cpu-quality-time.svg"]
    assert texts(svg, "key") == list(GENERATORS)
    for style in range(4):
        assert svg.count(f'class="mark s{style}"') == 2 * len(TOKENIZERS) + 1  # two panels, and the key
    assert svg.count('class="front"') == 2 and texts(svg, "name").count("training clips") == 2
    assert re.search(r"<title>dit × kl: \d\d\.\d % at 0\.\d+ s a sample, 3 seeds</title>", svg)
    assert "* the tokenizer was trained with another quantizer: pyramid" in texts(svg, "note")


def test_every_generator_has_a_chart_of_its_losses_with_bands(pictures: dict[str, str]) -> None:
    svg = pictures["suite-cpu-training.svg"]
    assert texts(svg, "title") == list(GENERATORS) and texts(svg, "key") == list(TOKENIZERS)
    charts = ElementTree.fromstring(svg).findall(f"{SVG}svg")
    assert [(int(chart.attrib["x"]), int(chart.attrib["width"])) for chart in charts] == [(0, 280), (280, 280)] * 2
    for chart in charts:
        styles = [path.attrib["class"] for path in chart.iter(f"{SVG}path") if "s" in path.attrib["class"].split()[-1][:1]]
        assert styles == [f"{kind} s{i}" for i in range(6) for kind in ("range", "line")]


def test_a_tokenizer_keeps_its_colour_where_another_is_absent() -> None:
    made = [*records(curve(1.0), tokenizer="kl", generator="dit"), *records(curve(1.0), tokenizer="lfq", generator="dit")]
    made += records(curve(2.0), tokenizer="lfq", generator="ar")
    (svg,) = drawn(made).values()
    second = ElementTree.fromstring(svg).findall(f"{SVG}svg")[1]
    assert [path.attrib["class"] for path in second.iter(f"{SVG}path") if "line" in path.attrib["class"]] == ["line s1"]
    assert "range" not in ElementTree.tostring(second, "unicode")  # one seed has no band


def test_curves_are_means_over_the_steps_that_all_seeds_have() -> None:
    losses = [{100: 1.0, 200: 3.0, 300: 9.0}, {100: 3.0, 200: 5.0}]
    found = suite_charts._curve("kl", losses, 0)
    assert found.points == [(100, 2.0), (200, 4.0)] and found.band == [(100, 1.0, 3.0), (200, 3.0, 5.0)]


def test_every_figure_of_the_pairs_is_written_and_the_best_is_framed(pictures: dict[str, str]) -> None:
    svg = pictures["suite-cpu-pairs.svg"]
    root = ElementTree.fromstring(svg)
    for chart, name in zip(root.findall(f"{SVG}svg"), ("law_legal", "motion_fd"), strict=True):
        fields = {group.find(f"{SVG}title").text: group for group in chart.findall(f"{SVG}g")}
        assert len(fields) == 24
        (best,) = [about for about, group in fields.items() if "best" in group.find(f"{SVG}rect").attrib["class"]]
        assert best.startswith("dit × kl"), name
        assert all(about.endswith("3 seeds") and "±" in about for about in fields)
        if name == "law_legal":
            own = [one for one in grid() if (one.origin.tokenizer, one.origin.generator) == ("kl", "dit")]
            values = [100 * one.row.value for one in own if one.row.name == "samples/law_legal"]
            assert f"± {statistics.stdev(values) / math.sqrt(3):.1f}" in best  # the standard error, as in the tables
    assert sum(text.endswith("*") for text in texts(svg)) == 2 * 5


def test_fuller_is_better_whichever_way_better_is() -> None:
    assert suite_charts._strengths([0.0, 0.5, 1.0], higher=True) == {0.0: 0.0, 0.5: 0.5, 1.0: 1.0}
    assert suite_charts._strengths([1.0, 10.0, 100.0], higher=False) == pytest.approx({1.0: 1.0, 10.0: 0.5, 100.0: 0.0})
    assert suite_charts._strengths([2.0, 2.0], higher=True) == {2.0: 0.5}


def test_sizes_of_a_generator_have_laws() -> None:
    made = [*sizes("var", -0.1, noise=0.001), *sizes("dit", -0.05, noise=0.001, widths=(32, 64, 96))]
    svg = drawn(made, "scaling")["suite-scaling-scaling.svg"]
    assert texts(svg, "key") == ["var × pyramid_lfq", "dit × pyramid_lfq"]
    notes = " ".join(texts(svg, "note"))
    assert re.search(r"var × pyramid_lfq: exponent −0\.(100|099) \(−0\.\d+ to −0\.\d+\), r = −1\.000, 15 points", notes)
    assert "9 points" in notes and notes.count("floor") >= 2  # of var alone: three sizes are too few for dit
    assert svg.count('class="range s0"') == svg.count('class="range s1"') == 2
    assert "FLOPs of training" in svg


def over(option: str, numbers: Any, *words: str, **more: Any) -> list[Any]:
    """Runs of two seeds for each number of an option; a twentieth of it and the seed are what is legal."""
    return [
        record
        for number in numbers
        for seed in range(2)
        for record in records(
            results(samples__law_legal=(number + seed) / 20, samples__seconds=number / 10),
            words=[*words, f"{option}={number}", f"generator.training.steps={number}"],
            seed=seed,
            **more,
        )
    ]


def test_an_option_that_was_given_several_numbers_has_a_line_a_recipe() -> None:
    scales = "evaluation.guidance_scale"
    made = [*over(scales, (1, 2, 5), generator="dit"), *over(scales, (1, 2, 5), generator="ar")]
    svg = drawn(made)["suite-cpu-options.svg"]
    assert texts(svg, "key") == ["dit × lfq", "ar × lfq"] and texts(svg, "title") == ["Law-legal, %"]
    for style in (0, 1):
        (line,) = re.findall(rf'class="line s{style}" d="M([^"]+)"', svg.partition("<svg x=")[2])
        places = [tuple(map(float, place.split())) for place in line.split("L")]
        assert len(places) == 3
        assert (places[2][0] - places[1][0]) / (places[1][0] - places[0][0]) == pytest.approx(3, rel=0.01)  # 1, 2, 5
        assert (places[2][1] - places[1][1]) / (places[1][1] - places[0][1]) == pytest.approx(3, rel=0.01)
    assert svg.count('class="range s') == 2 and "logarithmic" not in svg


def test_an_option_over_a_wide_range_has_a_logarithmic_axis_and_other_options_part_the_lines() -> None:
    codes = [
        *over("tokenizer.quantizer.codes", (64, 256, 1024), "generator.seen=1"),
        *over("tokenizer.quantizer.codes", (64, 256), "generator.seen=2"),
    ]
    svg = drawn(codes)["suite-cpu-options.svg"]
    assert texts(svg, "key") == ["dit × lfq, seen 1", "dit × lfq, seen 2"] and "codes (horizontal axis logarithmic)" in svg


def test_two_numbers_sizes_and_budgets_are_no_lines() -> None:
    for option, numbers in (
        ("evaluation.steps", (4, 8)),
        ("generator.width", (32, 64, 96)),
        ("generator.training.steps", (1, 2, 3)),
    ):
        assert "suite-cpu-options.svg" not in drawn(over(option, numbers))


def test_of_one_tokenizer_settings_stand_beside_the_marks() -> None:
    svg = drawn([*over("evaluation.steps", (4, 8), generator="dit"), *over("evaluation.steps", (4, 8), generator="maskgit")])[
        "suite-cpu-quality-time.svg"
    ]
    assert texts(svg, "key") == ["dit", "maskgit"] and sorted(texts(svg, "name")) == ["4", "4", "8", "8"]
    assert "Beside the marks: steps." in texts(svg, "note")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (results(reconstruction__psnr=30.0), []),
        (results(reconstruction__psnr=30.0, tokenizer__bits_per_pixel=0.2), []),  # one alone is compared with nothing
        (results(samples__law_legal=0.5), []),
        (results(samples__law_legal=0.0, samples__seconds=0.5), ["quality-time"]),
        (results(samples__motion_fd=float("nan"), samples__seconds=0.5), []),
        (curve(1.0, steps=100), []),
        (curve(1.0, steps=200), ["training"]),
    ],
)
def test_what_has_no_figures_is_left_out(rows: list[Any], expected: list[str]) -> None:
    assert list(drawn(records(rows))) == [f"suite-cpu-{what}.svg" for what in expected]


def test_nothing_is_drawn_of_nothing() -> None:
    assert drawn([]) == {}


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted(luminance(colour) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("of", [suite_charts.LIGHT, suite_charts.DARK])
def test_texts_and_marks_stand_out_by_the_accessibility_guidelines(of: Any) -> None:
    for step, fill in enumerate(of["h"]):
        assert contrast(fill, of["paper" if step > 4 else "ink"]) >= 4.5, fill
    assert contrast(of["paper"], of["quiet"]) >= 4.5 and contrast(of["paper"], of["ink"]) >= 7
    assert all(contrast(of["paper"], colour) >= 3 for colour in of["c"])


MACHADO = {
    "none": np.eye(3),
    "protan": np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
    "deutan": np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
    "tritan": np.array([[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]]),
}
"""Linear RGB as it is seen by dichromats (Machado et al., 2009, severity 1)."""


@pytest.mark.parametrize("kind", MACHADO)
@pytest.mark.parametrize("of", [suite_charts.LIGHT, suite_charts.DARK])
def test_colours_differ_for_the_colour_blind_too(of: Any, kind: str) -> None:
    from skimage.color import rgb2lab

    parts = np.array([[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in of["c"]])
    seen = np.clip(np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ MACHADO[kind].T, 0, 1)
    lab = rgb2lab(np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)[None])[0]
    far = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
    assert far[~np.eye(len(lab), dtype=bool)].min() >= 30


def test_styles_are_of_shapes_dashes_and_colours_that_never_meet_again() -> None:
    places = range(suite_charts.STYLES)
    assert len({(i % len(suite_charts.LIGHT["c"]), i % len(suite_charts.DASHES)) for i in places}) == suite_charts.STYLES
    assert len(suite_charts.SHAPES) == len(suite_charts.DASHES)


def test_a_map_of_few_tokenizers_and_many_generators_is_turned() -> None:
    made = [
        record
        for i, tokenizer in enumerate(("kl", "lfq"))
        for head in range(4)
        for record in records(results(samples__motion_fd=1.0 + head + i), tokenizer=tokenizer, words=[f"generator/head=h{head}"])
    ]
    (svg,) = drawn(made).values()
    (chart,) = ElementTree.fromstring(svg).findall(f"{SVG}svg")
    assert [text.text for text in chart.findall(f"{SVG}text")] == ["kl", "lfq", *(f"dit, head h{head}" for head in range(4))]
    assert [group.find(f"{SVG}title").text for group in chart.findall(f"{SVG}g")][1] == "dit, head h0 × lfq: 2, 1 seed"


def test_steps_of_a_heat_map_go_one_way_in_light_and_in_dark() -> None:
    light, dark = ([luminance(fill) for fill in of["h"]] for of in (suite_charts.LIGHT, suite_charts.DARK))
    assert light == sorted(light, reverse=True) and dark == sorted(dark)


def test_styles_bind_nothing_outside_of_the_pictures(pictures: dict[str, str]) -> None:
    for svg in pictures.values():
        sheet = re.search(r"<style>(.*)</style>", svg, re.DOTALL).group(1)
        selectors = re.findall(r"([^{}]+)\{", sheet.replace("@media (prefers-color-scheme:dark){", ""))
        assert all(one.startswith((".suite ", "svg.suite")) for rule in selectors for one in rule.split(","))
