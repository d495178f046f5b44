"""What processes that train together share: statistics of the whole batch, and noise that is drawn for all of it.

Each process has an equal share of the very batch that one process would have. Sums and means are taken over all of them, and what
is random is drawn for the clips of all of them, of which each keeps its own: so several train as one does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, distributed

_alone = False


def world_size() -> int:
    """How many processes train together; 1 without ``torch.distributed``, and for what one process does :func:`alone`."""
    return distributed.get_world_size() if not _alone and distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0 on."""
    return distributed.get_rank() if world_size() > 1 else 0


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Inside, this process is the only one: what it does the others do not do with it, and nothing waits for them."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


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
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world_size())]
    distributed.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts)


def counted_mean(values: Tensor, counted: Tensor | None) -> tuple[Tensor, Tensor]:
    """The mean of ``values``, of those that are ``counted`` (of a shape that expands to theirs; None: all of them), and how many.

    How many are counted may differ between processes: the mean of what they get, and of its gradients, is that over all.
    """
    if world_size() == 1 and counted is None:
        return values.mean(), torch.full((), float(values.numel()), device=values.device)
    counted = torch.ones_like(values) if counted is None else counted
    number = counted.expand_as(values).sum()
    if world_size() > 1:
        number = sum_over_ranks(number.long())
    return (values * counted).sum() * world_size() / number.clamp_min(1), number.float()


def own_rows(whole: Tensor, axis: int = 0) -> Tensor:
    """The part of this process of what was drawn for the clips of all processes, which lie along ``axis``."""
    return whole.chunk(world_size(), axis)[rank()]


def randn_like(x: Tensor) -> Tensor:
    """Standard normal noise for the clips (B, ...) of this process: its part of what one process would draw for all clips."""
    if world_size() == 1:
        return torch.randn_like(x)
    shape = (world_size() * len(x), *x.shape[1:])
    strides = torch.empty_like(x).stride()
    if strides[0] * len(x) != x.numel():  # clips do not lie one after the other
        strides = torch.empty(shape, device="meta").stride()
    return own_rows(x.new_empty_strided(shape, strides).normal_())
