"""One training run of one task: Lightning's loop with our checkpoints, progress, guards and rows."""

from __future__ import annotations

import logging
import math
import os
import signal
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, Strategy
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from vidgen.errors import UserError
from vidgen.memory import keep_freed_memory
from vidgen.nn.parallel import mean_over_ranks
from vidgen.training import ranks
from vidgen.training.guards import blame
from vidgen.training.shards import Shards, gather, gathered, local
from vidgen.training.task import GeneratorTask, Task

# Probabilities that underflow made CPU steps ten times slower. Threads inherit this when they start: it comes before any does.
torch.set_flush_denormal(True)


class Stopped(Exception):
    """Training was asked to stop (Ctrl-C or SIGTERM) and did: between two steps with a checkpoint written, unless asked twice."""


@dataclass(kw_only=True)
class Hooks:
    """What the loop tells whoever runs it.

    Attributes:
        log: called with (step, split, named values) every ``log_every`` steps and after each validation.
        progress: called with (step, loss) as often as the screen may like it.
        preview: called with the step at a sixteenth, a quarter and the whole of training.
        warn: called with a sentence when something looks wrong but training can go on.
    """

    log: Callable[[int, str, Mapping[str, float]], None]
    progress: Callable[[int, float], None]
    preview: Callable[[int], None]
    warn: Callable[[str], None]


PREVIEWS = (1 / 16, 1 / 4, 1.0)


def preview_steps(steps: int) -> list[int]:
    """The steps after which a preview is made."""
    return sorted({max(1, round(part * steps)) for part in PREVIEWS})


def train(
    task: Task,
    loader: Callable[[int], DataLoader],
    *,
    checkpoint: Path,
    hooks: Hooks,
    precision: str,
    accelerator: str,
    strategy: str = "ddp",
    compiled: bool = False,
    log_every: int,
    checkpoint_every: int,
) -> None:
    """Trains ``task`` to the end of its recipe, from ``checkpoint`` where that exists.

    Several processes (:mod:`vidgen.training.ranks`) call it together. They take the same steps and stop after the same
    one; the first of them alone calls the hooks and writes, and ends with the average.

    Args:
        task: the model and its recipe.
        loader: given the first step, the loader of the batches from there to the last step, of this process's share of them.
        checkpoint: where the state is kept; the one before it stays beside it until the new one is whole.
        hooks: what to call.
        precision: ``bf16`` or ``fp32``.
        accelerator: Lightning's word for the device.
        strategy: of several processes; with ``fsdp`` a generator is cut over them, and else each has the whole of what it trains.
        compiled: whether the network is compiled; its average, which validation and previews use, is not.
        log_every: steps between logged rows.
        checkpoint_every: steps between checkpoints.

    Raises:
        Stopped: after Ctrl-C or SIGTERM, when the step was finished and its checkpoint written; after a second Ctrl-C, at once.
        UserError: as soon as a loss or the weights are not finite; they never reach a checkpoint.
    """
    resume, first = last_good(checkpoint), checkpoint_step(checkpoint)
    if first >= task.recipe.steps:
        load_average(task, resume)
        return
    watch = Watch(checkpoint, hooks, log_every=log_every, checkpoint_every=checkpoint_every)
    if compiled:
        task.compile_model()
    _quiet()
    keep_freed_memory()
    with ranks.connected(accelerator):
        try:
            with watch.catching_signals():
                trainer = _trainer(task, watch, precision, accelerator, strategy)
                trainer.fit(task, loader(first), ckpt_path=str(resume) if resume else None, weights_only=True)
        except (SIGTERMException, RuntimeError) as error:
            # Asked to stop, Lightning leaves in a way of its own, and a worker that was asked as well is missed.
            if not (watch.stopping and (isinstance(error, SIGTERMException) or "DataLoader worker" in str(error))):
                raise
        if ranks.anyone(watch.stopping):
            raise Stopped


