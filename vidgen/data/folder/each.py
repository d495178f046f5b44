"""Work on one thing after another, by this process or by several."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def each(work: Callable[[T], R], things: Sequence[T], workers: int = 1) -> Iterator[R]:
    """``work`` of each, in order, by ``workers`` processes (1: by this one); after an error what is left is given up."""
    if workers == 1 or len(things) < 2:
        yield from map(work, things)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            yield from pool.map(work, things)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
