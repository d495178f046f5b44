"""What is said of runs side by side: which make a line, which figures share a column, and what stands in the page."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compared import FD, LEGAL, PSNR, cell, row, write_run

from vidgen.errors import UserError
from vidgen.evaluation import report
from vidgen.evaluation.cells import read_run
from vidgen.evaluation.compare import content, markdown, rule, without_samples, write_page
from vidgen.evaluation.pictures import cut


def embedded(page: Path) -> dict[str, Any]:
    """The data of a page, as a browser would take it out."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    return json.loads(found[1])


def one(said: dict[str, Any], name: str) -> dict[str, Any]:
    (line,) = [line for line in said["lines"] if line["name"] == name]
    return line


def keys(said: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [column for column in said["columns"] if column["key"].partition("~")[0] == name]


# Lines


def test_seeds_make_a_line_with_their_mean_and_its_standard_error(tmp_path: Path) -> None:
    cells = [cell(seed=seed, values={PSNR: value}) for seed, value in ((2, 33.0), (0, 30.0), (1, 30.0))]
    said = embedded(write_page(content(cells, title="Three"), tmp_path / "page.html"))
    (line,) = said["lines"]
    assert [one["seed"] for one in line["cells"]] == ["0", "1", "2"]
    assert [one["values"][PSNR]["value"] for one in line["cells"]] == [30.0, 30.0, 33.0]
    mean = line["values"][PSNR]
    assert mean["value"] == pytest.approx(31.0)
    assert mean["error"] == pytest.approx(math.sqrt(3) / math.sqrt(3))  # a deviation of the square root of 3, of 3 seeds
    assert (mean["text"], mean["under"]) == ("31.00", "± 1.00")


def test_a_seed_without_a_value_is_counted(tmp_path: Path) -> None:
    found = content(
        [cell(seed=0), cell(seed=1, values={PSNR: math.nan, LEGAL: 0.7}), cell(seed=2, values={LEGAL: 0.6})], title=""
    )
    mean = found["lines"][0]["values"]
    assert mean[PSNR] == {"value": 30.0, "error": None, "text": "30.00", "under": "1 of 3 seeds", "n": 128}
    assert (mean[LEGAL]["text"], mean[LEGAL]["under"]) == ("60.0", "± 5.8")
    assert found["lines"][0]["cells"][1]["values"][PSNR]["value"] is None
    json.dumps(found, allow_nan=False)


def test_a_single_run_has_its_interval() -> None:
    found = content([cell(rows={PSNR: row(PSNR, 30.0, interval=(29.5, 30.5), n=8)})], title="")
    assert found["lines"][0]["values"][PSNR] == {"value": 30.0, "text": "30.00", "under": "29.50–30.50", "n": 8}


def test_recipes_of_one_name_are_told_apart_by_what_differs() -> None:
    cells = [cell(settings={"generator.depth": depth}, seed=seed) for depth in (6, 12) for seed in (0, 1)]
    found = content([*cells, cell("kl"), cell(seed=0)], title="")["lines"]
    assert [(line["id"], line["told"], [one["seed"] for one in line["cells"]]) for line in found] == [
        ("lfq-x-dit", "generator.depth=6", ["0", "0.2", "1"]),  # the last cell is the first recipe's, run again
        ("lfq-x-dit-2", "generator.depth=12", ["0", "1"]),
        ("kl-x-dit", "", ["0"]),
    ]


def test_baselines_come_last_and_have_a_word_of_their_own() -> None:
    h264 = cell("H.264", None, values={PSNR: 40.0}, settings={}, baseline=True, command="", config="")
    found = content([h264, cell()], title="")["lines"]
    assert [(line["name"], line["baseline"]) for line in found] == [("lfq x dit", False), ("H.264", True)]


# Columns


def test_columns_are_grouped_and_known_ones_come_in_their_order() -> None:
    values = {"new/figure": 1.0, FD: 3.0, LEGAL: 0.5, PSNR: 30.0, "generator/train_seconds": 5.0, "originals/law_legal": 1.0}
    found = content([cell(values=values)], title="")["columns"]
    assert [(column["group"], column["key"]) for column in found] == [
        ("Reconstruction", PSNR),
        ("Generation", FD),
        ("Generation", LEGAL),
        ("Cost", "generator/train_seconds"),
        ("References", "originals/law_legal"),
        ("References", "new/figure"),
    ]
    labels = {column["key"]: column["full"] for column in found}
    assert (labels[PSNR], labels[LEGAL]) == ("PSNR", "Law-legal of samples")  # the originals' has the same label


def test_two_protocols_have_columns_of_their_own_and_a_note_says_what_differs() -> None:
    one_rule, other = "run@0123abcd, 128 real clips", "run@4567abcd, 128 real clips"
    cells = [cell("kl", values={FD: 3.0}, protocol=one_rule), cell("lfq", values={FD: 4.0}, protocol=other)]
    said = content([*cells, cell("vq", values={FD: 5.0}, protocol=other)], title="")
    first, second = keys(said, FD)
    assert (first["apart"], second["apart"]) == ("run@0123abcd, 128 …", "run@4567abcd, 128 …")
    assert set(one(said, "kl x dit")["values"]) == {first["key"]}
    assert set(one(said, "lfq x dit")["values"]) == set(one(said, "vq x dit")["values"]) == {second["key"]}
    (note,) = said["notes"]
    assert "motion-FD" in note and "run@0123abcd" in note and "(lfq x dit, vq x dit)" in note


def test_the_number_of_clips_is_part_of_the_rule_of_a_distance_and_of_no_mean() -> None:
    assert rule(row(FD, 1.0, protocol="run@0123abcd", n=64)) != rule(row(FD, 1.0, protocol="run@0123abcd", n=128))
    assert rule(row(LEGAL, 1.0, protocol="by the judge", n=64)) == rule(row(LEGAL, 1.0, protocol="by the judge", n=128))
    said = content([cell("kl", n=64), cell("lfq", n=128)], title="")
    assert [column["n"] for column in keys(said, LEGAL)] == ["64–128"]
    (note,) = said["notes"]
    assert note.startswith("Of unlike numbers of clips (64, 128): ") and "Law-legal" in note
    assert content([cell("kl", n=64), cell("lfq", n=64)], title="")["notes"] == []


def test_figures_of_other_clips_share_no_column_but_costs_do() -> None:
    values = {PSNR: 30.0, "generator/parameters": 1e6, "codebook/usage": 0.5}
    small, large = (cell(name, values=values, settings={"data.height": size}) for name, size in (("kl", 16), ("vq", 32)))
    said = content([small, large], title="")
    assert [column["apart"] for column in keys(said, PSNR)] == ["data.height=16", "data.height=32"]
    assert len(keys(said, "generator/parameters")) == len(keys(said, "codebook/usage")) == 1
    (note,) = said["notes"]
    assert "PSNR" in note and "data.height=16 (kl x dit); data.height=32 (vq x dit)" in note


def test_seconds_of_two_machines_are_told() -> None:
    timed = {"generator/train_seconds": 9.0}
    said = content([cell("kl", values=timed), cell("vq", values=timed, machine="Another")], title="")
    assert said["notes"] == ["Seconds were taken on 2 machines: compare them within one. A processor, 2 cores, fp32; Another."]
    assert dict(said["facts"])["Hardware"] == ["A processor, 2 cores, fp32 (1 of 2 runs)", "Another (1 of 2 runs)"]


def test_losses_of_unlike_generators_are_drawn_apart() -> None:
    said = content([cell("kl", "dit"), cell("lfq", "dit"), cell("lfq", "ar")], title="")
    assert [chart["title"] for chart in said["charts"]] == ["Generator dit: validation loss", "Generator ar: validation loss"]
    drawn = [line["cells"][0]["curves"][0]["chart"] for line in said["lines"]]
    assert drawn[0] == drawn[1] != drawn[2]


# Runs


def test_a_run_is_read_with_its_costs_curves_and_samples(tmp_path: Path) -> None:
    found = read_run(write_run(tmp_path / "a-run"))
    assert (found.run, found.name, found.data, found.seed) == ("a-run", "lfq x dit", "worlds", 0)
    values = {name: one.value for name, one in found.rows.items()}
    assert values == {
        PSNR: 30.0,  # measured twice, the last counts
        "tokenizer/parameters": 2e6,
        "generator/sample_flops": 2e9,
        "tokenizer/train_seconds": 12.5,
        "generator/train_seconds": 25.0,
    }
    assert found.rows["generator/train_seconds"].interval is None
    (curve,) = found.curves
    assert curve.points == ((10, 1.0, 2.0), (20, 2.0, 1.0))  # of the validation split, a repeated step once
    assert found.sheet is not None and found.sheet.labels == ("bounce", "gravity", "orbit")
    clips = cut(found.sheet.data, 3, 3, 4)
    greys = clips.mean(axis=(2, 3, 4, 5))
    assert np.abs(greys - 10 * np.array([[0, 3, 6], [1, 4, 7], [2, 5, 8]])).max() < 3  # labels are asked for in turns
    assert "seed" not in found.settings and found.settings["generator.depth"] == 6


def test_runs_that_differ_in_their_seed_alone_are_a_line(tmp_path: Path) -> None:
    cells = [read_run(write_run(tmp_path / f"run-{seed}", seed=seed, psnr=30.0 + seed)) for seed in (0, 1)]
    cells.append(read_run(write_run(tmp_path / "deeper", depth=12)))
    found = content(cells, title="")["lines"]
    assert [(line["told"], len(line["cells"])) for line in found] == [("generator.depth=6", 2), ("generator.depth=12", 1)]
    assert found[0]["values"][PSNR]["value"] == 30.5


def test_of_long_clips_as_many_frames_as_a_sprite_holds(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", samples=0)
    (run / "samples").mkdir()
    np.save(run / "samples" / "samples.npy", np.zeros((9, 200, 8, 64, 3), dtype=np.uint8))
    found = read_run(run).sheet
    assert found is not None and (found.frames, found.fps) == (67, 8 / 3)  # 200 x 3 x 64 is 2.3 times what a sprite holds


def test_a_tokenizer_alone_has_no_samples(tmp_path: Path) -> None:
    found = read_run(write_run(tmp_path / "run", stage="tokenizer", samples=0))
    assert (found.name, found.sheet) == ("lfq", None)


def test_what_eval_has_measured_later_is_compared_too(tmp_path: Path) -> None:
    run, again = write_run(tmp_path / "run"), write_run(tmp_path / "run" / "eval", psnr=31.0)
    for name in ("state.json", "environment.json", "model/config.json"):
        (again / name).unlink()
    found = read_run(again)
    assert (found.run, found.rows[PSNR].value, found.machine) == ("run/eval", 31.0, read_run(run).machine)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"status": "running"}, "is not finished: give its command again"),
        ({"remove": "state.json"}, "is not the folder of a run"),
        ({"remove": "config.yaml"}, "is not the folder of a run"),
        ({"remove": "metrics.jsonl"}, "There are no results in"),
    ],
)
def test_what_is_no_finished_run_is_told_in_a_sentence(tmp_path: Path, changes: dict[str, str], said: str) -> None:
    run = write_run(tmp_path / "runs" / "run", **{key: value for key, value in changes.items() if key != "remove"})
    if "remove" in changes:
        (run / changes["remove"]).unlink()
    with pytest.raises(UserError, match=said) as error:
        read_run(run)
    assert str(run) in str(error.value) and "\n" not in str(error.value)


