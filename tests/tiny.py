"""Every recipe at a size at which a step takes milliseconds, and data of the same size: what the tests of models are run on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vidgen import Condition, Latent, config, hub
from vidgen.latents import Shape
from vidgen.training.task import Recipe

torch.set_num_threads(1)  # on a busy machine two threads wait for one another at every tiny product: 200 times slower

SMALL: dict[str, Any] = {"width": 32, "depth": 2, "heads": 2, "steps": 3}
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


def tokenizer_config(name: str, **overrides: Any) -> dict[str, Any]:
    return shrunk(config.load("tokenizer", name)) | overrides


def tokenizer(name: str, **overrides: Any) -> Any:
    """The tokenizer of that recipe, small, with weights that are not at their start (nothing is zero or the identity)."""
    return stirred(hub.build_tokenizer(tokenizer_config(name, **overrides)))


def backbone_config(name: str) -> dict[str, Any]:
    return shrunk(config.load("tokenizer/backbone", name))


def generator_config(name: str, **overrides: Any) -> dict[str, Any]:
    return shrunk(config.load("generator", name)) | overrides


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


def bits_like(tokenizer: Any, seed: int = 0) -> Iterable[Tensor]:
    yield from (video(shape_of(tokenizer), seed=seed + i) for i in range(3))


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

    def __init__(self, shape: Shape = (9, 16, 8), size: int = 7, classes: int = 3) -> None:
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
