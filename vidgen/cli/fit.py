"""``vidgen fit``: tokenizer, latents, generator, samples, measures, report; each step resumable, one folder a run."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from rich.console import Console

from vidgen import hub
from vidgen.cli.evaluate import Evaluation
from vidgen.cli.plan import LONG, MEASURED, Plan
from vidgen.cli.progress import Stage, clock
from vidgen.data.batches import ClipBatches, clips_a_step, collate, eval_batches, to_pixels, to_video
from vidgen.data.buckets import shared_out
from vidgen.evaluation import measure, rows
from vidgen.evaluation.pictures import pairs, save_clips
from vidgen.evaluation.report import write_report
from vidgen.latents import Condition, Latent
from vidgen.protocols import Data
from vidgen.runs import Run, environment, new_run, write_json, write_yaml
from vidgen.training import loop, ranks
from vidgen.training.cache import LAYOUT, LatentCache, build_cache, condition_of
from vidgen.training.loggers import build_logger
from vidgen.training.task import GeneratorTask, LatentBatches, Task, recipe_from, tokenizer_task

INTERRUPTED = 130

PREVIEWED = 8
"""Clips in a preview."""

ENCODED = 64
"""Clips that are encoded at a time for the cache; of longer or larger buckets fewer."""


def run(config: dict[str, Any]) -> None:
    """Runs the command with a resolved config; exits with status 130 where it was asked to stop.

    Several processes, started by torchrun or srun, run it together: they train as one, and the first does the rest for all.
    """
    console = Console(soft_wrap=True, quiet=not ranks.lead())
    with ranks.together():
        plan, folder, estimate = _begin(config) if ranks.lead() else _follow()
        try:
            Fit(plan, folder, console).run(estimate)
        except (loop.Stopped, KeyboardInterrupt):
            words = f"Stopped; the state is kept. The same command goes on from here:\n  {config['command']}"
            console.print(words, highlight=False, markup=False)  # a list in brackets is no markup
            sys.exit(INTERRUPTED)


def _begin(config: dict[str, Any]) -> tuple[Plan, Run, dict[str, float]]:
    """The plan, its run folder, made or found again, and the estimate of a new run's time."""
    plan = Plan(config)
    estimate = {} if plan.resumed else plan.estimate()
    folder = plan.resumed or new_run(plan.root, "-".join(plan.names.values()), plan.fingerprint)
    ranks.tell((plan.config, plan.precision, folder.path, folder.resumed))
    return plan, folder, estimate


def _follow() -> tuple[Plan, Run, dict[str, float]]:
    """The same plan and run folder in the other processes, once the first has them."""
    config, precision, path, resumed = ranks.hear()
    return Plan(config, precision), Run(path, None, resumed), {}


