"""``vidgen fit``: tokenizer, latents, generator, samples, measures, report; each step resumable, one folder a run."""

from __future__ import annotations

import contextlib
import copy
import json
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from vidgen import hub
from vidgen.cli.device import autocast, choose_device
from vidgen.cli.evaluate import Evaluation
from vidgen.cli.progress import Stage, clock
from vidgen.data.batches import ClipBatches, collate, eval_batches, to_pixels, to_video
from vidgen.errors import UserError, did_you_mean
from vidgen.evaluation import measure, rows
from vidgen.evaluation.pictures import pairs, save_clips
from vidgen.evaluation.report import write_report
from vidgen.latents import Condition, Latent
from vidgen.registry import build
from vidgen.routes import route
from vidgen.runs import environment, open_run, write_json, write_yaml
from vidgen.samplers.noise import key
from vidgen.training import loop
from vidgen.training.cache import LatentCache, build_cache
from vidgen.training.loggers import build_logger
from vidgen.training.precision import choose
from vidgen.training.task import GeneratorTask, LatentBatches, Recipe, Task, TokenizerTask, recipe_from

STAGES = ("all", "tokenizer", "generator")
LONG = 30 * 60
"""Seconds of the estimate from which on the quicker preset is named."""

INTERRUPTED = 130
NOT_OF_THE_RECIPE = ("resume", "reuse", "command", "runs", "logger", "choices")


def run(config: dict[str, Any]) -> None:
    """Runs the command with a resolved config; exits with status 130 where it was asked to stop."""
    fit = Fit(config)
    try:
        fit.run()
    except loop.Stopped:
        fit.console.print(
            f"Stopped; the state is kept. The same command goes on from here:\n  {config['command']}", highlight=False
        )
        sys.exit(INTERRUPTED)


