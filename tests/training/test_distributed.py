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
from safetensors.torch import load_file

from vidgen.cli import main
from vidgen.evaluation import rows
from vidgen.training import task
from vidgen.training.loop import checkpoint_step

TINY = [
    *("experiment=smoke", "data.frames=5", "data.height=16", "data.width=16", "data.radius=[2,3]", "reuse=never"),
    *("data.families=[bounce,gravity]", "tokenizer.backbone.widths=[8]"),
    *("tokenizer.training.steps=4", "tokenizer.training.batch_size=4"),
    *("tokenizer.training.optimizer=adamw", "generator.training.optimizer=adamw"),
    *("generator.width=16", "generator.depth=2", "generator.heads=1"),
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
        out, err = process.communicate(timeout=900)
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
    """One folder with one report; weights, averages and losses of one process, and of the codebook what all have used.

    And so does a generator whose weights are cut over them.
    """
    one = fit(tmp_path / "one", *LFQ)
    words = ["generator=dit", f"tokenizer.from={one}", "generator.steps=2"]
    several({tmp_path / "two": LFQ, tmp_path / "cut": [*words, "trainer.strategy=fsdp"]})
    two = run_in(tmp_path / "two")
    assert_same(fit(tmp_path / "whole", *words), run_in(tmp_path / "cut"), "generator")
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
    "gumbel": ["stage=tokenizer", "tokenizer=gumbel", "tokenizer.quantizer.codes=24"],
    "residual": ["stage=tokenizer", "tokenizer=residual", "tokenizer.quantizer.quantizer.codes=24"],
    "pyramid": ["stage=tokenizer", "tokenizer=pyramid", "tokenizer.quantizer.quantizer.codes=24"],
    "adversary": [
        *("stage=tokenizer", "tokenizer=kl", "tokenizer/adversary=patch2d", "tokenizer.adversary.start=1"),
        *("tokenizer.adversary.widths=[8,8]", "tokenizer.adversary.strides=[[1,2,2]]", "tokenizer.adversary.lr=1e-5"),
    ],
}

GENERATORS = {
    "lfq, dit": ["generator.checkpoint=true", "generator.steps=2"],
    "lfq, dit, muon": ["generator.training.optimizer=muon", "generator.steps=2"],
    "lfq, maskgit": ["generator.checkpoint=true", "generator.training.accumulate=2", "generator.steps=2"],
    "lfq, ar": [],
    "pyramid, var": [],
    "kl, dit": ["generator.steps=2"],
    "kl, maskgit": ["generator.training.accumulate=2", "generator.steps=2"],
}

STRATEGIES = {"ddp": "two", "fsdp": "cut"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what one process has trained in ``one`` and two in ``two`` and ``cut``; one start of them for all of it."""
    folder = tmp_path_factory.mktemp("trained")
    for count in ("one", *STRATEGIES.values()):
        (folder / count).mkdir()
    jobs = {folder / "two" / name: words for name, words in TOKENIZERS.items()}
    for name, words in TOKENIZERS.items():
        fit(folder / "one" / name, *words)
    for name in GENERATORS:
        words = on_trained(folder, name)
        fit(folder / "one" / name, *words)
        jobs |= {folder / where / name: [*words, f"trainer.strategy={how}"] for how, where in STRATEGIES.items()}
    words = [*on_trained(folder, "lfq, dit"), "trainer.precision=bf16"]
    jobs |= {folder / where / "bf16": [*words, f"trainer.strategy={how}"] for how, where in STRATEGIES.items()}
    several(jobs)
    return folder


def on_trained(folder: Path, name: str) -> list[str]:
    """The words for one of the generators on the tokenizer that one process has trained in ``folder``."""
    tokenizer, generator, *_ = name.split(", ")
    return [f"generator={generator}", f"tokenizer.from={run_in(folder / 'one' / tokenizer)}", *GENERATORS[name]]


@pytest.mark.slow
@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizers_are_trained_alike(name: str, trained: Path) -> None:
    """Also with a codebook of running means, and against an adversary, which has a step of its own."""
    assert_same(run_in(trained / "one" / name), run_in(trained / "two" / name), "tokenizer")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", GENERATORS)
def test_generators_are_trained_alike(name: str, strategy: str, trained: Path) -> None:
    """On the latents of one tokenizer, which are kept in bfloat16, where the least difference may be a large one.

    Also in parts, of each of which every process has its share, with blocks that are computed twice, and by Muon, which works in
    bfloat16 on whole matrices. What is kept as the model is the average.
    """
    one, two = (run_in(trained / count / name) for count in ("one", STRATEGIES[strategy]))
    assert_same(one, two, "generator")
    weights = [load_file(run / "model/generator.safetensors") for run in (one, two)]
    for part, value in weights[0].items():
        torch.testing.assert_close(weights[1][part], value, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_in_bf16_both_strategies_train_alike(trained: Path) -> None:
    """What is gathered in bf16 is what autocast makes of weights, and gradients are summed in fp32."""
    two, cut = (run_in(trained / where / "bf16") for where in STRATEGIES.values())
    assert_same(two, cut, "generator")
    with pytest.raises(AssertionError):
        assert_same(run_in(trained / "one" / "lfq, dit"), cut, "generator")


STOPPING = """
import os, signal
from pathlib import Path
import torch
from vidgen.training import loop, shards, task

def stop(self, batch, step):
    if step == 1 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGTERM)
    return before(self, batch, step)