class Fit:
    """The doing of a :class:`~vidgen.cli.plan.Plan` in a run folder, in the order of :meth:`run`."""

    def __init__(self, plan: Plan, folder: Run, console: Console) -> None:
        self.plan, self.folder, self.console = plan, folder, console
        self.config, self.data, self.seed, self.device = plan.config, plan.data, plan.seed, plan.device
        self.path = folder.path
        self.tokenizer = plan.tokenizer
        self.generator: Any = None
        self.logger = build_logger(self.config["logger"], self.path) if ranks.lead() else None
        self.spent: float = folder.state["seconds"]
        self.timings: dict[str, float] = folder.state.get("timings", {})
        self.begin = time.monotonic()

    # The order

    def run(self, estimate: Mapping[str, float]) -> None:
        """Everything, from the plan to the path of the report."""
        try:
            self.folder.update(precision=self.plan.precision)
            self._announce(estimate)
            self._make_tokenizer()
            if self.plan.generator is not None:
                self._make_generator()
            report = ranks.first(self._report)
            self.folder.update(status="finished")
        finally:
            self._keep_time()
            self.folder.release()
        self.console.print(f"\nDone in {clock(self.spent)}. Open the report:\n  {report}", highlight=False)

    def _announce(self, estimate: Mapping[str, float]) -> None:
        """Says what will be done before it is done, and writes it to the run folder."""
        lines = self.plan.lines()
        words = f"Tokenizer {lines['tokenizer']} clips of {lines['data']}."
        if "generator" in lines:
            samples = self.config["evaluation"]["samples"]
            words += f" Generator {lines['generator']} clips' latents, asked for {samples} samples."
        route = lines.get("route", "")
        ranks.first(lambda: self._write_config({"words": words, "route": route, **self.config}))
        lines["run"] = str(self.path) + (" (going on with it)" if self.folder.resumed else "")
        if estimate:
            parts = ", ".join(f"{name} {clock(seconds)}" for name, seconds in estimate.items())
            lines["estimate"] = f"about {clock(sum(estimate.values()))} of training ({parts})"
        for name, text in lines.items():
            self._say(name, text)
        if sum(estimate.values()) > LONG:
            self.console.print(f"That is long: {self.plan.quicker()}.", highlight=False)

    def _write_config(self, told: Mapping[str, Any]) -> None:
        command = self.folder.first_command(self.config["command"])
        write_yaml(self.path / "config.yaml", {**told, "command": command})

    def _make_tokenizer(self) -> None:
        """Trains the tokenizer, or takes it from where it is trained already."""
        source = ranks.first(lambda: self.folder.state.get("tokenizer") or self.plan.trained_tokenizer())
        if source is None:
            with self._timed("tokenizer"):
                self._train_tokenizer()
            source = "trained"
        else:
            done = "tokenizer" in self.folder.state
            self.tokenizer.load_state_dict(hub.load(self.path if done else source).tokenizer.state_dict())
            if not done:
                self.timings.pop("tokenizer", None)
                ranks.first(self._forget_tokenizer)
            if source != "trained":
                again = "" if self.plan.given else " (reuse=never trains it again)"
                self._say("tokenizer", f"taken from {source}{again}")
        self.tokenizer.to(self.device).eval().requires_grad_(False)
        ranks.first(self._save)
        if not ranks.lead():  # the first has measured it
            self.tokenizer.load_state_dict(hub.load(self.path).tokenizer.state_dict())
        self.folder.update(tokenizer=source)

    def _forget_tokenizer(self) -> None:
        """Removes what is left of a training that was stopped, where another run has finished the same since."""
        rows.trim(self.path / "metrics.jsonl", stage="tokenizer", step=-1)
        for pattern in ("checkpoints/tokenizer*.ckpt", "reconstructions/preview-*"):
            for path in self.path.glob(pattern):
                path.unlink()

    def _make_generator(self) -> None:
        """Trains the generator on cached latents."""
        recipe = recipe_from(self.config["generator"])
        generator = self.plan.fresh_generator(self.tokenizer)
        with self._timed("latents"):
            ranks.first(lambda: len(self._caches(generator.wants, recipe.clips)))
            caches = self._caches(generator.wants, recipe.clips)
        generator.prepare(caches[0].read(range(min(256, len(caches[0]))))[0])
        task = GeneratorTask(generator, recipe, self.seed, self._validation())

        def batches(first: int) -> Any:
            latents = LatentBatches(
                caches,
                batch_size=self._share("generator"),
                seed=self.seed,
                first=first,
                last=recipe.steps,
                windows=recipe.windows,
                images=recipe.images,
                rank=ranks.index(),
                ranks=ranks.count(),
                parts=recipe.accumulate,
            )
            return torch.utils.data.DataLoader(latents, batch_size=None)

        with self._timed("generator"):
            self._train("generator", task, batches, self._preview_generator)
        self.generator = task.average.to(self.device).eval()
        ranks.first(self._save)

    def _share(self, stage: str) -> list[int]:
        """Clips of a batch that each of the processes has, by bucket."""
        return [clips // ranks.count() for clips in self.plan.batch_sizes[stage]]

    def _report(self) -> str:
        """Evaluates, writes down what it took, and shows it all."""
        self._evaluate()
        write_json(self.path / "environment.json", self._environment())
        return str(write_report(self.path))

    def _evaluate(self) -> None:
        """Measures what was trained on unseen clips."""
        evaluation = Evaluation(
            folder=self.path,
            model=self._model(self.generator),
            data=self.data,
            options=self.config["evaluation"],
            precision=self.plan.precision,
            seed=self.seed,
            console=self.console,
            since=self.begin - self.spent,
        )
        rows.trim(self.path / "metrics.jsonl", stage="evaluation", step=-1)
        with self._timed("evaluation"):
            evaluation.reconstructions(self.plan.training("tokenizer").get("steps", 0))
        if self.generator is None:
            return
        with self._timed("sampling"):
            pixels, asked = evaluation.draw()
        with self._timed("evaluation"):
            evaluation.samples(pixels, asked, self.config["generator"]["training"]["steps"])

    # Training

    def _train_tokenizer(self) -> None:
        """Trains it, unless it is one that stays as it is, and measures its latents."""
        self.tokenizer.to(self.device)
        if self.plan.training("tokenizer"):
            task = tokenizer_task(self.tokenizer, self.config["tokenizer"], self.seed, self.data)

            def batches(first: int) -> Any:
                clips = ClipBatches(
                    self.data,
                    batch_size=self._share("tokenizer"),
                    seed=self.seed,
                    first=first,
                    last=task.recipe.steps,
                    rank=ranks.index(),
                    ranks=ranks.count(),
                )
                return clips.loader(self.config["trainer"]["workers"])

            self._train("tokenizer", task, batches, self._preview_tokenizer)
            self.tokenizer = task.average.to(self.device).eval()
        ranks.first(self._measure_latents)

    def _measure_latents(self) -> None:
        """The mean and deviation of the tokenizer's latents."""
        sizes, batch_sizes = self._train_clips(), self.plan.batch_sizes["tokenizer"]
        few = max(1, int(min(MEASURED, sum(sizes)) / clips_a_step(sizes, batch_sizes)))
        batches = ClipBatches(self.data, batch_size=batch_sizes, seed=self.seed, first=0, last=few)
        with self.plan.autocast():
            self.tokenizer.measure(to_video(batch["video"].to(self.device)) for batch in batches)

    def _train(self, stage: rows.Stage, task: Task, batches: Callable[[int], Any], preview: Callable[[Any, int], None]) -> None:
        """Trains to the last step, from where the checkpoint stands; ``preview`` shows the average of weights."""
        trainer = self.config["trainer"]
        checkpoint = self.path / "checkpoints" / f"{stage}.ckpt"
        done = loop.checkpoint_step(checkpoint)
        ranks.first(lambda: rows.trim(self.path / "metrics.jsonl", stage=stage, step=done))
        if done:
            self._say(stage, f"goes on from step {done}")
        with Stage(self.console, stage, task.recipe.steps, done) as progress:
            hooks = loop.Hooks(
                log=lambda step, split, values: self._log(stage, split, step, values),
                progress=progress.update,
                preview=lambda step: preview(task.average, step),
                warn=lambda text: self.console.print(f"warning: {text}", highlight=False),
            )
            loop.train(
                task,
                batches,
                checkpoint=checkpoint,
                hooks=hooks,
                precision=self.plan.precision,
                accelerator="gpu" if self.device.type == "cuda" else self.device.type,
                strategy=trainer["strategy"],
                compiled=trainer["compile"],
                log_every=trainer["log_every"],
                checkpoint_every=trainer["checkpoint_every"],
            )

    def _caches(self, wants: tuple[str, ...], clips: int) -> list[LatentCache]:
        """The latents of training clips: ``clips`` of them over all buckets, 0 for all; a cache for each bucket."""
        sizes = self._train_clips()
        counts = shared_out(clips, sizes) if clips else sizes
        return [self._cache(bucket, wants, count) for bucket, count in zip(self.plan.buckets, counts, strict=True)]

    def _cache(self, data: Data, wants: tuple[str, ...], count: int) -> LatentCache:
        weights = hub.weights_hash(self.tokenizer)
        name = hub.fingerprint(weights, data.fingerprint, self.seed, count, wants, self.plan.precision, LAYOUT)
        tokens = self.tokenizer.spec.num_tokens
        size = max(1, ENCODED * tokens(self.data.shape) // tokens(data.shape))

        def progress(items: Iterator[int], total: int) -> Iterator[int]:
            with Stage(self.console, "latents", total, unit=f"batch of {size}") as stage:
                for done, item in enumerate(items, start=1):
                    yield item
                    stage.update(done)

        with self.plan.autocast():
            return build_cache(
                self.plan.root / "cache" / f"latents-{name[:16]}",
                self.tokenizer,
                data,
                wants=wants,
                count=count,
                seed=self.seed,
                batch_size=size,
                device=self.device,
                progress=progress,
            )

    def _train_clips(self) -> list[int]:
        """Training clips of an epoch, by bucket."""
        return [bucket.size("train") for bucket in self.plan.buckets]

    def _validation(self) -> tuple[Latent, Condition]:
        """Latents of fixed unseen clips, and what is told of them."""
        batch = next(eval_batches(self.data, "val", 64, 64))
        with self.plan.autocast():
            latent = self.tokenizer.encode(to_video(batch["video"].to(self.device))).to("cpu")
        return latent, condition_of(batch, self.data)

    # Previews

    def _preview_tokenizer(self, tokenizer: Any, step: int) -> None:
        count = min(PREVIEWED, self.data.size("val"))
        clips = collate([self.data.clip("val", index) for index in range(count)])["video"]
        with self.plan.autocast():
            back = tokenizer.decode(tokenizer.encode(to_video(clips.to(self.device))))
        self._show("reconstructions", "tokenizer", step, pairs(clips.numpy(), to_pixels(back)))

    def _preview_generator(self, generator: Any, step: int) -> None:
        model = self._model(generator)
        drawn = measure.draw_samples(
            model,
            asked=measure.ask(model, self.data, PREVIEWED),
            batch_size=PREVIEWED,
            shape=self.data.shape,
            seed=self.seed,
            precision=self.plan.autocast,
            options={},
        )
        self._show("samples", "generator", step, np.concatenate(list(drawn)))

    def _show(self, folder: str, stage: rows.Stage, step: int, clips: np.ndarray) -> None:
        title = f"{stage.capitalize()} after {step} steps"
        where = self.path / folder
        save_clips(where, f"preview-{step:06d}", clips, title=title, kind="preview", stage=stage, step=step, order=step)

    # What is kept

    def _model(self, generator: Any) -> hub.Model:
        return hub.Model(tokenizer=self.tokenizer, generator=generator, config=self.plan.model_config())

    def _save(self) -> None:
        """Writes the model as far as it is trained."""
        config = self.plan.model_config()
        if self.generator is None:
            config["generator"] = None
        hub.save(self.path / "model", tokenizer=self.tokenizer, generator=self.generator, config=config)

    def _say(self, name: str, text: str) -> None:
        self.console.print(f"{name:<10} {text}", highlight=False)

    def _log(self, stage: rows.Stage, split: Any, step: int, values: Mapping[str, float]) -> None:
        seconds = self._seconds()
        made = [
            rows.Row(stage=stage, split=split, step=step, seconds=seconds, name=name, value=value)
            for name, value in values.items()
        ]
        rows.append(self.path / "metrics.jsonl", made)
        assert self.logger is not None
        self.logger(stage, split, step, values)

    def _seconds(self) -> float:
        return self.spent + time.monotonic() - self.begin

    def _keep_time(self) -> None:
        self.spent, self.begin = self._seconds(), time.monotonic()
        self.folder.update(seconds=self.spent, timings=self.timings)

    @contextlib.contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        begin = time.monotonic()
        try:
            yield
        finally:
            self.timings[name] = self.timings.get(name, 0.0) + time.monotonic() - begin

    def _environment(self) -> dict[str, Any]:
        """Where and how it was run, and what it cost."""
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        if self.device.type == "cuda":
            memory = torch.cuda.max_memory_allocated(self.device) / 2**30
        how = {name: self.config["evaluation"][name] for name in ("steps", "guidance_scale")}
        cost = measure.costs(self._model(self.generator), self.data.shape, **how)
        return {
            **environment(),
            "precision": self.plan.precision,
            "processes": ranks.count(),
            "seeds": {"seed": self.seed},
            "timings": self.timings,
            "peak_memory_gib": memory,
            "parameters": {name.split("/")[0]: value for name, value in cost.items() if name.endswith("/parameters")},
            "flops": {name: value for name, value in cost.items() if name.endswith("_flops")},
            "throughput": self._throughput(),
        }

    def _throughput(self) -> dict[str, float]:
        """Clips a second in training and samples a second, of the stages that took place."""
        found = {}
        for stage in self.plan.names:
            if stage in self.timings and (training := self.plan.training(stage)):
                clips = training["steps"] * clips_a_step(self._train_clips(), self.plan.batch_sizes[stage])
                found[f"{stage} training clips/s"] = clips / self.timings[stage]
        if "sampling" in self.timings:
            found["samples/s"] = self.config["evaluation"]["samples"] / self.timings["sampling"]
        return found