class Fit:
    """One ``fit``: what it is about to do, and the doing of it, in the order of :meth:`run`."""

    def __init__(self, config: dict[str, Any]) -> None:
        for name, choices in (("stage", STAGES), ("reuse", ("auto", "never"))):
            if config[name] not in choices:
                raise UserError(
                    f"{name}={config[name]} is unknown.{did_you_mean(str(config[name]), choices)} Use {', '.join(choices)}."
                )
        self.config, self.console = config, Console(soft_wrap=True)
        self.root = Path(config["runs"])
        self.seed: int = config["seed"]
        self.begin = time.monotonic()
        self.device = choose_device(config["trainer"]["accelerator"])
        self.precision = choose(config["trainer"]["precision"], self.device)
        self.data = build("data", config["data"])
        self.num_classes = len(self.data.class_names)
        self.given = self._given_tokenizer()
        if self.given is not None:
            config["tokenizer"] = {**self.given.config["tokenizer"], "from": config["tokenizer"]["from"]}
        self.tokenizer = self._fresh_tokenizer()
        self.tokenizer.spec.grid(self.data.shape)
        self.generator = self._fresh_generator()
        choices = config["choices"]
        self.route = route(config["generator"]["name"], self.tokenizer.spec.kind)
        self.title = choices["tokenizer"] if config["stage"] == "tokenizer" else f"{choices['tokenizer']}-{choices['generator']}"
        recipe = {name: value for name, value in config.items() if name not in NOT_OF_THE_RECIPE}
        self.fingerprint = hub.fingerprint(recipe, self.data.fingerprint)
        own = {name: value for name, value in config["tokenizer"].items() if name != "from"}
        self.tokenizer_fingerprint = hub.fingerprint(own, self.data.fingerprint, self.seed)

    # ---------------------------------------------------------------------------------------------------------- the order

    def run(self) -> None:
        """Everything, from the plan to the path of the report."""
        with torch.random.fork_rng(devices=[]):
            estimate = self._estimate()
        self.open = open_run(self.root, self.title, self.fingerprint, self.config["resume"])
        self.path = self.open.path
        self.spent: float = self.open.state["seconds"]
        self.timings: dict[str, float] = self.open.state.get("timings", {})
        try:
            self.logger = build_logger(self.config["logger"], self.path)
            self._describe(estimate)
            self._train_tokenizer()
            if self.config["stage"] != "tokenizer":
                self._train_generator()
            self._evaluate()
            self._write_environment()
            report = write_report(self.path)
            self.open.finish()
        finally:
            self._keep_time()
            self.open.release()
        self.console.print(f"\nDone in {clock(self.spent)}. Open the report:\n  {report}", highlight=False)

    def _train_tokenizer(self) -> None:
        state = self.open.state
        source = state.get("tokenizer")
        if source is None:
            source = self._ready_tokenizer()
        if source is None:
            with self._timed("tokenizer"):
                self._fit_tokenizer()
            source = "trained"
        elif source != "trained":
            self.tokenizer.load_state_dict(hub.load(source).tokenizer.state_dict())
            self.console.print(f"tokenizer  taken from {source} (reuse=never trains it again)", highlight=False)
        else:
            self.tokenizer.load_state_dict(hub.load(self.path).tokenizer.state_dict())
        self.tokenizer.to(self.device).eval().requires_grad_(False)
        self._save(None)
        self.open.update(tokenizer=source)

    def _fit_tokenizer(self) -> None:
        recipe = recipe_from(self.config["tokenizer"])
        if self.config["init"]:
            _take_weights(self.tokenizer, hub.load(self.config["init"]).tokenizer)
        task = TokenizerTask(self.tokenizer, recipe, self.seed, self.data)

        def batches(first: int) -> Any:
            clips = ClipBatches(self.data, batch_size=recipe.batch_size, seed=self.seed, first=first, last=recipe.steps)
            return clips.loader(self.config["trainer"]["workers"])

        self._fit_task(task, batches, self._preview_tokenizer)
        self.tokenizer = task.average.to(self.device).eval()
        videos = (to_video(batch["video"].to(self.device)) for batch in self._measuring_batches(recipe))
        with self._autocast():
            self.tokenizer.measure(videos)

    def _measuring_batches(self, recipe: Recipe, count: int = 512) -> Iterator[dict[str, torch.Tensor]]:
        """Training clips over which the latents' mean and deviation are measured."""
        batches = max(1, min(count, self.data.size("train")) // recipe.batch_size)
        yield from ClipBatches(self.data, batch_size=recipe.batch_size, seed=self.seed, first=0, last=batches)

    def _train_generator(self) -> None:
        recipe = recipe_from(self.config["generator"])
        self.generator = self._fresh_generator()
        if self.config["init"]:
            source = hub.load(self.config["init"]).generator
            if source is not None:
                _take_weights(self.generator, source)
        with self._timed("latents"):
            cache = self._cache(recipe)
        self.generator.prepare(cache.read(range(min(256, len(cache))))[0])
        task = GeneratorTask(self.generator, recipe, self.seed, self._validation())

        def batches(first: int) -> Any:
            latents = LatentBatches(cache, batch_size=recipe.batch_size, seed=self.seed, first=first, last=recipe.steps)
            return torch.utils.data.DataLoader(latents, batch_size=None)

        with self._timed("generator"):
            self._fit_task(task, batches, self._preview_generator)
        self.generator = task.average.to(self.device).eval()
        self._save(self.generator)

    def _fit_task(self, task: Task, batches: Any, preview: Any) -> None:
        trainer = self.config["trainer"]
        checkpoint = self.path / "checkpoints" / f"{task.stage}.ckpt"
        done = loop.checkpoint_step(checkpoint)
        rows.trim(self.path / "metrics.jsonl", stage=task.stage, step=done)
        if done:
            self.console.print(f"{task.stage:<10} goes on from step {done}", highlight=False)
        with Stage(self.console, task.stage, task.recipe.steps, done) as stage:
            hooks = loop.Hooks(
                log=lambda step, split, values: self._log(task.stage, split, step, values),
                progress=stage.update,
                preview=lambda step: preview(task, step),
                warn=lambda text: self.console.print(f"warning: {text}", highlight=False),
            )
            loop.train(
                task,
                batches,
                checkpoint=checkpoint,
                hooks=hooks,
                precision=self.precision,
                accelerator="gpu" if self.device.type == "cuda" else self.device.type,
                log_every=trainer["log_every"],
                checkpoint_every=trainer["checkpoint_every"],
            )

    def _cache(self, recipe: Recipe) -> LatentCache:
        count = recipe.clips or self.data.size("train")
        wants = self.generator.wants
        weights = hub.weights_hash(self.tokenizer)
        name = hub.fingerprint(weights, self.data.fingerprint, self.seed, count, wants, self.precision)
        folder = self.root / "cache" / f"latents-{name[:16]}"
        size = 64

        def progress(items: Iterator[int], total: int) -> Iterator[int]:
            with Stage(self.console, "latents", total, unit="batch of 64") as stage:
                for done, item in enumerate(items):
                    yield item
                    stage.update(done + 1)

        with self._autocast():
            return build_cache(
                folder,
                self.tokenizer,
                self.data,
                wants=wants,
                count=count,
                seed=self.seed,
                batch_size=size,
                device=self.device,
                progress=progress,
            )

    def _validation(self) -> tuple[Latent, Condition] | None:
        batch = next(eval_batches(self.data, "val", 64, 64))
        with self._autocast():
            latent = self.tokenizer.encode(to_video(batch["video"].to(self.device))).to("cpu")
        label = batch["label"]
        return latent, Condition(label=label if bool((label >= 0).all()) else None)

    def _evaluate(self) -> None:
        alone = self.config["stage"] == "tokenizer"
        evaluation = Evaluation(
            folder=self.path,
            model=self._model(),
            data=self.data,
            options=self.config["evaluation"],
            precision=self.precision,
            seed=self.seed,
            console=self.console,
            since=self.begin - self.spent,
        )
        rows.trim(self.path / "metrics.jsonl", stage="evaluation", step=-1)
        with self._timed("evaluation"):
            evaluation.reconstructions(self.config["tokenizer"]["training"]["steps"])
        if alone:
            return
        with self._timed("sampling"):
            pixels, labels = evaluation.draw()
        with self._timed("evaluation"):
            evaluation.samples(pixels, labels, self.config["generator"]["training"]["steps"])

    # ----------------------------------------------------------------------------------------------------------- previews

    def _preview_tokenizer(self, task: Task, step: int) -> None:
        batch = collate([self.data.clip("val", index) for index in range(min(8, self.data.size("val")))])
        with self._autocast():
            video = to_video(batch["video"].to(task.device))
            back = task.average.decode(task.average.encode(video))
        save_clips(
            self.path / "reconstructions",
            f"preview-{step:06d}",
            pairs(batch["video"].numpy(), to_pixels(back)),
            title=f"Tokenizer after {step} steps",
            kind="preview",
            stage="tokenizer",
            step=step,
            order=step,
        )

    def _preview_generator(self, task: Task, step: int) -> None:
        labels = np.arange(8) % self.num_classes if self.num_classes else np.full(8, -1)
        model = hub.Model(tokenizer=self.tokenizer, generator=task.average, config=self._model_config())
        pixels = measure.draw_samples(
            model,
            count=8,
            batch_size=8,
            shape=self.data.shape,
            seed=self.seed,
            precision=self._autocast,
            labels=labels,
            options={},
        )
        save_clips(
            self.path / "samples",
            f"preview-{step:06d}",
            pixels,
            title=f"Generator after {step} steps",
            kind="preview",
            stage="generator",
            step=step,
            order=step,
        )

    # --------------------------------------------------------------------------------------------------------------- parts

    def _fresh_tokenizer(self) -> Any:
        torch.manual_seed(key(self.seed, "tokenizer"))
        return hub.build_tokenizer(self.config["tokenizer"])

    def _fresh_generator(self) -> Any:
        torch.manual_seed(key(self.seed, "generator"))
        return hub.build_generator(self.config["generator"], space=self.tokenizer.space, num_classes=self.num_classes)

    def _given_tokenizer(self) -> hub.Model | None:
        source = self.config["tokenizer"]["from"]
        if source is None and self.config["stage"] == "generator":
            raise UserError(
                "stage=generator needs a trained tokenizer: give tokenizer.from=RUN, or use stage=all, which finds or trains it."
            )
        return None if source is None else hub.load(source)

    def _ready_tokenizer(self) -> str | None:
        """Where a trained tokenizer of this very recipe, data and seed is, if anywhere."""
        if self.config["tokenizer"]["from"]:
            return str(self.config["tokenizer"]["from"])
        if self.config["reuse"] == "never" or self.config["init"]:
            return None
        for file in sorted(self.root.glob("*/model/config.json"), reverse=True):
            known = json.loads(file.read_text())
            if known.get("format") == hub.FORMAT and known.get("tokenizer_fingerprint") == self.tokenizer_fingerprint:
                return str(file.parent)
        return None

    def _model(self) -> hub.Model:
        generator = None if self.config["stage"] == "tokenizer" else self.generator
        return hub.Model(tokenizer=self.tokenizer, generator=generator, config=self._model_config())

    def _model_config(self) -> dict[str, Any]:
        return {
            "tokenizer": {name: value for name, value in self.config["tokenizer"].items() if name != "from"},
            "generator": self.config["generator"],
            "route": self.route,
            "num_classes": self.num_classes,
            "class_names": list(self.data.class_names),
            "shape": list(self.data.shape),
            "tokenizer_fingerprint": self.tokenizer_fingerprint,
        }

    def _save(self, generator: Any | None) -> None:
        config = self._model_config()
        if generator is None:
            config["generator"] = None
        hub.save(self.path / "model", tokenizer=self.tokenizer, generator=generator, config=config)

    # ------------------------------------------------------------------------------------------------------ plan and rows

    def _estimate(self) -> dict[str, float]:
        """Seconds of each stage, from a few measured steps: the first long work is announced before it starts."""
        recipe = recipe_from(self.config["tokenizer"])
        batch = next(iter(ClipBatches(self.data, batch_size=recipe.batch_size, seed=self.seed, first=0, last=1)))
        batch = {name: value.to(self.device) for name, value in batch.items()}
        tokenizer = copy.deepcopy(self.tokenizer)
        found = {}
        if self._ready_tokenizer() is None:
            found["tokenizer"] = recipe.steps * loop.seconds_a_step(
                TokenizerTask(tokenizer, recipe, self.seed, self.data), batch, self.precision, self.device
            )
        if self.config["stage"] == "tokenizer":
            return found
        recipe = recipe_from(self.config["generator"])
        tokenizer.to(self.device)
        with self._autocast():
            latent = tokenizer.encode(to_video(batch["video"])).to(self.device, torch.float32)
        repeats = -(-recipe.batch_size // len(latent))
        latent = latent[[i for _ in range(repeats) for i in range(len(latent))][: recipe.batch_size]]
        label = torch.zeros(recipe.batch_size, dtype=torch.long, device=self.device) if self.num_classes else None
        task = GeneratorTask(copy.deepcopy(self.generator), recipe, self.seed, None)
        found["generator"] = recipe.steps * loop.seconds_a_step(
            task, (latent, Condition(label=label)), self.precision, self.device
        )
        return found

    def _describe(self, estimate: Mapping[str, float]) -> None:
        """Says what will be done before it is done, and writes it to the run folder."""
        config, spec, choices = self.config, self.tokenizer.spec, self.config["choices"]
        frames, height, width = self.data.shape
        labels = f"{self.num_classes} labels ({', '.join(self.data.class_names)})" if self.num_classes else "no labels"
        codes = f"{spec.vocab_size} codes, " if spec.vocab_size else f"{spec.channels} continuous channels, "
        lines = {
            "data": f"{choices['data']}: {frames}x{height}x{width} clips, {labels}",
            "tokenizer": f"{choices['tokenizer']}: {codes}stride {'x'.join(map(str, spec.stride))}, {_size(self.tokenizer)}, "
            f"{config['tokenizer']['training']['steps']} steps of {config['tokenizer']['training']['batch_size']}",
        }
        if config["stage"] != "tokenizer":
            training = config["generator"]["training"]
            lines["generator"] = (
                f"{choices['generator']}: {_size(self.generator)}, {training['steps']} steps of {training['batch_size']}"
            )
            lines["route"] = f"{choices['generator']} x {choices['tokenizer']}: {self.route}"
        lines["machine"] = f"{self.device.type}, {self.precision}, {torch.get_num_threads()} threads"
        lines["run"] = str(self.path) + (" (going on with it)" if self.open.resumed else "")
        total = sum(estimate.values())
        if not self.open.resumed:
            parts = ", ".join(f"{name} {clock(seconds)}" for name, seconds in estimate.items())
            lines["estimate"] = f"about {clock(total)} of training ({parts})"
        for name, text in lines.items():
            self.console.print(f"{name:<10} {text}", highlight=False)
        if total > LONG and not self.open.resumed:
            self.console.print(
                "That is long; experiment=smoke runs the whole path in under a minute, and data=worlds is quick to learn."
            )
        words = f"Tokenizer {lines['tokenizer']} clips of {lines['data']}."
        if "route" in lines:
            words += f" Generator {lines['generator']} clips' latents, asked for {config['evaluation']['samples']} samples."
        written = {"command": config["command"], "words": words, "route": lines.get("route", ""), **config}
        write_yaml(self.path / "config.yaml", written)

    def _log(self, stage: Any, split: Any, step: int, values: Mapping[str, float]) -> None:
        made = [
            rows.Row(stage=stage, split=split, step=step, seconds=self._seconds(), name=name, value=value)
            for name, value in values.items()
        ]
        rows.append(self.path / "metrics.jsonl", made)
        self.logger(stage, split, step, values)

    def _seconds(self) -> float:
        return self.spent + time.monotonic() - self.begin

    def _keep_time(self) -> None:
        self.spent = self._seconds()
        self.begin = time.monotonic()
        self.open.update(seconds=self.spent, timings=self.timings)

    @contextlib.contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        begin = time.monotonic()
        try:
            yield
        finally:
            self.timings[name] = self.timings.get(name, 0.0) + time.monotonic() - begin

    def _write_environment(self) -> None:
        cost = measure.costs(self._model(), self.data.shape)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        if self.device.type == "cuda":
            memory = torch.cuda.max_memory_allocated(self.device) / 2**30
        throughput = {}
        for name in ("tokenizer", "generator"):
            if self.timings.get(name):
                training = self.config[name]["training"]
                throughput[f"{name} training clips/s"] = training["steps"] * training["batch_size"] / self.timings[name]
        if self.timings.get("sampling"):
            throughput["samples/s"] = self.config["evaluation"]["samples"] / self.timings["sampling"]
        write_json(
            self.path / "environment.json",
            {
                **environment(),
                "precision": self.precision,
                "seeds": {"seed": self.seed},
                "timings": self.timings,
                "peak_memory_gib": memory,
                "parameters": {name.split("/")[0]: value for name, value in cost.items() if name.endswith("/parameters")},
                "flops": {name: value for name, value in cost.items() if name.endswith("_flops")},
                "throughput": throughput,
            },
        )

    def _autocast(self) -> torch.autocast:
        return autocast(self.device, self.precision)


def _take_weights(part: torch.nn.Module, source: torch.nn.Module) -> None:
    try:
        part.load_state_dict(source.state_dict())
    except RuntimeError as error:
        raise UserError(
            f"init: the run's {type(part).__name__} has another shape than this recipe's; give both the same options."
        ) from error


def _size(part: torch.nn.Module) -> str:
    return f"{sum(weight.numel() for weight in part.parameters()) / 1e6:.1f} M parameters"
