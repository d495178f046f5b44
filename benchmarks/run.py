"""Runs a suite: every tokenizer and generator of its grid, under one budget, into ``benchmarks/results/suites/NAME.jsonl``.

    python benchmarks/run.py                      what suites there are
    python benchmarks/run.py cpu                  runs what is left of it
    python benchmarks/run.py cpu --dry-run        says what that is and about how long it takes (by trial steps, once)
    python benchmarks/run.py cpu --only lfq-dit   those runs alone whose names begin so
    python benchmarks/run.py cpu --retry          those too that have failed before
    python benchmarks/run.py cpu --minutes 150    stops then; the run under way is gone on with next time
    python benchmarks/run.py ucf101 data.path=UCF-101                                with an option for every run
    python benchmarks/run.py cpu hydra/launcher=joblib hydra.launcher.n_jobs=2       several at a time
    python benchmarks/run.py cpu hydra/launcher=submitit_slurm hydra.launcher.partition=gpu

Then ``python benchmarks/render.py`` makes tables, pictures and the page of what there is.

A run is one folder below ``runs``, made by ``vidgen fit`` and found again by its recipe and seed, so that a suite can be killed
anywhere: the same command goes on with it. A run whose figures are in the results is done, whatever machine it ran on.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import baselines
import hydra
import sheets
import suite as suites
import work
import yaml
from collect import FOLDERS, collect, fingerprint, portable
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from records import Record, alone, append, done, read
from suite import Cell, Suite

from vidgen.cli.compose import compose
from vidgen.cli.progress import clock
from vidgen.errors import UserError, did_you_mean
from vidgen.evaluation import rows
from vidgen.evaluation.cells import NOT_OF_THE_RECIPE
from vidgen.routes import fitted
from vidgen.runs import STATE, run_folders

FIT, EVAL = ((sys.executable, "-m", "vidgen", command) for command in ("fit", "eval"))
STOPPED = 130
POLL = 0.5
"""Seconds between looks at a run under way."""

TAIL = 15
"""Lines of a failed run's log that are shown."""

FEW = 16
"""Clips that a tokenizer is measured on when it is only trained for others."""


