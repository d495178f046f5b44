"""Measuring a model into a run folder: what ``fit`` ends with and ``eval`` repeats."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from vidgen.cli.device import autocast
from vidgen.cli.progress import Stage
from vidgen.data.batches import buckets_of, eval_batches, to_video
from vidgen.data.buckets import named, shared_out
from vidgen.errors import UserError
from vidgen.evaluation import further, measure, rows
from vidgen.evaluation.distance import Distances
from vidgen.evaluation.pictures import pairs, save_clips
from vidgen.files import replacing
from vidgen.hub import Model
from vidgen.latents import Shape
from vidgen.protocols import SPLITS, Data
from vidgen.runs import write_json
from vidgen.training.cache import condition_of

BUCKETED = ("reconstruction/", "baseline/", "tokenizer/")
"""Beginnings of the names of figures that are told of every bucket."""

TILED, VALIDATED = 4, 64
"""Clips of a bucket that are shown, at most, and those that the generator's loss is taken of: of larger buckets fewer."""


class Evaluation:
    """Reconstructions, samples and their figures, written to ``folder``.

    Of data with buckets all of it is of the first, as if there were no others. Of these there are figures too, in rows that the
    bucket's size narrows: of as many clips again as of the first, shared out among them; and a few clips of each to look at.

    Args:
        folder: the run folder.
        model: what is measured.
        data: the clips it is measured on.
        options: the ``evaluation`` group of the config.
        precision: ``bf16`` or ``fp32``.
        seed: of the samples.
        console: where progress goes.
        since: ``time.monotonic()`` at the run's (virtual) beginning, for the rows' seconds.

    Raises:
        UserError: where ``options`` name a measure that there is not, that lacks its weights, or that every report has.
    """

    def __init__(
        self,
        *,
        folder: Path,
        model: Model,
        data: Data,
        options: Mapping[str, Any],
        precision: str,
        seed: int,
        console: Console,
        since: float,
    ) -> None:
        self.folder, self.model, self.data, self.options = folder, model, data, options
        self.seed, self.console, self.since = seed, console, since
        self.seconds_a_sample = math.nan
        self.device = next(model.tokenizer.parameters()).device
        self.precision = precision
        self.others = buckets_of(data)[1:]
        further.clip_metrics(options["metrics"])
        self.sets = further.set_recipes(options["metrics"])

    def reconstructions(self, step: int) -> None:
        """Encodes and decodes unseen clips; ``step`` is the tokenizer's."""
        options, distances = self.options, self._distances()
        found = measure.measure_tokenizer(
            self.model.tokenizer,
            self.data,
            split="test",
            count=options["clips"],
            batch_size=options["batch_size"],
            shown=options["shown"],
            device=self.device,
            precision=self._autocast,
            metrics=self._suited(self.data.shape),
            see=distances.see,
        )
        self._record([*found.results, *distances.of_reconstructions()], step)
        if found.histogram is not None:
            write_json(self.folder / "codebook.json", found.histogram)
        save_clips(
            self.folder / "reconstructions",
            "test",
            pairs(found.shown["originals"], found.shown["reconstructions"]),
            title="Unseen clips, and what the tokenizer makes of them",
            caption="Original above, reconstruction below.",
            kind="pairs",
        )
        if self.others:
            sizes = {named(bucket.shape): {split: bucket.size(split) for split in SPLITS} for bucket in buckets_of(self.data)}
            write_json(self.folder / "buckets.json", sizes)
            self._reconstruct_others(step)

    def draw(self) -> tuple[np.ndarray, measure.Asked]:
        """Samples, uint8 (N, T, H, W, 3) in a file, and what they were asked to show; what one took goes with their figures."""
        begin, count = time.monotonic(), self.options["samples"]
        asked = measure.ask(self.model, self.data, count)
        target = self.folder / "samples" / "samples.npy"
        with replacing(target) as partial, Stage(self.console, "sampling", count, unit="sample") as stage:
            pixels = np.lib.format.open_memmap(partial, "w+", np.uint8, (count, *self.data.shape, 3))
            done = 0
            for some in self._drawn(asked, self.data.shape, stage.update):
                pixels[done : done + len(some)] = some
                done += len(some)
            pixels.flush()
        self.seconds_a_sample = (time.monotonic() - begin) / count
        return pixels, asked

    def samples(self, pixels: np.ndarray, asked: measure.Asked, step: int) -> None:
        """Judges and shows samples; ``step`` is the generator's."""
        folder, shown = self.folder / "samples", self.options["shown"]
        distances = self._distances()
        distances.see("samples", pixels)
        distances.see_training(self.data, self._trained_on())
        rule = f"in batches of {self.options['batch_size']}, decoded"
        took = measure.Result(name="samples/seconds", value=self.seconds_a_sample, n=len(pixels), protocol=rule)
        lone = list(further.lone_metrics(self.options["metrics"]))
        reasons = further.unsuited(lone, self.data.shape)  # told of the reconstructions
        possible = [name for name in lone if name not in reasons]
        alone = measure.measure_alone(pixels, possible, self.options["batch_size"], self.device)
        self._record([*measure.measure_samples(pixels, asked, self.data), *distances.of_samples(), *alone, took], step)
        for name, recipe in self.sets.items():
            try:
                self._record(distances.by(name, recipe), step)
            except UserError as error:
                self.console.print(f"Without {name} of the samples: {error}", highlight=False)
        for index, name in enumerate(self.data.class_names):
            chosen = pixels[np.flatnonzero(asked.labels == index)[:shown]]
            if len(chosen):
                save_clips(folder, f"class-{index}", chosen, title=name, order=index)
        if not self.data.class_names:
            self._show_nearest(pixels[:shown], step)
        if self.others:
            self._record_losses(step)
            self._sample_others()

    def _suited(self, shape: Shape) -> list[str]:
        """The measures by name that clips of ``shape`` can have; of the others it is said why not."""
        names = self.options["metrics"]
        reasons = further.unsuited(names, shape)
        for name, reason in reasons.items():
            self.console.print(f"Without {name} of {named(shape)}: {reason}", highlight=False)
        return [name for name in names if name not in reasons]

    # The other buckets

    def _reconstruct_others(self, step: int) -> None:
        """Reconstructions of all buckets but the first that have unseen clips."""
        found = [(bucket, split) for bucket in self.others if (split := _unseen(bucket))]
        counts = shared_out(self.options["clips"], [bucket.size(split) for bucket, split in found]) if found else []
        for (bucket, split), count in zip(found, counts, strict=True):
            size = named(bucket.shape)
            measured = measure.measure_tokenizer(
                self.model.tokenizer,
                bucket,
                split=split,
                count=count,
                batch_size=self._at_once(self.options["batch_size"], bucket.shape),
                shown=min(TILED, self.options["shown"]),
                device=self.device,
                precision=self._autocast,
                metrics=self._suited(bucket.shape),
            )
            results = [replace(one, name=f"{one.name}/{size}") for one in measured.results if one.name.startswith(BUCKETED)]
            self._record(results, step, split)
            save_clips(
                self.folder / "reconstructions",
                f"bucket-{size}",
                pairs(measured.shown["originals"], measured.shown["reconstructions"]),
                title=f"Unseen clips of {size}",
                caption="Original above, reconstruction below.",
                order=1 + self.others.index(bucket),
            )

    def _record_losses(self, step: int) -> None:
        """The generator's loss on the first unseen clips of every bucket: of the validation split, as while it is trained."""
        generator: Any = self.model.generator
        for bucket in buckets_of(self.data):
            split, count = _unseen(bucket, ("val", "test")), self._at_once(VALIDATED, bucket.shape)
            if split is None:
                continue
            batch = next(eval_batches(bucket, split, count, count))
            with torch.no_grad(), self._autocast():
                latent = self.model.tokenizer.encode(to_video(batch["video"].to(self.device)))
                told = condition_of(batch, self.data).to(self.device)
                loss = float(generator.validation_loss(latent, told))
            name, rule = f"generator/loss/{named(bucket.shape)}", "the training objective, everything random held fixed"
            self._record([measure.Result(name=name, value=loss, n=len(batch["video"]), protocol=rule)], step, split)

    def _sample_others(self) -> None:
        """A few samples of every other bucket's size, to look at."""
        for place, bucket in enumerate(self.others, start=1):
            size, count = named(bucket.shape), min(TILED, self.options["shown"])
            try:
                asked = measure.ask(self.model, bucket, count, _unseen(bucket) or "train")
                pixels = np.concatenate(list(self._drawn(asked, bucket.shape)))
            except UserError as error:
                self.console.print(f"No samples of {size}: {error}", highlight=False)
                continue
            save_clips(self.folder / "samples", f"bucket-{size}", pixels, title=f"Samples of {size}", order=1000 + place)

    def _drawn(
        self, asked: measure.Asked, shape: Shape, progress: Callable[[int], None] = lambda done: None
    ) -> Iterator[np.ndarray]:
        """Samples of a shape, batch by batch."""
        return measure.draw_samples(
            self.model,
            asked=asked,
            batch_size=self._at_once(self.options["batch_size"], shape),
            shape=shape,
            seed=self.seed,
            precision=self._autocast,
            options={name: self.options[name] for name in ("steps", "guidance_scale", "temperature")},
            progress=progress,
        )

    def _at_once(self, count: int, shape: Shape) -> int:
        """``count`` clips of the first bucket, or fewer larger ones: as many tokens."""
        tokens = self.model.tokenizer.spec.num_tokens
        return min(count, max(1, count * tokens(self.data.shape) // tokens(shape)))

    def _trained_on(self) -> int:
        """How many clips the generator was trained on."""
        every = self.data.size("train")
        return min(self.model.config["generator"]["training"]["clips"] or every, every)

    def _distances(self) -> Distances:
        return Distances(self.folder, self.data.shape, self.device)

    def _show_nearest(self, pixels: np.ndarray, step: int) -> None:
        near, decibel, sources = measure.nearest_clips(pixels, self.data)
        mean, interval = measure.mean_and_error(decibel)
        rule = "per clip, against the training window nearest by mean squared error at a quarter of the size"
        self._record(
            [measure.Result(name="samples/nearest_psnr", value=mean, n=len(decibel), interval=interval, protocol=rule)], step
        )
        save_clips(
            self.folder / "samples",
            "nearest",
            pairs(pixels, near),
            title="Samples, each above its nearest training clip",
            caption="Nearest: " + ", ".join(sources),
            kind="nearest",
        )

    def _autocast(self) -> torch.autocast:
        return autocast(self.device, self.precision)

    def _record(self, results: list[measure.Result], step: int, split: rows.Split = "test") -> None:
        seconds = time.monotonic() - self.since
        made = [
            rows.Row(
                stage="evaluation",
                split=split,
                step=step,
                seconds=seconds,
                name=result.name,
                value=result.value,
                n=result.n,
                interval=result.interval,
                protocol=result.protocol,
            )
            for result in results
        ]
        rows.append(self.folder / "metrics.jsonl", made)


def _unseen(data: Data, splits: tuple[rows.Split, ...] = ("test", "val")) -> rows.Split | None:
    """The first of the splits that has clips; None where none has."""
    return next((split for split in splits if data.size(split)), None)
