"""Floating-point operations of whatever runs under it, two for a multiplication with its addition."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class Flops(TorchDispatchMode):
    """Counts matrix products, convolutions and attention, forward and backward, by torch's own formulae.

    ``torch.utils.flop_counter.FlopCounterMode`` finds the same total and tells modules apart, which takes twice the time: much,
    where one sample is hundreds of thousands of small operations.

    Attributes:
        total: of everything since it was made.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Runs an operation and counts it."""
        found = func(*args, **(kwargs or {}))
        count: Callable[..., int] | None = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=found)
        return found