def _trainer(task: Task, watch: Watch, precision: str, accelerator: str, strategy: str) -> L.Trainer:
    """Lightning's trainer for this process alone, or for all processes as one."""
    several: dict[str, Any] = {}
    if ranks.count() > 1:
        cut = strategy == "fsdp" and isinstance(task, GeneratorTask)
        several["strategy"] = Shards() if cut else _ddp(task)
        several["plugins"] = [ranks.environment()]
    return L.Trainer(
        accelerator=accelerator,
        devices=ranks.count() // ranks.machines(),
        num_nodes=ranks.machines(),
        **several,
        precision="bf16-mixed" if precision == "bf16" else "32-true",
        max_steps=task.recipe.steps,
        max_epochs=-1,
        callbacks=[watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
    )


def _ddp(task: Task) -> Strategy:
    """Where each process has all of ``task``.

    The adversary's gradients are averaged in its own step, and what is in buffers is the same everywhere as it comes about.
    """
    apart = [name for name, _ in task.named_parameters() if name.startswith("adversary.")]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(task, apart)
    return DDPStrategy(find_unused_parameters=True, broadcast_buffers=False)


def checkpoint_step(checkpoint: Path) -> int:
    """Optimizer steps done in the state that training would go on from; 0 where there is none."""
    found = last_good(checkpoint)
    return int(torch.load(found, map_location="meta", weights_only=True, mmap=True)["global_step"]) if found else 0


def last_good(checkpoint: Path) -> Path | None:
    """``checkpoint``, or the one kept from before it where the newest was cut short, or None."""
    for path in (checkpoint, previous(checkpoint)):
        try:
            torch.load(path, map_location="meta", weights_only=True, mmap=True)
        except FileNotFoundError:
            continue
        except Exception as error:  # torch raises several kinds for a truncated file
            warnings.warn(f"{path} cannot be read ({type(error).__name__}), so it is passed over.", stacklevel=2)
            continue
        return path
    return None


def previous(checkpoint: Path) -> Path:
    """Where the checkpoint before ``checkpoint`` is kept."""
    return checkpoint.with_name(f"{checkpoint.stem}-previous{checkpoint.suffix}")


def load_average(task: Task, checkpoint: Path | None) -> None:
    """Takes model and average of a finished training from its checkpoint."""
    assert checkpoint is not None
    task.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"])
    task.average.eval()


@dataclass(kw_only=True)
class Taken:
    """A step that was taken, and what says whether it was sound.

    Attributes:
        step: counted from 1.
        batch: what it was taken on.
        loss: its total.
        norms: of its gradients before clipping: the trained part's, then the discriminator's.
    """

    step: int
    batch: Any
    loss: Tensor
    norms: list[Tensor]

    def wrong(self) -> str:
        """What of it is not finite; on a device this waits for it."""
        if not math.isfinite(self.loss.item()):
            return "loss"
        return "" if all(math.isfinite(norm.item()) for norm in self.norms) else "gradient"


class Watch(L.Callback):
    """Checkpoints, rows, progress, previews, the finiteness of losses, and the wish to stop; all between two steps.

    On a CPU a step whose loss or gradient is not finite is not taken. Elsewhere nobody waits to see: such a gradient counts as 0,
    and training stops when the step after it is done.
    """

    def __init__(self, checkpoint: Path, hooks: Hooks, *, log_every: int, checkpoint_every: int) -> None:
        self.checkpoint, self.hooks = checkpoint, hooks
        self.log_every, self.checkpoint_every = log_every, checkpoint_every
        self.stopping = False
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._now: Taken | None = None
        self._last: Taken | None = None
        self._warned = False

    def on_train_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Of several processes, each hears signals itself: Lightning would answer one in the midst of what they do together."""
        if ranks.count() > 1:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self.ask)

    def on_train_batch_start(self, trainer: L.Trainer, task: L.LightningModule, batch: Any, index: int) -> None:
        """Before each step: listens for its gradients."""
        assert isinstance(task, Task)
        self._now = now = Taken(step=trainer.global_step + 1, batch=batch, loss=task.last_total, norms=[])

        def listen(norm: Tensor) -> None:
            now.loss = task.last_total
            now.norms.append(norm.detach())
            if norm.device.type == "cpu":
                self._check(task, now)

        task.on_gradient = listen

    def on_train_batch_end(self, trainer: L.Trainer, task: L.LightningModule, outputs: Any, batch: Any, index: int) -> None:
        """After each optimizer step."""
        assert isinstance(task, Task)
        step, steps = trainer.global_step, task.recipe.steps
        self._check(task, self._last)  # the device has finished that one: no step waits for the host
        self._last = now = self._now
        assert now is not None
        losses = {f"loss/{name}": value for name, value in {"total": outputs["loss"].detach(), **outputs["scalars"]}.items()}
        for name, value in (losses | {"grad_norm": now.norms[0]}).items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
            self._counts[name] = self._counts.get(name, 0) + 1
        if step % self.log_every == 0 or step >= steps:
            self._check(task, self._last)
            self._log(trainer, step)
        if step in preview_steps(steps):
            with gathered(task.average):
                ranks.first(lambda: self._show(task, step))
        stopping = ranks.anyone(self.stopping)  # read once, for the wish may come at any moment
        if step % self.checkpoint_every == 0 or step >= steps or stopping:
            self._check(task, self._last)
            self._check_weights(task, step)
            self.save(trainer)
        if step >= steps:
            gather(task.average)
        trainer.should_stop = stopping

    def _show(self, task: Task, step: int) -> None:
        self.hooks.log(step, "val", task.validate_now())
        self.hooks.preview(step)

    def save(self, trainer: L.Trainer) -> None:
        """Writes the checkpoint beside its place, keeps the old one as the previous, then puts the new one in its place."""
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.checkpoint.with_suffix(".partial")
        trainer.save_checkpoint(fresh)
        ranks.first(lambda: self._put(fresh))

    def _put(self, fresh: Path) -> None:
        if self.checkpoint.exists():
            self.checkpoint.replace(previous(self.checkpoint))
        fresh.replace(self.checkpoint)

    def _check(self, task: Task, taken: Taken | None) -> None:
        """Looks at a step's loss and gradients; where one is not finite, the step is taken again to see what made it so."""
        wrong = taken.wrong() if taken is not None else ""
        if taken is None or not wrong:
            return
        with task.trainer.precision_plugin.train_step_context():
            first = blame(task, taken.batch, taken.step - 1)
        where = f", first in {first}" if first else ""
        raise self._not_finite(task, f"The {wrong} of {task.stage} step {taken.step} is", where)

    def _check_weights(self, task: Task, step: int) -> None:
        """A finite loss can have a gradient that is not, and what a checkpoint holds must be worth going on from."""
        if ranks.anyone(not all(bool(local(weight).isfinite().all()) for weight in task.model.parameters())):
            raise self._not_finite(task, f"The weights after {task.stage} step {step} are")

    def _not_finite(self, task: Task, what: str, where: str = "") -> UserError:
        rates = ["lr", "muon_lr"] if task.recipe.optimizer == "muon" else ["lr"]
        lower = " ".join(f"{task.stage}.training.{rate}={getattr(task.recipe, rate) / 2:g}" for rate in rates)
        good = checkpoint_step(self.checkpoint)
        kept = f"; the checkpoint of step {good} is kept in {self.checkpoint.parent}" if good else ""
        return UserError(f"{what} not finite{where}. Try {lower}, or trainer.precision=fp32 where it was bf16{kept}.")

    def _log(self, trainer: L.Trainer, step: int) -> None:
        values = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        means = mean_over_ranks(torch.tensor(list(values.values()), dtype=torch.float64))
        values = dict(zip(values, means.tolist(), strict=True))
        if not ranks.lead():
            return
        values["lr"] = trainer.optimizers[0].param_groups[-1]["lr"]
        assert isinstance(trainer.lightning_module, Task)
        health, warning = trainer.lightning_module.health()
        self.hooks.log(step, "train", values | health)
        self.hooks.progress(step, values["loss/total"])
        if warning and not self._warned:  # once: its figures change from step to step
            self._warned = True
            self.hooks.warn(f"step {step}: {warning}")

    def ask(self, number: int, frame: FrameType | None) -> None:
        """A signal: the wish to stop. To several processes one Ctrl-C may come twice, from the terminal and from torchrun."""
        if self.stopping and number == signal.SIGINT and ranks.count() == 1:
            raise Stopped
        self.stopping = True

    def catching_signals(self) -> _Signals:
        """Turns the first Ctrl-C or SIGTERM into a wish to stop; a second Ctrl-C stops at once."""
        return _Signals(self)


class _Signals:
    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.before: dict[int, Any] = {}

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self.before[number] = signal.signal(number, self.watch.ask)

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def _quiet() -> None:
    """Lightning's banners say nothing that ``fit`` has not said, and its warnings about loaders do not apply to ours."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\.")
    warnings.filterwarnings("ignore", message=r"torch\.distributed\.nn\.functional")  # what is to follow it is private so far
    os.environ.setdefault("POSSIBLE_USER_WARNINGS", "off")


def seconds_a_step(task: Task, batch: Any, precision: str, device: torch.device, repeats: int = 3) -> float:
    """Measures a few forward and backward passes, the first not counted: what the estimate of the time is made from."""
    times = []
    task.to(device)
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            total = task.losses(batch).total
        total.backward()
        total.item()
        times.append(time.perf_counter() - begin)
        task.zero_grad()
    return min(times[1:])
