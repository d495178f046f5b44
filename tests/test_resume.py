"""Going on equals never having stopped, to the bit: every training in this process, and the command line through kills."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file

from vidgen import hub, registry, runs
from vidgen.cli import main
from vidgen.routes import fitted
from vidgen.training import loop

ROOT = Path(__file__).parent.parent


# In this process: every training, stopped and killed again and again


class Killed(BaseException):
    """The process ends here."""


def killed(step: int, split: str) -> None:
    raise Killed


def stopped(step: int, split: str) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def ending_at(last: int, end: Callable[[int, str], None]) -> loop.Hooks:
    def log(step: int, split: str, values: Any) -> None:
        if step == last and split == "train":
            end(step, split)

    return tiny.Seen().hooks(log=log)


EACH = [("tokenizer", name, "muon") for name in tiny.trained()] + [("tokenizer", "kl", "adamw")]
EACH += [("tokenizer", "lfq", "adversary"), ("tokenizer", "kl", "adversary")]
EACH += [("generator", name, "muon", "lfq") for name in tiny.distinct("generators")] + [("generator", "dit", "adamw", "lfq")]
EACH += [("generator", name, "muon", tokenizer) for name in registry.parts("generators") for tokenizer in ("kl", "vq")]
"""Every generator on bits, on continuous latents and on ids; of bits and ids ``var`` has their pyramids."""


@pytest.fixture(params=EACH, ids="-".join)
def training(request: pytest.FixtureRequest, tmp_path: Path) -> tiny.Training:
    stage, name, optimizer, *other = request.param
    if optimizer == "adversary":  # from the fifth step on, seeing gradients, with images among the videos
        adversary, perceptual = tiny.ADVERSARY | {"start": 4}, {"name": "gradients", "weight": 0.1}
        return tiny.tokenizer_training(name, adversary=adversary, perceptual=perceptual, images=0.5)
    if stage == "tokenizer":
        return tiny.tokenizer_training(name, optimizer=optimizer)
    recipe = fitted(tiny.tokenizer_config(*other), tiny.generator_config(name)["name"])
    tokenizer = tiny.stirred(hub.build_tokenizer(recipe)).eval()
    tokenizer.measure(tiny.videos(tokenizer))
    cache = tiny.latent_cache(tokenizer, tmp_path / "latents", wants=tiny.generator(name, tokenizer.space).wants)
    return tiny.generator_training(name, tokenizer, cache, optimizer=optimizer)


def same(a: Any, b: Any) -> bool:
    """Whether two checkpoints' contents are the same, to the bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(value, b[key]) for key, value in a.items())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def kept(folder: Path) -> dict[str, Any]:
    (path,) = (path for path in folder.glob("*.ckpt") if "previous" not in path.name)
    return torch.load(path, weights_only=True)


def test_a_training_stopped_and_killed_again_and_again_ends_as_one_that_never_was(
    training: tiny.Training, tmp_path: Path
) -> None:
    """Weights, average, optimizers, schedule, LeCam's averages and the codebook's use.

    Checkpoints every 3 of 8 steps, and wherever a stop was asked for.
    """
    whole = training.run(tmp_path / "whole")
    folder = tmp_path / "broken"
    for last, end, error in ((1, stopped, loop.Stopped), (5, killed, Killed), (4, killed, Killed), (7, stopped, loop.Stopped)):
        with pytest.raises(error):
            training.run(folder, ending_at(last, end))
    seen = tiny.Seen()
    resumed = training.run(folder, seen.hooks())
    assert seen.progress == [8]
    assert tiny.same_weights(resumed, whole)
    ours, theirs = kept(folder), kept(tmp_path / "whole")
    assert theirs["global_step"] == 8
    assert theirs["optimizer_states"][0]["state"]
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "adversary_optimizer"):
        assert same(ours.get(part), theirs.get(part)), part
    watched = {name.partition(".")[0] for name in theirs["state_dict"]} - {"model", "average"}
    assert ("adversary_optimizer" in theirs) == ("adversary" in watched) == (task_of(training).adversary is not None)


def task_of(training: tiny.Training) -> Any:
    """A generator has no adversary."""
    task = training.task()
    return task if hasattr(task, "adversary") else SimpleNamespace(adversary=None)


def test_this_comparison_can_fail(tmp_path: Path) -> None:
    """Two seeds end apart in everything that is compared but the schedule."""
    one, two = (tiny.tokenizer_training("kl", seed=seed) for seed in (0, 1))
    one.run(tmp_path / "one")
    two.run(tmp_path / "two")
    ours, theirs = kept(tmp_path / "one"), kept(tmp_path / "two")
    assert not same(ours["state_dict"], theirs["state_dict"])
    assert not same(ours["optimizer_states"], theirs["optimizer_states"])