# One run ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run as a launcher takes it to wherever it is run: plain values.

    Attributes:
        name: for people.
        words: after ``vidgen fit``.
        again: after ``vidgen eval``, how the run is measured when it is trained; nothing for as it was.
        trained: hash of the recipe that is trained.
        config: hash of the whole recipe, which its results have.
        seed: of the run.
        root: where runs lie.
        logs: where what it says is written to.
        kept: the suite's results, which its figures are added to; None for a tokenizer that others wait for.
        sheets: whether its samples are kept beside them.
        cost: of a step of each stage (``work.costs``).
        seconds: that it will take, about.
        threads: that it may use; 0 for all.
        until: when it is asked to stop, in seconds since 1970.
    """

    name: str
    words: tuple[str, ...]
    again: tuple[str, ...]
    trained: str
    config: str
    seed: int
    root: Path
    logs: Path
    kept: Path | None
    sheets: bool
    cost: work.Cost
    seconds: float
    threads: int
    until: float | None

    @property
    def log(self) -> Path:
        """All that the run has said."""
        return self.logs / f"{self.name}-{self.config[:6]}.log"

    @property
    def failure(self) -> Path:
        """The end of its log, where it has failed."""
        return self.log.with_suffix(".failed")

    def __call__(self) -> int:
        """Trains and measures, unless that is done or under way elsewhere, and keeps the figures.

        Returns 0, or the exit status of what failed, which never ends the runs beside it.
        """
        if self.until is not None and time.time() > self.until:
            return STOPPED
        begin = time.monotonic()
        with alone(self.logs / f"{self.config}-{self.seed}", wait=False) as ours:
            if not ours:
                print(f"{self.name}: another process is at it", flush=True)
                return 0
            if self.kept is not None and (self.config, self.seed) in done(self.kept):
                return 0  # since this process looked
            try:
                status = self._run()
            except Exception:
                status = 1
                with self.log.open("a", encoding="utf-8") as out:
                    traceback.print_exc(file=out)
            if status not in (0, STOPPED):
                lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
                self.failure.write_text("\n".join(lines[-TAIL:]) + "\n", encoding="utf-8")
        said = {0: "done", STOPPED: "stopped"}.get(status, "FAILED")
        print(f"{self.name}: {said} after {clock(time.monotonic() - begin)}", flush=True)
        return status

    def _run(self) -> int:
        folder = self.finished()
        status = 0 if folder else self._do(FIT, [*self.words, f"seed={self.seed}", f"runs={self.root}"])
        folder = folder or self.finished()
        if status == 0 and self.again:
            assert folder is not None
            measured = [word for word in self.words if word.startswith("evaluation.")]
            status = self._do(EVAL, [f"run={folder}", f"out={self.config}", f"seed={self.seed}", *measured, *self.again])
        if status == 0:
            self._keep(folder)
            self.failure.unlink(missing_ok=True)
        return status

    def finished(self) -> Path | None:
        """The folder of this very run, where it is finished."""
        for folder in run_folders(self.root):
            if json.loads((folder / STATE).read_text(encoding="utf-8"))["status"] == "finished":
                config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
                if config["seed"] == self.seed and fingerprint(config) == self.trained:
                    return folder
        return None

    def _do(self, command: Sequence[str], words: Sequence[str]) -> int:
        """A command in a process of its own."""
        print(f"{self.name}: about {clock(self.seconds)}; it writes to {self.log}", flush=True)
        threads = {"OMP_NUM_THREADS": str(self.threads)} if self.threads else {}
        with self.log.open("w", encoding="utf-8") as out:
            process = subprocess.Popen([*command, *words], stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **threads})
            try:
                while process.poll() is None:
                    if self.until is not None and time.time() > self.until:
                        process.send_signal(signal.SIGTERM)  # it ends its step and writes a checkpoint
                        return process.wait() and STOPPED
                    time.sleep(POLL)
            except KeyboardInterrupt:
                process.terminate()  # Ctrl-C has reached it too, a signal that was sent to us alone has not
                process.wait()
                raise
        return process.returncode

    def _keep(self, folder: Path | None) -> None:
        """Adds the figures of the finished run to the results, once."""
        if self.kept is None:
            return
        assert folder is not None
        if self.sheets:
            sheets.keep(folder / self.config if self.again else folder, self.kept.with_suffix(""), f"{self.config}-{self.seed}")
        found = collect(folder, self.config if self.again else None)
        # In the words of this suite: a run that was made for another may have left out what is the default.
        words = [*map(portable, (*self.words, *self.again)), f"seed={self.seed}", f"runs={self.root.name}"]
        origin = replace(found[0].origin, config=self.config, command=shlex.join(["vidgen", "fit", *words]))
        figures = [record.row for record in found]
        records = [Record(origin=origin, row=row) for row in [*figures, *self._work(folder, figures[-1]), *curves(folder)]]
        append(self.kept, records, once=True)

    def _work(self, folder: Path, like: rows.Row) -> Iterator[rows.Row]:
        """The operations and the tokens of training, as rows like all others."""
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        for stage, of_a_step in self.cost.items():
            for kind in ("flops", "tokens"):
                total = float(of_a_step[kind] * config[stage]["training"]["steps"])
                yield replace(like, name=f"{stage}/train_{kind}", value=total, protocol=None, n=None, interval=None)


def curves(folder: Path) -> list[rows.Row]:
    """What validation found in the course of a run's training: PSNR of a tokenizer, the loss of a generator."""
    return [row for row in rows.read(folder / "metrics.jsonl") if row.stage != "evaluation" and row.split == "val"]


# All runs ---------------------------------------------------------------------------------------------------------------------


