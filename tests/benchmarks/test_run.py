"""Suites: what a yaml asks for, how a budget becomes steps, what is run, what is kept, and what a kill leaves."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import baselines
import lines
import made_suites
import numpy as np
import pytest
import records
import run
import suite as suites
import torch
import work
import yaml
from collect import collect, fingerprint
from footage import write
from suite_records import record
from torch.utils.flop_counter import FlopCounterMode

from vidgen.cli.progress import clock
from vidgen.config import load, names
from vidgen.data.worlds import Worlds
from vidgen.errors import UserError
from vidgen.evaluation.measure import Result
from vidgen.evaluation.pictures import cut

ROOT = Path(__file__).parents[2]
TINY = [
    "experiment=smoke",
    "tokenizer.backbone.widths=[16]",
    "generator.width=32",
    "generator.depth=1",
    "data.height=20",
    "data.width=20",
    "evaluation.clips=4",
    "evaluation.samples=6",
    "evaluation.metrics=[]",
]
YAML = {
    "words": "Equal steps.",
    "budget": {"tokenizer": {"steps": 3}, "generator": {"steps": 4}},
    "threads": 1,
    "common": TINY,
    "grid": {"tokenizer": ["lfq"], "generator": ["dit", "maskgit"]},
    "seeds": [0, 1],
    "sheets": True,
}
STEP = {"flops": 1.0, "tokens": 1.0, "clips": 1.0, "seconds": 1.0}
COST = {"tokenizer": STEP, "generator": STEP | {"trunk": 1.0}}
"""What a step of anything costs where that does not matter."""

Make = Callable[..., suites.Suite]


@pytest.fixture
def make_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Writes a suite's yaml and loads it; its results lie beside it."""
    monkeypatch.setattr(suites, "RESULTS", tmp_path / "results")

    def make(title: str = "# Which is better?", **changes: object) -> suites.Suite:
        values = {key: value for key, value in (YAML | changes).items() if value is not None}
        (tmp_path / "tiny.yaml").write_text(f"{title}\n{yaml.safe_dump(values, sort_keys=False)}")
        return suites.load("tiny", tmp_path)

    return make


