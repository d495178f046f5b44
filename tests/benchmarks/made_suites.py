"""Made-up records of suites, for what draws and judges them."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

from figures import result

from vidgen.evaluation.rows import Row

TOKENIZERS = ("kl", "vq", "lfq", "gumbel", "fsq", "bsq")
GENERATORS = ("dit", "maskgit", "var", "ar")


def records(
    rows: Sequence[Row],
    *,
    tokenizer: str = "lfq",
    generator: str | None = "dit",
    words: Sequence[str] = (),
    seed: int = 0,
    **changes: Any,
) -> list[Any]:
    """The records of one run. Its recipe is known by its parts and by what was typed beside them."""
    from records import Origin, Record

    typed = [f"tokenizer={tokenizer.partition(', ')[0]}", *([f"generator={generator}"] if generator else []), *words]
    origin = {
        "run": f"2026-01-31-{tokenizer}-{generator}",
        "command": f"vidgen fit {' '.join([*typed, f'seed={seed}'])}",
        "tokenizer": tokenizer,
        "generator": generator,
        "data": "worlds",
        "config": " ".join(typed),
        "seed": seed,
        "precision": "fp32",
        "hardware": {"cpu": "A processor", "cores": 2, "memory_gib": 8.0},
        "versions": {"python": "3.11.9", "torch": "2.15.0"},
        "commit": "0123456789ab",
    }
    return [Record(origin=Origin(**(origin | changes)), row=row) for row in rows]


def results(**values: float) -> list[Row]:
    """Rows by name, whose first ``__`` stands for a slash."""
    return [result(name.replace("__", "/", 1), value) for name, value in values.items()]


def curve(end: float, *, steps: int = 1200, every: int = 100, high: float = 4.0) -> list[Row]:
    """A validation loss that falls from ``high`` towards ``end``."""
    return [
        Row(
            stage="generator",
            split="val",
            step=step,
            seconds=float(step),
            name="loss/validation",
            value=end + (high - end) * math.exp(-4 * step / steps) * (step < steps),
        )
        for step in range(every, steps + 1, every)
    ]


def grid(seeds: int = 3, tokenizers: Sequence[str] = TOKENIZERS, generators: Sequence[str] = GENERATORS) -> Iterator[Any]:
    """A suite of all pairs with its baselines."""
    noise = random.Random(0)
    for i, tokenizer in enumerate(tokenizers):
        for j, generator in enumerate(generators):
            for seed in range(seeds):
                off = noise.gauss(0, 0.03)
                named = f"{tokenizer}, quantizer pyramid" if generator == "var" and tokenizer != "kl" else tokenizer
                rows = results(
                    reconstruction__psnr=33 - i + 30 * off,
                    reconstruction__motion_fd=3 + i + off,
                    tokenizer__bits_per_pixel=0.99 if tokenizer == "kl" else (0.24 if named != tokenizer else 0.18 + 0.002 * i),
                    samples__law_legal=min(1, max(0, 0.8 - 0.2 * j - 0.05 * i + off)),
                    samples__motion_fd=(4 + 2 * i) * (1 + 1.5 * j) * math.exp(off),
                    samples__seconds=(0.4, 0.15, 0.05, 0.9)[j] * (1 + 0.1 * i) * math.exp(off),
                    generator__parameters=1.5e6,
                )
                words = ["generator.width=128", "tokenizer.training.steps=1000", f"generator.training.steps={1000 + 70 * j}"]
                yield from records([*rows, *curve(1 + i / 5 + off)], tokenizer=named, generator=generator, words=words, seed=seed)
    for crf, (rate, psnr) in enumerate(((0.037, 26.7), (0.045, 29.6), (0.056, 35.3), (0.09, 38.5), (0.14, 40.0))):
        rows = results(reconstruction__psnr=psnr, tokenizer__bits_per_pixel=rate)
        yield from records(rows, run="baseline", tokenizer=f"H.264, crf {crf}", generator=None, command="", config="code")
    rows = results(samples__law_legal=1.0, samples__motion_fd=0.6)
    yield from records(rows, run="baseline", tokenizer="training clips", generator=None, command="", config="code")


def sizes(
    generator: str, exponent: float, *, seeds: int = 3, noise: float = 0.01, widths: Sequence[int] = (48, 64, 96, 128, 192)
) -> Iterator[Any]:
    """A generator in several sizes, whose loss and distance are power laws of its parameters and FLOPs."""
    rough = random.Random(1)
    for width in widths:
        for seed in range(seeds):
            parameters = 12.0 * 4 * width**2
            loss = 5 * (parameters / 1e5) ** exponent * math.exp(rough.gauss(0, noise))
            rows = results(
                generator__parameters=parameters,
                generator__sample_flops=100 * parameters,
                generator__train_flops=1e5 * parameters,
                samples__motion_fd=20 * (parameters / 1e5) ** (2 * exponent) * math.exp(rough.gauss(0, 5 * noise)),
            )
            words = [f"generator.width={width}", f"generator.training.steps={10**6 // width}"]
            yield from records([*rows, *curve(loss)], tokenizer="pyramid_lfq", generator=generator, words=words, seed=seed)
