"""Does each pair learn? Eight clips with a label each, then samples by label: into ``benchmarks/results/learn.jsonl``.

    python benchmarks/learn.py                       trains and measures the pairs that are not there yet
    python benchmarks/learn.py --only lfq/dit kl/ar  those, again
    python benchmarks/learn.py --dry-run             says what it would do

The clips are four pairs: those of a pair share their first frame and part by motion alone, so no picture tells the label. A
tokenizer and a generator have learnt them when, for each of four seeds, at least seven of the eight labels give the right clip:
of the eight it is the nearest to the sample, and the sample is at most 3 dB worse than the tokenizer's own reconstruction.

Sizes are small and the same for all; every tokenizer is trained once and then frozen.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from vidgen import Condition, config, hub
from vidgen.data.batches import ClipBatches, to_video
from vidgen.routes import fitted
from vidgen.runs import environment
from vidgen.training import loop
from vidgen.training.cache import build_cache
from vidgen.training.task import GeneratorTask, LatentBatches, Task, recipe_from, tokenizer_task

PATH = Path(__file__).parent / "results" / "learn.jsonl"
FRAMES, SIZE, RADIUS, SPEED = 9, 16, 3.0, 1.0
SEEDS, RIGHT, WORSE = 4, 7, 3.0
"""Seeds of samples, labels of eight that must be right for each, and decibels that a sample may lose on its reconstruction."""

TOKENIZER = {"steps": 400, "batch_size": 8, "warmup": 20, "ema": 0.98}
STEPS, BATCHES = {"dit": 1800, "var": 500}, {"dit": 32}
"""Of the generators that predict numbers with noise on them, or codes from sums with wrong bits; of others 400, of 16 clips."""

GENERATOR = {
    "warmup": 20,
    "ema": 0.98,
    "clips": 8,
    "optimizer": "muon",
    "muon_lr": 0.02,
    "lr": 5e-3,
    "decay": 1.0,
}
SHAPE = {"width": 128, "depth": 4, "heads": 4}
STARTS = ((5.0, 5.0), (10.0, 5.0), (5.0, 10.0), (10.0, 10.0))
"""Where the discs of the four pairs start, in pixels."""


class Motions:
    """Eight clips of a disc: clip 2k and clip 2k + 1 begin alike, and one moves along the rows, the other along the columns."""

    shape = (FRAMES, SIZE, SIZE)
    class_names = tuple(f"motion {i}" for i in range(8))
    fingerprint = "benchmarks/learn.py 1"

    def size(self, split: str) -> int:
        """The same eight in every split."""
        return len(self.class_names)

    def clip(self, split: str, index: int, epoch: int = 0) -> dict[str, Any]:
        """Clip ``index``: a bright disc on a dark ground, towards the middle of the picture."""
        pair, along = divmod(index, 2)
        start, axes = np.array(STARTS[pair]), np.mgrid[:SIZE, :SIZE].astype(float)
        towards = np.where(start < SIZE / 2, 1.0, -1.0) * np.eye(2)[along]
        places = start + SPEED * np.arange(FRAMES)[:, None] * towards
        distance = np.hypot(*(axes[:, None] - places.T[:, :, None, None]))
        cover = np.clip(RADIUS + 0.5 - distance, 0, 1)[..., None]
        colour = np.array([[240, 60, 60], [60, 220, 60], [70, 110, 255], [240, 220, 50]])[pair]
        return {"video": (30 + cover * (colour - 30)).round().astype(np.uint8), "label": index}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a pair."""

    tokenizer: str
    generator: str
    reconstruction_db: float
    sample_db: float
    right: list[int]
    """Of the eight labels, for each seed."""
    learnt: bool
    seconds: float


def tokenizers() -> list[str]:
    """The recipes for two CPU cores: the others are the same parts at their papers' sizes."""
    small = config.load("tokenizer", "lfq")["backbone"]
    return [name for name in config.names("tokenizers") if config.load("tokenizer", name).get("backbone") == small]


def generators() -> list[str]:
    """One recipe of each generator, of its own name."""
    return [name for name in config.names("generators") if config.load("generator", name)["name"] == name]


def all_pairs() -> list[tuple[str, str]]:
    """Tokenizer by tokenizer."""
    return [(tokenizer, generator) for tokenizer in tokenizers() for generator in generators()]


def small_tokenizer(name: str, generator: str) -> dict[str, Any]:
    """The tokenizer's recipe as that generator needs it, small."""
    recipe = fitted(config.load("tokenizer", name), config.load("generator", generator)["name"])
    recipe["backbone"] |= {"widths": [64], "encoder_depths": [1], "decoder_depths": [2]}
    recipe["training"] |= TOKENIZER
    return recipe


def small_generator(name: str) -> dict[str, Any]:
    """The generator's recipe, small."""
    recipe = config.load("generator", name)
    recipe["training"] |= GENERATOR
    recipe["training"] |= {"steps": STEPS.get(recipe["name"], 400), "batch_size": BATCHES.get(recipe["name"], 16)}
    return recipe | SHAPE | ({"patch": [1, 1, 1]} if "patch" in recipe else {})


def silent() -> loop.Hooks:
    """Hooks that tell nobody."""
    return loop.Hooks(
        log=lambda step, split, values: None,
        progress=lambda step, loss: None,
        preview=lambda step: None,
        warn=lambda text: print("  warning:", text),
    )


