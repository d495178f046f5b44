"""What the discrete heads share: softmaxes side by side, one a sub-id, and embeddings of sub-ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, groupby

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgen.errors import UserError
from vidgen.latents import LatentSpec
from vidgen.samplers.discrete import precise, sample_logits


def discrete_levels(head: str, spec: LatentSpec) -> tuple[int, ...]:
    """The cardinality of each sub-id.

    Raises:
        UserError: where latents are continuous and there are no ids that ``head`` could predict.
    """
    if spec.levels is None:
        raise UserError(
            f"The {head} head predicts ids and these latents are continuous: use generator/head=flow, or generator/head=auto."
        )
    return spec.levels


def split_logits(logits: Tensor, levels: Sequence[int]) -> list[Tensor]:
    """(..., sum of levels) -> (..., count, level) for each run of sub-ids of one level: d bits are one tensor (..., d, 2)."""
    runs = [(level, len(list(same))) for level, same in groupby(levels)]
    parts = logits.split([level * count for level, count in runs], dim=-1)
    return [part.unflatten(-1, (count, level)) for part, (level, count) in zip(parts, runs, strict=True)]


def nll(logits: Tensor, target: Tensor, levels: Sequence[int], smoothing: float = 0.0) -> Tensor:
    """Minus the log-likelihood of sub-ids (..., L) under independent softmaxes (..., sum of levels), summed over L: (...).

    In nats and at least float32. ``smoothing`` is the share of each softmax's target that is uniform over its level.
    """
    parts = split_logits(precise(logits), levels)
    total = parts[0].new_zeros(target.shape[:-1])
    for part, ids in zip(parts, target.split([part.shape[-2] for part in parts], dim=-1), strict=True):
        losses = F.cross_entropy(part.flatten(0, -2), ids.flatten().long(), reduction="none", label_smoothing=smoothing)
        total = total + losses.view(ids.shape).sum(dim=-1)
    return total


def sample_subids(
    logits: Tensor, u: Tensor, levels: Sequence[int], temperature: float, top_k: int, top_p: float
) -> tuple[Tensor, Tensor]:
    """Sub-ids (..., L) from independent softmaxes (..., sum of levels), one uniform each, and their joint log-probability (...).

    Truncation is of each softmax by itself.
    """
    parts = split_logits(logits, levels)
    noise = u.split([part.shape[-2] for part in parts], dim=-1)
    drawn = [sample_logits(part, one, temperature, top_k, top_p) for part, one in zip(parts, noise, strict=True)]
    ids, log_p = (torch.cat(pieces, dim=-1) for pieces in zip(*drawn, strict=True))
    return ids, log_p.sum(dim=-1)


def guided(predict: Callable[[Tensor], Tensor], x: Tensor, scales: Sequence[float | Tensor]) -> Tensor:
    """The guided prediction (B, n, ...), at least float32, from those of all branches ((1 + K) B, n, width), made as one batch.

    With p_0 under the fewest conditions to p_K under all, it is p_K + sum_k (s_k - 1) (p_k - p_(k-1)):
    :func:`vidgen.samplers.guidance.guide_chain` in the form that is exact at scale 1. A tensor of scales (B|1, n|1) is one for
    each token.
    """
    branches = precise(predict(x)).chunk(1 + len(scales))
    total = branches[-1]
    for more, fewer, scale in zip(branches[1:], branches, scales, strict=False):
        weight = scale.unsqueeze(-1).to(total.dtype) if isinstance(scale, Tensor) else scale
        total = total + (weight - 1) * (more - fewer)
    return total


def subid_embedding(levels: Sequence[int], width: int) -> nn.Module:
    """(..., L) sub-ids -> (..., width): the sum of one embedding a sub-id, without a tensor of (..., L, width)."""
    return BitEmbedding(len(levels), width) if set(levels) == {2} else TableEmbedding(levels, width)


class BitEmbedding(nn.Linear):
    """Binary sub-ids by one product of their -1 and 1 with a matrix: any sum of two vectors a bit is of this form."""

    def __init__(self, bits: int, width: int) -> None:
        super().__init__(bits, width)
        nn.init.normal_(self.weight, std=0.02 * bits**-0.5)
        nn.init.zeros_(self.bias)

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward((2 * ids - 1).to(self.weight.dtype))


class TableEmbedding(nn.EmbeddingBag):
    """The tables of all sub-ids, one below the other, whose rows are added as they are looked up."""

    offsets: Tensor

    def __init__(self, levels: Sequence[int], width: int) -> None:
        super().__init__(sum(levels), width, mode="sum")
        self.register_buffer("offsets", torch.tensor([0, *accumulate(levels[:-1])]), persistent=False)
        nn.init.normal_(self.weight, std=0.02 * len(levels) ** -0.5)

    def forward(self, ids: Tensor) -> Tensor:  # type: ignore[override]
        rows: Tensor = super().forward((ids + self.offsets).flatten(0, -2))
        return rows.unflatten(0, ids.shape[:-1])


def logits_layer(width: int, levels: Sequence[int]) -> nn.Linear:
    """The layer that gives all logits at once; near zero at the start, as in VAR and GPT."""
    layer = nn.Linear(width, sum(levels))
    nn.init.normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer
