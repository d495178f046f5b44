"""The loop around a task: previews, rows, checkpoints that are always good, and what is noticed at once."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import tiny
import torch
from torch import Tensor

from vidgen import UserError
from vidgen.data.batches import ClipBatches
from vidgen.latents import Losses
from vidgen.training import loop
from vidgen.training.optim import schedule
from vidgen.training.task import Task, TokenizerTask


@pytest.fixture
def training() -> tiny.Training:
    return tiny.tokenizer_training("kl")


def checkpoint_of(folder: Path) -> Path:
    return folder / "tokenizer.ckpt"


@pytest.mark.parametrize(("steps", "previews"), [(32, [2, 8, 32]), (8, [1, 2, 8]), (1, [1]), (1600, [100, 400, 1600])])
def test_previews_are_at_a_sixteenth_a_quarter_and_the_whole(steps: int, previews: list[int]) -> None:
    assert loop.preview_steps(steps) == previews


def test_previews_and_validation_happen_then_and_change_nothing(training: tiny.Training, tmp_path: Path) -> None:
    """Whatever a preview draws or decodes, the weights come out the same, to the bit."""
    seen = tiny.Seen()
    quiet = training.run(tmp_path / "quiet", seen.hooks())
    assert seen.previews == [1, 2, 8]
    assert [step for step, split, _ in seen.rows if split == "val"] == [1, 2, 8]

    def preview(step: int) -> None:
        noisy.average.decode(noisy.average.encode(tiny.video(tiny.shape_of(noisy.average))))
        torch.randn(5)

    noisy = training.task()
    training.run(tmp_path / "noisy", tiny.Seen().hooks(preview=preview), task=noisy)
    assert tiny.same_weights(quiet, noisy)


def test_rows_are_means_over_the_steps_since_the_last(training: tiny.Training, tmp_path: Path) -> None:
    """At every fourth step and at the end; so are the rates, which follow the schedule."""
    each, some = tiny.Seen(), tiny.Seen()
    task = training.run(tmp_path / "each", each.hooks(), log_every=1)
    training.run(tmp_path / "some", some.hooks(), log_every=3)
    single = {step: values for step, split, values in each.rows if split == "train"}
    means = {step: values for step, split, values in some.rows if split == "train"}
    assert list(single) == each.progress == list(range(1, 9))
    assert list(means) == some.progress == [3, 6, 8]
    for last, steps in ((3, (1, 2, 3)), (6, (4, 5, 6)), (8, (7, 8))):
        for name in ("loss/total", "loss/l1", "loss/kl", "grad_norm"):
            assert means[last][name] == pytest.approx(sum(single[step][name] for step in steps) / len(steps), rel=1e-5)
    for step, values in single.items():
        factor = schedule(step, steps=8, warmup=task.recipe.warmup, decay=task.recipe.decay)
        assert values["lr"] == pytest.approx(factor * task.recipe.muon_lr)


def test_the_norm_of_the_gradient_is_told_as_it_was_before_clipping(tmp_path: Path) -> None:
    seen, squares = tiny.Seen(), []
    training = tiny.tokenizer_training("kl", steps=1, clip_norm=1e-3)
    task = training.task()
    for weight in task.model.parameters():
        weight.register_post_accumulate_grad_hook(lambda weight: squares.append(float(weight.grad.square().sum())))
    training.run(tmp_path, seen.hooks(), task=task)
    (values,) = [values for _, split, values in seen.rows if split == "train"]
    assert values["grad_norm"] == pytest.approx(sum(squares) ** 0.5, rel=1e-4)
    assert values["grad_norm"] > 1e-3


def test_the_average_follows_the_weights_by_its_formula(training: tiny.Training, tmp_path: Path) -> None:
    """a += (1 - d)(w - a), with d = min(ema, (1 + k) / (10 + k)) in step k, counted from 0: it follows closely at first."""
    seen: list[Tensor] = []
    task = training.task()
    name = next(name for name, _ in task.model.named_parameters())

    def log(step: int, split: str, values: Any) -> None:
        if split == "train":
            seen.append(task.model.get_parameter(name).detach().double().clone())

    expected = task.average.get_parameter(name).double().clone()
    training.run(tmp_path, tiny.Seen().hooks(log=log), task=task)
    assert len(seen) == task.recipe.steps
    for k, weight in enumerate(seen):
        expected += (1 - min(task.recipe.ema, (1 + k) / (10 + k))) * (weight - expected)
    torch.testing.assert_close(task.average.get_parameter(name).double(), expected, rtol=1e-5, atol=1e-6)
    assert not torch.equal(task.average.get_parameter(name), task.model.get_parameter(name))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_are_clipped_to_the_recipe_s_norm(precision: str, tmp_path: Path) -> None:
    """With AdamW at its first step only the clipped gradient's moments tell: the first is 0.1 of it."""
    norms = {}
    for clip_norm in (0.0, 1e-3):
        training = tiny.tokenizer_training("kl", steps=1, optimizer="adamw", clip_norm=clip_norm)
        training.run(tmp_path / str(clip_norm), precision=precision)
        saved = torch.load(checkpoint_of(tmp_path / str(clip_norm)), weights_only=True)["optimizer_states"][0]["state"]
        norms[clip_norm] = float(torch.stack([state["exp_avg"].norm() for state in saved.values()]).norm()) / 0.1
    assert norms[1e-3] == pytest.approx(1e-3, rel=1e-3)
    assert norms[0.0] > 0.01


def test_checkpoints_are_at_their_steps_and_the_one_before_is_kept(training: tiny.Training, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []

    def log(step: int, split: str, values: Any) -> None:
        if split == "train":
            newest, before = checkpoint_of(tmp_path), loop.previous(checkpoint_of(tmp_path))
            steps.append(tuple(step_of(path) for path in (newest, before)))  # type: ignore[arg-type]

    training.run(tmp_path, tiny.Seen().hooks(log=log), checkpoint_every=3)
    # Rows come before the checkpoint of their step.
    assert steps == [(0, 0), (0, 0), (0, 0), (3, 0), (3, 0), (3, 0), (6, 3), (6, 3)]
    assert loop.checkpoint_step(checkpoint_of(tmp_path)) == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer-previous.ckpt", "tokenizer.ckpt"]


def step_of(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["global_step"]) if path.exists() else 0


class Killed(BaseException):
    """The process ends here."""


def dying_at(step: int) -> loop.Hooks:
    def log(now: int, split: str, values: Any) -> None:
        if now == step and split == "train":
            raise Killed

    return tiny.Seen().hooks(log=log)


def test_a_kill_while_a_checkpoint_is_written_loses_no_good_one(
    training: tiny.Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At whatever moment: half of the new file written, or the old one moved away and the new one not yet in its place."""
    save, replace = lightning.Trainer.save_checkpoint, Path.replace

    def half(trainer: lightning.Trainer, path: Path, *args: Any) -> None:
        save(trainer, path, *args)
        if trainer.global_step == 6:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            raise Killed

    def moved(path: Path, target: Path) -> Path:
        if path.suffix == ".partial" and step_of(path) == 6:
            raise Killed
        return replace(path, target)

    for name, owner, method, broken in (("half", lightning.Trainer, "save_checkpoint", half), ("moved", Path, "replace", moved)):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(owner, method, broken)
            training.run(tmp_path / name)
        assert loop.checkpoint_step(checkpoint_of(tmp_path / name)) == 3
        resumed = training.run(tmp_path / name)
        assert tiny.same_weights(resumed, training.run(tmp_path / "whole"))


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"nonsense" * 100])
def test_a_newest_checkpoint_that_is_cut_short_gives_way_to_the_one_before_with_a_warning(
    training: tiny.Training, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    whole = training.run(tmp_path)
    newest = checkpoint_of(tmp_path)
    newest.write_bytes(damage(newest.read_bytes()))
    with pytest.warns(UserWarning, match=f"{re.escape(str(newest))} cannot be read .* passed over"):
        assert loop.last_good(newest) == loop.previous(newest)
    seen = tiny.Seen()
    with pytest.warns(UserWarning, match="passed over"):
        again = training.run(tmp_path, seen.hooks())
    assert seen.progress == [7, 8]
    assert tiny.same_weights(again, whole)
    assert loop.last_good(newest) == newest


def test_where_no_checkpoint_can_be_read_training_starts_anew(training: tiny.Training, tmp_path: Path) -> None:
    assert loop.last_good(checkpoint_of(tmp_path)) is None
    assert loop.checkpoint_step(checkpoint_of(tmp_path)) == 0
    for path in (checkpoint_of(tmp_path), loop.previous(checkpoint_of(tmp_path))):
        path.write_bytes(b"nonsense")
    with pytest.warns(UserWarning, match="passed over"):
        seen = tiny.Seen()
        training.run(tmp_path, seen.hooks())
    assert seen.progress[0] == 1


def test_a_finished_training_is_loaded_and_not_repeated(training: tiny.Training, tmp_path: Path) -> None:
    done = training.run(tmp_path)

    def loader(first: int) -> Any:
        raise AssertionError("trains again")

    other = training.task()
    tiny.Training(training.task, loader).run(tmp_path, task=other)
    assert tiny.same_weights(other, done)
    assert not any(module.training for module in other.average.modules())


def spoiled(task: Task, step: int, how: Callable[[Tensor], Tensor]) -> Task:
    """``task`` with the loss of that step (counted from 1) put through ``how``."""
    plain = task.losses

    def losses(batch: Any) -> Losses:
        found = plain(batch)
        return Losses(total=how(found.total), scalars=found.scalars) if task.global_step == step - 1 else found

    task.losses = losses  # type: ignore[method-assign]
    return task


@pytest.mark.parametrize("log_every", [1, 3, 100])
@pytest.mark.parametrize(("step", "kept"), [(1, 0), (4, 3), (6, 3), (8, 6)])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_training_and_never_reaches_a_checkpoint(
    training: tiny.Training, tmp_path: Path, value: float, step: int, kept: int, log_every: int
) -> None:
    """Also where the very step has a checkpoint due, whatever is logged when."""
    with pytest.raises(UserError) as error:
        training.run(tmp_path, task=spoiled(training.task(), step, lambda total: total * value), log_every=log_every)
    where = f"; the checkpoint of step {kept} is kept in {tmp_path}" if kept else ""
    assert str(error.value) == (
        f"The loss of tokenizer step {step} is not finite. Try tokenizer.training.lr=0.0005 tokenizer.training.muon_lr=0.005, or "
        f"trainer.precision=fp32 where it was bf16{where}."
    )
    assert loop.checkpoint_step(checkpoint_of(tmp_path)) == kept
    if kept:
        state = torch.load(checkpoint_of(tmp_path), weights_only=True)["state_dict"]
        assert all(bool(value.isfinite().all()) for value in state.values())


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_a_finite_loss_with_a_gradient_that_is_not_stops_before_the_step(tmp_path: Path, clip_norm: float) -> None:
    """sqrt(0 * x) is 0, and its slope is not a number. The weights are still those of the step before."""
    training = tiny.tokenizer_training("kl", optimizer="adamw", clip_norm=clip_norm)
    task = spoiled(training.task(), 6, lambda total: total + (0 * total).sqrt())
    with pytest.raises(UserError) as error:
        training.run(tmp_path, task=task)
    first = "first in the gradient of backbone.decoder.head.conv."
    assert str(error.value).startswith(f"The gradient of tokenizer step 6 is not finite, {first}")
    assert "Try tokenizer.training.lr=0.0005, or " in str(error.value)
    assert loop.checkpoint_step(checkpoint_of(tmp_path)) == 3
    sound = training.task()
    with pytest.raises(loop.Stopped):
        training.run(tmp_path / "five", asking_at(5, signal.SIGTERM), task=sound)
    assert tiny.same_weights(task.model, sound.model)


def broken(task: Task, name: str, step: int) -> Task:
    """``task`` with a module whose output has an infinity in it in that step, counted from 1."""

    def spoil(module: Any, inputs: Any, output: Tensor) -> Tensor | None:
        if task.global_step != step - 1:
            return None
        spoilt = output.clone()
        spoilt[0] = float("inf")
        return spoilt

    task.model.get_submodule(name).register_forward_hook(spoil)
    return task


@pytest.mark.parametrize("name", ["backbone.encoder.stem.0.conv", "backbone.decoder.norm"])
def test_the_module_that_first_made_it_is_named(training: tiny.Training, tmp_path: Path, name: str) -> None:
    task = broken(training.task(), name, 4)
    kind = type(task.model.get_submodule(name)).__name__
    with pytest.raises(
        UserError, match=rf"^The loss of tokenizer step 4 is not finite, first in the output of {name} \({kind}\)\."
    ):
        training.run(tmp_path, task=task, log_every=100)


def test_a_loss_that_first_made_it_is_named(tmp_path: Path) -> None:
    training = tiny.tokenizer_training("kl", perceptual={"name": "gradients", "weight": 1.0})
    task = training.task()
    task.perceptual = (lambda reconstruction, video: (reconstruction - video).mean() / 0, 1.0)
    with pytest.raises(UserError, match=r"^The loss of tokenizer step 1 is not finite, first in the loss 'perceptual'\."):
        training.run(tmp_path, task=task)


def test_a_discriminator_that_made_it_is_named(tmp_path: Path) -> None:
    training = tiny.tokenizer_training("kl", adversary=tiny.ADVERSARY)
    task = training.task()
    with torch.no_grad():
        task.adversary.discriminator.stem.weight.fill_(float("inf"))
    with pytest.raises(UserError, match=r"first in the output of adversary\.discriminator\.stem \(Conv3d\)\."):
        training.run(tmp_path, task=task)


def test_losses_of_some_steps_are_means_over_those(tmp_path: Path) -> None:
    """R1 is taken in every other step: its row is no smaller for the steps without it."""
    training = tiny.tokenizer_training("kl", adversary=tiny.ADVERSARY)
    each, some = tiny.Seen(), tiny.Seen()
    training.run(tmp_path / "each", each.hooks(), log_every=1)
    training.run(tmp_path / "some", some.hooks(), log_every=8)
    taken = [values["loss/r1"] for _, split, values in each.rows if split == "train" and "loss/r1" in values]
    (mean,) = [values["loss/r1"] for _, split, values in some.rows if split == "train"]
    assert len(taken) == 4
    assert mean == pytest.approx(sum(taken) / 4, rel=1e-5)


def test_a_collapsed_codebook_is_warned_of_once(tmp_path: Path) -> None:
    """Though its perplexity differs from row to row, and it is in every row."""
    training = tiny.tokenizer_training("lfq", warmup=0, steps=8)
    task, told = training.task(), iter(range(100))
    task.health = lambda: ({"codebook/perplexity": 1.0}, f"the codebook has collapsed to {next(told)}")  # type: ignore[method-assign]
    seen = tiny.Seen()
    training.run(tmp_path, seen.hooks(), task=task)
    assert seen.warnings == ["step 1: the codebook has collapsed to 0"]
    assert [values["codebook/perplexity"] for _, split, values in seen.rows if split == "train"] == [1.0] * 8


def asking_at(step: int, *numbers: signal.Signals, after: Callable[[], None] = lambda: None) -> loop.Hooks:
    """Hooks in which signals arrive during that step."""

    def log(now: int, split: str, values: Any) -> None:
        if now == step and split == "train":
            for number in numbers:
                os.kill(os.getpid(), number)
            after()

    return tiny.Seen().hooks(log=log)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [1, 3, 4])
def test_ctrl_c_and_sigterm_finish_the_step_and_its_checkpoint(
    training: tiny.Training, tmp_path: Path, number: signal.Signals, step: int
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(loop.Stopped):
        training.run(tmp_path, asking_at(step, number))
    assert loop.checkpoint_step(checkpoint_of(tmp_path)) == step
    assert signal.getsignal(number) is before


def test_sigterm_to_a_loader_s_worker_too_is_a_wish_to_stop_and_not_an_error(tmp_path: Path) -> None:
    """As from a cluster or a service manager, which ask every process; the worker then dies, whenever that is noticed."""
    how, start = tiny.recipe(steps=200), tiny.tokenizer("kl")
    data = tiny.Clips(tiny.shape_of(start))

    def everyone(step: int, split: str, values: Any) -> None:
        if step == 4:
            for process in (*multiprocessing.active_children(), multiprocessing.current_process()):
                os.kill(process.pid, signal.SIGTERM)  # type: ignore[arg-type]

    def loader(first: int) -> Any:
        return ClipBatches(data, batch_size=2, seed=0, first=first, last=200).loader(1)

    training = tiny.Training(lambda: TokenizerTask(start, how, 0, data, val_clips=2), loader)
    with pytest.raises(loop.Stopped):
        training.run(tmp_path, tiny.Seen().hooks(log=everyone))
    assert loop.checkpoint_step(checkpoint_of(tmp_path)) in (3, 4)


def test_a_wish_to_stop_that_comes_during_a_preview_is_heard_too(training: tiny.Training, tmp_path: Path) -> None:
    hooks = tiny.Seen().hooks(preview=lambda step: step == 2 and os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(loop.Stopped):
        training.run(tmp_path, hooks)
    assert loop.checkpoint_step(checkpoint_of(tmp_path)) == 2


def test_a_second_ctrl_c_stops_at_once(training: tiny.Training, tmp_path: Path) -> None:
    """Without waiting for the step, whose checkpoint is then the last one there is."""
    reached = []
    with pytest.raises(loop.Stopped):
        training.run(tmp_path, asking_at(5, signal.SIGINT, signal.SIGINT, after=lambda: reached.append(5)))
    assert reached == []
    assert loop.checkpoint_step(checkpoint_of(tmp_path)) == 3


def test_training_says_nothing_of_lightning(training: tiny.Training, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        training.run(tmp_path)
    assert capfd.readouterr() == ("", "")
    assert [str(warning.message) for warning in caught if "lightning" in warning.filename] == []


def test_small_numbers_are_flushed_in_every_thread(python: Callable[[str], Any]) -> None:
    """A step with probabilities that underflow is ten times slower where they are not, and threads ask once, when they start."""
    done = python(
        "import torch\n"
        "torch.set_num_threads(2)\n"
        "import vidgen.training.loop\n"
        "print(int((torch.full((4_000_000,), 1e-37) * 1e-3).count_nonzero()))"
    )
    assert done.stdout == "0\n", done.stderr


def test_the_estimate_of_a_step_leaves_no_gradient(training: tiny.Training) -> None:
    task = training.task()
    before = {name: value.clone() for name, value in task.state_dict().items()}
    seconds = loop.seconds_a_step(task, next(iter(training.loader(0))), "fp32", torch.device("cpu"), repeats=1)
    assert 0 < seconds < 60
    assert all(weight.grad is None for weight in task.parameters())
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())
