import base64
import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from vidgen.errors import UserError
from vidgen.evaluation.report import write_report
from vidgen.evaluation.rows import Row, append

SECTIONS = {"reconstructions", "samples", "previews", "measures", "training", "cost", "recipe"}
VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """The parts of a page that tests ask for; refuses tags that do not close in the order they opened."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def sections(self) -> set[str]:
        return {attrs["id"] for attrs in self.all("section")}


@pytest.fixture(scope="module")
def html(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    run = tmp_path_factory.mktemp("report") / "run"
    shutil.copytree(finished_run, run)
    return write_report(run).read_text()


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished_run, tmp_path / "run")
    return tmp_path / "run"


def report(run: Path) -> Page:
    return Page(write_report(run).read_text())


def test_the_page_has_every_section_and_says_what_was_run(html):
    page = Page(html)
    assert page.sections == SECTIONS
    assert "<title>dit x lfq: analog bits, sign at decode · vidgen</title>" in html
    assert "asked for 256 new clips." in page.text
    assert "vidgen fit tokenizer=lfq generator=dit data.size=32 seed=0" in page.text
    linked = {attrs["href"].removeprefix("#") for attrs in page.all("a")}
    assert linked == SECTIONS


def test_nothing_is_loaded_from_elsewhere(html):
    page = Page(html)
    for _, attrs in page.tags:
        for key in ("src", "href", "poster", "srcset", "action"):
            assert key not in attrs or attrs[key].startswith(("data:", "#")), attrs
    assert not page.all("link")
    assert "@import" not in html
    assert "url(" not in html
    assert "default-src 'none'" in page.all("meta")[1]["content"]


def test_videos_and_sheets_are_the_runs_own_files(html, finished_run):
    page = Page(html)

    def embedded(tag: str) -> set[bytes]:
        return {base64.b64decode(attrs["src"].partition(",")[2]) for attrs in page.all(tag)}

    assert embedded("video") == {path.read_bytes() for path in finished_run.rglob("*.mp4")}
    assert embedded("img") == {path.read_bytes() for path in finished_run.rglob("*.png")}
    for attrs in page.all("video"):
        assert {"muted", "loop", "autoplay", "playsinline"} <= set(attrs)
        assert "controls" not in attrs


def test_whoever_cannot_see_is_told(html):
    page = Page(html)
    assert all(attrs.get("alt") for attrs in page.all("img"))
    assert all(attrs.get("aria-label") for attrs in page.all("video"))
    assert all(attrs.get("aria-label") for attrs in page.all("svg"))
    assert all(attrs.get("type") == "button" for attrs in page.all("button"))
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def luminance(colour: str) -> float:
    colour = colour * 2 if len(colour) == 3 else colour
    values = (int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4))
    linear = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values)
    return sum(weight * v for weight, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_text_and_curves_stand_out_from_the_page_in_light_and_dark(html):
    colours = "".join(rf"--{name}: #(\w+); " for name in ("paper", "raised", "ink", "quiet"))
    schemes = re.findall(colours + r".*?((?:--c\d: #\w+; ?)+)", html, re.S)
    assert len(schemes) == 2
    for paper, raised, ink, quiet, curves in schemes:
        wanted = [(text, back, 4.5) for text in (ink, quiet) for back in (paper, raised)]
        wanted += [(curve, paper, 3.0) for curve in re.findall(r"#(\w+)", curves)]
        for front, back, least in wanted:
            dark, light = sorted((luminance(front), luminance(back)))
            assert (light + 0.05) / (dark + 0.05) >= least, (front, back)


def test_results_stand_with_unit_interval_number_and_direction(html):
    text = Page(html).text
    assert re.search(r"PSNR ↑ \(higher is better\).*?31\.64 .?dB.*?31\.42 – 31\.86", text)
    assert "a blank ground scores 16.9" in text
    assert re.search(r"Law residual ↓ \(lower is better\)", text)
    assert "mean per-frame PSNR" in text
    # Originals, reconstructions and samples are read side by side; how many clips they are is said once.
    assert re.search(r"originals n 256 reconstructions n 256 samples n 256", text)
    assert re.search(r"Appearance-legal ↑.*?100 .?% 98\.5 – 100\.0 98\.8 .?% 96\.6 – 99\.6 85\.9 .?% 81\.1 – 89\.7 ", text)
    # The classes stand below the samples that they are part of, and the original's and reconstruction's cells stay single.
    assert re.search(
        r"Law-legal ↑.*?100 .?% 98\.5 – 100\.0 97\.7 .?% 95\.0 – 98\.9 81\.2 .?% 76\.0 – 85\.6 gravity 74\.1 .?% ", text
    )


def result(name: str, value: float, **others) -> Row:
    return Row(stage="evaluation", split=others.pop("split", "test"), step=1, seconds=1.0, name=name, value=value, **others)


def measures_of(run: Path, rows: list[Row]) -> str:
    (run / "metrics.jsonl").unlink()
    append(run / "metrics.jsonl", rows)
    return report(run).text.partition("On clips that training has not seen")[2].partition("Time and memory")[0]


def test_what_is_not_of_unseen_clips_says_so(run):
    text = measures_of(run, [result("reconstruction/psnr", 30.0, split="val", protocol="by hand"), result("lpips", 0.5)])
    assert "val split, by hand" in text
    assert "test split" not in text


def test_another_number_of_clips_is_told_where_it_differs(run):
    rows = [result(f"samples/{name}", 0.5, n=n) for name, n in (("law_legal", 64), ("presence", 64), ("law_residual", 7))]
    text = measures_of(run, rows)
    assert text.count("n 64") == 1
    assert text.count("n 7") == 1


def test_what_could_not_be_measured_has_no_unit_and_no_interval(run):
    text = measures_of(run, [result("samples/law_residual", math.nan, n=0, interval=(0.0, 1.0))])
    assert re.search(r"samples Law residual.*no value n 0", text)
    assert "no value px" not in text
    assert "0.00" not in text


def test_a_single_point_is_told_in_words_and_not_drawn(run):
    rows = [Row(stage="generator", split="train", step=40, seconds=1.0, name=name, value=0.25) for name in ("loss/total", "lr")]
    (run / "metrics.jsonl").unlink()
    append(run / "metrics.jsonl", rows)
    page = report(run)
    assert "Loss, step 40 0.250" in page.text
    assert [svg["aria-label"] for svg in page.all("svg")] == ["Times each code occurs: 973 of 1024 used"]


def test_the_only_term_of_the_loss_is_not_drawn_twice(run):
    rows = [
        Row(stage="generator", split="train", step=step, seconds=1.0, name=name, value=factor / step)
        for step in (1, 2, 3)
        for name, factor in (("loss/total", 1.0), ("loss/flow", 1.0), ("loss/other", 2.0))
    ]
    (run / "metrics.jsonl").unlink()
    (run / "codebook.json").unlink()
    append(run / "metrics.jsonl", rows)
    assert [svg["aria-label"].partition(": train")[0] for svg in report(run).all("svg")] == ["Loss", "Loss: other"]


def test_costs_are_named_by_what_they_mean(run):
    environment = {
        "flops": {"tokenizer/encode_flops": 6758400},
        "throughput": {"tokenizer training clips/s": 4.0332, "samples/s": 98.9},
        "timings": {"tokenizer": 1.0},
    }
    (run / "environment.json").write_text(json.dumps(environment))
    text = report(run).text
    for phrase in ("Encoding 6.76 M FLOPs", "throughput, tokenizer training 4.033 clips/s", "throughput 98.9 samples/s"):
        assert phrase in text


def test_times_and_costs_are_for_people(html):
    text = Page(html).text
    for phrase in ("13 min 51 s in all", "6 min 52 s", "9.4 s", "1.83 GiB", "7.4 M", "20261121"):
        assert phrase in text


@pytest.mark.parametrize(
    ("parts", "sections"),
    [
        (["reconstructions"], {"reconstructions"}),
        (["samples"], {"samples", "previews"}),
        (["metrics.jsonl"], {"measures"}),
        (["metrics.jsonl", "codebook.json"], {"measures", "training"}),
        (["environment.json"], {"cost"}),
        (["codebook.json"], set()),
    ],
)
def test_a_part_that_is_absent_leaves_its_section_out(run, parts, sections):
    for part in parts:
        target = run / part
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    page = report(run)
    assert page.sections == SECTIONS - sections
    assert {attrs["href"].removeprefix("#") for attrs in page.all("a")} == page.sections
    assert ("Times each code occurs" in page.text) == ("codebook.json" not in parts)


def test_a_recipe_alone_makes_a_page(tmp_path):
    (tmp_path / "config.yaml").write_text("tokenizer: {name: kl}\n")
    page = report(tmp_path)
    assert page.sections == {"recipe"}
    assert not page.all("video")
    assert tmp_path.name in page.text


def test_no_recipe_is_a_mistake_told_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match=r"no config\.yaml in .*runs/latest"):
        write_report(tmp_path)


@pytest.mark.parametrize("name", ["config.yaml", "environment.json", "samples/bounce.json", "codebook.json"])
@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_broken_file_is_named(run, name, content):
    (run / name).write_text(content)
    with pytest.raises(UserError, match=re.escape(name)):
        write_report(run)
    assert not (run / "report.html").exists()


def test_everything_from_files_is_escaped(run):
    attack = "<script>alert(1)</script><b a=\"'>{{ 7 * 7 }}"
    recipe = {"command": attack, "route": attack, "words": attack, "tokenizer": {"name": attack}}
    (run / "config.yaml").write_text(json.dumps(recipe))
    environment = {"hardware": {attack: attack}, "timings": {attack: 1.0}, "flops": {attack: 1}}
    (run / "environment.json").write_text(json.dumps(environment))
    sidecar = {"title": attack, "caption": attack, "stage": attack, "step": 1}
    (run / "samples" / "bounce.json").write_text(json.dumps(sidecar))
    common = {"split": "test", "step": 1, "seconds": 1.0, "value": 0.5}
    append(run / "metrics.jsonl", [Row(stage="tokenizer", name=f"loss/{attack}", **common)])
    append(run / "metrics.jsonl", [Row(stage="evaluation", name=f"samples/{attack}", protocol=attack, **common)])
    (run / "reconstructions" / "<script>alert(2)<").mkdir()
    html = write_report(run).read_text()
    page = Page(html)
    assert len(page.all("script")) == 1
    assert "alert(1)</script>" not in html
    assert "49" not in page.text.partition("Recipe")[2]
    assert page.text.count(attack) >= 8


def test_the_last_evaluation_counts(run):
    later = Row(stage="evaluation", split="test", step=4000, seconds=999.0, name="reconstruction/psnr", value=33.33, n=512)
    append(run / "metrics.jsonl", [later])
    text = report(run).text
    assert "33.33" in text
    assert "31.64" not in text


def test_steps_repeated_after_a_resume_count_once_and_lost_values_are_told(run):
    rows = [
        Row(stage="tokenizer", split="train", step=step, seconds=1.0, name="loss/total", value=value)
        for step, value in [(1, 4.0), (2, 3.0), (3, 777.0), (3, 2.5), (4, math.nan)]
    ]
    (run / "metrics.jsonl").unlink()
    append(run / "metrics.jsonl", rows)
    page = report(run)
    assert "train 2.50 (1 not finite, left out)" in page.text
    label = next(attrs["aria-label"] for attrs in page.all("svg") if attrs["aria-label"].startswith("Loss"))
    assert label == "Loss: train from 4 to 2.5"


def test_previews_go_by_stage_and_step(run):
    for name, stage, step in (("preview_3000", "tokenizer", 90), ("preview_500", "generator", 700)):
        sidecar = {"title": "Eight clips", "stage": stage, "step": step}
        (run / "samples" / f"{name}.json").write_text(json.dumps(sidecar))
    text = report(run).text.partition("Through training")[2]
    places = [text.index(phrase) for phrase in ("tokenizer step 90", "generator step 700", "generator step 750")]
    assert places == sorted(places)


def test_a_picture_without_a_video_and_without_a_sidecar_is_shown(run):
    (run / "reconstructions" / "test.mp4").unlink()
    (run / "reconstructions" / "test.json").unlink()
    page = report(run)
    assert "reconstructions" in page.sections
    assert any(attrs["alt"].startswith("test.") for attrs in page.all("img"))


def test_only_the_page_is_written_and_files_half_written_are_left_alone(run):
    (run / "samples" / ".bounce.mp4.0123.partial").write_bytes(b"half")
    (run / "samples" / ".half.png").write_bytes(b"half")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    page = report(run)
    after = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    assert set(after) - set(before) == {run / "report.html"}
    assert all(after[path] == before[path] for path in before)
    assert len(page.all("video")) == 7
    first = (run / "report.html").read_text()
    assert write_report(run).read_text() == first