def tell(self, trainer):
    state = [value for of in trainer.optimizers[0].state.values() for value in of.values() if isinstance(value, torch.Tensor)]
    held = [shards.local(tensor).untyped_storage().nbytes() // 4 for tensor in [*trainer.lightning_module.parameters(), *state]]
    Path("held-" + os.environ["RANK"]).write_text(str(sum(held)))
    return save(self, trainer)

before, task.Task.step_losses = task.Task.step_losses, stop
save, loop.Watch.save = loop.Watch.save, tell
"""
"""After two steps; and how many numbers a process has in weights, average and optimizer is in a file for each."""

MUON = "lfq, dit, muon"


@pytest.fixture(scope="module")
def stopped(trained: Path) -> Path:
    """A folder in which two processes were stopped after two steps of four: by ``ddp`` in ``two``, and by ``fsdp`` in ``cut``."""
    folder, words = trained / "stopped", on_trained(trained, MUON)
    folder.mkdir()
    starts = [
        started({folder / where: [*words, f"trainer.strategy={how}"]}, program=STOPPING) for how, where in STRATEGIES.items()
    ]
    results = [result for processes in starts for result in ended(processes)]
    assert [status for status, _, _ in results] == [130] * 4, results
    assert [f"2 processes ({how})" in out for how, (_, out, _) in zip(STRATEGIES, results[::2], strict=True)] == [True, True]
    return folder


@pytest.mark.slow
def test_of_what_is_cut_each_process_has_its_share(stopped: Path) -> None:
    """Of weights, average and optimizer state; the checkpoint has the whole."""
    checkpoint = torch.load(run_in(stopped / "cut") / "checkpoints/generator.ckpt", weights_only=True)
    (state,) = (optimizer["state"] for optimizer in checkpoint["optimizer_states"])
    tensors = [value for of in state.values() for value in of.values() if isinstance(value, torch.Tensor)]
    whole = sum(value.numel() for value in [*checkpoint["state_dict"].values(), *tensors])
    two, cut = ([int((stopped / where / f"held-{rank}").read_text()) for rank in range(2)] for where in ("two", "cut"))
    assert min(two) >= whole
    assert sum(cut) >= whole
    assert max(cut) < 0.55 * whole


@pytest.mark.slow
def test_a_run_goes_on_cut_and_whole(stopped: Path, trained: Path) -> None:
    """From two processes with shares to one, and from two with all of it to two with shares; as if it had never stopped."""
    words, one = on_trained(trained, MUON), run_in(trained / "one" / MUON)
    cut, two = run_in(stopped / "cut"), run_in(stopped / "two")
    assert checkpoint_step(cut / "checkpoints/generator.ckpt") == checkpoint_step(two / "checkpoints/generator.ckpt") == 2
    several({stopped / "two": [*words, "trainer.strategy=fsdp"]})
    assert_same(one, run_in(stopped / "two"), "generator")
    assert run_in(stopped / "two") == two
    assert fit(stopped / "cut", *words) == cut
    assert_same(one, cut, "generator")


POISON = """
import os
import torch
from vidgen.training import shards, task

def poison(self, batch, step):
    if step == 2 and os.environ["RANK"] == "1":
        with torch.no_grad():
            shards.local(self.model.embed.weight).fill_(torch.nan)
    return before(self, batch, step)

before, task.GeneratorTask.step_losses = task.Task.step_losses, poison
"""


@pytest.mark.slow
def test_what_is_not_finite_in_one_s_share_ends_all_with_one_sentence(trained: Path) -> None:
    words = [*on_trained(trained, "lfq, dit"), "trainer.strategy=fsdp"]
    results = ended(started({trained / "poisoned": words}, program=POISON))
    assert all(status for status, _, _ in results)
    told = "".join(err for _, _, err in results)
    assert told.count("vidgen: ") == 1
    assert "The loss of generator step 3 is not finite, first in the output of embed (Linear)." in told
    assert "Traceback" not in told


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
    ("words", "sentence"),
    [
        (["trainer.strategy=dpp"], "There is no strategy called 'dpp'. Did you mean 'ddp'?"),
        (["trainer.strategy=fsdp", "trainer.compile=true"], "trainer.strategy=fsdp gathers weights between blocks"),
    ],
)
def test_what_is_no_strategy_is_said_at_once(
    words: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", *words]) == 2
    assert sentence in capsys.readouterr().err
