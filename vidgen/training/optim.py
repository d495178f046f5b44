"""Optimizers, the learning-rate schedule, and the average of weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vidgen.training.shards import local, whole


def is_inner(name: str, weight: Tensor) -> bool:
    """Whether a weight is an inner matrix, the kind Muon is for: in a stack called ``blocks`` or ``layers``, not a modulation."""
    return weight.ndim >= 2 and ("blocks." in name or "layers." in name) and "modulation" not in name


def build_optimizer(
    model: nn.Module,
    *,
    optimizer: str,
    lr: float,
    muon_lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    no_decay: Sequence[str] = (),
) -> torch.optim.Optimizer:
    """``adamw`` on everything, or ``muon`` on inner matrices and AdamW on the rest.

    Weights decay in groups: matrices do, but for those with a word of ``no_decay`` in their names (tables of embeddings, as many
    recipes have it); vectors never do.

    Muon (Jordan et al., 2024) is timm's, with its learning rate scaled by sqrt(max(1, rows / columns)); the AdamW beside it is
    timm's too, with Nesterov momentum.
    """
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    kept = {id(weight) for name, weight in named if weight.ndim < 2 or any(word in name for word in no_decay)}
    inner = [weight for name, weight in named if optimizer == "muon" and is_inner(name, weight)]
    taken = {id(weight) for weight in inner}
    matrices = [weight for _, weight in named if id(weight) not in taken | kept]
    rest = [weight for _, weight in named if id(weight) in kept - taken]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "lr": lr, "weight_decay": weight_decay},
        {"params": rest, "lr": lr, "weight_decay": 0.0},
    ]
    if optimizer == "adamw":
        return torch.optim.AdamW([group for group in groups if group["params"]], betas=betas, fused=True)
    from vidgen.training.muon import Muon

    groups = [{**group, "use_fallback": True} for group in groups]
    # Said outright, for timm would give very long or thin matrices to AdamW, at Muon's learning rate.
    for decay, some in ((weight_decay, False), (0.0, True)):
        weights = [weight for weight in inner if (id(weight) in kept) is some]
        groups.append({"params": weights, "lr": muon_lr, "weight_decay": decay, "use_muon": True})
    return Muon([group for group in groups if group["params"]], betas=betas, nesterov=True, adjust_lr_fn="original")


def schedule(step: int, *, steps: int, warmup: int, decay: float) -> float:
    """The factor on the learning rate: linear warm-up, constant, then a half cosine to zero over the last ``decay`` of steps."""
    if step < warmup:
        return (step + 1) / warmup
    tail = max(1, round(decay * steps))
    left = min(1.0, (steps - step) / tail)
    return 0.5 - 0.5 * math.cos(math.pi * left)


def clip_gradients(weights: Sequence[Tensor], largest: float) -> Tensor:
    """Scales the gradients of ``weights`` together to a norm of at most ``largest`` (0: as they are) and returns what it was.

    Where nobody can look at that norm before the step without waiting, which is off the CPU, what is not finite becomes 0, so
    that it never reaches a weight.
    """
    grads = [weight.grad for weight in weights if weight.grad is not None]
    norm = whole(torch.nn.utils.get_total_norm(grads))
    if largest:
        torch.nn.utils.clip_grads_with_norm_(weights, largest, norm)
    if norm.device.type != "cpu":
        for grad in grads:
            local(grad).nan_to_num_(0.0, 0.0, 0.0)
    return norm


@torch.no_grad()
def update_average(average: Iterable[Tensor], current: Iterable[Tensor], decay: float) -> None:
    """``average += (1 - decay) * (current - average)``, in one pass over all tensors, where the device is."""
    torch._foreach_lerp_([local(weight) for weight in average], [local(weight) for weight in current], 1 - decay)
