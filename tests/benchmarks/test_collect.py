"""Collecting results: what of a run is taken, what identifies it, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import collect
import pytest
import records
import yaml
from figures import RESULTS, result

from vidgen import UserError
from vidgen.evaluation import rows

Make = Callable[..., Path]


def test_every_result_is_taken_with_where_it_comes_from(make_run: Make, tmp_path: Path) -> None:
    run = make_run(seed=3)
    count = collect.add("table", run, tmp_path / "results")
    (first,) = [json.loads(line) for line in (tmp_path / "results" / "table.jsonl").read_text().splitlines()]
    figures = first["rows"]
    assert len(figures) == count == len(RESULTS) + 3  # and parameters twice, operations once; no curve
    assert first["schema"] == 2
    assert figures[0] == {
        "stage": "evaluation",
        "name": "reconstruction/psnr",
        "value": 31.5,
        "interval": [31.0, 32.0],
        "n": 256,
        "protocol": "mean over frames",
        "seconds": 90.0,
        "split": "test",
        "step": 40,
    }
    assert (first["run"], first["seed"], first["precision"], first["commit"]) == (run.name, 3, "bf16", "0123456789ab")
    assert (first["tokenizer"], first["generator"], first["data"]) == ("lfq", "dit", "worlds")
    assert first["hardware"]["cores"] == 2
    assert first["versions"]["torch"] == "2.15.0"
    assert {row["name"]: row["value"] for row in figures}["tokenizer/parameters"] == 2_000_000


def test_a_later_evaluation_takes_the_place_of_the_run_s_own(make_run: Make, tmp_path: Path) -> None:
    run = make_run()
    (run / "eval").mkdir()
    rows.append(run / "eval" / "metrics.jsonl", [result("samples/motion_fd", 7.5, n=256)])
    own = yaml.safe_load((run / "config.yaml").read_text())
    (run / "eval" / "config.yaml").write_text(yaml.safe_dump(own | {"command": "vidgen eval"}))
    found = collect.collect(run, again="eval")
    assert found[0].origin == collect.collect(run)[0].origin
    assert (found[0].row.name, found[0].row.value) == ("samples/motion_fd", 7.5)
    assert {record.row.seconds for record in found} == {90.0}
    assert "reconstruction/psnr" not in {record.row.name for record in found}
    with pytest.raises(UserError, match=r"There are no results in .*nothing"):
        collect.collect(run, again="nothing")


def test_a_later_evaluation_by_other_options_is_another_recipe(make_run: Make) -> None:
    """It is called as a run that had been measured so from the beginning; what changes no figure makes no difference."""
    command = "vidgen fit tokenizer=lfq generator=dit evaluation.steps=10"
    run = make_run(command=command, evaluation={"steps": 10})
    (run / "eval").mkdir()
    rows.append(run / "eval" / "metrics.jsonl", [result("samples/motion_fd", 7.5, n=256)])
    own = yaml.safe_load((run / "config.yaml").read_text())
    changes = {"steps": 200, "guidance_scale": None, "metrics": ["kvd"], "shown": 3}
    (run / "eval" / "config.yaml").write_text(yaml.safe_dump(own | {"evaluation": own["evaluation"] | changes}))
    found = collect.collect(run, again="eval")[0].origin
    so = make_run("other", command=command.replace("10", "200"), evaluation={"steps": 200})
    assert (found.command, found.config) == ((like := collect.collect(so)[0].origin).command, like.config)
    assert found.config != collect.collect(run)[0].origin.config
    of_both = [{record.row.name for record in collect.collect(run, again=again)} for again in ("eval", None)]
    assert ["generator/sample_flops" in names for names in of_both] == [False, True]  # it was counted of other steps


def test_records_survive_the_file(make_run: Make, tmp_path: Path) -> None:
    found = collect.collect(make_run())
    records.append(tmp_path / "table.jsonl", found[:2])
    records.append(tmp_path / "table.jsonl", found[2:])
    back = records.read(tmp_path / "table.jsonl")
    assert list(records.to_lines(back)) == list(records.to_lines(found))
    assert back[0] == found[0]
    assert math.isnan(back[3].row.value)


def test_a_run_that_is_there_already_is_passed_over(make_run: Make, tmp_path: Path) -> None:
    run = make_run()
    assert collect.add("table", run, tmp_path) > 0
    before = (tmp_path / "table.jsonl").read_text()
    assert collect.add("table", run, tmp_path) == 0
    assert (tmp_path / "table.jsonl").read_text() == before


def test_other_figures_of_the_same_run_are_refused(make_run: Make, tmp_path: Path) -> None:
    run = make_run()
    collect.add("table", run, tmp_path)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(result("reconstruction/ssim", 0.9).to_dict()) + "\n")
    with pytest.raises(UserError, match=r"table\.jsonl has other figures of 2026-01-31-lfq-dit: remove its lines"):
        collect.add("table", run, tmp_path)


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"seed": 1}, True),
        ({"command": "vidgen fit seed=1"}, True),
        ({"trainer": {"precision": "fp32"}}, True),
        ({"runs": "elsewhere"}, True),
        ({"tokenizer": {"from": "/a/b/run"}}, False),
        ({"generator": {"depth": 7}}, False),
        ({"data": {"objects": 2}}, False),
    ],
)
def test_what_was_compared_is_the_recipe_but_for_seed_and_machine(make_run: Make, changes: dict, same: bool) -> None:
    before, after = (collect.collect(run)[0].origin.config for run in (make_run("a"), make_run("b", **changes)))
    assert (before == after) is same


def test_folders_of_a_machine_are_cut_to_their_names(make_run: Make) -> None:
    command = "vidgen fit data=folder data.path=/mine/clips seed=1"
    mine = collect.collect(make_run("a", command=command, data={"path": "/mine/clips"}))[0].origin
    yours = collect.collect(make_run("b", command=command.replace("mine", "yours"), data={"path": "/yours/clips"}))[0].origin
    assert mine.command == yours.command == "vidgen fit data=folder data.path=clips seed=1"
    assert mine.config == yours.config
    assert "mine" not in next(records.to_lines(collect.collect(make_run("c", data={"path": "/mine/clips"}))))


def test_a_quantizer_that_is_not_the_recipes_own_is_named(make_run: Make) -> None:
    assert collect.collect(make_run("a"))[0].origin.tokenizer == "lfq"
    assert collect.collect(make_run("b", quantizer="kl"))[0].origin.tokenizer == "lfq, quantizer kl"


def test_a_run_that_is_not_finished_is_refused(make_run: Make, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(status="running")
    assert collect.main(["table", str(run)]) == 2
    assert "is not finished: repeat its command" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["state.json", "environment.json", "model/config.json"])
def test_what_is_no_run_is_refused(make_run: Make, file: str) -> None:
    run = make_run()
    (run / file).unlink()
    with pytest.raises(UserError, match=rf"There is no {Path(file).name} in .*: name the folder of a run"):
        collect.collect(run)


@pytest.mark.parametrize("broken", ["{", "3", '{"schema": 1}', '{"schema": 2}', '{"schema": 2, "run": "x"}'])
def test_a_broken_line_is_named(make_run: Make, tmp_path: Path, broken: str) -> None:
    collect.add("table", make_run(), tmp_path)
    with (tmp_path / "table.jsonl").open("a") as file:
        file.write(broken + "\n")
    with pytest.raises(UserError, match=r"Line 2 of .*table\.jsonl is not a run's results"):
        records.read(tmp_path / "table.jsonl")


def test_a_changed_schema_needs_a_new_number() -> None:
    """Whoever changes a key changes these two together."""
    assert records.SCHEMA == 2
    assert [field.name for field in records.fields(records.Origin)] == [
        *("run", "command", "tokenizer", "generator", "data", "config", "seed", "precision", "hardware", "versions", "commit")
    ]
