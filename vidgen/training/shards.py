"""A generator that is cut over the processes that train it: ``trainer.strategy=fsdp``.

Torch's FSDP2 leaves each process a part of every weight, gradient, optimizer state and average, and gathers a block of the trunk
only while it computes. Checkpoints are whole, as those of one process are: any number of processes goes on with them, cut or not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from vidgen.latents import Losses
from vidgen.nn.trunk import Block
from vidgen.training import ranks


def local(x: Tensor) -> Tensor:
    """What this process holds of a tensor: its part, where that is cut."""
    return x.to_local() if isinstance(x, DTensor) else x


def whole(x: Tensor) -> Tensor:
    """All of a tensor; where it is cut, all processes have to ask for it together."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def cut_like(x: Tensor, like: Tensor) -> Tensor:
    """``x``, which every process has whole, cut as ``like`` is, if that is."""
    return distribute_tensor(x, like.device_mesh, like.placements, src_data_rank=None) if isinstance(like, DTensor) else x


def gather(module: nn.Module) -> None:
    """Gives the first process the weights of ``module`` whole, where they are cut; all take part, and have one at a time."""
    found = {}
    for name, part in _parts(module).items():
        full = part.full_tensor()
        if ranks.lead():
            found[name] = full
    _put(module, found)


@contextlib.contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Inside, the first process has the weights of ``module`` whole; afterwards it has its part again, like the others."""
    parts = _parts(module)
    gather(module)
    yield
    _put(module, parts)


def _parts(module: nn.Module) -> dict[str, DTensor]:
    return {name: weight for name, weight in module.named_parameters() if isinstance(weight, DTensor)}


def _put(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    if weights:
        module.load_state_dict(weights, strict=False, assign=True)


class Shards(DDPStrategy):
    """Lightning's DDP, but that the generator and its average are cut where DDP would wrap them.

    Lightning's ModelParallelStrategy numbers the optimizer's state in a checkpoint by the order of weights, which is not that of
    an optimizer's groups: it could not go on from what one process has written.
    """

    def model_to_device(self) -> None:
        """Cuts the generator, a block at a time, and its average alike; a device never has all of them.

        In bf16 a block is gathered in bf16, which is how autocast would use all of it; but autocast would keep its copies of all
        blocks until the step has ended.
        """
        task: Any = self.lightning_module
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        used = torch.bfloat16 if self.precision_plugin.precision == "bf16-mixed" else torch.float32
        policy = MixedPrecisionPolicy(param_dtype=used, reduce_dtype=torch.float32, cast_forward_inputs=False)
        for block in [module for module in task.model.modules() if isinstance(module, Block)]:
            fully_shard(block, mesh=mesh, mp_policy=policy)
        objective = _Objective(task.model)
        fully_shard(objective, mesh=mesh)
        task.model.loss = lambda *batch: Losses(**objective(*batch))
        pairs = zip(task.average.named_parameters(), task.model.parameters(), strict=True)
        _put(task.average, {name: cut_like(weight, like) for (name, weight), like in pairs})
        super().model_to_device()

    def configure_ddp(self) -> None:
        """Nothing is wrapped."""

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Of the whole task, in the first process."""
        return {name: _kept(value) for name, value in super().lightning_module_state_dict().items()}

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """All of it, in the first process."""
        return _each(super().optimizer_state(optimizer), lambda number, value: _kept(value))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Cuts what one process, or all together, have written."""
        states = [_cut(state, of) for state, of in zip(checkpoint["optimizer_states"], self.optimizers, strict=True)]
        super().load_optimizer_state_dict({"optimizer_states": states})


class _Objective(nn.Module):
    """The loss of a generator as the one forward pass in which torch gathers its weights.

    A loss calls the generator's own forward pass inside. Were that the root of what is cut, its end would part the weights that
    the rest of the loss needs.
    """

    def __init__(self, generator: Any) -> None:
        super().__init__()
        self.generator, self.loss = generator, generator.loss

    def forward(self, *batch: Any) -> dict[str, Any]:
        losses: Losses = self.loss(*batch)
        return vars(losses)


def _kept(value: Any) -> Any:
    """A part of a state, made whole where it is cut: on the CPU of the first process, while the others keep nothing of it."""
    if not isinstance(value, DTensor):
        return value
    full = value.full_tensor()
    return full.cpu() if ranks.lead() else None


def _cut(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's whole ``state`` with what is of a weight's shape cut as that weight is."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    of = dict(zip(numbers, weights, strict=True))

    def part(number: int, value: Any) -> Any:
        same = isinstance(value, Tensor) and value.shape == of[number].shape
        return cut_like(value, of[number]) if same else value

    return _each(state, part)


def _each(state: Mapping[str, Any], do: Callable[[int, Any], Any]) -> dict[str, Any]:
    """An optimizer's ``state`` with what ``do`` makes of all that it keeps of a weight, given that weight's number."""
    made = {number: {name: do(number, value) for name, value in kept.items()} for number, kept in state["state"].items()}
    return {**state, "state": made}
