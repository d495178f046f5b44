"""Measures how long training waits for its batches: ``benchmarks/results/waiting.jsonl``.

    python benchmarks/waiting.py                 measures what is not there yet of the code at hand
    python benchmarks/waiting.py --only folder   that of these clips alone

Each row is a stage of a default recipe for some steps, run by the loop that ``vidgen fit`` runs, with as many workers as the
recipe has: clips of the worlds, drawn by formula as they are needed; clips of a folder of videos, read from its frame cache; and
latents. The first steps, in which memory and kernels are made ready, do not count.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import timing
import torch
from timing import Case, Timing

from vidgen import config, hub
from vidgen.data.batches import ClipBatches, to_video
from vidgen.data.folder import Folder
from vidgen.data.worlds import Worlds
from vidgen.training import loop
from vidgen.training.cache import build_cache
from vidgen.training.precision import choose
from vidgen.training.task import GeneratorTask, LatentBatches, Task, recipe_from, tokenizer_task
from vidgen.viz import write_mp4

RESULTS = Path(__file__).parent / "results" / "waiting.jsonl"
CODE = (
    *("vidgen/data", "vidgen/training", "configs/tokenizer/lfq.yaml", "configs/generator/dit.yaml", "configs/data"),
    *("benchmarks/waiting.py", "benchmarks/timing.py"),
)
STEPS, READY = 40, 10
"""Steps of a row, and those at the beginning that do not count."""

MOST = 5.0
"""Per cent of a step that may go by in waiting."""

FILES, LONG = 12, 65
"""Videos of the folder, and the frames of each."""

MEASURE = "share of a step spent waiting for its batch"


class Watched:
    """Batches, with the seconds that were spent on waiting for each, and when each was asked for."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self.batches, self.asked, self.waited = batches, list[float](), list[float]()

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.batches)
        while True:
            begin = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.asked.append(begin)
            self.waited.append(time.perf_counter() - begin)
            yield batch

    @property
    def share(self) -> float:
        """Of the time from one asking to the next, after those that do not count."""
        steps = self.asked[-1] - self.asked[READY]
        return sum(self.waited[READY:-1]) / steps


def clips(source: Any, batch_size: int) -> Iterable[Any]:
    """The batches of clips that ``vidgen fit`` makes of ``source``."""
    workers = config.load("trainer", "default")["workers"]
    return ClipBatches(source, batch_size=batch_size, seed=0, first=0, last=STEPS).loader(workers)


def share(task: Task, batches: Iterable[Any]) -> float:
    """Per cent of the steps of ``task`` that it waits for ``batches``."""
    watched = Watched(batches)
    hooks = loop.Hooks(
        log=lambda step, split, values: None, progress=lambda step, loss: None, preview=lambda step: None, warn=print
    )
    with tempfile.TemporaryDirectory() as folder:
        loop.train(
            task,
            lambda first: watched,  # type: ignore[arg-type,return-value]
            checkpoint=Path(folder) / "state.ckpt",
            hooks=hooks,
            precision=choose("auto", torch.device("cpu")),
            accelerator="auto",
            log_every=10**6,
            checkpoint_every=10**6,
        )
    return 100 * watched.share


def tokenizer_share(make: Callable[[Path], Any]) -> float:
    """That of the default tokenizer on the data that ``make`` makes in a folder."""
    recipe = config.load("tokenizer", "lfq")
    recipe["training"] |= {"steps": STEPS}
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        data = make(Path(folder))
        task = tokenizer_task(hub.build_tokenizer(recipe), recipe, 0, data)
        return share(task, clips(data, task.recipe.batch_size))


def folder_of_videos(place: Path) -> Folder:
    """The default data of a folder, with long videos of the worlds in it."""
    world, recipe = Worlds(frames=LONG, height=64, width=64), config.load("data", "folder")
    for index in range(FILES):
        write_mp4(place / "videos" / f"{index}.mp4", world.clip("train", index)["video"])
    options = {key: value for key, value in recipe.items() if key != "name"}
    return Folder(**options | {"path": str(place / "videos"), "cache": str(place / "cache")})


def generator_share() -> float:
    """That of the default generator on latents of an untrained tokenizer."""
    torch.manual_seed(0)
    data, recipe = Worlds(), config.load("generator", "dit")
    recipe["training"] |= {"steps": STEPS}
    tokenizer = hub.build_tokenizer(config.load("tokenizer", "lfq")).eval()
    tokenizer.measure(to_video(batch["video"]) for batch in ClipBatches(data, batch_size=8, seed=0, first=0, last=1))
    generator = hub.build_generator(recipe, space=tokenizer.space, num_classes=len(data.class_names))
    with tempfile.TemporaryDirectory() as folder:
        cache = build_cache(
            Path(folder) / "latents",
            tokenizer,
            data,
            wants=generator.wants,
            count=256,
            seed=0,
            batch_size=32,
            device=torch.device("cpu"),
            progress=lambda items, total: items,
        )
        generator.prepare(cache.read(range(32))[0])
        task = GeneratorTask(generator, recipe_from(recipe), 0, None)
        batches = LatentBatches(cache, batch_size=task.recipe.batch_size, seed=0, first=0, last=STEPS)
        return share(task, batches)


def measured(subject: str, work: Callable[[], float]) -> Timing:
    """One row."""
    per_cent = work()
    return Timing(
        subject=subject,
        measure=MEASURE,
        against="",
        ours=per_cent,
        theirs=None,
        unit="%",
        ratio=None,
        quartiles=None,
        pairs=1,
        wanted=f"under {MOST:g} %",
        met=per_cent < MOST,
        settings=f"{STEPS - READY} steps of the default recipe",
        code=timing.code(*CODE),
        **timing.provenance(),
    )


def cases() -> Iterator[Case]:
    """All rows, in the order of the table."""
    works: dict[str, Callable[[], float]] = {
        "lfq on worlds": partial(tokenizer_share, lambda place: Worlds()),
        "lfq on a folder of videos": partial(tokenizer_share, folder_of_videos),
        "dit on cached latents": generator_share,
    }
    for subject, work in works.items():
        yield Case(subject, MEASURE, partial(measured, subject, work))


if __name__ == "__main__":
    raise SystemExit(timing.run(RESULTS, cases(), timing.code(*CODE)))
