"""Every recipe at a size at which a step takes milliseconds, and data of the same size: what the tests of models are run on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vidgen import Condition, Latent, config, hub
from vidgen.data.batches import ClipBatches
from vidgen.latents import Shape
from vidgen.protocols import Data
from vidgen.training import loop
from vidgen.training.cache import LatentCache, build_cache
from vidgen.training.task import GeneratorTask, LatentBatches, Recipe, Task, TokenizerTask, tokenizer_task

torch.set_num_threads(1)  # on a busy machine two threads wait for one another at every tiny product: 200 times slower

SMALL: dict[str, Any] = {"width": 32, "depth": 2, "heads": 2, "steps": 3, "codes": 24, "window": 3}
"""Options that decide how large a part is, whichever part it is; a part without them stays as its recipe says."""

LISTS = {"widths": 12, "encoder_depths": 1, "decoder_depths": 1}


def shrunk(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe with its sizes made small, nested parts included."""
    small: dict[str, Any] = {}
    for key, value in recipe.items():
        if isinstance(value, Mapping):
            small[key] = shrunk(value)
        elif key in LISTS:
            small[key] = [LISTS[key]] * len(value)
        else:
            small[key] = SMALL.get(key, value)
    return small


def distinct(kind: str) -> list[str]:
    """The recipes of ``kind`` that differ in more than size and training: the others shrink to one of these."""
    shrink: Callable[[str], Any] = {
        "tokenizers": tokenizer_config,
        "generators": generator_config,
        "quantizers": quantizer_config,
        "backbones": backbone_config,
    }[kind]
    found: dict[str, str] = {}
    for name in trained() if kind == "tokenizers" else config.names(kind):
        found.setdefault(json.dumps({key: value for key, value in shrink(name).items() if key != "training"}), name)
    return list(found.values())


def trained() -> list[str]:
    """The recipes of tokenizers that are trained; others are taken as they are."""
    return [name for name in config.names("tokenizers") if "training" in config.load("tokenizer", name)]


def tokenizer_config(name: str, **overrides: Any) -> dict[str, Any]:
    return shrunk(config.load("tokenizer", name)) | overrides


def tokenizer(name: str, **overrides: Any) -> Any:
    """The tokenizer of that recipe, small, with weights that are not at their start (nothing is zero or the identity)."""
    return stirred(hub.build_tokenizer(tokenizer_config(name, **overrides)))


def backbone_config(name: str) -> dict[str, Any]:
    return shrunk(config.load("tokenizer/backbone", name))


def quantizer_config(name: str) -> dict[str, Any]:
    return shrunk(config.load("tokenizer/quantizer", name))


def pair_config(quantizer: str, backbone: str) -> dict[str, Any]:
    return tokenizer_config("lfq", quantizer=quantizer_config(quantizer), backbone=backbone_config(backbone))


def pair(quantizer: str, backbone: str) -> Any:
    """The tokenizer of that quantizer and that backbone, small, with weights that are not at their start."""
    return stirred(hub.build_tokenizer(pair_config(quantizer, backbone)))


def pairs() -> list[Any]:
    """Every quantizer with every backbone: each quantizer and each backbone once in the fast tier, the rest of them slow.

    In the fast tier the quantizers take the backbones in turns, and every backbone has bits and continuous latents too.
    """
    import pytest

    quantizers, backbones = distinct("quantizers"), distinct("backbones")
    fast = {(name, backbones[i % len(backbones)]) for i, name in enumerate(quantizers)}
    fast |= {("lfq", name) for name in backbones} | {("kl", name) for name in backbones}
    return [
        pytest.param(
            (quantizer, backbone), id=f"{quantizer}-{backbone}", marks=() if (quantizer, backbone) in fast else pytest.mark.slow
        )
        for quantizer in quantizers
        for backbone in backbones
    ]


def generator_config(name: str, **overrides: Any) -> dict[str, Any]:
    recipe = shrunk(config.load("generator", name))
    patch = {"patch": (1, 2, 2)} if "patch" in recipe else {}  # which the cells of `shape_of` are a multiple of
    return recipe | patch | overrides


def generator(name: str, space: Any, num_classes: int = 0, **overrides: Any) -> Any:
    return hub.build_generator(generator_config(name, **overrides), space=space, num_classes=num_classes)


def stirred(model: Any, scale: float = 0.1) -> Any:
    """``model`` with noise on every weight, so that no part of it is silent because it starts at zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(scale * torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
    return model


def shape_of(tokenizer: Any, cells: Shape = (3, 4, 2)) -> Shape:
    """The video that fills a grid of ``cells``, not square."""
    _, height, width = tokenizer.spec.stride
    return tokenizer.spec.frames(cells[0]), cells[1] * height, cells[2] * width


def video(shape: Shape, batch: int = 2, seed: int = 0) -> Tensor:
    """Videos (batch, 3, *shape) with values in [-1, 1] that are smooth enough to be learnt."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, 2, 2, 2, generator=rng) * 2 - 1
    return nn.functional.interpolate(coarse, shape, mode="trilinear", align_corners=True)


def videos(tokenizer: Any) -> Iterable[Tensor]:
    """Three batches for ``measure``."""
    yield from (video(shape_of(tokenizer), seed=seed) for seed in range(3))


def latent(tokenizer: Any, batch: int = 4, cells: Shape = (3, 4, 2)) -> Latent:
    return tokenizer.encode(video(shape_of(tokenizer, cells), batch))


def labels(*values: int) -> Condition:
    return Condition(label=torch.tensor(values))