# Through the command line, in other processes

STEPS = 160
TOKENIZER = [
    "tokenizer.backbone.patch=[4,4,4]",
    "tokenizer.backbone.widths=[16]",
    "tokenizer.backbone.encoder_depths=[1]",
    "tokenizer.backbone.decoder_depths=[1]",
    "tokenizer.backbone.strides=[]",
    "tokenizer.training.batch_size=2",
    f"tokenizer.training.steps={STEPS}",
]
SMALL = [
    "experiment=smoke",
    "trainer.precision=fp32",
    "trainer.log_every=2",
    "trainer.checkpoint_every=30",
    "data.frames=5",
    "data.height=16",
    "data.width=16",
    "data.radius=[2,2.5]",
    "data.families=[bounce,gravity]",
    "generator.width=32",
    "generator.depth=1",
    "generator.heads=2",
    "generator.steps=2",
    "generator.training.clips=16",
    "generator.training.batch_size=4",
    f"generator.training.steps={STEPS}",
    "evaluation.clips=4",
    "evaluation.samples=4",
    "evaluation.shown=2",
]
"""Small enough for a fit in seconds, and with steps enough to be interrupted in."""

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


class Command:
    """``vidgen fit`` in a process of its own, in a session of its own as under a terminal."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.said = (folder / "said.txt").open("w+")
        command = [sys.executable, "-m", "vidgen", "fit", *SMALL, *TOKENIZER, *overrides]
        self.process = subprocess.Popen(
            command, cwd=folder, env=ENVIRONMENT, stdout=self.said, stderr=subprocess.STDOUT, start_new_session=True
        )

    def send(self, number: signal.Signals, stage: str, step: int) -> None:
        """Sends a signal to it once ``stage`` has come to ``step``, and Ctrl-C to all its children too, as a terminal does."""
        while self._steps(stage) < step:
            assert self.process.poll() is None, f"it ended before {stage} step {step}:\n{self.text()}"
            time.sleep(0.02)
        (os.killpg if number == signal.SIGINT else os.kill)(self.process.pid, number)

    def _steps(self, stage: str) -> int:
        lines = [line for file in self.folder.glob("runs/2*/metrics.jsonl") for line in file.read_text().splitlines()]
        found = re.findall(rf'"stage": "{stage}", "split": "train", "step": (\d+)', "\n".join(lines))
        return max(map(int, found), default=0)

    def end(self) -> int:
        return self.process.wait(timeout=1200)

    def text(self) -> str:
        self.said.seek(0)
        return self.said.read()


def weights(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {file.name: load_file(file) for file in (folder / "runs" / "latest" / "model").glob("*.safetensors")}


def run_folders(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "runs").iterdir() if (path / "state.json").exists() and not path.is_symlink())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the command ran from beginning to end."""
    command = Command(tmp_path_factory.mktemp("whole"))
    assert command.end() == 0, command.text()
    assert "Open the report" in command.text()
    return command.folder


def test_a_run_interrupted_and_killed_in_both_trainings_ends_as_one_that_never_was(whole: Path, tmp_path: Path) -> None:
    """Each time by the same command, which says that it goes on. With a worker, for Ctrl-C reaches that too."""
    folder, worker = tmp_path / "broken", "trainer.workers=1"
    interruptions = [
        (signal.SIGTERM, "tokenizer", 10, 130, None),
        (signal.SIGKILL, "tokenizer", 64, -9, r"tokenizer +goes on from step \d+"),
        (signal.SIGINT, "generator", 10, 130, r"tokenizer +goes on from step \d+"),
        (signal.SIGKILL, "generator", 64, -9, r"generator +goes on from step \d+"),
    ]
    for number, stage, step, status, said in interruptions:
        command = Command(folder, worker)
        command.send(number, stage, step)
        assert command.end() == status, command.text()
        if said is not None:
            assert "(going on with it)" in command.text()
            assert re.search(said, command.text()), command.text()
        if status == 130:
            assert "Stopped; the state is kept. The same command goes on from here:\n  vidgen fit " in command.text()
    command = Command(folder, worker)
    assert command.end() == 0, command.text()
    assert re.search(r"generator +goes on from step \d+", command.text()), command.text()
    assert len(run_folders(folder)) == 1
    ours, theirs = weights(folder), weights(whole)
    assert theirs.keys() == {"tokenizer.safetensors", "generator.safetensors"}
    assert same(ours, theirs)
    curve = [json.loads(line) for line in (folder / "runs/latest/metrics.jsonl").read_text().splitlines()]
    for stage in ("tokenizer", "generator"):
        steps = [row["step"] for row in curve if (row["stage"], row["split"], row["name"]) == (stage, "train", "loss/total")]
        assert steps == sorted(set(steps)), "a step was recorded twice"
        assert steps[-1] == STEPS


