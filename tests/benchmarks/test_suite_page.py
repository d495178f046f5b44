"""The page of a suite: what of its records and sheets it shows."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import records
import suite_page
from collect import fingerprint
from compared import LABELS, shades
from figures import result

from vidgen.cli.compose import compose
from vidgen.errors import UserError
from vidgen.evaluation import compare
from vidgen.evaluation.pictures import sprite
from vidgen.evaluation.rows import Row

WORDS = ("tokenizer=kl", "generator=dit", "generator.depth=4", "data=worlds")
SUITE = SimpleNamespace(name="tiny", title="Which?", words="Equal steps.")


@pytest.fixture(scope="module")
def config() -> str:
    return fingerprint(compose("fit", WORDS))


def of(config: str, seed: int, value: float, **changes: Any) -> list[records.Record]:
    """A run's records: a result, a cost and a curve."""
    said = {
        "run": f"kl-dit-{seed}",
        "command": f"vidgen fit {' '.join(WORDS)} seed={seed} runs=runs",
        "tokenizer": "kl",
        "generator": "dit",
        "data": "worlds",
        "config": config,
        "seed": seed,
        "precision": "fp32",
        "hardware": {"cpu": "A processor", "cores": 2},
        "versions": {"torch": "2.15.0"},
        "commit": "0123abcd",
    }
    origin = records.Origin(**said | changes)
    curve = [
        Row(stage="generator", split="val", step=step, seconds=1.0 * step, name="loss/validation", value=2.0 / step)
        for step in (1, 2)
    ]
    rows = [result("reconstruction/psnr", value, n=8), result("generator/parameters", 1e6), *curve]
    return [records.Record(origin=origin, row=row) for row in rows]


def baseline(config: str) -> list[records.Record]:
    return of(config, 0, 40.0, run="baseline", command="", tokenizer="H.264", generator=None)[:1]


@pytest.fixture
def written(config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the page is made of; of seed 1 no samples are kept."""
    (tmp_path / f"{config}-0.webp").write_bytes(sprite(shades(50)))
    meta = {"labels": list(LABELS), "frames": 5, "height": 16, "width": 16, "columns": 3, "fps": 8}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(suite_page, "write_page", lambda said, out: seen.append(said) or compare.write_page(said, out))
    found = [*baseline("of the clips"), *of(config, 1, 32.0), *of(config, 0, 30.0)]
    assert suite_page.page(SUITE, found, tmp_path, tmp_path / "report.html") == tmp_path / "report.html"
    return seen[0]


def test_records_make_lines_with_means_curves_and_samples(written: dict[str, Any]) -> None:
    assert (written["kind"], written["title"], written["words"]) == ("vidgen suite · tiny", "Which?", "Equal steps.")
    line, h264 = written["lines"]
    assert (line["name"], h264["name"], h264["baseline"]) == ("kl x dit", "H.264", True)
    assert line["values"]["reconstruction/psnr"]["value"] == 31.0
    assert line["values"]["reconstruction/psnr"]["error"] == pytest.approx(1.0)
    assert [cell["seed"] for cell in line["cells"]] == ["0", "1"]
    assert line["cells"][0]["curves"][0]["points"] == [[1, 1.0, 2.0], [2, 2.0, 1.0]]
    assert [cell["sheet"] is None for cell in line["cells"]] == [False, True]
    assert line["cells"][0]["sheet"]["labels"] == LABELS
    assert written["notes"] == []  # a baseline is of the clips of the others


def test_a_recipe_is_shown_whole_where_its_words_still_mean_it(written: dict[str, Any]) -> None:
    line = written["lines"][0]
    assert line["settings"]["generator.depth"] == "4"
    assert line["settings"]["generator.width"] == "256"  # which nobody typed
    assert "depth: 4" in line["cells"][1]["config"] and "seed: 1" in line["cells"][1]["config"]


@pytest.mark.parametrize("words", [WORDS, ("tokenizer=kl", "generator.gone=1")])
def test_otherwise_the_words_alone_are_shown(words: tuple[str, ...]) -> None:
    assert suite_page._recipe(words, "another hash") == {"recipe": "another hash"} | dict(
        word.partition("=")[::2] for word in words
    )


@pytest.mark.usefixtures("written")
def test_the_page_holds_the_very_file_of_the_samples(config: str, tmp_path: Path) -> None:
    data = base64.b64encode((tmp_path / f"{config}-0.webp").read_bytes()).decode()
    assert (tmp_path / "report.html").read_text().count(data) == 1


def test_the_suite_that_is_named_is_written_below_runs(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = SimpleNamespace(**vars(SUITE), results=tmp_path / "tiny.jsonl", folder=tmp_path, cells=())
    monkeypatch.setitem(sys.modules, "suite", SimpleNamespace(load=lambda name: tiny if name == "tiny" else unknown(name)))
    assert suite_page.main(["tiny"]) == 2
    assert "python benchmarks/run.py tiny" in capsys.readouterr().err
    records.append(tmp_path / "tiny.jsonl", of(config, 0, 30.0))
    assert suite_page.main(["tiny"]) == 0
    assert (tmp_path / capsys.readouterr().out.strip()).read_text().startswith("<!doctype html>")
    assert suite_page.main(["tony"]) == 2


def unknown(name: str) -> Any:
    raise UserError(f"There is no suite '{name}'.")
