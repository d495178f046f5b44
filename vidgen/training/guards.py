"""What is watched while training: how much of a codebook is used, and what first made a value that is not finite."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vidgen.latents import joint_ids
from vidgen.metrics.codebook_usage import LARGEST_JOINT, codebook_figures
from vidgen.nn.parallel import gather_rows
from vidgen.registry import options
from vidgen.training.shards import local

if TYPE_CHECKING:
    from vidgen.training.task import Task

WINDOW = 32
"""Batches over which a codebook's use is counted."""

COLLAPSED = 2.5
"""Codes, as a perplexity, below which a codebook counts as collapsed."""

SPARSE = 0.02
"""Of its codes, which it then uses at most: where most of every picture is ground, one code is most of what a sound one codes."""

REMEDIES = ("entropy_weight", "restart", "kl_start")
"""Options of quantizers that keep more codes in use the larger they are."""


class UsageWindow(nn.Module):
    """How often each code of the whole codebook occurred in the last :data:`WINDOW` batches.

    A row of counts a batch, in a buffer: what is resumed counts on as if it had never stopped, and no step waits for the host.
    Up to 2^18 codes are counted jointly (32 MB at that size); larger codebooks by sub-id, as :func:`codebook_figures` says.

    Args:
        levels: of the tokenizer's spec.
    """

    counts: Tensor
    offsets: Tensor

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.levels, self.joint = levels, math.prod(levels) <= LARGEST_JOINT
        size = math.prod(levels) if self.joint else sum(levels)
        self.register_buffer("counts", torch.zeros(WINDOW, size, dtype=torch.int32))
        self.register_buffer("offsets", torch.tensor(levels).cumsum(0) - torch.tensor(levels), persistent=False)

    def count(self, ids: Tensor, step: int) -> None:
        """Puts the batch of ``step``, ids (B, N, L) of this process and of the others, in the place of the oldest."""
        ids = gather_rows(ids)
        flat = joint_ids(ids, self.levels) if self.joint else ids + self.offsets
        flat = flat.flatten()
        self.counts[step % WINDOW].zero_().scatter_add_(0, flat, torch.ones_like(flat, dtype=torch.int32))

    def figures(self) -> dict[str, float]:
        """Usage, perplexity and dead codes over the window; see :func:`codebook_figures`."""
        return codebook_figures(self.counts.sum(dim=0), self.levels)


def collapse(figures: Mapping[str, float], levels: tuple[int, ...], quantizer: nn.Module) -> str:
    """A sentence that names a collapsed codebook and what to try, or nothing; a small codebook may be used to its square root."""
    vocab, codes = math.prod(levels), 2 ** min(figures["entropy_bits"], 62.0)
    widely = vocab <= LARGEST_JOINT and figures["usage"] * vocab > max(2, SPARSE * vocab)
    if codes >= min(COLLAPSED, vocab**0.5) or widely:
        return ""
    larger = "".join(f"a larger {option}, or " for option in _remedies(quantizer))
    return (
        f"the codebook has collapsed: the last {WINDOW} batches are coded by about {codes:.1f} of {vocab} codes. Try {larger}a "
        "smaller tokenizer.training.lr."
    )


def _remedies(quantizer: nn.Module) -> list[str]:
    """Those of :data:`REMEDIES` that a quantizer has, by their full names; of a stack or a pyramid, those of its inner one."""
    for module in quantizer.modules():
        where = "tokenizer.quantizer" if module is quantizer else "tokenizer.quantizer.quantizer"
        if found := [f"{where}.{option}" for option in REMEDIES if option in options(type(module))]:
            return found
    return []


def blame(task: Task, batch: Any, step: int) -> str:
    """Takes ``step`` (counted from 0) again and tells what first made a value that is not finite, or nothing where it does not.

    Looks at what every module gives, then at every loss, then at the gradient of every weight as it comes about. Slow, with the
    host waiting everywhere: for a training that ends.
    """
    found: list[str] = []

    def given_by(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            if not found and not _finite(output):
                what = "output" if _finite(inputs) else "input"
                found.append(f"the {what} of {name} ({type(module).__name__})")

        return look

    def slope_of(name: str) -> Callable[[Tensor], None]:
        def look(weight: Tensor) -> None:
            if not found and not _finite(weight.grad):
                found.append(f"the gradient of {name}")

        return look

    parts = {name.removeprefix("model."): module for name, module in task.named_modules() if not name.startswith("average")}
    hooks: list[Any] = [module.register_forward_hook(given_by(name)) for name, module in parts.items() if name]
    hooks += [
        weight.register_post_accumulate_grad_hook(slope_of(name.removeprefix("model.")))
        for name, weight in task.named_parameters()
        if weight.requires_grad
    ]
    try:
        with torch.enable_grad(), torch.compiler.set_stance("force_eager"):
            losses = task.step_losses(batch, step)
        found += [f"the loss '{name}'" for name, value in losses.scalars.items() if not _finite(value)]
        if not found and _finite(losses.total):
            losses.total.backward()
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else ""


def _finite(value: Any) -> bool:
    return all(bool(local(tensor).isfinite().all()) for tensor in _tensors(value) if tensor.is_floating_point())


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors inside of what a module takes or gives."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif dataclasses.is_dataclass(value):
        yield from _tensors([getattr(value, field.name) for field in dataclasses.fields(value)])