# Through the command line, in this process: nothing is interrupted


@pytest.fixture
def fit(
    whole: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str]]]:
    """Runs the command beside the whole run; its status and what it said."""
    monkeypatch.chdir(whole)

    def run(*overrides: str, tokenizer: Sequence[str] = TOKENIZER) -> tuple[int, str]:
        capfd.readouterr()
        status = main(["fit", *SMALL, *tokenizer, *overrides])
        return status, "".join(capfd.readouterr())

    return run


QUICK = ["tokenizer.training.steps=4", "generator.training.steps=4"]


def test_the_command_that_began_a_run_stays_its_own(tmp_path: Path) -> None:
    """Whoever goes on with it may have typed resume=, which nobody else can repeat."""
    began = runs.new_run(tmp_path, "lfq-dit", "f")
    assert began.first_command("vidgen fit seed=1") == "vidgen fit seed=1"
    runs.write_yaml(began.path / "config.yaml", {"command": "vidgen fit seed=1"})
    began.release()
    again = runs.find_run(tmp_path, "f", str(began.path))
    assert again is not None
    assert again.first_command(f"vidgen fit seed=1 resume={began.path}") == "vidgen fit seed=1"
    again.release()


def test_a_finished_run_is_left_alone_and_its_tokenizer_and_latents_reused(
    fit: Callable[..., tuple[int, str]], whole: Path
) -> None:
    """A new folder each time, with the same tokenizer inside; only where other latents are asked for are they made."""
    before = run_folders(whole)
    first = weights(whole)["tokenizer.safetensors"]
    for overrides, caches in (([], 1), (["generator.training.steps=4"], 1), (["generator.training.clips=8"], 2)):
        status, said = fit(*overrides)
        assert status == 0, said
        assert "going on" not in said
        assert re.search(r"tokenizer +taken from runs/\S+ \(reuse=never trains it again\)", said), said
        assert same(weights(whole)["tokenizer.safetensors"], first)
        assert len(list((whole / "runs" / "cache").iterdir())) == caches
    assert len(run_folders(whole)) == len(before) + 3


def test_nothing_is_told_of_a_tokenizer_that_was_begun_and_then_taken(fit: Callable[..., tuple[int, str]], whole: Path) -> None:
    """Its curve, its pictures and its time are of another training than the tokenizer that is there."""
    options = ["generator.training.steps=5"]
    assert fit(*options, "reuse=never")[0] == 0
    run = (whole / "runs" / "latest").resolve()
    state = json.loads((run / "state.json").read_text())
    assert state.pop("tokenizer") == "trained"
    (run / "state.json").write_text(json.dumps(state | {"status": "running"}))
    status, said = fit(*options)
    assert status == 0, said
    assert "(going on with it)" in said
    assert "taken from" in said
    assert (whole / "runs" / "latest").resolve() == run
    told = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {row["stage"] for row in told} == {"generator", "evaluation"}
    assert not list(run.glob("reconstructions/preview-*"))
    environment = json.loads((run / "environment.json").read_text())
    assert "tokenizer" not in environment["timings"]
    assert "tokenizer training clips/s" not in environment["throughput"]


