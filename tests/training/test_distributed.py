"""Several processes that train one run, against one process: weights, resumes, the run folder, and how they end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from vidgen.cli import main
from vidgen.evaluation import rows
from vidgen.training import task
from vidgen.training.loop import checkpoint_step

TINY = [
    *("experiment=smoke", "data.frames=5", "data.height=16", "data.width=16", "data.radius=[2,3]", "reuse=never"),
    *("data.families=[bounce,gravity]", "tokenizer.backbone.widths=[8]"),
    *("tokenizer.training.steps=4", "tokenizer.training.batch_size=4"),
    *("tokenizer.training.optimizer=adamw", "generator.training.optimizer=adamw"),
    *("generator.width=16", "generator.depth=1", "generator.heads=1", "generator.steps=2"),
    *("generator.training.steps=4", "generator.training.batch_size=4", "generator.training.clips=8"),
    *("trainer.accelerator=cpu", "trainer.precision=fp32", "trainer.log_every=1", "evaluation.clips=4", "evaluation.samples=4"),
]

SMOOTH = """
from vidgen.training import task

def smooth(*args, **options):
    optimizer = build(*args, **options)
    for group in optimizer.param_groups:
        group["eps"] = 1e-2
    return optimizer

build, task.build_optimizer = task.build_optimizer, smooth
"""
"""Where a gradient is 0 but for rounding, Adam makes a whole step of its sign: two orders of a sum are then two trainings."""

CHILD = """
import json, os, sys
from vidgen.cli import main
for folder, words in json.loads(sys.argv[1]).items():
    os.chdir(folder)
    if status := main(["fit", *words]):
        sys.exit(status)
"""

LFQ = ["stage=tokenizer", "tokenizer=lfq", "tokenizer.quantizer.bits=4"]


@pytest.fixture(scope="module", autouse=True)
def _smooth() -> Iterator[None]:
    """Here as in the other processes."""
    with pytest.MonkeyPatch.context() as patch:
        build = task.build_optimizer

        def smooth(*args: Any, **options: Any) -> torch.optim.Optimizer:
            optimizer = build(*args, **options)
            for group in optimizer.param_groups:
                group["eps"] = 1e-2
            return optimizer

        patch.setattr(task, "build_optimizer", smooth)
        yield


def with_sizes(words: Sequence[str]) -> list[str]:
    """The words and those that make all small; a tokenizer that is given has its size."""
    given = any(word.startswith("tokenizer.from=") for word in words)
    return [word for word in TINY if not (given and word.startswith("tokenizer."))] + list(words)


def fit(folder: Path, *words: str) -> Path:
    """The run folder of one process, which is this one."""
    folder.mkdir(exist_ok=True)
    with contextlib.chdir(folder):
        assert main(["fit", *with_sizes(words)]) == 0
    return (folder / "runs/latest").resolve()


def started(jobs: Mapping[Path, Sequence[str]], processes: int = 2, program: str = "") -> list[subprocess.Popen[str]]:
    """Processes that do ``jobs`` (words by folder) together, one after another, told of one another as torchrun tells them."""
    for folder in jobs:
        folder.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        **{"TORCHELASTIC_RUN_ID": "test", "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "GROUP_RANK": "0"},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"},
    }
    words = json.dumps({str(folder): with_sizes(own) for folder, own in jobs.items()})
    return [
        subprocess.Popen(
            [sys.executable, "-c", SMOOTH + program + CHILD, words],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]


def ended(processes: Iterable[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Status, output and complaints of each."""
    found = []
    for process in processes:
        out, err = process.communicate(timeout=240)
        found.append((process.returncode, out, err))
    return found


def several(jobs: Mapping[Path, Sequence[str]], processes: int = 2) -> None:
    """Has processes do ``jobs`` together, of which only the first says anything."""
    results = ended(started(jobs, processes))
    assert [status for status, _, _ in results] == [0] * processes, results[0][2] + results[-1][2]
    assert results[0][1].count("Done in") == len(jobs)
    assert not any(out for _, out, _ in results[1:])


def run_in(folder: Path) -> Path:
    """The latest run in a folder."""
    return (folder / "runs/latest").resolve()


