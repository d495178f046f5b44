"""Batches as a pure function of (seed, step): nothing of the data's position needs saving, whatever the workers and ranks."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
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


class BatchOrder:
    """Which items make the batch of a step: a pure function of (seed, step), over one set of items or several buckets of them.

    A bucket's items come in an :class:`Order` of its own, batch after batch, so that none is dropped: what an epoch of the bucket
    leaves of its last batch begins the next one. In every epoch of the whole each bucket has as many batches as its items fill,
    rounded such that the fractions add up over the epochs, in an order drawn from (seed, epoch).

    Args:
        sizes: items of each bucket.
        batch_sizes: items of each bucket in a batch of one process.
        seed: of all orders.
        ranks: processes, which in one step have parts of one bucket's batch.
        parts: equal ones that a process goes through one after another; each has its share of every part of the whole batch.
    """

    SEQUENCE = 2**63
    """Added to an epoch for the order of its batches, which is then another than that of its items."""

    def __init__(self, sizes: Sequence[int], batch_sizes: Sequence[int], seed: int, ranks: int = 1, parts: int = 1) -> None:
        self.sizes, self.batch_sizes, self.seed, self.ranks, self.parts = sizes, batch_sizes, seed, ranks, parts
        self._orders = [Order(size, seed) for size in sizes]
        self._epoch: int | None = None
        self._buckets, self._numbers = np.empty(0, np.int64), np.empty(0, np.int64)

    def __call__(self, step: int, rank: int = 0) -> tuple[int, list[tuple[int, int]]]:
        """The bucket of a step, and (item, epoch of the bucket) of all that one process takes of it."""
        bucket, number = self._place(step) if len(self.sizes) > 1 else (0, step)
        size, order = self.batch_sizes[bucket], self._orders[bucket]
        whole = np.arange(number * self.ranks * size, (number + 1) * self.ranks * size)
        own = whole.reshape(self.parts, self.ranks, -1)[:, rank].flatten()
        return bucket, [order(position) for position in own.tolist()]

    def _place(self, step: int) -> tuple[int, int]:
        """A step's bucket, and how many batches of it came before."""
        epoch = bisect_right(range(self._latest(step)), step, key=lambda epoch: sum(self._done(epoch))) - 1
        before, after = self._done(epoch), self._done(epoch + 1)
        if epoch != self._epoch:
            self._epoch = epoch
            counts = [end - begin for begin, end in zip(before, after, strict=True)]
            drawn = epoch_order(sum(counts), self.seed, self.SEQUENCE + epoch)
            self._buckets = np.repeat(np.arange(len(counts)), counts)[drawn]
            self._numbers = np.empty_like(self._buckets)
            for bucket, (begin, end) in enumerate(zip(before, after, strict=True)):
                self._numbers[self._buckets == bucket] = np.arange(begin, end)
        place = step - sum(before)
        return int(self._buckets[place]), int(self._numbers[place])

    def _done(self, epoch: int) -> list[int]:
        """Whole batches of each bucket in the epochs before ``epoch``."""
        return [epoch * size // (batch * self.ranks) for size, batch in zip(self.sizes, self.batch_sizes, strict=True)]

    def _latest(self, step: int) -> int:
        """An epoch that begins after ``step``: by then one bucket alone has had as many batches."""
        return min(-(-(step + 1) * batch * self.ranks // size) for size, batch in zip(self.sizes, self.batch_sizes, strict=True))


class ClipBatches(IterableDataset):
    """Training batches of clips for steps ``first`` to ``last``: ``video`` uint8 (B, T, H, W, 3) and ``label`` (B,).

    Step k of ``ranks`` processes takes the clips k*B*ranks to (k+1)*B*ranks of the shuffled order, and rank r its share of them,
    so that any number of workers and ranks sees the same clips in the same step. Of data with buckets every batch is of one of
    them, as :class:`BatchOrder` says, and ``batch_size`` is one number for all or one for each.
    """

    def __init__(
        self,
        data: Data,
        *,
        batch_size: int | Sequence[int],
        seed: int,
        first: int,
        last: int,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.buckets, self.seed = buckets_of(data), seed
        self.batch_sizes = for_each(batch_size, self.buckets)
        self.first, self.last, self.rank, self.ranks = first, last, rank, ranks

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        offset, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        order = BatchOrder([data.size("train") for data in self.buckets], self.batch_sizes, self.seed, self.ranks)
        for step in range(self.first + offset, self.last, stride):
            bucket, places = order(step, self.rank)
            yield collate([self.buckets[bucket].clip("train", item, epoch) for item, epoch in places])

    def loader(self, workers: int) -> DataLoader:
        """The batches in the order of their steps, read ahead by ``workers`` processes (0: in this one)."""
        return DataLoader(self, batch_size=None, num_workers=workers, persistent_workers=False)


def buckets_of(data: Data) -> tuple[Data, ...]:
    """The parts of ``data`` whose clips have one size each: its buckets, or itself."""
    return tuple(getattr(data, "buckets", ())) or (data,)


def for_each(batch_size: int | Sequence[int], buckets: Sequence[Any]) -> list[int]:
    """The batch size of each bucket, where it is said for each or for all."""
    sizes = [batch_size] * len(buckets) if isinstance(batch_size, int) else list(batch_size)
    if len(sizes) != len(buckets):
        raise ValueError(f"{len(buckets)} buckets need as many batch sizes, or one for all, and not {len(sizes)}.")
    return sizes


def clips_a_step(sizes: Sequence[int], batch_sizes: Sequence[int]) -> float:
    """Clips in a batch, on the average over the epochs of a :class:`BatchOrder`."""
    return sum(sizes) / sum(size / batch for size, batch in zip(sizes, batch_sizes, strict=True))


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