def train(task: Task, loader: Any, folder: Path) -> Any:
    """The average of weights after the task's training."""
    loop.train(
        task,
        loader,
        checkpoint=folder / f"{task.stage}.ckpt",
        hooks=silent(),
        precision="fp32",
        accelerator="cpu",
        log_every=100,
        checkpoint_every=10**6,
    )
    return task.average.eval()


def trained_tokenizer(recipe: Mapping[str, Any], data: Motions, folder: Path) -> Any:
    """The tokenizer of ``recipe`` after training on the eight clips."""
    torch.manual_seed(0)
    task = tokenizer_task(hub.build_tokenizer(recipe), recipe, 0, data)
    task.val_clips = 8

    def batches(first: int, last: int = task.recipe.steps) -> ClipBatches:
        return ClipBatches(data, batch_size=task.recipe.batch_size, seed=0, first=first, last=last)

    tokenizer = train(task, lambda first: batches(first).loader(0), folder).requires_grad_(False)
    tokenizer.measure(to_video(batch["video"]) for batch in batches(0, 1))
    return tokenizer


def trained_generator(recipe: Mapping[str, Any], tokenizer: Any, data: Motions, folder: Path) -> Any:
    """The generator of ``recipe`` after training on the latents of the eight clips."""
    torch.manual_seed(0)
    generator = hub.build_generator(recipe, space=tokenizer.space, num_classes=len(data.class_names))
    cache = build_cache(
        folder / "latents",
        tokenizer,
        data,
        wants=generator.wants,
        count=8,
        seed=0,
        batch_size=8,
        device=torch.device("cpu"),
        progress=lambda items, total: items,
    )
    generator.prepare(cache.read(range(8))[0])
    task = GeneratorTask(generator, recipe_from(recipe), 0, None)

    def loader(first: int) -> DataLoader:
        batches = LatentBatches(cache, batch_size=task.recipe.batch_size, seed=0, first=first, last=task.recipe.steps)
        return DataLoader(batches, batch_size=None)

    return train(task, loader, folder)


def decibels(a: Tensor, b: Tensor) -> Tensor:
    """PSNR of videos (..., C, T, H, W) in [-1, 1] over all their pixels."""
    return -10 * ((a - b) / 2).square().flatten(-4).mean(-1).clamp_min(1e-10).log10()


@torch.no_grad()
def outcome(tokenizer: Any, generator: Any, clips: Tensor) -> tuple[float, float, list[int]]:
    """Decibels of reconstructions and of samples, and how many of the eight labels are right for each seed."""
    label = torch.arange(len(clips))
    back = decibels(tokenizer.decode(tokenizer.encode(clips)).clamp(-1, 1), clips)
    right, levels = [], []
    for seed in range(SEEDS):
        latent = generator.sample(len(clips), (FRAMES, SIZE, SIZE), Condition(label=label), seed=seed)
        drawn = decibels(tokenizer.decode(latent).clamp(-1, 1)[:, None], clips[None])
        own = drawn.diagonal()
        levels.append(own)
        right.append(int(((drawn.argmax(1) == label) & (own >= back - WORSE)).sum()))
    return back.mean().item(), torch.cat(levels).mean().item(), right


def run(pairs: Sequence[tuple[str, str]]) -> Iterator[Outcome]:
    """Trains and measures pairs; each tokenizer once for all of its generators that take it alike."""
    data, kept = Motions(), {}
    clips = to_video(torch.from_numpy(np.stack([data.clip("test", i)["video"] for i in range(8)])))
    for name, generator_name in pairs:
        begin = time.monotonic()
        recipe = small_tokenizer(name, generator_name)
        with tempfile.TemporaryDirectory() as folder:
            known = json.dumps(recipe, sort_keys=True)
            if known not in kept:
                kept[known] = trained_tokenizer(recipe, data, Path(folder))
            tokenizer = kept[known]
            generator = trained_generator(small_generator(generator_name), tokenizer, data, Path(folder))
        back, drawn, right = outcome(tokenizer, generator, clips)
        yield Outcome(
            tokenizer=name,
            generator=generator_name,
            reconstruction_db=round(back, 2),
            sample_db=round(drawn, 2),
            right=right,
            learnt=min(right) >= RIGHT,
            seconds=round(time.monotonic() - begin, 1),
        )


def rows() -> list[dict[str, Any]]:
    """What has been measured, the last of each pair."""
    lines = PATH.read_text(encoding="utf-8").splitlines() if PATH.exists() else []
    return list({(row["tokenizer"], row["generator"]): row for row in map(json.loads, lines)}.values())


def main(words: Sequence[str] | None = None) -> int:
    """Runs what is left; returns 1 where a pair has not learnt."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", metavar="TOKENIZER/GENERATOR", help="these pairs, whether they are there or not")
    parser.add_argument("--dry-run", action="store_true", help="say what is left to run, and run nothing")
    given = parser.parse_args(words)
    done = {(row["tokenizer"], row["generator"]) for row in rows()}
    pairs = [pair for pair in all_pairs() if pair not in done]
    if given.only:
        pairs = [(tokenizer, generator) for tokenizer, _, generator in (pair.partition("/") for pair in given.only)]
    if given.dry_run:
        print("\n".join(map("/".join, pairs)))
        return 0
    failed = 0
    for found in run(pairs):
        failed += not found.learnt
        print(
            f"{found.tokenizer} x {found.generator}: {found.right} of 8 right, samples {found.sample_db} dB, "
            f"reconstructions {found.reconstruction_db} dB, {found.seconds:.0f} s",
            flush=True,
        )
        with PATH.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**asdict(found), **environment()}) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
