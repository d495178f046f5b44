"""Batches as a pure function of (seed, step), whatever the workers and the ranks; pixels to videos and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vidgen.data.batches import BatchOrder, ClipBatches, Order, collate, epoch_order, eval_batches, to_pixels, to_video


class Numbered:
    """Clips whose only pixel says which clip of which split and epoch it is."""

    shape = (1, 1, 1)
    class_names = ("even", "odd")
    fingerprint = "numbered"

    def __init__(self, size: int = 10) -> None:
        self.count = size

    def size(self, split: str) -> int:
        return self.count

    def clip(self, split: str, index: int, epoch: int = 0) -> dict[str, Any]:
        assert 0 <= index < self.count
        pixel = [index, epoch, ["train", "val", "test"].index(split)]
        return {"video": np.array(pixel, dtype=np.uint8).reshape(1, 1, 1, 3), "label": index % 2}


def clips(batch: dict[str, Tensor]) -> list[tuple[int, ...]]:
    """(index, epoch) of each clip of a training batch."""
    rows = batch["video"].reshape(-1, 3).tolist()
    assert batch["label"].tolist() == [row[0] % 2 for row in rows]
    assert all(row[2] == 0 for row in rows)
    return [tuple(row[:2]) for row in rows]


def steps(size: int = 10, workers: int = 0, **options: Any) -> list[list[tuple[int, ...]]]:
    how = {"batch_size": 4, "seed": 7, "first": 0, "last": 12} | options
    return [clips(batch) for batch in ClipBatches(Numbered(size), **how).loader(workers)]


def test_each_epoch_has_every_clip_once_in_an_order_of_its_own() -> None:
    flat = [clip for step in steps(last=10) for clip in step]
    epochs = [flat[i : i + 10] for i in range(0, 40, 10)]
    for number, epoch in enumerate(epochs):
        assert sorted(epoch) == [(index, number) for index in range(10)]
    assert len({tuple(index for index, _ in epoch) for epoch in epochs}) == 4


@pytest.mark.parametrize("first", [0, 1, 5, 11, 12])
def test_from_any_step_on_the_batches_are_those_of_that_step(first: int) -> None:
    assert steps(first=first) == steps()[first:]


def test_another_seed_gives_another_order() -> None:
    assert steps() == steps()
    assert steps(seed=8) != steps()


def test_large_and_negative_seeds_are_seeds_like_any_other() -> None:
    """Neighbours beyond what a float tells apart too."""
    orders = {tuple(epoch_order(50, seed, 1).tolist()) for seed in (-1, -2, 2**53, 2**53 + 1, 2**63, 2**63 + 1, 2**64 - 3)}
    assert len(orders) == 7


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more than this machine has cores
@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_reads_the_same_batches_in_the_same_order(workers: int) -> None:
    """Also from a step in the middle, and with more workers than are needed at the end."""
    assert steps(workers=workers, first=3) == steps(first=3)


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_any_number_of_ranks_sees_the_same_clips_in_a_step(ranks: int) -> None:
    """Each its own share, and together what one process with as large a batch sees, in the same order."""
    alone = steps(batch_size=12)
    shared = [steps(batch_size=12 // ranks, rank=rank, ranks=ranks) for rank in range(ranks)]
    assert [[clip for rank in shared for clip in rank[step]] for step in range(12)] == alone


def test_of_a_batch_in_parts_each_rank_has_its_share_of_every_part() -> None:
    """So that a part of all ranks is the part that one process goes through."""
    alone, shared = BatchOrder([50], [12], 7), BatchOrder([50], [6], 7, ranks=2, parts=3)
    for step in range(12):
        _, whole = alone(step)
        ranks = [shared(step, rank)[1] for rank in range(2)]
        for part in range(3):
            assert [item for own in ranks for item in own[2 * part : 2 * part + 2]] == whole[4 * part : 4 * part + 4]


def test_ranks_and_workers_together() -> None:
    ranks = [steps(batch_size=2, rank=rank, ranks=2, workers=2, first=5) for rank in range(2)]
    assert [one + two for one, two in zip(*ranks, strict=True)] == steps(first=5)


def test_an_order_is_a_permutation_that_may_be_asked_in_any_order() -> None:
    order = Order(10, seed=3)
    forwards = [order(position) for position in range(40)]
    assert [order(position) for position in reversed(range(40))] == forwards[::-1]
    assert [item for item, _ in forwards[10:20]] == epoch_order(10, 3, 1).tolist()


def test_orders_are_even() -> None:
    """Over seeds each clip comes first equally often."""
    first = np.bincount([epoch_order(4, seed, 0)[0] for seed in range(2000)], minlength=4)
    assert abs(first - 500).max() < 100  # five standard deviations


def test_sets_too_large_to_permute_are_walked_through() -> None:
    order = Order(Order.LARGEST + 1, seed=3)
    assert [order(position) for position in (0, 5, Order.LARGEST, Order.LARGEST + 1)] == [
        (0, 0),
        (5, 0),
        (Order.LARGEST, 0),
        (0, 1),
    ]


@pytest.mark.parametrize(("count", "batch_size", "sizes"), [(5, 2, [2, 2, 1]), (4, 4, [4]), (99, 4, [4, 4, 2]), (10, 64, [10])])
def test_evaluation_takes_the_first_clips_in_order(count: int, batch_size: int, sizes: list[int]) -> None:
    batches = list(eval_batches(Numbered(), "test", count, batch_size))
    assert [len(batch["label"]) for batch in batches] == sizes
    rows = torch.cat([batch["video"] for batch in batches]).reshape(-1, 3).tolist()
    assert rows == [[index, 0, 2] for index in range(min(count, 10))]


def test_a_batch_has_the_actions_of_data_that_has_them() -> None:
    clip = Numbered().clip("train", 3)
    assert collate([clip, clip]).keys() == {"video", "label"}
    batch = collate([clip | {"actions": np.array([1, 2])}] * 3)
    assert batch["actions"].tolist() == [[1, 2]] * 3


def test_pixels_survive_the_way_to_a_video_and_back() -> None:
    """All 256 values; 0 is -1 and 255 is 1, channels first, and what is outside is clipped."""
    pixels = torch.arange(2 * 3 * 4 * 4 * 3).remainder(256).to(torch.uint8).view(2, 3, 4, 4, 3)
    video = to_video(pixels)
    assert video.shape == (2, 3, 3, 4, 4)
    assert (float(video.min()), float(video.max())) == (-1.0, 1.0)
    assert float(video[1, 2, 0, 3, 1]) == pytest.approx(int(pixels[1, 0, 3, 1, 2]) / 127.5 - 1)
    assert np.array_equal(to_pixels(video), pixels.numpy())
    assert np.array_equal(to_pixels(video.bfloat16() * 3)[pixels.numpy() == 0], np.zeros(int((pixels == 0).sum())))
    assert to_pixels(torch.full((1, 3, 1, 1, 1), 1.5)).max() == 255
