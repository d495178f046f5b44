"""``vidgen compare``: what it takes, prints and writes, and that it is quick."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from compared import PSNR, write_run

from vidgen.cli import main


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def runs() -> list[str]:
    return [str(write_run(Path("runs") / f"run-{seed}", seed=seed, psnr=30.0 + seed)) for seed in (0, 1)]


def test_runs_are_compared_on_a_page_in_a_table_and_for_programs(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *runs, "out=both", "title=Two seeds"]) == 0
    out = capsys.readouterr().out
    assert "lfq x dit, 2 seeds" in out and "30.50 ± 0.50" in out and "both/compare.html" in out
    said = json.loads(Path("both/compare.json").read_text())
    assert said["title"] == "Two seeds"
    assert said["lines"][0]["values"][PSNR]["value"] == 30.5
    assert Path("both/compare.html").read_text().startswith("<!doctype html>")
    assert "30.50 ± 0.50" in Path("both/compare.md").read_text()


def test_runs_may_be_given_as_an_option_and_none_counts_twice(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs/latest").symlink_to("run-0")
    assert main(["compare", f"runs=[{','.join(runs)}]", "runs/latest"]) == 0
    assert "2 seeds" in capsys.readouterr().out
    assert len(json.loads(Path("runs/compare/compare.json").read_text())["lines"][0]["cells"]) == 2


def test_a_note_is_printed_where_figures_are_apart(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    other = str(write_run(Path("runs/larger"), height=32))
    assert main(["compare", *runs, other]) == 0
    out = capsys.readouterr().out
    assert "Note: Not measured alike" in out and "data.height=16" in out and "data.height=32" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "has no runs to compare"),
        (["nowhere"], "nowhere is not the folder of a run"),
        (["runs/run-0", "oput=x"], "Did you mean 'out'?"),
        (["runs/run-0", "--json"], "has no flag --json"),
        (["runs/run-0", "runs=3"], "'runs' is a list"),
        (["runs/run-0", "out=runs/run-0/config.yaml/x"], "cannot be written to"),
    ],
)
def test_mistakes_are_a_sentence(words: list[str], said: str, runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_it_compares_without_torch(runs: list[str], python: Callable[[str], CompletedProcess[str]]) -> None:
    done = python(
        "import sys\n"
        "from vidgen.cli import main\n"
        f"status = main({['compare', *(str(Path(run).resolve()) for run in runs)]})\n"
        "sys.exit('imported torch' if 'torch' in sys.modules else status)"
    )
    assert done.returncode == 0, done.stderr