class Grid:
    """A suite with its budget turned into steps, and what of it is done."""

    def __init__(self, suite: Suite, root: Path, until: float | None = None) -> None:
        self.suite, self.root, self.until = suite, root, until
        self.costs = work.costs(suite)
        self.records = read(suite.results)

    def job(self, cell: Cell) -> Job:
        """The cell's run."""
        cost = self.costs[cell.recipe]
        counts = work.steps(self.suite, cost)
        words = (*cell.words, *(f"{stage}.training.steps={count}" for stage, count in counts.items()))
        config, recipe = fingerprint(composed((*words, *cell.again))), composed(words)
        steps = sum(recipe[of]["training"]["steps"] * cost[of]["seconds"] for of in cost)
        took = {record.origin.run: record.row.seconds for record in self.records if record.origin.config == config}
        return Job(
            name=cell.name,
            words=words,
            again=cell.again,
            trained=fingerprint(recipe),
            config=config,
            seed=cell.seed,
            root=self.root,
            logs=self.root / "suites" / self.suite.name,
            kept=self.suite.results,
            sheets=self.suite.sheets,
            cost=cost,
            seconds=max(steps, mean(took.values()) if took else 0.0),  # where a tokenizer was there already, it took less
            threads=self.suite.threads,
            until=self.until,
        )

    def jobs(self) -> list[Job]:
        """All runs."""
        return [self.job(cell) for cell in self.suite.cells]


def some(suite: Suite, only: Sequence[str]) -> Suite:
    """The suite with those of its runs whose names begin with one of ``only``, or with all of them for none.

    Raises:
        UserError: for one of them with which no name begins.
    """
    names = [cell.name for cell in suite.cells]
    for begin in only:
        if not any(name.startswith(begin) for name in names):
            raise UserError(
                f"No run of {suite.name} has a name that begins with {begin}.{did_you_mean(begin, names)} There are "
                f"{', '.join(names)}."
            )
    return replace(suite, cells=tuple(cell for cell in suite.cells if not only or cell.name.startswith(tuple(only))))


def check_options(words: Sequence[str]) -> None:
    """Refuses options that would make other runs than the suite's, whose figures would stand in its table all the same."""
    for word in words:
        key = word.partition("=")[0]
        if key not in FOLDERS and key.partition(".")[0] not in NOT_OF_THE_RECIPE:
            raise UserError(
                f"{word} would make other runs than the suite's: for those write a yaml of your own beside it in "
                "benchmarks/suites. Only options of the machine (trainer.workers=8) and where data lies (data.path=...) go here."
            )


@cache
def composed(words: tuple[str, ...]) -> dict[str, Any]:
    """The config of a run as its folder keeps it: of a tokenizer with scales where the generator asks for them."""
    config = compose("fit", words)
    config["tokenizer"] = fitted(config["tokenizer"], config["generator"]["name"])
    return config


def tokenizers(jobs: Sequence[Job]) -> list[Job]:
    """A run for each tokenizer that more than one of ``jobs`` would train, so that they can be run side by side after it."""
    found: dict[str, list[Job]] = {}
    for job in jobs:
        config = composed(job.words)
        if config["stage"] != "tokenizer":
            found.setdefault(json.dumps([config["tokenizer"], config["data"], job.seed], sort_keys=True), []).append(job)
    shared = [those[0] for those in found.values() if len(those) > 1]
    return [
        replace(job, name=f"{job.name}-tokenizer", words=words, again=(), trained=config, config=config, kept=None)
        for job in shared
        for words in [(*job.words, "stage=tokenizer", f"evaluation.clips={FEW}")]
        for config in [fingerprint(composed(words))]
    ]


def launch(jobs: Sequence[Job], words: Sequence[str]) -> list[int]:
    """Runs ``jobs`` by Hydra's launcher, one after another where ``words`` name none; their statuses."""
    if not jobs:
        return []
    here = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([here, *filter(None, [os.environ.get("PYTHONPATH")])]))
    folder = jobs[0].logs / ".sweeps"
    quiet = [f"hydra.sweep.dir={folder}", "hydra.output_subdir=null", "hydra/hydra_logging=none", "hydra/job_logging=none"]
    numbers = "job=" + ",".join(map(str, range(len(jobs))))
    ConfigStore.instance().store(name="suite", node={"job": 0})

    def run(config: Any) -> int:
        return jobs[config.job]()

    with hydra.initialize(version_base="1.3", config_path=None):
        instance = GlobalHydra.instance().hydra
        assert instance is not None
        (found,) = instance.multirun("suite", run, [*quiet, *words, numbers], with_log_configuration=False)
    return [one.return_value for one in found]


