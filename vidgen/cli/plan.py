"""What a ``fit`` is about to do: its parts built and checked, its time estimated, before anything is written."""

from __future__ import annotations

import contextlib
import importlib.util
import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vidgen import hub
from vidgen.cli import doctor
from vidgen.cli.device import autocast, choose_device
from vidgen.config import command_groups
from vidgen.data.batches import Order, buckets_of, collate, facts, to_video
from vidgen.data.buckets import AUTO, batch_sizes, listed, named
from vidgen.errors import UserError
from vidgen.evaluation.further import clip_metrics, set_recipes
from vidgen.latents import Shape
from vidgen.registry import build, unknown
from vidgen.routes import fitted, pair
from vidgen.runs import check_writable, find_run, follow, run_folders
from vidgen.samplers.noise import key
from vidgen.training import loop, ranks
from vidgen.training.cache import condition_of
from vidgen.training.precision import choose
from vidgen.training.task import GeneratorTask, Task, recipe_from, tokenizer_task

LONG = 30 * 60
"""Seconds of the estimate from which on the quicker preset is named."""

SLOW = 30.0
"""Seconds of a step from which on it is estimated from a single clip, rather than taken for the estimate's sake."""

MEASURED = 512
"""Training clips over which the mean and deviation of a tokenizer's latents are measured."""

FROZEN_BATCH = 8
"""Clips that a tokenizer that is not trained is measured on at a time."""

STRATEGIES = ("auto", "ddp", "fsdp")

NOT_OF_THE_RECIPE = ("resume", "reuse", "command", "runs", "logger", "choices")