def recipe(**changes: Any) -> Recipe:
    """How the tests train: a handful of steps."""
    values: dict[str, Any] = {
        "steps": 8,
        "batch_size": 2,
        "optimizer": "muon",
        "lr": 1e-3,
        "muon_lr": 0.01,
        "weight_decay": 0.01,
        "betas": (0.9, 0.95),
        "warmup": 2,
        "decay": 0.5,
        "clip_norm": 1.0,
        "ema": 0.9,
    }
    return Recipe(**values | changes)


class Clips:
    """Random smooth clips by (split, index, epoch): the smallest data that satisfies the protocol."""

    def __init__(self, shape: Shape = (5, 8, 8), size: int = 7, classes: int = 3) -> None:
        self.shape, self.count = shape, size
        self.class_names = tuple(f"class {i}" for i in range(classes))
        self.fingerprint = f"{shape} {size} {classes}"

    def size(self, split: str) -> int:
        return self.count

    def clip(self, split: str, index: int, epoch: int = 0) -> dict[str, Any]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        pixels = video(self.shape, 1, seed=1000 * ["train", "val", "test"].index(split) + 50 * index + epoch)
        frames = np.asarray(((pixels[0] + 1) * 127.5).round().byte().permute(1, 2, 3, 0))
        return {"video": frames, "label": index % len(self.class_names) if self.class_names else -1}


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    """Whether names and values of all weights and buffers are the same, to the bit."""
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@dataclass
class Seen:
    """What a training told its hooks."""

    rows: list[tuple[int, str, dict[str, float]]] = field(default_factory=list)
    progress: list[int] = field(default_factory=list)
    previews: list[int] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def hooks(self, **changes: Any) -> loop.Hooks:
        own: dict[str, Any] = {
            "log": lambda step, split, values: self.rows.append((step, split, dict(values))),
            "progress": lambda step, loss: self.progress.append(step),
            "preview": self.previews.append,
            "warn": self.warnings.append,
        }
        return loop.Hooks(**own | changes)


@dataclass
class Training:
    """A task made anew for every start, as a process would, with its batches."""

    task: Callable[[], Task]
    loader: Callable[[int], DataLoader]

    def run(self, folder: Path, hooks: loop.Hooks | None = None, task: Task | None = None, **options: Any) -> Task:
        """Trains to the end, from the checkpoint in ``folder`` where there is one."""
        task = self.task() if task is None else task
        plain = {"precision": "fp32", "accelerator": "cpu", "log_every": 1, "checkpoint_every": 3}
        checkpoint = folder / f"{task.stage}.ckpt"
        loop.train(task, self.loader, checkpoint=checkpoint, hooks=hooks or Seen().hooks(), **plain | options)
        return task


ADVERSARY: dict[str, Any] = {
    "name": "patch",
    "time_kernel": 3,
    "widths": [4, 6],
    "strides": [[2, 2, 2]],
    "weight": 0.5,
    "adaptive": True,
    "start": 0,
    "loss": "hinge",
    "generator_loss": "non_saturating",
    "feature_matching": 0.1,
    "lecam": 0.1,
    "lecam_decay": 0.9,
    "r1": 1.0,
    "r1_every": 2,
    "lr": 1e-3,
    "betas": [0.5, 0.9],
}
"""An adversary with all that it can have."""


def tokenizer_training(
    name: str,
    *,
    seed: int = 0,
    data: Data | None = None,
    start: Any = None,
    perceptual: Mapping[str, Any] | None = None,
    adversary: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Training:
    """The training of a tokenizer, ``start`` or that recipe's, on ``data`` or :class:`Clips`; ``changes`` are of the recipe."""
    how, start = recipe(**changes), tokenizer(name) if start is None else start
    data = Clips(shape_of(start)) if data is None else data
    parts: dict[str, Any] = {"training": asdict(how), "perceptual": perceptual, "adversary": adversary}
    parts = {key: value for key, value in parts.items() if value is not None}

    def loader(first: int) -> DataLoader:
        return ClipBatches(data, batch_size=how.batch_size, seed=seed, first=first, last=how.steps).loader(0)

    def task() -> TokenizerTask:
        made = tokenizer_task(deepcopy(start), parts, seed, data)
        made.val_clips = 2
        return made

    return Training(task, loader)


def latent_cache(tokenizer: Any, folder: Path, **changes: Any) -> LatentCache:
    """The latents of :class:`Clips`, cached in ``folder``."""
    how: dict[str, Any] = {
        "wants": ("h",),
        "count": 11,
        "seed": 3,
        "batch_size": 4,
        "device": torch.device("cpu"),
        "progress": lambda items, total: items,
    }
    return build_cache(folder, tokenizer, Clips(shape_of(tokenizer)), **how | changes)


def generator_training(
    name: str, tokenizer: Any, cache: LatentCache, *, seed: int = 0, start: Any = None, **changes: Any
) -> Training:
    """The training of a generator, ``start`` or that recipe's, on cached latents; ``changes`` are of the recipe."""
    how, val = recipe(**changes), cache.read([0, 1])
    start = stirred(generator(name, tokenizer.space, num_classes=3), 0.05) if start is None else start

    def loader(first: int) -> DataLoader:
        parts = {"windows": how.windows, "images": how.images}
        latents = LatentBatches(cache, batch_size=how.batch_size, seed=seed, first=first, last=how.steps, **parts)
        return DataLoader(latents, batch_size=None)

    return Training(lambda: GeneratorTask(deepcopy(start), how, seed, val), loader)
