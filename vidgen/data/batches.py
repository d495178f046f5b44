"""Batches as a pure function of (seed, step): nothing of the data's position needs saving, whatever the workers and ranks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from vidgen.protocols import Data


def epoch_order(size: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of ``range(size)`` that is a function of (seed, epoch)."""
    key = np.array([seed % 2**64, epoch], dtype=np.uint64)  # left to itself, numpy rounds large seeds to a float
    return np.random.Generator(np.random.Philox(key=key)).permutation(size)


class Order:
    """Which item stands at which position of an endless shuffled run over ``size`` items, epoch after epoch.

    Sets too large to permute (procedural ones) are walked through in order: their items are independent already.
    """

    LARGEST = 2**24

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed
        self._epoch: int | None = None
        self._order: np.ndarray | None = None

    def __call__(self, position: int) -> tuple[int, int]:
        """Position -> (item, epoch)."""
        epoch, place = divmod(position, self.size)
        if self.size > self.LARGEST:
            return place, epoch
        if epoch != self._epoch:
            self._epoch, self._order = epoch, epoch_order(self.size, self.seed, epoch)
        assert self._order is not None
        return int(self._order[place]), epoch


class ClipBatches(IterableDataset):
    """Training batches of clips for steps ``first`` to ``last``: ``video`` uint8 (B, T, H, W, 3) and ``label`` (B,).

    Step k of ``ranks`` processes takes the clips k*B*ranks to (k+1)*B*ranks of the shuffled order, and rank r its share of them,
    so that any number of workers and ranks sees the same clips in the same step.
    """

    def __init__(self, data: Data, *, batch_size: int, seed: int, first: int, last: int, rank: int = 0, ranks: int = 1) -> None:
        self.data, self.batch_size, self.seed = data, batch_size, seed
        self.first, self.last, self.rank, self.ranks = first, last, rank, ranks

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        offset, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        order = Order(self.data.size("train"), self.seed)
        for step in range(self.first + offset, self.last, stride):
            begin = (step * self.ranks + self.rank) * self.batch_size
            places = [order(position) for position in range(begin, begin + self.batch_size)]
            yield collate([self.data.clip("train", item, epoch) for item, epoch in places])

    def loader(self, workers: int) -> DataLoader:
        """The batches in the order of their steps, read ahead by ``workers`` processes (0: in this one)."""
        return DataLoader(self, batch_size=None, num_workers=workers, persistent_workers=False)


def collate(clips: list[dict[str, Any]]) -> dict[str, Any]:
    """Clips as one batch: uint8 video (B, T, H, W, 3), labels (B,), and actions (B, T) and B captions of data that has them."""
    names = [name for name in ("video", "actions") if name in clips[0]]
    batch: dict[str, Any] = {name: torch.from_numpy(np.stack([clip[name] for clip in clips])) for name in names}
    if "caption" in clips[0]:
        batch["caption"] = [clip["caption"] for clip in clips]
    return {**batch, "label": torch.tensor([clip["label"] for clip in clips])}


def facts(data: Data) -> dict[str, tuple[str, ...]]:
    """What of a data set a model that is trained on it has to remember: the names of its labels and actions, and its words."""
    return {name: tuple(getattr(data, name, ())) for name in ("class_names", "action_names", "vocabulary")}


def to_video(batch: Tensor) -> Tensor:
    """uint8 (B, T, H, W, 3) -> float (B, 3, T, H, W) in [-1, 1], on the batch's device."""
    return batch.permute(0, 4, 1, 2, 3).float().div(127.5).sub(1)


def to_pixels(video: Tensor) -> np.ndarray:
    """Float (B, 3, T, H, W) in [-1, 1] -> uint8 (B, T, H, W, 3); values outside are clipped."""
    return video.float().add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 4, 1).cpu().numpy()


def eval_batches(data: Data, split: str, count: int, batch_size: int) -> Iterator[dict[str, Any]]:
    """The first ``count`` clips of a split, or all of them where it has fewer, in order."""
    count = min(count, data.size(split))
    for begin in range(0, count, batch_size):
        yield collate([data.clip(split, index) for index in range(begin, min(begin + batch_size, count))])
