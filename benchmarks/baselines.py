"""What needs no model, measured as the models are: H.264 at several rates, and clips of the training set in place of samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from collect import fingerprint
from compare_tokenizers import h264
from records import BASELINE, Origin, Record, append, done
from suite import Suite

from vidgen.cli.compose import compose
from vidgen.data.batches import eval_batches, to_video
from vidgen.evaluation.distance import Distances
from vidgen.evaluation.measure import Asked, Result, measure_samples
from vidgen.evaluation.rows import Row
from vidgen.metrics.psnr import PSNR
from vidgen.protocols import Data
from vidgen.registry import build
from vidgen.runs import environment

CRFS = (18, 24, 30, 36, 42, 48)


def keep(suite: Suite, words: Sequence[str]) -> None:
    """Adds the baselines on the data of ``vidgen fit WORDS`` to a suite's results, unless they are there."""
    config = compose("fit", words)
    shared = {"data": config["data"], "evaluation": config["evaluation"]}
    code = fingerprint(shared)
    if (code, 0) in done(suite.results):
        return
    data: Data = build("data", config["data"])
    found = environment()
    sampled = any("stage=tokenizer" not in cell.words for cell in suite.cells)
    trained_on = (config["generator"]["training"]["clips"] or data.size("train")) if sampled else 0
    print(f"baselines: H.264{' and training clips' if sampled else ''}", flush=True)
    origin = Origin(
        run=BASELINE,
        command="",
        tokenizer="",
        generator=None,
        data=config["choices"]["data"],
        config=code,
        seed=0,
        precision="8 bit",
        hardware=found["hardware"],
        versions=found["versions"],
        commit=found["commit"],
    )
    records = [
        Record(origin=replace(origin, tokenizer=name), row=_row(result))
        for name, results in measured(data, config["evaluation"], trained_on)
        for result in results
    ]
    append(suite.results, records, once=True)


def measured(data: Data, options: Mapping[str, Any], trained_on: int) -> Iterator[tuple[str, list[Result]]]:
    """Each baseline by name, with its figures; copies are searched for among the first ``trained_on`` training clips.

    Where no generator is trained (0), training clips stand for no samples.
    """
    clips = _clips(data, "test", options["clips"])
    with TemporaryDirectory() as folder:
        distances = Distances(Path(folder), data.shape, torch.device("cpu"))
        distances.see("originals", clips)
        for crf in CRFS:
            yield f"H.264, crf {crf}", _of_codec(clips, crf, distances)
        if not trained_on:
            return
        training = _clips(data, "train", options["samples"])
        distances.see("samples", training)
        distances.see_training(data, min(trained_on, data.size("train")))
        copies = [result for result in distances.of_samples() if "reconstructions" not in result.name]
    yield "training clips", [*measure_samples(training, _asked(data, len(training)), data), *copies]


def _asked(data: Data, count: int) -> Asked:
    """Training clips as if they were samples that had been asked for."""
    clips = [data.clip("train", index) for index in range(count)]
    actions = np.stack([clip["actions"] for clip in clips]) if "actions" in clips[0] else None
    return Asked(labels=np.array([clip["label"] for clip in clips]), actions=actions)


def _of_codec(clips: np.ndarray, crf: int, distances: Distances) -> list[Result]:
    """Rate, PSNR and motion-FD of x264 at a constant rate factor, every clip by itself."""
    psnr, size, again = PSNR(), 0, []
    for clip in clips:
        spent, back = h264(clip, crf)
        size += spent
        again.append(back)
    pixels = np.stack(again)
    psnr.update(to_video(torch.from_numpy(pixels)), to_video(torch.from_numpy(clips)))
    distances.seen.pop("reconstructions", None)
    distances.see("reconstructions", pixels)
    rule = "elementary stream, each clip by itself, preset veryslow, no macroblock tree"
    return [
        Result(name="tokenizer/bits_per_pixel", value=8 * size / clips[..., 0].size, n=len(clips), protocol=rule),
        Result(
            name="reconstruction/psnr",
            value=psnr.compute().item(),
            n=len(clips),
            protocol="mean over frames, RGB, float in [-1, 1]",
            interval=psnr.interval(),
        ),
        *distances.of_reconstructions(),
    ]


def _clips(data: Data, split: str, count: int) -> np.ndarray:
    return np.concatenate([batch["video"].numpy() for batch in eval_batches(data, split, count, 64)])


def _row(result: Result) -> Row:
    return Row(
        stage="evaluation",
        split="test",
        step=0,
        seconds=0.0,
        name=result.name,
        value=result.value,
        protocol=result.protocol,
        n=result.n,
        interval=result.interval,
    )