def run(jobs: Sequence[Job], words: Sequence[str]) -> dict[str, int]:
    """Runs what is left, seed by seed; the status of each by name."""
    status: dict[str, int] = {}
    side_by_side = any(word.startswith("hydra/launcher=") for word in words)
    for seed in dict.fromkeys(job.seed for job in jobs):
        some = [job for job in jobs if job.seed == seed]
        first = list({job.trained: job for job in reversed(some)}.values())[::-1] if side_by_side else some
        if side_by_side:
            launch(tokenizers(some), words)
        for those in (first, [job for job in some if job not in first]):  # what is measured again is trained once
            status |= dict(zip([job.name for job in those], launch(those, words), strict=True))
    return status


# The command ------------------------------------------------------------------------------------------------------------------


def plan(grid: Grid, jobs: Sequence[Job]) -> str:
    """What will be done, in words."""
    there = done(grid.suite.results)
    left = [job for job in jobs if (job.config, job.seed) not in there]
    lines = [f"{grid.suite.title}", grid.suite.words, ""]
    for job in jobs:
        state = "done" if job not in left else "failed before" if job.failure.exists() else f"about {clock(job.seconds)}"
        lines.append(f"{job.name:<24} {state}")
    total = clock(sum({(job.trained, job.seed): job.seconds for job in left}.values()))  # measured twice, trained once
    return "\n".join([*lines, "", f"{len(left)} of {len(jobs)} runs are left: about {total}, one after another."])


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a suite; returns 1 where a run failed, 2 after a mistake, 130 where it was stopped."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], epilog="Then: python benchmarks/render.py")
    parser.add_argument("suite", nargs="?", help="its name, of benchmarks/suites")
    parser.add_argument("words", nargs="*", help="options of every run, or of Hydra's launcher, such as hydra/launcher=joblib")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="runs whose names begin so, such as lfq-dit")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="say what is left and how long it takes, and train nothing; what a step of a recipe costs is measured by a trial "
        "step the first time, for which data is built if need be, and kept in benchmarks/results/suites/NAME/work.json",
    )
    parser.add_argument("--retry", action="store_true", help="run those too that have failed before")
    parser.add_argument("--minutes", type=float, help="stop after so many")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders lie")
    given = parser.parse_intermixed_args(arguments)
    given.words += [word for word in given.only if "=" in word]
    given.only = [name for name in given.only if "=" not in name]
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    try:
        if given.suite is None:
            if given.only:
                raise UserError(f"No suite is named: put it before --only, as in 'run.py cpu --only {given.only[0]}'.")
            print("\n".join(f"{name:<18} {suites.load(name).title}" for name in suites.names()))
            return 0
        return _main(given)
    except UserError as error:
        print(f"run: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped; the same command goes on.", file=sys.stderr)
        return STOPPED
    finally:
        signal.signal(signal.SIGTERM, before)


def _main(given: argparse.Namespace) -> int:
    until = None if given.minutes is None else time.time() + 60 * given.minutes
    launcher = [word for word in given.words if word.startswith(("hydra/", "hydra."))]
    words = [word for word in given.words if word not in launcher]
    suite = suites.with_words(suites.load(given.suite), words)
    if not given.dry_run:
        check_options(words)
    grid = Grid(some(suite, given.only), given.runs, until)
    jobs = grid.jobs()
    print(plan(grid, jobs), flush=True)
    if given.dry_run:
        return 0
    there = done(grid.suite.results)
    baselines.keep(grid.suite, jobs[0].words)
    left = [job for job in jobs if (job.config, job.seed) not in there and (given.retry or not job.failure.exists())]
    status = run(left, launcher)
    failed = [job for job in jobs if job.failure.exists()]
    for job in failed:
        print(f"\n{job.name} has failed; --retry runs it again. The end of {job.log}:\n{job.failure.read_text(encoding='utf-8')}")
    return 1 if failed else STOPPED if STOPPED in status.values() else 0


if __name__ == "__main__":
    raise SystemExit(main())
