"""Measures cached latents against encoding the clips of every batch: ``benchmarks/results/caching.jsonl``.

    python benchmarks/caching.py             measures what is not there yet of the code at hand
    python benchmarks/caching.py --only kl   that tokenizer alone

Both sides give the same batches to the same step. Encoding is given its clips as they lie in memory: what drawing or decoding
them would cost is left out, which is to its advantage. Tokenizers have random weights, for the time does not depend on them.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import timing
import torch
from timing import Case, Timing

from vidgen import Condition, config, hub
from vidgen.data.batches import to_video
from vidgen.data.worlds import Worlds
from vidgen.latents import Latent
from vidgen.routes import fitted
from vidgen.training.cache import LatentCache, build_cache

RESULTS = Path(__file__).parent / "results" / "caching.jsonl"
CODE = ("vidgen/training/cache.py", "vidgen/latents.py", "benchmarks/caching.py", "benchmarks/timing.py")
PAIRS, CLIPS, BATCH, FASTER = 9, 256, 32, 10
TOKENIZERS = ("lfq", "vq", "kl", "residual", "pyramid")
READ, TRAIN = "latents of a batch", "training step with them"


@dataclass(frozen=True)
class Side:
    """A tokenizer of a recipe, a generator on its latents, and clips of the default world.

    Attributes:
        name: the tokenizer's recipe.
        device: where it is.
    """

    name: str
    device: torch.device

    @cached_property
    def tokenizer(self) -> Any:
        torch.manual_seed(0)
        built = hub.build_tokenizer(fitted(config.load("tokenizer", self.name), "dit")).eval().to(self.device)
        built.measure(iter([to_video(self.clips[:8].to(self.device))]))
        return built

    @cached_property
    def generator(self) -> Any:
        torch.manual_seed(0)
        return hub.build_generator(config.load("generator", "dit"), space=self.tokenizer.space, num_classes=3).to(self.device)

    @cached_property
    def clips(self) -> torch.Tensor:
        """uint8 (N, T, H, W, 3)."""
        data = Worlds()
        return torch.from_numpy(np.stack([data.clip("train", i)["video"] for i in range(BATCH)]))

    @cached_property
    def cache(self) -> LatentCache:
        folder = Path(tempfile.mkdtemp())
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return build_cache(
            folder / "latents",
            self.tokenizer,
            Worlds(),
            wants=self.generator.wants,
            count=CLIPS,
            seed=0,
            batch_size=BATCH,
            device=self.device,
            progress=lambda items, total: items,
        )

    def read(self) -> Latent:
        """A batch of the cache."""
        return self.cache.read(range(BATCH))[0].to(self.device)

    @torch.no_grad()
    def encode(self) -> Latent:
        """The same batch, encoded."""
        with torch.autocast(self.device.type, torch.bfloat16):
            return self.tokenizer.encode(to_video(self.clips.to(self.device)))

    def step(self, latents: Callable[[], Latent]) -> Callable[[], None]:
        """A call that takes a batch from ``latents`` and goes forward and backward with it."""
        condition = Condition(label=torch.arange(BATCH, device=self.device) % 3)
        weights = list(self.generator.parameters())

        def train() -> None:
            latent = latents()
            with torch.autocast(self.device.type, torch.bfloat16):
                loss = self.generator.loss(latent, condition).total
            loss.backward()
            for weight in weights:
                weight.grad = None
            wait(self.device)

        return train


def wait(device: torch.device) -> None:
    """Until what was asked of a GPU is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def measured(side: Side, measure: str, subject: str) -> Timing:
    """One row."""
    read, encode = (side.read, side.encode) if measure == READ else (side.step(side.read), side.step(side.encode))

    def waited(call: Callable[[], Any]) -> None:
        call()
        wait(side.device)

    return timing.compared(
        partial(waited, read),
        partial(waited, encode),
        subject=subject,
        measure=measure,
        against="encoding the clips of each batch",
        settings=f"{BATCH} clips of 17x32x32, dit, bf16",
        version=timing.code(*CODE),
        pairs=PAIRS,
        rate=(BATCH, "clips/s") if measure == READ else (1, "steps/s"),
        least=FASTER if measure == READ else None,
    )


def cases() -> Iterator[Case]:
    """All rows, in the order of the table."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for name in TOKENIZERS:
        side = Side(name, device)
        for measure in (READ, TRAIN):
            yield Case(name, measure, partial(measured, side, measure, name))


if __name__ == "__main__":
    raise SystemExit(timing.run(RESULTS, cases(), timing.code(*CODE)))