@pytest.fixture
def fake(make_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A stand-in for ``vidgen fit``: the script that is given."""

    def make(script: str) -> None:
        path = tmp_path / "fit.py"
        path.write_text(script)
        monkeypatch.setattr(run, "FIT", (sys.executable, str(path)))

    return make


# What is asked --------------------------------------------------------------------------------------------------------------


def test_a_suite_is_the_product_of_its_grid_seed_by_seed(make_suite: Make) -> None:
    suite = make_suite(grid={"tokenizer": ["kl", "lfq"], "data.radius": [[2.0, 3.0]]}, extra=[["tokenizer=vq"]])
    assert suite.title == "Which is better?"
    assert [cell.words[len(TINY) :] for cell in suite.cells[:3]] == [
        ("tokenizer=kl", "data.radius=[2.0,3.0]"),
        ("tokenizer=lfq", "data.radius=[2.0,3.0]"),
        ("tokenizer=vq",),
    ]
    assert [cell.seed for cell in suite.cells] == [0, 0, 0, 1, 1, 1]
    assert [cell.name for cell in suite.cells[:2]] == ["kl-2.0x3.0-0", "lfq-2.0x3.0-0"]


def test_a_suite_is_like_another_but_for_what_it_says(make_suite: Make, tmp_path: Path) -> None:
    first = make_suite()
    own = {"words": "Shorter.", "like": "tiny", "budget": {"tokenizer": {"steps": 1}}, "grid": YAML["grid"], "seeds": [0]}
    (tmp_path / "other.yaml").write_text(f"# Which is sooner?\n{yaml.safe_dump(own, sort_keys=False)}")
    suite = suites.load("other", tmp_path)
    assert [cell.words for cell in suite.cells] == [cell.words for cell in first.cells if cell.seed == 0]
    assert suite.threads == first.threads and not suite.sheets
    assert suite.budget == {"tokenizer": ("steps", 1.0)} and suite.words == "Shorter."


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"budget": {"tokenizer": {"stepss": 3}}},
            r"says 'tokenizer: {'stepss': 3.*}': say one of steps, tokens, flops, seconds",
        ),
        ({"seeds": None}, "lacks seeds"),
        ({"gird": {}}, r"has the key 'gird', which no suite has\. Did you mean 'grid'"),
        ({"title": "words: none"}, "does not begin with a comment"),
        ({"like": "tony"}, r"There is no suite 'tony'\. Did you mean 'tiny'"),
    ],
)
def test_what_is_no_suite_is_told(make_suite: Make, changes: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make_suite(**changes)


def test_a_dry_run_says_what_it_does_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    """It writes a file into the checkout and may build data: nobody should have to find that out."""
    with pytest.raises(SystemExit):
        run.main(["--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "train nothing; what a step of a recipe costs is measured by a trial step" in told
    assert "work.json" in told


def test_an_unknown_suite_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["smok"]) == 2
    assert "There is no suite 'smok'. Did you mean 'smoke'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", suites.names())
def test_every_suite_names_parts_and_options_that_there_are(name: str) -> None:
    suite = suites.load(name)
    assert len({cell.name for cell in suite.cells}) == len({(cell.words, cell.again, cell.seed) for cell in suite.cells})
    assert len({cell.name for cell in suite.cells}) == len(suite.cells)
    for recipe in dict.fromkeys(cell.recipe for cell in suite.cells):
        assert run.composed(tuple(recipe.split(" ")))["seed"] == 0


def test_the_suite_for_cpus_is_the_grid_that_was_promised() -> None:
    suite = suites.load("cpu")
    assert set(suite.grid["tokenizer"]) == {"kl", "vq", "lfq", "gumbel", "fsq", "bsq"} <= set(names("tokenizers"))
    assert set(suite.grid["generator"]) == {load("generator", name)["name"] for name in names("generators")}
    assert len({cell.seed for cell in suite.cells}) >= 3


# How much work it is ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "steps"),
    [({"steps": 7}, 7), ({"flops": 1e6}, 10), ({"tokens": 2000}, 4), ({"seconds": 3.0}, 6), ({"seconds": 1e-9}, 1)],
)
def test_a_budget_becomes_steps(make_suite: Make, limit: dict, steps: int) -> None:
    suite = make_suite(budget={"generator": limit})
    cost = {"generator": {"flops": 1e5, "tokens": 500.0, "seconds": 0.5}, "tokenizer": {}}
    assert work.steps(suite, cost) == {"generator": steps}


def test_a_trial_counts_what_a_step_does() -> None:
    from vidgen import hub
    from vidgen.cli.compose import compose
    from vidgen.data.batches import to_video
    from vidgen.registry import build

    words = [*TINY, "tokenizer=kl", "generator=dit", "generator.training.batch_size=6"]
    found = work.trial(words)
    config = compose("fit", words)
    assert found["generator"]["tokens"] == 6 * 5 * 5 * 5
    assert (found["generator"]["clips"], found["tokenizer"]["clips"]) == (6, 8)
    assert found["generator"]["trunk"] == 1 * 3 * 3  # dit's patch of 5x2x2 over 5x5x5 cells
    assert "trunk" not in found["tokenizer"]
    tokenizer = hub.build_tokenizer(config["tokenizer"])
    clip = build("data", config["data"]).clip("train", 0)["video"]
    with FlopCounterMode(display=False) as counter:
        reconstruction, _, losses = tokenizer(to_video(torch.from_numpy(clip[None])))
        (losses.total + reconstruction.square().mean()).backward()
    assert found["tokenizer"]["flops"] == 8 * counter.get_total_flops()


def test_what_an_older_file_lacks_is_added_and_nothing_else_is_changed(make_suite: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps of a suite under way come from its file, whatever a trial would find today."""
    suite = make_suite(budget={"generator": {"flops": 1e6}}, grid={"tokenizer": ["lfq"], "generator": ["dit"]})
    recipe = suite.cells[0].recipe
    suite.folder.mkdir(parents=True)
    old = {"generator": {"flops": 1e4, "tokens": 8.0, "seconds": 0.5}, "tokenizer": {"flops": 9.0, "tokens": 8.0, "seconds": 0.5}}
    (suite.folder / "work.json").write_text(json.dumps({recipe: old}))
    trial = {stage: {"flops": 1.0, "tokens": 1.0, "seconds": 1.0, "clips": 4.0} for stage in old}
    trial["generator"]["trunk"] = 16.0
    monkeypatch.setattr(work, "trial", lambda words: trial)
    found = work.costs(suite)[recipe]
    added = {"generator": {"clips": 4.0, "trunk": 16.0}, "tokenizer": {"clips": 4.0}}
    assert found == {stage: old[stage] | added[stage] for stage in old}
    assert work.steps(suite, found) == {"generator": 100}
    monkeypatch.delattr(work, "trial")
    assert work.costs(suite)[recipe] == found  # and not measured once more


def test_records_say_what_the_trunk_was_given_and_how_many_clips(make_suite: Make) -> None:
    suite = make_suite()
    rows = [replace(row, step=50) for row in made_suites.results(generator__parameters=1e6, samples__law_legal=0.5)]
    records.append(suite.results, made_suites.records(rows, words=TINY))
    assert len(work.results(suite)) == 2  # nobody knows
    suite.folder.mkdir(parents=True)
    costs = {"clips": 32.0, "trunk": 16.0}
    others = {" ".join([*TINY, "tokenizer=lfq"]): {"generator": {"clips": 1.0}}, "tokenizer=vq": {"generator": {"clips": 2.0}}}
    known = {" ".join([*TINY, "tokenizer=lfq", "generator=dit"]): {"generator": costs}}
    (suite.folder / "work.json").write_text(json.dumps(others | known))
    values = {record.row.name: record.row.value for record in work.results(suite)}
    assert (values["generator/trunk_tokens"], values["generator/train_clips"]) == (16, 32 * 50)


def test_of_a_run_that_was_done_again_by_another_recipe_the_last_counts(make_suite: Make) -> None:
    """Else a table and its pictures would differ: one takes the last, the other a mean."""
    suite = make_suite(seeds=[0, 1])
    words = suite.cells[0].words
    old, new, other = (record(words, seed, "samples/law_legal", value) for seed, value in ((0, 0.1), (0, 0.3), (1, 0.5)))
    more = replace(old, row=replace(old.row, name="samples/class_accuracy"))
    records.append(suite.results, [old, more])
    records.append(suite.results, [replace(one, origin=replace(one.origin, config="another")) for one in (new, other)])
    assert [found.row.value for found in work.results(suite)] == [0.3, 0.5]


def test_results_come_in_the_order_of_the_suite_whatever_was_run_first(make_suite: Make) -> None:
    """Pages show them in their order, and charts give colours in it."""
    suite = make_suite(grid={"tokenizer": ["kl", "vq"], "generator": ["dit", "ar"]}, seeds=[0, 1])
    made = [record(cell.words, cell.seed, "samples/law_legal", number) for number, cell in enumerate(suite.cells)]
    codec = replace(made[0], origin=replace(made[0].origin, run=records.BASELINE, command="", tokenizer="H.264, crf 18"))
    records.append(suite.results, [codec, *made[::-1]])
    assert [found.row.value for found in work.results(suite)] == [0, 4, 1, 5, 2, 6, 3, 7, 0]


# What is run ------------------------------------------------------------------------------------------------------------------


def test_a_suite_runs_and_is_done(make_suite: Make, tmp_path: Path) -> None:
    """One real run: its figures, its curve, its sample sheet; and no second time."""
    suite = make_suite(grid={"tokenizer": ["lfq"], "generator": ["dit"]}, seeds=[1])
    grid = run.Grid(suite, tmp_path / "runs")
    (job,) = grid.jobs()
    assert run.run([job], []) == {"lfq-dit-1": 0}
    found = records.read(suite.results)
    names = {record.row.name for record in found}
    assert {"reconstruction/psnr", "samples/motion_fd", "samples/memorised", "samples/seconds", "generator/train_flops"} <= names
    assert {record.origin.config for record in found} == {job.config}
    values = {record.row.name: record.row.value for record in found}
    spent = grid.costs[suite.cells[0].recipe]["generator"]
    assert values["generator/train_flops"] == 4 * spent["flops"]
    assert values["generator/train_tokens"] == 4 * spent["tokens"]
    curves = {(record.row.stage, record.row.name, record.row.step) for record in found if record.row.split == "val"}
    assert {("tokenizer", "reconstruction/psnr", 3), ("generator", "loss/validation", 4)} <= curves
    samples = np.load(next(tmp_path.glob("runs/*/samples/samples.npy")))
    meta = json.loads((suite.folder / "meta.json").read_text())
    assert (meta["labels"], meta["columns"]) == (["bounce", "gravity", "orbit"], 2)
    kept = cut((suite.folder / f"{job.config}-1.webp").read_bytes(), 3, 2, 17)
    for label, column in ((0, 0), (2, 1)):  # noise suffers from WebP, but is nearest to itself
        difference = np.abs(kept[label, column].astype(float) - samples).mean((1, 2, 3, 4))
        assert difference.argmin() == 3 * column + label
    before = suite.results.read_text()
    assert run.run([job], []) == {"lfq-dit-1": 0}
    assert suite.results.read_text() == before
    assert len(list((tmp_path / "runs").glob("*lfq-dit*"))) == 1
    command = shlex.split(next(record.origin.command for record in found))
    again = [sys.executable, "-m", *command, f"runs={tmp_path / 'again'}"]
    subprocess.run(again, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    (folder,) = (tmp_path / "again").glob("*lfq-dit*")
    first, measured = (
        {record.row.name: repr(record.row.value) for record in some if record.row.stage == "evaluation"}
        for some in (found, collect(folder))
    )
    timed = {name for name in measured if "seconds" in name}
    assert len(measured) > 20 and timed
    assert {name: first[name] for name in measured.keys() - timed} == {name: measured[name] for name in measured.keys() - timed}


def test_hydras_launcher_does_jobs_side_by_side(make_suite: Make, make_run: Callable[..., Path], tmp_path: Path) -> None:
    """Each in a process of its own, their figures in one file; the runs are finished, and have only to be kept."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    suite = make_suite(sheets=False)
    runs = [make_run(name, generator={"depth": depth}) for depth, name in enumerate(("first", "second"), start=1)]
    configs = [fingerprint(yaml.safe_load((folder / "config.yaml").read_text())) for folder in runs]
    jobs = [
        run.Job(
            name=folder.name,
            words=(),
            again=(),
            trained=config,
            config=config,
            seed=0,
            root=tmp_path / "runs",
            logs=tmp_path / "logs",
            kept=suite.results,
            sheets=False,
            cost={"generator": {"flops": 2.0, "tokens": 3.0}},
            seconds=1.0,
            threads=1,
            until=None,
        )
        for folder, config in zip(runs, configs, strict=True)
    ]
    assert run.launch(jobs, ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]) == [0, 0]
    found = records.read(suite.results)
    assert {(record.origin.run, record.origin.config) for record in found} == set(zip(("first", "second"), configs, strict=True))
    assert len(found) == 2 * len({record.row.name for record in found})


def test_steps_that_a_recipe_sets_itself_are_in_the_estimate(make_suite: Make, tmp_path: Path) -> None:
    grid = {"tokenizer": ["lfq"], "generator": ["dit"], "generator.training.steps": [100, 300]}
    short, long = run.Grid(make_suite(budget={"tokenizer": {"steps": 7}}, grid=grid, seeds=[0]), tmp_path).jobs()
    assert short.seconds == pytest.approx(7 * short.cost["tokenizer"]["seconds"] + 100 * short.cost["generator"]["seconds"])
    assert long.seconds == pytest.approx(7 * long.cost["tokenizer"]["seconds"] + 300 * long.cost["generator"]["seconds"])


def test_a_run_of_another_suite_is_told_in_the_words_of_this_one(
    make_suite: Make, make_run: Callable[..., Path], tmp_path: Path
) -> None:
    """That one left out what is the default, which here is what is asked about."""
    folder = make_run()
    config = fingerprint(yaml.safe_load((folder / "config.yaml").read_text()))
    grid = {"tokenizer": ["lfq"], "tokenizer.quantizer.bits": [10], "generator": ["dit"]}
    suite = make_suite(grid=grid, common=["data.seed=0"], seeds=[0], sheets=False)
    job = replace(run.Grid(suite, tmp_path / "runs").jobs()[0], trained=config, config=config)
    assert job() == 0
    (command,) = {record.origin.command for record in records.read(suite.results)}
    words = ["data.seed=0", "tokenizer=lfq", "tokenizer.quantizer.bits=10", "generator=dit"]
    steps = ["tokenizer.training.steps=3", "generator.training.steps=4"]
    assert shlex.split(command) == ["vidgen", "fit", *words, *steps, "seed=0", "runs=runs"]
    assert len(lines.lines(work.results(suite))) == 1


@pytest.mark.slow
def test_runs_side_by_side_by_hydras_launcher(make_suite: Make, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    suite = make_suite(common=[*TINY, "stage=tokenizer"], grid={"tokenizer": ["lfq", "kl"]}, seeds=[0])
    jobs = run.Grid(suite, tmp_path / "runs").jobs()
    status = run.run(jobs, ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"])
    assert status == {"lfq-0": 0, "kl-0": 0}
    assert {record.origin.tokenizer for record in records.read(suite.results)} == {"lfq", "kl"}


def test_what_is_measured_again_is_trained_once(make_suite: Make, tmp_path: Path) -> None:
    suite = make_suite(grid={"tokenizer": ["lfq"], "generator": ["dit"]}, again={"evaluation.steps": [2, 5]}, seeds=[0])
    jobs = run.Grid(suite, tmp_path / "runs").jobs()
    assert [job.name for job in jobs] == ["lfq-dit-2-0", "lfq-dit-5-0"]
    grid = run.Grid(suite, tmp_path / "runs")
    assert run.plan(grid, jobs).endswith(f"2 of 2 runs are left: about {clock(jobs[0].seconds)}, one after another.")
    assert run.run(jobs, []) == {"lfq-dit-2-0": 0, "lfq-dit-5-0": 0}
    assert len(list((tmp_path / "runs").glob("*lfq-dit*"))) == 1
    found = lines.lines(records.read(suite.results))
    assert next(line.settings for line in found if line.origin.generator).endswith("`evaluation.steps=2`")
    distances = [line.rows["samples/motion_fd"][0].value for line in found]
    assert len(distances) == 2
    assert distances[0] != distances[1]
    assert len(list(suite.folder.glob("*.webp"))) == 2


def test_tokenizers_that_are_shared_are_trained_before_those_who_share_them(make_suite: Make, tmp_path: Path) -> None:
    suite = make_suite(grid={"tokenizer": ["lfq", "kl"], "generator": ["dit", "ar", "var"]})
    jobs = [job for job in run.Grid(suite, tmp_path / "runs").jobs() if job.seed == 0]
    first = run.tokenizers(jobs)
    assert [job.name for job in first] == ["lfq-dit-0-tokenizer", "kl-dit-0-tokenizer"]  # that of lfq x var has scales of its own
    assert all("stage=tokenizer" in job.words and job.kept is None for job in first)


def test_what_fails_is_told_kept_and_run_again_on_request(
    make_suite: Make,
    fake: Callable[[str], None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    suite = make_suite(seeds=[0])
    monkeypatch.setattr(suites, "load", lambda name: suite)
    monkeypatch.setattr(run.baselines, "keep", lambda suite, words: None)
    tried = tmp_path / "tried"
    fake(
        f"import sys\nopen({str(tried)!r}, 'a').write('x')\n"
        "sys.exit('The loss is not finite.' if 'generator=dit' in sys.argv else 3)"
    )
    arguments = ["tiny", "--runs", str(tmp_path / "runs")]
    assert run.main(arguments) == 1
    told = capsys.readouterr().out
    assert "lfq-dit-0 has failed; --retry runs it again." in told
    assert "The loss is not finite." in told
    assert run.main(arguments) == 1  # not again by itself, and still told
    assert len(tried.read_text()) == 2
    assert "failed before" in capsys.readouterr().out
    assert run.main([*arguments, "--retry", "--only", "lfq-dit"]) == 1
    assert len(tried.read_text()) == 3


def test_when_the_time_is_over_the_run_is_asked_to_stop(make_suite: Make, fake: Callable[[str], None], tmp_path: Path) -> None:
    said = tmp_path / "said"
    fake(
        "import signal, sys, time\n"
        f"signal.signal(15, lambda *_: (open({str(said)!r}, 'w').write('x'), sys.exit(130)))\n"
        "time.sleep(60)"
    )
    suite = make_suite(seeds=[0])
    jobs = [replace(job, until=time.time() + 2) for job in run.Grid(suite, tmp_path / "runs").jobs()]
    begin = time.monotonic()
    assert run.run(jobs, []) == {"lfq-dit-0": run.STOPPED, "lfq-maskgit-0": run.STOPPED}
    assert time.monotonic() - begin < 30
    assert said.read_text() == "x"
    assert not jobs[0].failure.exists()


def test_a_signal_to_the_suite_stops_the_run_under_way(make_suite: Make, tmp_path: Path) -> None:
    """It reaches nobody else by itself, and a run that went on alone would be in the way of the next suite."""
    make_suite(seeds=[0])
    (tmp_path / "fit.py").write_text(
        "import pathlib, signal, sys, time\n"
        f"here = pathlib.Path({str(tmp_path)!r})\n"
        "signal.signal(15, lambda *_: ((here / 'stopped').touch(), sys.exit(130)))\n"
        "(here / 'started').touch()\n"
        "time.sleep(60)"
    )
    script = (
        f"import sys; sys.path[:0] = [{str(ROOT / 'benchmarks')!r}, {str(ROOT)!r}]\n"
        "import pathlib, run, suite\n"
        f"suite.RESULTS, suite.SUITES = (pathlib.Path(path) for path in ({str(suites.RESULTS)!r}, {str(tmp_path)!r}))\n"
        "run.baselines.keep = lambda suite, words: None\n"
        f"run.FIT = (sys.executable, {str(tmp_path / 'fit.py')!r})\n"
        f"sys.exit(run.main(['tiny', '--only', 'lfq-dit', '--runs', {str(tmp_path / 'runs')!r}]))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    until = time.monotonic() + 120
    while not (tmp_path / "started").exists() and time.monotonic() < until and process.poll() is None:
        time.sleep(0.1)
    process.terminate()
    assert process.wait(30) == run.STOPPED
    assert (tmp_path / "stopped").exists()


def test_a_wrong_name_of_a_run_is_answered_with_those_there_are(make_suite: Make) -> None:
    for asked in (["vq"], ["lfq-dit", "vq"]):
        with pytest.raises(UserError, match=r"begins with vq\..* There are lfq-dit-0, lfq-maskgit-0"):
            run.some(make_suite(seeds=[0]), asked)


def test_options_after_the_names_are_options(
    make_suite: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = make_suite(seeds=[0])
    monkeypatch.setattr(suites, "load", lambda name: suite)
    assert run.main(["tiny", "--only", "lfq-dit", "data.objects=5"]) == 2
    assert "data.objects=5 would make other runs than the suite's" in capsys.readouterr().err
    assert run.main(["--only", "lfq-dit", "tiny"]) == 2
    assert "run.py cpu --only lfq-dit" in capsys.readouterr().err
    run.check_options(["trainer.workers=8", "data.path=UCF-101", "logger=csv"])


def test_an_error_of_ours_is_one_run_that_failed(
    make_suite: Make, fake: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runs beside it go on, and what happened is kept like any other failure."""
    monkeypatch.setattr(work, "trial", lambda words: COST)
    jobs = run.Grid(make_suite(seeds=[0]), tmp_path / "runs").jobs()
    fake("")

    def keep(job: run.Job, folder: Path | None) -> None:
        if job.name == "lfq-dit-0":
            raise OSError("the disk is full")

    monkeypatch.setattr(run.Job, "_keep", keep)
    assert run.run(jobs, []) == {"lfq-dit-0": 1, "lfq-maskgit-0": 0}
    assert "the disk is full" in jobs[0].failure.read_text() and not jobs[1].failure.exists()


def test_a_run_that_another_process_is_at_is_left_to_it(
    make_suite: Make, fake: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "trial", lambda words: COST)
    job, _ = run.Grid(make_suite(seeds=[0]), tmp_path / "runs").jobs()
    fake(f"open({str(tmp_path / 'tried')!r}, 'a').write('x')")
    with records.alone(job.logs / f"{job.config}-{job.seed}", wait=False) as ours:
        assert ours and job() == 0
        assert not (tmp_path / "tried").exists()


def test_of_several_writers_none_loses_a_figure(tmp_path: Path) -> None:
    path, each = tmp_path / "results.jsonl", 20

    def write(seed: int) -> None:
        for number in range(each):
            records.append(path, [record(("tokenizer=lfq",), 100 * seed + number, "samples/motion_fd", 1.0)])

    writers = [Thread(target=write, args=(seed,)) for seed in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(records.read(path)) == 4 * each
    records.append(path, [record(("tokenizer=lfq",), 0, "samples/motion_fd", 2.0)], once=True)
    assert len(records.read(path)) == 4 * each


def test_baselines_are_kept_all_or_none(make_suite: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = make_suite(seeds=[0])
    made = [(name, [Result(name="reconstruction/psnr", value=30.0, n=8, protocol="p")]) for name in ("one", "two")]

    def stopped(*given: Any) -> Iterator[tuple[str, list[Result]]]:
        yield made[0]
        raise KeyboardInterrupt

    monkeypatch.setattr(baselines, "build", lambda kind, recipe: SimpleNamespace(size=lambda split: 8))
    monkeypatch.setattr(baselines, "measured", stopped)
    with pytest.raises(KeyboardInterrupt):
        baselines.keep(suite, suite.cells[0].words)
    monkeypatch.setattr(baselines, "measured", lambda *given: iter(made))
    for _ in range(2):
        baselines.keep(suite, suite.cells[0].words)
    assert [record.origin.tokenizer for record in records.read(suite.results)] == ["one", "two"]


@pytest.mark.parametrize(("stage", "among"), [("tokenizer", 0), ("all", 5)])
def test_training_clips_stand_for_samples_where_there_are_any(
    make_suite: Make, monkeypatch: pytest.MonkeyPatch, stage: str, among: int
) -> None:
    suite = make_suite(seeds=[0], common=["generator.training.clips=5"], grid={"tokenizer": ["lfq"], "stage": [stage]})
    asked: list[int] = []
    made = [("one", [Result(name="reconstruction/psnr", value=30.0, n=8, protocol="p")])]
    monkeypatch.setattr(baselines, "build", lambda kind, recipe: SimpleNamespace(size=lambda split: 8))
    monkeypatch.setattr(baselines, "measured", lambda data, options, trained_on: asked.append(trained_on) or iter(made))
    baselines.keep(suite, suite.cells[0].words)
    assert asked == [among]


def test_without_samples_the_codec_alone_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "CRFS", (30,))
    data = Worlds(height=32, width=32, frames=5)
    assert [name for name, _ in baselines.measured(data, {"clips": 4, "samples": 4}, 0)] == ["H.264, crf 30"]


@pytest.mark.slow
def test_killed_anywhere_it_ends_with_the_same_figures(make_suite: Make, tmp_path: Path) -> None:
    """A suite that is killed again and again, against one that is not; wall times apart, every figure is the same."""
    suite = make_suite(grid={"tokenizer": ["lfq"], "generator": ["dit", "ar"]}, seeds=[0])
    whole = replace(suite, name="whole")
    assert set(run.run(run.Grid(whole, tmp_path / "whole").jobs(), []).values()) == {0}
    script = (
        f"import sys; sys.path[:0] = [{str(ROOT / 'benchmarks')!r}, {str(ROOT)!r}]\n"
        f"import run, suite, pathlib\n"
        f"suite.RESULTS = pathlib.Path({str(suites.RESULTS)!r})\n"
        f"here = suite.load('tiny', pathlib.Path({str(tmp_path)!r}))\n"
        f"grid = run.Grid(here, pathlib.Path({str(tmp_path / 'killed')!r}))\n"
        f"left = [job for job in grid.jobs() if (job.config, job.seed) not in run.done(here.results)]\n"
        f"run.run(left, [])\n"
    )
    for patience in (6, 9, 12, 15, 20, 300, 300):
        process = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def figures(of: suites.Suite) -> dict[tuple[str, str], float]:
        found = {(str(one.origin.generator), one.row.name): one.row.value for one in records.read(of.results)}
        return {key: value for key, value in found.items() if not key[1].endswith("seconds")}

    assert figures(suite) == pytest.approx(figures(whole), rel=0, abs=0, nan_ok=True)


def test_ucf101_is_planned_on_a_tree_of_its_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The recipe whole, from its lists of files to steps and seconds, at a size that takes no time; nothing is run."""
    monkeypatch.setattr(suites, "RESULTS", tmp_path / "results")
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for number, action in enumerate(("Archery", "Biking"), start=1):
        for group in range(1, 7):
            name = f"v_{action}_g{group:02d}_c01.avi"
            write(tmp_path / "UCF" / "UCF-101" / action / name, count=18, tone=20 * group, size=(32, 40))
            lines["train" if group > 2 else "test"].append(f"{action}/{name}" + (f" {number}" if group > 2 else ""))
    (tmp_path / "UCF" / "ucfTrainTestlist").mkdir()
    for split, own in lines.items():
        (tmp_path / "UCF" / "ucfTrainTestlist" / f"{split}list01.txt").write_text("\n".join(own))
    small = [
        f"data.cache={tmp_path / 'cache'}",
        *("data.height=32", "data.width=32", "tokenizer.backbone.widths=[16]", "tokenizer.training.batch_size=2"),
        *("generator.width=32", "generator.depth=1", "generator.heads=2", "generator.training.batch_size=2"),
        *("trainer.compile=false", "trainer.workers=0"),
    ]
    path = f"data.path={tmp_path / 'UCF'}"
    assert run.main(["ucf101", path, *small, "--dry-run", "--only", "lfq", "--runs", str(tmp_path / "runs")]) == 0
    told = capsys.readouterr().out
    assert "lfq-maskgit-2" in told
    assert "lfq-18-ar-0" in told
    assert "18 of 18 runs are left" in told
    kept = (tmp_path / "results" / "ucf101" / "work.json").read_text()
    assert "data.path=UCF " in kept
    assert str(tmp_path) not in kept