def assert_same(one: Path, other: Path, stage: str) -> None:
    """The same weights and averages, but for the order of sums."""
    first, second = (torch.load(run / f"checkpoints/{stage}.ckpt", weights_only=True) for run in (one, other))
    assert first["global_step"] == second["global_step"]
    assert first["state_dict"].keys() == second["state_dict"].keys()
    for name, value in first["state_dict"].items():
        other_value = second["state_dict"][name]
        torch.testing.assert_close(other_value, value, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def losses(run: Path, stage: str) -> dict[tuple[str, int], float]:
    """What was logged of a stage, by name and step."""
    logged = rows.read(run / "metrics.jsonl")
    return {(row.name, row.step): row.value for row in logged if row.stage == stage and row.split == "train"}


def test_two_processes_train_one_run_as_one_process_does(tmp_path: Path) -> None:
    """One folder with one report; weights, averages and losses of one process, and of the codebook what all have used."""
    several({tmp_path / "two": LFQ})
    one, two = fit(tmp_path / "one", *LFQ), run_in(tmp_path / "two")
    assert_same(one, two, "tokenizer")
    alone, together = losses(one, "tokenizer"), losses(two, "tokenizer")
    assert alone.keys() == together.keys()
    assert ("codebook/usage", 4) in alone
    assert list(together.values()) == pytest.approx(list(alone.values()), rel=1e-4)
    assert [path.name for path in (tmp_path / "two/runs").glob("*lfq*")] == [two.name]
    assert (two / "report.html").is_file()


TOKENIZERS = {
    "lfq": LFQ,
    "kl": ["stage=tokenizer", "tokenizer=kl"],
    "vq": ["stage=tokenizer", "tokenizer=vq", "tokenizer.quantizer.codes=24"],
    "adversary": [
        *("stage=tokenizer", "tokenizer=kl", "tokenizer/adversary=patch2d", "tokenizer.adversary.start=1"),
        *("tokenizer.adversary.widths=[8,8]", "tokenizer.adversary.strides=[[1,2,2]]", "tokenizer.adversary.lr=1e-5"),
    ],
}

GENERATORS = {
    "lfq, dit": ["generator.checkpoint=true"],
    "lfq, maskgit": [],
    "kl, dit": [],
    "kl, maskgit": ["generator.training.accumulate=2"],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what one process has trained in ``one`` and what two have in ``two``; one start of them for all of it."""
    folder = tmp_path_factory.mktemp("trained")
    for count in ("one", "two"):
        (folder / count).mkdir()
    jobs = dict(TOKENIZERS)
    runs = {name: fit(folder / "one" / name, *words) for name, words in TOKENIZERS.items()}
    for name, own in GENERATORS.items():
        tokenizer, generator = name.split(", ")
        jobs[name] = words = [f"generator={generator}", f"tokenizer.from={runs[tokenizer]}", *own]
        fit(folder / "one" / name, *words)
    several({folder / "two" / name: words for name, words in jobs.items()})
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizers_are_trained_alike(name: str, trained: Path) -> None:
    """Also with a codebook of running means, and against an adversary, which has a step of its own."""
    assert_same(run_in(trained / "one" / name), run_in(trained / "two" / name), "tokenizer")


@pytest.mark.slow
@pytest.mark.parametrize("name", GENERATORS)
def test_generators_are_trained_alike(name: str, trained: Path) -> None:
    """On the latents of one tokenizer, which are kept in bfloat16, where the least difference may be a large one.

    Also in parts, of each of which every process has its share.
    """
    assert_same(run_in(trained / "one" / name), run_in(trained / "two" / name), "generator")


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    """From 2 to 4 and to 1. A SIGTERM to one of them stops all after the same step, with a whole checkpoint."""
    words = [*LFQ, "tokenizer.training.steps=80", "trainer.checkpoint_every=1000"]
    folder, done = tmp_path / "several", 0
    for count in (2, 4):
        processes = started({folder: words}, count)
        while not any(row.step > done for file in folder.rglob("metrics.jsonl") for row in rows.read(file)):
            assert all(process.poll() is None for process in processes)
            time.sleep(0.1)
        processes[-1].send_signal(signal.SIGTERM)
        results = ended(processes)
        assert [status for status, _, _ in results] == [130] * count, results
        assert "Stopped; the state is kept." in results[0][1]
        before, done = done, checkpoint_step(run_in(folder) / "checkpoints/tokenizer.ckpt")
        assert before < done < 80
    first = run_in(folder)
    assert fit(folder, *words) == first
    assert_same(fit(tmp_path / "one", *words), first, "tokenizer")


FAILING = """
import os
from vidgen.errors import UserError
from vidgen.training import task

def fail(self, batch, step):
    if step == 2 and os.environ["RANK"] == "1":
        raise UserError("The second process has had enough.")
    return before(self, batch, step)

before, task.Task.step_losses = task.Task.step_losses, fail
"""


@pytest.mark.slow
def test_an_error_in_one_ends_all_with_one_sentence(tmp_path: Path) -> None:
    first, second = ended(started({tmp_path / "two": LFQ}, program=FAILING))
    assert first[0] and second[0]
    assert "vidgen:" not in first[2]
    assert "Traceback" not in first[2]
    assert second[2].endswith("vidgen: The second process has had enough.\n")


@pytest.mark.slow
def test_a_mistake_is_told_once_and_before_any_work(tmp_path: Path) -> None:
    first, second = ended(started({tmp_path / "two": ["tokenizer=kl", "generator.training.batch_size=3"]}))
    assert first[0] == 2
    assert second[0]
    assert first[2] + second[2] == (
        "vidgen: A batch of 3 clips does not divide among 2 processes: make generator.training.batch_size, which is that of all "
        "processes together, a multiple of 2, or start another number of processes.\n"
    )
    assert not list((tmp_path / "two").glob("runs/*/state.json"))


@pytest.mark.slow
def test_torchrun_starts_them(tmp_path: Path) -> None:
    """The command that the recipes name, with a generator too and worker processes that read."""
    words = ["tokenizer=lfq", "tokenizer.quantizer.bits=4", "generator=maskgit", "trainer.workers=1"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "vidgen", "fit"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([*command, *TINY, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Done in") == 1
    assert "2 processes (ddp)" in done.stdout
    assert len(list(tmp_path.glob("runs/*/report.html"))) == 2  # one run, to which runs/latest leads as well


@pytest.mark.parametrize(
    ("strategy", "sentence"),
    [("fsdp", "trainer.strategy=fsdp is not there: "), ("dpp", "There is no strategy called 'dpp'. Did you mean 'ddp'?")],
)
def test_what_is_no_strategy_is_said_at_once(
    strategy: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", f"trainer.strategy={strategy}"]) == 2
    assert sentence in capsys.readouterr().err
