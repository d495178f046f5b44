"""The processes that train one run together, started by torchrun or srun: who they are, how they wait and how they end.

Lightning's DDP is only there while it trains. Before and after, the first process does what one process would do and tells the
others; these wait at a store of keys, for as long as it takes.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import distributed

from vidgen.nn.parallel import alone

if TYPE_CHECKING:
    from lightning.fabric.plugins.environments import ClusterEnvironment

T = TypeVar("T")

LONG = timedelta(days=7)
"""How long a process waits for the first one, which may encode or evaluate meanwhile."""

_told, _trainings, _left = itertools.count(), itertools.count(), itertools.count()


def _started_by() -> str:
    """What started this process as one of several: ``torchrun``, ``srun``, or nothing."""
    if "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return "torchrun"
    return "srun" if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1 else ""


@cache
def environment() -> ClusterEnvironment:
    """Lightning's view of who is here; of one process alone where it was started alone."""
    from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment

    started = _started_by()
    if started == "torchrun":
        return TorchElasticEnvironment()
    return SLURMEnvironment(auto_requeue=False) if started == "srun" else LightningEnvironment()


def count() -> int:
    """How many processes there are."""
    return environment().world_size() if _started_by() else 1


def index() -> int:
    """Which of them this one is, from 0 on."""
    return environment().global_rank() if _started_by() else 0


def local_index() -> int:
    """Which of those on this machine, and so whose device it has."""
    return environment().local_rank() if _started_by() else 0


def machines() -> int:
    """On how many machines they are, equally many on each."""
    if _started_by() == "srun":
        return int(os.environ.get("SLURM_STEP_NUM_NODES", "1"))
    return count() // int(os.environ["LOCAL_WORLD_SIZE"]) if _started_by() else 1


def lead() -> bool:
    """Whether it is the first process, which alone prints, writes, samples and evaluates."""
    return index() == 0


@cache
def _store() -> distributed.Store:
    """Where the processes leave word for one another; torchrun has one, else the first process does."""
    here = environment()
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = here.main_address, str(here.main_port)
    store, _, _ = next(distributed.rendezvous("env://", index(), count()))
    return distributed.PrefixStore("vidgen", store)


def tell(value: Any) -> None:
    """Says ``value`` to all others, which :func:`hear` it."""
    if count() > 1:
        _store().set(f"told/{next(_told)}", pickle.dumps(value))  # type: ignore[arg-type]  # it takes bytes


def hear() -> Any:
    """What the first process tells, when it does."""
    key = f"told/{next(_told)}"
    _store().wait([key], LONG)
    return pickle.loads(_store().get(key))


def first(do: Callable[[], T]) -> T:
    """What ``do`` gives in the first process, in all of them; it is done there alone."""
    if not lead():
        return hear()
    with alone():
        value = do()
    tell(value)
    return value


def anyone(wish: bool) -> bool:
    """While training, in all processes at the same point: whether one of them wishes it."""
    if count() == 1:
        return wish
    wishes = torch.tensor(int(wish))
    distributed.all_reduce(wishes, distributed.ReduceOp.MAX)
    return bool(wishes)


@contextlib.contextmanager
def connected(device: str) -> Iterator[None]:
    """Inside, the processes can sum over tensors on ``device`` (torch's or Lightning's word) and on the CPU."""
    if count() == 1:
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if device in ("cuda", "gpu") else "gloo"
    store = distributed.PrefixStore(f"training/{next(_trainings)}", _store())
    distributed.init_process_group(backend, store=store, rank=index(), world_size=count())
    yield
    distributed.destroy_process_group()  # not after an error, when it might wait for those that are gone


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Inside, an error in one process ends all of them, and only the first to have one tells of it.

    The others miss it, or have the same: theirs say nothing more.
    """
    if count() == 1:
        yield
        return
    _store()
    try:
        yield
        _leave(next(_left))
    except Exception:
        if not _is_news():
            raise SystemExit(1) from None
        raise


def _leave(number: int) -> None:
    """Ends for all when the first process has come to its end; it may keep the store, so it goes last."""
    keys = [f"left/{number}/{other}" for other in range(1, count())]
    if lead():
        tell(None)
        _store().wait(keys, LONG)
    else:
        hear()
        _store().set(keys[index() - 1], "")


def _is_news() -> bool:
    """Whether no other process had an error before."""
    try:
        return _store().add("errors", 1) == 1
    except RuntimeError:  # the process that kept the store is gone: it had one
        return False