def test_a_run_killed_after_its_last_checkpoint_ends_the_same(
    fit: Callable[..., tuple[int, str]], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When both trainings were done and nothing else was written: no model, no latents, no result."""
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy, symlinks=True)
    for path in run_folders(copy)[1:]:
        shutil.rmtree(copy / "runs" / path)
    run = copy / "runs" / run_folders(copy)[0]
    shutil.rmtree(run / "model")
    shutil.rmtree(copy / "runs" / "cache")
    state = json.loads((run / "state.json").read_text()) | {"status": "running"}
    (run / "state.json").write_text(json.dumps({name: value for name, value in state.items() if name != "tokenizer"}))
    monkeypatch.chdir(copy)
    status, said = fit()
    assert status == 0, said
    assert "(going on with it)" in said
    assert f"tokenizer  goes on from step {STEPS}" in said
    assert len(run_folders(copy)) == 1
    theirs = {file.name: load_file(file) for file in (whole / "runs" / run.name / "model").glob("*.safetensors")}
    assert same(weights(copy), theirs)


def test_the_precision_that_was_chosen_is_recorded(whole: Path) -> None:
    assert {json.loads(file.read_text())["precision"] for file in whole.glob("runs/2*/environment.json")} == {"fp32"}


@pytest.mark.parametrize("overrides", [["reuse=never"], ["tokenizer.training.steps=4"], ["seed=1"], ["data.speed=[1,1.5]"]])
def test_a_tokenizer_of_another_recipe_data_or_seed_is_trained(fit: Callable[..., tuple[int, str]], overrides: list[str]) -> None:
    status, said = fit("stage=tokenizer", "tokenizer.training.steps=3", *overrides)
    assert status == 0, said
    assert "taken from" not in said


def test_reuse_never_trains_again_and_comes_out_the_same(fit: Callable[..., tuple[int, str]], whole: Path) -> None:
    options = ["stage=tokenizer", "tokenizer.training.steps=5"]
    assert fit(*options)[0] == 0
    first = weights(whole)
    status, said = fit(*options, "reuse=never")
    assert status == 0
    assert "taken from" not in said
    assert same(weights(whole), first)
    assert list(first) == ["tokenizer.safetensors"]


def test_a_trained_tokenizer_is_taken_from_where_it_is_said_to_be(fit: Callable[..., tuple[int, str]], whole: Path) -> None:
    """Its own recipe comes with it, and the generator alone is trained."""
    assert fit("stage=tokenizer", "tokenizer.training.steps=6", "tokenizer/quantizer=kl")[0] == 0
    source = (whole / "runs" / "latest").resolve()
    given = weights(whole)["tokenizer.safetensors"]
    status, said = fit(f"tokenizer.from={source}", "stage=generator", "generator.training.steps=4", tokenizer=[])
    assert status == 0, said
    assert f"taken from {source}" in said
    assert "standardised latents" in said  # kl's, though the command's own tokenizer would be lfq
    assert same(weights(whole)["tokenizer.safetensors"], given)
    status, said = fit("stage=generator", *QUICK)
    assert status == 2
    assert "stage=generator needs a trained tokenizer: give tokenizer.from=RUN" in said


def test_init_starts_from_a_run_s_weights(fit: Callable[..., tuple[int, str]], whole: Path) -> None:
    """With learning rates of 0 nothing but the start is left: the weights that were given."""
    assert fit(*QUICK, "reuse=never")[0] == 0
    source, given = (whole / "runs" / "latest").resolve(), weights(whole)
    still = [f"{stage}.training.{rate}=0.0" for stage in ("tokenizer", "generator") for rate in ("lr", "muon_lr")]
    status, said = fit(*QUICK, *still, f"init={source}")
    assert status == 0, said
    found = weights(whole)
    for name, tensors in given.items():
        for key, value in tensors.items():
            if "standardise" not in key:
                torch.testing.assert_close(found[name][key], value, rtol=1e-6, atol=1e-7)
    status, said = fit(*QUICK, f"init={source}", "generator.width=48")
    assert status == 2
    assert "init: the run's DiT has another shape than this recipe's" in said


def test_a_run_in_use_is_one_sentence(fit: Callable[..., tuple[int, str]], whole: Path) -> None:
    """While another process, alive, trains in it."""
    before, slow = set(run_folders(whole)), ["tokenizer.training.steps=40000", "seed=5"]
    command = Command(whole, *slow)
    try:
        while not (used := set(run_folders(whole)) - before):
            assert command.process.poll() is None, command.text()
            time.sleep(0.05)
        run = whole / "runs" / used.pop()
        status, said = fit(*slow, f"resume={run}")
        assert status == 2
        assert said.splitlines()[-1].startswith(f"vidgen: The run {run} is in use by another process")
    finally:
        command.process.kill()
        command.process.wait()


@pytest.mark.parametrize(
    ("resume", "sentence"),
    [
        ("runs/none", "resume=runs/none is not the folder of a run"),
        ("runs/latest", "is finished; to train on from its weights use init="),
    ],
)
def test_what_cannot_be_gone_on_with_is_one_sentence(fit: Callable[..., tuple[int, str]], resume: str, sentence: str) -> None:
    assert fit(*QUICK)[0] == 0  # so that latest leads to a run of this recipe, whatever other tests have run
    status, said = fit(*QUICK, f"resume={resume}")
    assert status == 2
    assert sentence in said.splitlines()[-1]
