"""Sums over processes, so that a statistic of a batch is the same however many of them share the batch."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def world_size() -> int:
    """How many processes train together; 1 without ``torch.distributed``."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def mean_over_ranks(x: Tensor) -> Tensor:
    """The mean of ``x`` over all processes, with its gradient: functional, so the result is used and nothing is overwritten."""
    if world_size() == 1:
        return x
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(x) / world_size()


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum of ``x`` over all processes, without gradient; a new tensor."""
    if world_size() > 1:
        x = x.clone()
        distributed.all_reduce(x)
    return x


def gather_rows(x: Tensor) -> Tensor:
    """The rows of all processes (n, ...) as (n * ranks, ...), in the order of ranks, without gradient; n is the same on each."""
    if world_size() == 1:
        return x.detach()
    parts = [torch.empty_like(x) for _ in range(world_size())]
    distributed.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts)
