"""Rendering: figures come from records alone, tables stand between their markers, and a check finds every difference."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from pathlib import Path

import collect
import part_tables
import pytest
import records
import render
import suite
import yaml
from figures import result
from suite_records import all_records
from suite_records import suite as tiny

from vidgen import UserError, config

Make = Callable[..., Path]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "results"
    monkeypatch.setattr(render, "RESULTS", folder)
    return folder


def cells(table: str) -> list[list[str]]:
    """The rows of the first table of a text, head first."""
    first = next(part for part in table.split("\n\n") if part.startswith("|"))
    rows = first.splitlines()
    found = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert len({len(row) for row in found}) == 1
    return [found[0], *found[2:]]


def test_one_run_shows_its_figures_with_their_intervals(make_run: Make, results: Path) -> None:
    collect.add("first", make_run(), results)
    text = render.results()
    head, row = cells(text)
    table = dict(zip(head, row, strict=True))
    assert text.startswith("**first** (worlds)")
    assert (table["Tokenizer"], table["Generator"], table["Seeds"]) == ("lfq", "dit", "1")
    assert table["PSNR, dB ↑"] == "31.50 (31.00–32.00)"
    assert table["Codebook usage, % ↑"] == "75.0"
    assert table["Samples: Law-legal, % ↑"] == "80.0 (75.0–85.0)"
    assert "Settings" not in table
    assert (table["Parameters of the generator"], table["Sampling, FLOPs"]) == ("7 M", "2 G")  # recipes differ in their sizes
    assert "n is 256 clips. Brackets hold a run's 95 % interval." in text
    assert "Measured on A processor (2 cores, bf16) with torch 2.15.0 at `0123456789ab`." in text


def test_seeds_of_one_recipe_are_averaged(make_run: Make, results: Path) -> None:
    values = (30.0, 31.0, 35.0)
    for seed, value in enumerate(values):
        run = make_run(f"run-{seed}", seed=seed, command=f"vidgen fit seed={seed}", rows=(result("reconstruction/psnr", value),))
        collect.add("seeds", run, results)
    (row,) = cells(render.results())[1:]
    assert row[2:4] == ["3", f"32.00 ± {statistics.stdev(values) / math.sqrt(3):.2f}"]
    assert "± is the standard error of the mean over the seeds" in render.results()


def test_a_column_never_holds_figures_of_two_protocols(make_run: Make, results: Path) -> None:
    def add(run: str, protocol: str) -> None:
        made = make_run(run, seed=0, command=f"vidgen fit {run}", rows=(result("samples/motion_fd", 3.0, protocol=protocol),))
        collect.add("runs", made, results)

    add("run-0", "run@0123abcd, 256 real clips")
    add("run-1", "run@0123abcd, 128 real clips")
    assert len(cells(render.all_results())) > 1
    add("run-2", "run@4567abcd, 256 real clips")
    for table in (render.results, render.all_results):
        with pytest.raises(UserError, match=r"samples/motion_fd of runs.jsonl holds figures of run@0123abcd and of run@4567abcd"):
            table()


def test_headings_say_the_protocol_and_what_a_measure_is_of(make_run: Make, results: Path) -> None:
    """Reconstructions and samples have figures of one name, and each compares with others of its hash alone."""
    figures = [
        result(name, 3.0, protocol="run@0123abcd, 256 real clips", n=256)
        for name in ("reconstruction/motion_fd", "samples/motion_fd", "samples/motion_fd_extrapolated")
    ]
    collect.add("runs", make_run(rows=tuple(figures)), results)
    (head, _), long = cells(render.results()), dict(cells(render.all_results())[1:])
    assert "Samples: motion-FD ↓<br>`run@0123abcd`" in head
    assert {
        "Reconstructions: motion-FD ↓<br>`run@0123abcd`",
        "Samples: motion-FD ↓<br>`run@0123abcd`",
        "Samples: motion-FD, extrapolated ↓<br>`run@0123abcd`",
    } <= set(long)


def test_columns_of_other_numbers_of_clips_are_named(make_run: Make, results: Path) -> None:
    for number, read in enumerate((170, 253)):
        rows = [result(name, 0.5, n=256) for name in ("reconstruction/psnr", "samples/law_legal")]
        rows.append(result("samples/law_residual", 0.5, n=read))
        run = make_run(f"run-{number}", generator={"depth": number + 1}, rows=tuple(rows))
        collect.add("runs", run, results)
    assert 'n is 256 clips; 170 to 253 of "Samples: Law residual".' in render.results()


def test_the_command_shown_makes_the_run_anew(make_run: Make, results: Path) -> None:
    """Whoever goes on with a run types its recipe all the same, and a folder that nobody else has."""
    collect.add("runs", make_run(command="vidgen fit generator.depth=2 resume=runs/2026-01-31-lfq-dit"), results)
    assert "lfq x dit: `vidgen fit generator.depth=2` (seed 0" in render.all_results()


def test_recipes_stay_apart_and_say_what_sets_them_apart(make_run: Make, results: Path) -> None:
    for name, depth in (("a", 2), ("b", 4)):
        command = f"vidgen fit tokenizer=lfq generator.depth={depth} seed=0 trainer.precision=bf16"
        collect.add("depth", make_run(name, generator={"depth": depth}, command=command), results)
    head, *rows = cells(render.results())
    assert [row[head.index("Settings")] for row in rows] == ["`generator.depth=2`", "`generator.depth=4`"]


def test_the_long_table_has_every_figure_and_every_rule(make_run: Make, results: Path) -> None:
    collect.add("long", make_run(), results)
    text = render.all_results()
    table = dict(cells(text)[1:])
    assert table["Samples: Law residual, px ↓"] == "no value"
    assert table["Parameters of the generator"] == "7 M"
    assert "- by the judge: `samples/law_legal`" in text
    assert "`vidgen fit tokenizer=lfq generator=dit` (seed 0; recipe `" in text


def test_without_results_the_reader_is_told_how_to_come_by_some(results: Path) -> None:
    assert "benchmarks/collect.py" in render.results()
    assert "|" not in render.results()


@pytest.mark.parametrize("name", render.TABLES)
def test_every_table_is_whole_and_made_the_same_twice(name: str) -> None:
    text = render.TABLES[name]()
    assert text
    assert text == render.TABLES[name]()
    if "|" in text:
        cells(text)


def test_every_recipe_is_in_the_table_of_parts() -> None:
    text = render.parts()
    for group in {*config.GROUPS.values()} - {"metric"}:  # not a group of the command line
        for path in (config.config_dir() / group).glob("*.yaml"):
            assert f"| `{group}={path.stem}` |" in text


def test_what_is_between_markers_is_replaced_and_nothing_else() -> None:
    text = "before\n<!-- experiments:begin -->\nold\nlines\n<!-- experiments:end -->\nafter\n"
    made = render.rendered(text, "x.md")
    assert made == f"before\n<!-- experiments:begin -->\n{render.experiments()}\n<!-- experiments:end -->\nafter\n"
    assert render.rendered(made, "x.md") == made


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("<!-- result:begin -->\n<!-- result:end -->", "x.md asks for a table 'result'. Did you mean 'results'? There are: "),
        ("<!-- parts:begin -->\n", "x.md needs one line <!-- parts:begin --> and, after it, one <!-- parts:end -->."),
        ("<!-- parts:end -->\n<!-- parts:begin -->\n", "x.md needs one line"),
        ("<!-- parts:end -->\n<!-- parts:begin -->\n<!-- parts:end -->\n", "x.md needs one line"),
        ("<!-- parts:begin -->\n<!-- parts:begin -->\n<!-- parts:end -->\n", "x.md needs one line"),
    ],
)
def test_markers_that_make_no_table_are_told(text: str, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        render.rendered(text, "x.md")
    assert str(error.value).startswith(sentence)


def test_a_check_writes_nothing_and_fails_until_it_is_rendered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(render, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    for name in ("README.md", "CONTRIBUTING.md"):
        (tmp_path / name).write_text("no table\n")
    page = tmp_path / "docs" / "page.md"
    page.write_text("<!-- parts:begin -->\n<!-- parts:end -->\n")
    assert render.main(["--check"]) == 1
    assert capsys.readouterr().err.startswith("docs/page.md is not what its tables are made of: run python benchmarks/render.py")
    assert page.read_text() == "<!-- parts:begin -->\n<!-- parts:end -->\n"
    assert render.main([]) == 0
    assert "`tokenizer=lfq`" in page.read_text()
    assert render.main(["--check"]) == 0
    old = tmp_path / "docs" / "benchmark" / "suite-gone-pairs.svg"
    old.parent.mkdir(exist_ok=True)
    old.write_text("a picture of a suite that is gone\n")
    assert render.main(["--check"]) == 1
    assert capsys.readouterr().err.startswith("docs/benchmark/suite-gone-pairs.svg is made of no results any more")
    assert old.exists()
    assert render.main([]) == 0
    assert not old.exists()
    page.write_text("<!-- part:begin -->\n<!-- part:end -->\n")
    assert render.main(["--check"]) == 2
    assert "render: page.md asks for a table 'part'." in capsys.readouterr().err


def test_budgets_that_differ_are_told_below_the_table_of_learning() -> None:
    text = part_tables.learning()
    for name in render.learn.generators():
        budget = render.learn.small_generator(name)["training"]
        assert f"`{name}` {budget['steps']:,} of {budget['batch_size']}" in text
    assert "Measured on " in text and "Rows of an older commit may have had fewer steps." in text


def test_worlds_stand_before_other_results(make_run: Make, results: Path) -> None:
    for name in ("asl", "worlds", "zoo"):
        collect.add(name, make_run(name), results)
    assert [path.stem for path in render._of_runs()] == ["worlds", "asl", "zoo"]


# Suites


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one suite, ``tiny``, and a page that shows it; with neither pictures nor other results."""
    monkeypatch.setattr(render, "ROOT", tmp_path)
    monkeypatch.setattr(suite, "SUITES", tmp_path / "benchmarks" / "suites")
    monkeypatch.setattr(suite, "RESULTS", tmp_path / "benchmarks" / "results" / "suites")
    monkeypatch.setattr(render.rates, "cells", lambda kind: [])
    monkeypatch.setattr(render.sweeps, "points", list)
    monkeypatch.setitem(render.TABLES, "suite-tiny", lambda: render.suite_table("tiny"))
    for folder in ("docs", "benchmarks/suites"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("README.md", "CONTRIBUTING.md"):
        (tmp_path / name).write_text("no table\n")
    (tmp_path / "docs" / "benchmark.md").write_text("<!-- suite-tiny:begin -->\n<!-- suite-tiny:end -->\n")
    recipe = {
        "words": "Equal steps.",
        "budget": {"tokenizer": {"steps": 600}, "generator": {"steps": 1200}},
        "common": ["data=worlds", "evaluation.samples=128"],
        "grid": {"tokenizer": ["kl", "lfq"], "generator": ["dit", "ar"]},
        "seeds": [0, 1, 2],
    }
    (tmp_path / "benchmarks" / "suites" / "tiny.yaml").write_text(f"# Which is best?\n{yaml.safe_dump(recipe)}")
    return tmp_path


def test_a_suite_that_was_not_run_says_how(project: Path) -> None:
    assert render.main([]) == 0
    text = (project / "docs" / "benchmark.md").read_text()
    assert "**Which is best?**\n\nEqual steps.\n\nNot run yet: `python benchmarks/run.py tiny`." in text
    assert not (project / "benchmarks" / "results").exists()


def test_a_suite_is_rendered_into_its_page_and_for_papers(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records.append(suite.load("tiny", suite.SUITES).results, all_records(tiny()))
    page, paper = project / "docs" / "benchmark.md", project / "benchmarks" / "results" / "suites" / "tiny.tex"
    assert render.main(["--check"]) == 1
    assert not paper.exists()
    assert render.main([]) == 0
    assert "| kl | dit | 3 |" in page.read_text()
    pictures = sorted((project / "docs" / "benchmark").glob("suite-tiny-*.svg"))
    assert pictures
    assert all(f"](benchmark/{picture.name})" in page.read_text() for picture in pictures)
    assert paper.read_text().count(r"\\") > 4
    before = page.read_bytes(), paper.read_bytes()
    assert render.main(["--check"]) == 0
    assert render.main([]) == 0
    assert (page.read_bytes(), paper.read_bytes()) == before
    capsys.readouterr()
    paper.write_text(paper.read_text().replace("dit", "ar", 1))
    assert render.main(["--check"]) == 1
    assert capsys.readouterr().err.startswith("benchmarks/results/suites/tiny.tex is not what its tables are made of")
    assert render.main([]) == 0
    pictures[0].write_text("another picture")
    assert render.main(["--check"]) == 1
    assert capsys.readouterr().err.startswith(f"docs/benchmark/{pictures[0].name} is not what its tables are made of")


def test_a_suite_that_no_page_shows_is_written_beside_the_runs(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "docs" / "benchmark.md").write_text("no table\n")
    records.append(suite.load("tiny", suite.SUITES).results, all_records(tiny()))
    assert render.main(["--check"]) == 0
    assert not (project / "runs").exists()
    assert render.main([]) == 0
    assert "runs/suites/tiny/table.md" in capsys.readouterr().out
    assert (project / "runs" / "suites" / "tiny" / "table.md").read_text().startswith("**Which is best?**")
    assert (project / "runs" / "suites" / "tiny" / "table.tex").exists()
    assert not (project / "benchmarks" / "results" / "suites" / "tiny.tex").exists()


def test_what_others_have_published_has_a_source_each() -> None:
    groups = yaml.safe_load(render.PUBLISHED.read_text(encoding="utf-8"))
    for group in groups:
        for row in group["rows"]:
            whole = group | row
            assert len(row["values"]) == len(group["measures"])
            assert any(row["values"])
            assert all(isinstance(value, str) for value in row["values"])  # as printed there, with its zeros
            assert whole["source"].startswith("https://")
            assert all(whole[key] for key in render.ABOUT_PUBLISHED)
    assert render.published().count("(https://") >= len(groups)