class Plan:
    """Everything that is decided before training. What comes first in here is quick to check.

    Attributes:
        config: the resolved config; with ``tokenizer.from``, its tokenizer is the one given.
        names: what the tokenizer and the generator are called on the command line; no generator where none is trained.
        given: the model that ``tokenizer.from`` names.
        init: the model that ``init`` names.
        tokenizer: as it is before training.
        generator: likewise, bound to that tokenizer; None where none is trained.
        wrapped: whether the tokenizer is trained with scales because the generator goes from coarse to fine: its config says how.
        fingerprint: of all that decides the result: two runs with the same one are the same run.
        tokenizer_fingerprint: of all that decides the tokenizer's weights.
        cut: whether several processes share the generator's weights out among them.
        buckets: the parts of the data whose clips have one size each, the data itself where all have.
        batch_sizes: clips of each bucket in a batch of each stage.
        resumed: the unfinished run that is gone on with, locked.
        precision: ``bf16`` or ``fp32``; that of the run gone on with, so that it goes on the same.

    Args:
        config: the resolved config.
        precision: for a process that trains with others, what the first of them has found; that one finds the run too.
    """

    def __init__(self, config: dict[str, Any], precision: str | None = None) -> None:
        trainer = config["trainer"]
        _check_strategy(trainer["strategy"], trainer["compile"])
        self.config, self.seed, self.root = config, config["seed"], Path(config["runs"])
        check_writable(self.root, "runs")
        _check_installed(config["logger"]["name"])
        clip_metrics(config["evaluation"]["metrics"])  # a typo, or weights that are not here, are told before training
        set_recipes(config["evaluation"]["metrics"])
        self.device = choose_device(trainer["accelerator"])
        if trainer["compile"] and self.device.type == "cpu":
            _check_compiler()
        stages = ("tokenizer",) if config["stage"] == "tokenizer" else ("tokenizer", "generator")
        self.names = {part: config["choices"][part] for part in stages}
        for options, name in ((config, "init"), (config["tokenizer"], "from")):
            if options[name] and not options[name].startswith(hub.HUB):
                options[name] = follow(options[name])
        if config["tokenizer"].get("path"):
            config["tokenizer"]["path"] = str(
                Path(config["tokenizer"]["path"]).absolute()
            )  # the model refers to it from anywhere
        self.init = hub.load(config["init"]) if config["init"] else None
        self.given = self._given()
        self.cut = trainer["strategy"] == "fsdp" and "generator" in stages and ranks.count() > 1
        own = config["tokenizer"] if self.given else fitted(config["tokenizer"], config["generator"]["name"])
        self.wrapped = own != config["tokenizer"]
        config["tokenizer"] = own
        self.tokenizer = self.fresh_tokenizer()
        self._check_size()
        self.data = build("data", config["data"])
        self.buckets = buckets_of(self.data)
        if len(self.buckets) > 1:
            self._check_buckets([bucket.shape for bucket in self.buckets])
        self.tokenizer.spec.grid(self.data.shape)
        self.told = {name: list(known) for name, known in facts(self.data).items()}
        self.num_classes = len(self.data.class_names)
        self.generator = self.fresh_generator(self.tokenizer) if "generator" in self.names else None
        self.batch_sizes = {stage: self._batch_sizes(stage) for stage in stages}
        for stage in stages:
            self._check_shares(stage)
        if self.generator is not None:
            self._check_clips()
        self.route = self._route()
        self.fingerprint, self.tokenizer_fingerprint = self._fingerprints()
        self.resumed = None if precision else find_run(self.root, self.fingerprint, config["resume"])
        known = self.resumed.state.get("precision") if self.resumed else precision
        self.precision = known or choose(trainer["precision"], self.device)

    # Parts

    def fresh_tokenizer(self) -> Any:
        """The tokenizer as training starts from it."""
        torch.manual_seed(key(self.seed, "tokenizer"))
        tokenizer = hub.build_tokenizer(self.config["tokenizer"])
        if self.init is not None and self.given is None:
            _take_weights(tokenizer, self.init.tokenizer)
        return tokenizer

    def fresh_generator(self, tokenizer: Any) -> Any:
        """The generator as training starts from it, bound to the latents of ``tokenizer``."""
        torch.manual_seed(key(self.seed, "generator"))
        generator = hub.build_generator(
            self.config["generator"], space=tokenizer.space, **hub.facts({"num_classes": self.num_classes, **self.told})
        )
        if self.init is not None and self.init.generator is not None:
            _take_weights(generator, self.init.generator)
        return generator

    def trained_tokenizer(self) -> str | None:
        """Where a tokenizer lies that need not be trained: the one given, or one of this very recipe, data and seed."""
        if self.given is not None:
            return str(self.config["tokenizer"]["from"])
        if self.config["reuse"] == "never":
            return None
        for run in sorted(run_folders(self.root), reverse=True):
            with contextlib.suppress(UserError):  # of another version, or broken
                if hub.read_config(hub.resolve(run)).get("tokenizer_fingerprint") == self.tokenizer_fingerprint:
                    return str(run)
        return None

    def training(self, stage: str) -> dict[str, Any]:
        """How the tokenizer or the generator is trained; empty for a tokenizer whose recipe says nothing: it stays as it is."""
        found: dict[str, Any] = self.config[stage].get("training", {})
        return found

    def model_config(self) -> dict[str, Any]:
        """What is saved with the weights, so that they can be used without this run."""
        config = self.config
        return {
            "tokenizer": {name: value for name, value in config["tokenizer"].items() if name != "from"},
            "generator": config["generator"] if "generator" in self.names else None,
            "names": self.names,
            "route": self.route,
            "num_classes": self.num_classes,
            **self.told,
            "shape": list(self.data.shape),
            "tokenizer_fingerprint": self.tokenizer_fingerprint,
        }

    def autocast(self) -> torch.autocast:
        """The context in which models run."""
        return autocast(self.device, self.precision)

    # In words

    def lines(self) -> dict[str, str]:
        """What will be done, line by line."""
        spec, names = self.tokenizer.spec, self.names
        labels = f"{self.num_classes} labels ({', '.join(self.data.class_names)})" if self.num_classes else "no labels"
        codes = f"{spec.vocab_size} codes" if spec.vocab_size else f"{spec.channels} continuous channels"
        stride = "x".join(map(str, spec.stride))
        lines = {
            "data": f"{self.config['choices']['data']}: {self._sizes()}, {labels}",
            "tokenizer": f"{names['tokenizer']}: {codes}, stride {stride}, {self._work('tokenizer', self.tokenizer)}",
        }
        if self.generator is not None:
            lines["generator"] = f"{names['generator']}: {self._work('generator', self.generator)}"
            lines["route"] = f"{names['generator']} x {names['tokenizer']}: {self.route}"
        if self.init is not None:
            lines["init"] = f"weights of {self.config['init']}"
        together = f", {ranks.count()} processes ({'fsdp' if self.cut else 'ddp'})" if ranks.count() > 1 else ""
        lines["machine"] = f"{self.device.type}, {self.precision}, {torch.get_num_threads()} threads{together}"
        return lines

    def _sizes(self) -> str:
        """The sizes of the clips, with how many train in an epoch where there are several."""
        if len(self.buckets) == 1:
            return f"{named(self.data.shape)} clips"
        return ", ".join(f"{named(bucket.shape)} ({bucket.size('train')})" for bucket in self.buckets) + " clips"

    def _route(self) -> str:
        """What the generator does with the latents, by which head, and what that asks of the tokenizer."""
        told = pair(self.tokenizer.spec, self.config["generator"])
        head = "" if told.head == "-" else f", {told.head} head"
        scales = f"; {self.names['tokenizer']} is trained with {told.layout}" if self.wrapped else ""
        return f"{told.route}{head}{scales}"

    def _work(self, stage: str, part: torch.nn.Module) -> str:
        training = self.training(stage)
        size = sum(weight.numel() for weight in part.parameters()) / 1e6
        clips = "/".join(map(str, self.batch_sizes[stage]))
        work = f"{training['steps']} steps of {clips}" if training else f"frozen, measured on {MEASURED}"
        return f"{size:.1f} M parameters, {work}"

    def estimate(self) -> dict[str, float]:
        """Seconds that the training of each stage will take, by a trial of a few steps on copies of one clip.

        Not of a generator that is cut over several processes, for it may be too large for one.
        """
        found: dict[str, float] = {}
        with torch.random.fork_rng(devices=[]):
            tokenizer = self.fresh_tokenizer().to(self.device)
            batch = collate([self.data.clip("train", 0)])
            clip = batch["video"].to(self.device)
            if self.training("tokenizer") and self.trained_tokenizer() is None:
                task: Task = tokenizer_task(tokenizer, self.config["tokenizer"], self.seed, self.data)
                found["tokenizer"] = self.seconds(task, lambda n: {"video": clip.expand(n, -1, -1, -1, -1)})
            if self.generator is not None and not self.cut:
                with self.autocast():
                    latent = tokenizer.encode(to_video(clip)).to(self.device, torch.float32)
                one = condition_of(batch, self.data).to(self.device)
                task = GeneratorTask(self.fresh_generator(tokenizer), recipe_from(self.config["generator"]), self.seed, None)
                found["generator"] = self.seconds(task, lambda n: (latent[[0] * n], one[[0] * n]))
        return found

    def seconds(self, task: Task, clips: Callable[[int], Any]) -> float:
        """Seconds of all steps of ``task``; ``clips`` makes a batch of so many clips."""
        of_a_step = partial(loop.seconds_a_step, precision=self.precision, device=self.device)
        batch_size = self.batch_sizes[task.stage][0] // ranks.count()
        scaled = batch_size * of_a_step(task, clips(1), repeats=1)
        return task.recipe.steps * (scaled if scaled > SLOW else of_a_step(task, clips(batch_size)))

    def quicker(self) -> str:
        """What to type for a shorter run."""
        default = command_groups("fit")
        smaller = " ".join(f"{part}={default[part]}" for part, name in self.names.items() if name != default[part])
        return (f"{smaller} is smaller; " if smaller else "") + "experiment=smoke runs the whole path in under a minute"

    # Checks

    def _given(self) -> hub.Model | None:
        """The model of ``tokenizer.from``, whose tokenizer takes the place of the config's."""
        source = self.config["tokenizer"]["from"]
        if source is None:
            if self.config["stage"] == "generator":
                raise UserError(
                    "stage=generator needs a trained tokenizer: give tokenizer.from=RUN, or use stage=all, which makes one."
                )
            return None
        given = hub.load(source)
        self.names["tokenizer"] = given.config.get("names", {}).get("tokenizer", given.config["tokenizer"]["name"])
        for word in shlex.split(self.config["command"])[2:]:
            agrees = word.startswith("tokenizer.from=") or word == f"tokenizer={self.names['tokenizer']}"
            if word.startswith(("tokenizer=", "tokenizer.", "tokenizer/")) and not agrees:
                raise UserError(
                    f"tokenizer.from={source} takes that tokenizer ({self.names['tokenizer']}) as it was trained, and {word} "
                    "would change it; leave one of the two out."
                )
        self.config["tokenizer"] = {**given.config["tokenizer"], "from": source}
        return given

    def _check_size(self) -> None:
        """Sees that the stride divides the size of the clips before the data is opened: to read a folder of videos takes long."""
        data = self.config["data"]
        if data.get("buckets") not in (None, AUTO):
            self._check_buckets(listed(data["buckets"]))
            return
        size = [data.get(axis) for axis in ("frames", "height", "width")]
        if None not in size:
            self.tokenizer.spec.grid((size[0], size[1], size[2]))

    def _check_buckets(self, shapes: Sequence[Shape]) -> None:
        for shape in shapes:
            try:
                self.tokenizer.spec.grid(shape)
            except UserError as error:
                raise UserError(f"The bucket {named(shape)} of data.buckets does not suit this tokenizer. {error}") from error

    def _batch_sizes(self, stage: str) -> tuple[int, ...]:
        """Clips of each bucket in a batch: its budget of tokens is the data's own, or that of the recipe's batch of the first."""
        training = self.training(stage)
        clips = training.get("batch_size", FROZEN_BATCH)
        if len(self.buckets) == 1:
            return (clips,)
        tokens = self.tokenizer.spec.num_tokens
        budget = getattr(self.data, "tokens", None) or clips * tokens(self.data.shape)
        return batch_sizes([bucket.shape for bucket in self.buckets], tokens, budget, training.get("accumulate", 1))

    def _check_shares(self, stage: str) -> None:
        """Sees that the processes can have equal shares of a batch, and of each part that it goes through in."""
        processes, parts = ranks.count(), self.training(stage).get("accumulate", 1)
        uneven = [clips for clips in self.batch_sizes[stage] if clips % (processes * parts)]
        if not self.training(stage) or not uneven:
            return
        shares = f"{processes} processes" + (f" and accumulate={parts}" if parts > 1 else "")
        mend = f"make {stage}.training.batch_size, which is that of all processes together, a multiple of {processes * parts}"
        if len(self.buckets) > 1:
            mend = "choose data.tokens so that it does"
        raise UserError(
            f"A batch of {uneven[0]} clips does not divide among {shares}: {mend}, or start another number of processes."
        )

    def _check_clips(self) -> None:
        """Sees that the latents of one epoch are not endless, where they are to be cached."""
        clips = sum(bucket.size("train") for bucket in self.buckets)
        if self.config["generator"]["training"]["clips"] == 0 and clips > Order.LARGEST:
            raise UserError(
                f"generator.training.clips=0 caches the latents of an epoch, and this data has {clips} clips in one; "
                "say how many, such as generator.training.clips=8192."
            )

    def _fingerprints(self) -> tuple[str, str]:
        """Models count by their weights and not by where they lie: ``runs/latest`` means another run every time."""
        given = hub.weights_hash(self.given.tokenizer) if self.given else None
        parts = (self.init.tokenizer, self.init.generator) if self.init else ()
        init = [hub.weights_hash(part) for part in parts if part is not None]
        tokenizer = {**self.config["tokenizer"], "from": given}
        recipe = {name: value for name, value in self.config.items() if name not in NOT_OF_THE_RECIPE}
        recipe["trainer"] = {name: value for name, value in self.config["trainer"].items() if name != "strategy"}
        whole = hub.fingerprint({**recipe, "tokenizer": tokenizer, "init": init}, self.data.fingerprint)
        if self.given is not None:
            return whole, str(self.given.config.get("tokenizer_fingerprint", given))
        return whole, hub.fingerprint(tokenizer, self.data.fingerprint, self.seed, init)


def _check_installed(logger: str) -> None:
    """Sees that a logger's package is here: those that are packages are called as they are."""
    if logger != "csv" and importlib.util.find_spec(logger) is None:
        raise UserError(f'logger={logger} needs a package that is not installed: pip install "vidgen[{logger}]".')


def _check_strategy(strategy: str, compiled: bool) -> None:
    """Sees that processes can train together in this way."""
    if strategy not in STRATEGIES:
        raise unknown("strategy", strategy, STRATEGIES)
    if strategy == "fsdp" and compiled:
        raise UserError(
            "trainer.strategy=fsdp gathers weights between blocks, which trainer.compile=true would make one with them; set it "
            "to false, or use trainer.strategy=ddp."
        )


def _check_compiler() -> None:
    compiler = doctor.compiler()
    if compiler.state != "ok":
        raise UserError(f"trainer.compile=true needs a {compiler.subject}: {compiler.detail}.")


def _take_weights(part: torch.nn.Module, source: torch.nn.Module) -> None:
    try:
        part.load_state_dict(source.state_dict())
    except RuntimeError as error:
        raise UserError(
            f"init: the run's {type(source).__name__} has another shape than this recipe's {type(part).__name__}; give both the "
            "same options."
        ) from error
