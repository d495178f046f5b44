"""Measuring a model into a run folder: what ``fit`` ends with and ``eval`` repeats."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from vidgen.cli.device import autocast
from vidgen.cli.progress import Stage
from vidgen.evaluation import measure, rows
from vidgen.evaluation.distance import Distances
from vidgen.evaluation.pictures import pairs, save_clips
from vidgen.hub import Model
from vidgen.protocols import Data
from vidgen.runs import write_json


class Evaluation:
    """Reconstructions, samples and their figures, written to ``folder``.

    Args:
        folder: the run folder.
        model: what is measured.
        data: the clips it is measured on.
        options: the ``evaluation`` group of the config.
        precision: ``bf16`` or ``fp32``.
        seed: of the samples.
        console: where progress goes.
        since: ``time.monotonic()`` at the run's (virtual) beginning, for the rows' seconds.
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
            metrics=options["metrics"],
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

    def draw(self) -> tuple[np.ndarray, measure.Asked]:
        """Samples, uint8 (N, T, H, W, 3), and what they were asked to show; what one took goes with their figures."""
        options, begin = self.options, time.monotonic()
        count = options["samples"]
        asked = measure.ask(self.model, self.data, count)
        with Stage(self.console, "sampling", count, unit="sample") as stage:
            pixels = measure.draw_samples(
                self.model,
                asked=asked,
                batch_size=options["batch_size"],
                shape=self.data.shape,
                seed=self.seed,
                precision=self._autocast,
                options={name: options[name] for name in ("steps", "guidance_scale", "temperature")},
                progress=stage.update,
            )
        self.seconds_a_sample = (time.monotonic() - begin) / count
        return pixels, asked

    def samples(self, pixels: np.ndarray, asked: measure.Asked, step: int) -> None:
        """Judges and shows samples; ``step`` is the generator's."""
        folder, shown = self.folder / "samples", self.options["shown"]
        folder.mkdir(exist_ok=True)
        np.save(folder / "samples.npy", pixels)
        distances = self._distances()
        distances.see("samples", pixels)
        distances.see_training(self.data, self._trained_on())
        rule = f"in batches of {self.options['batch_size']}, decoded"
        took = measure.Result(name="samples/seconds", value=self.seconds_a_sample, n=len(pixels), protocol=rule)
        self._record([*measure.measure_samples(pixels, asked, self.data), *distances.of_samples(), took], step)
        for index, name in enumerate(self.data.class_names):
            chosen = pixels[asked.labels == index][:shown]
            if len(chosen):
                save_clips(folder, f"class-{index}", chosen, title=name, order=index)
        if not self.data.class_names:
            self._show_nearest(pixels[:shown], step)

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

    def _record(self, results: list[measure.Result], step: int) -> None:
        seconds = time.monotonic() - self.since
        made = [
            rows.Row(
                stage="evaluation",
                split="test",
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