# What is written


def test_names_cannot_leave_the_data_of_the_page(tmp_path: Path) -> None:
    attack = "</script><script>alert(1)</script><!-- <script>"
    page = write_page(content([cell(attack, command=attack)], title=attack), tmp_path / "page.html")
    text = page.read_text()
    assert len(re.findall(r"<script[ >]", text, re.IGNORECASE)) == 2
    assert "<!--" not in text
    assert embedded(page)["lines"][0]["cells"][0]["command"] == attack


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    text = write_page(content([cell(first=50)], title="Page"), tmp_path / "page.html").read_text()
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'" in text
    assert not re.search(r"(src|href)=|@import|url\(|fetch\(|XMLHttp|innerHTML|eval\(", text)
    assert text.count("data:image/webp;base64,") == 1


def test_the_page_looks_as_the_report_does() -> None:
    """The colours of both, which tests of the report hold to be told apart; this one has more for curves."""
    folder = Path(report.__file__).parent
    ours, theirs = (
        re.findall(r"(--\w+): (#\w+);", (folder / name).read_text()) for name in ("compare.html.j2", "report.html.j2")
    )
    assert set(theirs) < set(ours)
    assert {name for name, _ in set(ours) - set(theirs)} == {"--c5", "--c6", "--c7"}


def test_the_json_has_everything_but_the_samples(tmp_path: Path) -> None:
    said = content([cell(first=50), cell(seed=1, first=60)], title="Page")
    plain = without_samples(said)
    assert "base64" not in json.dumps(plain)
    assert plain["lines"][0]["values"] == said["lines"][0]["values"]
    assert said["lines"][0]["cells"][0]["sheet"]["labels"] == ("bounce", "gravity")  # and leaves what it was given as it was


def test_the_table_in_markdown() -> None:
    cells = [cell(seed=seed, values={PSNR: value}) for seed, value in ((0, 30.0), (1, 32.0))]
    text = markdown(content([*cells, cell("a|b", values={PSNR: 20.0})], title="Two"))
    assert "| Recipe | Seeds | PSNR, dB ↑ |" in text
    assert "| lfq x dit | 2 | 31.00 ± 1.00 |" in text
    assert "| a\\|b x dit | 1 | 20.00 |" in text
    assert "- lfq x dit, seed 1: `vidgen fit tokenizer=lfq generator=dit seed=1`" in text
