"""How much of its codebook a tokenizer uses, over the codebook it could use.

All counting is of ids that a tokenizer gave to real clips. The codebook is the full, implicit one: the product of a
spec's ``levels``, such as 1024 for ten bits, whether or not a table of that size exists. Small sets under-count usage and
perplexity (N tokens cannot hit more than N codes), so the number of tokens belongs beside every figure.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

# A count for each of 2^18 codes is 2 MB; beyond that no evaluation set is large enough to fill the table anyway.
from vidgen.latents import joint_ids

LARGEST_JOINT = 2**18


class CodebookUsage(Metric):
    """Usage, perplexity and dead codes of a discrete tokenizer.

    A cell's sub-ids make one joint id, the first the most significant, while the codebook has at most 2^18 entries.
    Larger codebooks are counted by sub-id: ``joint`` is then False, and every figure says what it is of (see
    :meth:`compute`).

    Args:
        levels: The number of values of each sub-id, as in ``LatentSpec.levels``: (K,) for vq, (2,) * d for lfq.

    Raises:
        ValueError: for empty levels or one below 1.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    counts: Tensor

    def __init__(self, *, levels: tuple[int, ...]) -> None:
        super().__init__()
        if not levels or min(levels) < 1:
            raise ValueError(f"levels are the numbers of values of each sub-id, at least one of at least 1; got {levels}.")
        self.levels = tuple(levels)
        self.joint = math.prod(self.levels) <= LARGEST_JOINT
        self.vocab_size = math.prod(self.levels) if self.joint else sum(self.levels)
        self.add_state("counts", torch.zeros(self.vocab_size, dtype=torch.long), dist_reduce_fx="sum")

    @property
    def protocol(self) -> str:
        """What was counted, in a few words, for the results' ``protocol``."""
        if self.joint:
            return f"joint ids of a codebook of {self.vocab_size}"
        return f"sub-ids of {len(self.levels)} codebooks, {self.vocab_size} values in all"

    def update(self, ids: Tensor) -> None:
        """Count ``ids`` (B, N, L) of integers, L = len(levels), each at least 0 and below its level."""
        levels = torch.tensor(self.levels, device=ids.device)
        if ids.ndim != 3 or ids.shape[-1] != len(self.levels):
            raise ValueError(f"ids are (B, N, {len(self.levels)}) for levels {self.levels}; got {tuple(ids.shape)}.")
        if ((ids < 0) | (ids >= levels)).any():
            raise ValueError(f"ids must be at least 0 and below their levels {self.levels}.")
        flat = joint_ids(ids, self.levels) if self.joint else ids.long() + levels.cumsum(0) - levels
        self.counts += torch.bincount(flat.flatten(), minlength=self.vocab_size)

    def compute(self) -> dict[str, float]:
        """The figures, as plain numbers: :func:`codebook_figures`."""
        return codebook_figures(self.counts, self.levels)

    def histogram(self) -> dict[str, Any]:
        """The report's histogram: ``counts_sorted`` of the entries that occurred, most frequent first, and ``vocab_size``.

        The entries that never occurred are the ``vocab_size - len(counts_sorted)`` that remain.
        """
        alive = self.counts[self.counts > 0].sort(descending=True).values
        return {"counts_sorted": alive.tolist(), "vocab_size": self.vocab_size}


def codebook_figures(counts: Tensor, levels: tuple[int, ...]) -> dict[str, float]:
    """What the ``counts`` of a codebook's entries say: of joint ids, or where those are too many, of all sub-ids in a row.

    - ``usage``: fraction of the codebook's entries that occurred.
    - ``perplexity``: 2 to the entropy of an id: the number of equally frequent codes that would be as hard to guess.
    - ``entropy_bits``: that entropy.
    - ``dead_codes``: entries that never occurred.
    - ``tokens``: cells counted.

    Where the codebook is too large to count jointly: ``usage`` is the mean over sub-ids, ``dead_codes`` their sum,
    ``entropy_bits`` the sum of the sub-ids' entropies (an upper bound of the cell's, for it ignores their correlation), and
    ``perplexity`` the sub-ids' geometric mean. Without any token usage is 0 and the others are NaN.
    """
    books = [counts] if math.prod(levels) <= LARGEST_JOINT else list(counts.split(list(levels)))
    entropies = [_entropy_bits(book) for book in books]
    return {
        "usage": sum((book > 0).double().mean().item() for book in books) / len(books),
        "perplexity": 2 ** (sum(entropies) / len(books)),
        "entropy_bits": sum(entropies),
        "dead_codes": int((counts == 0).sum()),
        "tokens": int(books[0].sum()),
    }


def _entropy_bits(counts: Tensor) -> float:
    probability = counts[counts > 0].double()
    if probability.numel() == 0:
        return math.nan
    probability = probability / probability.sum()
    return -(probability * probability.log2()).sum().item() + 0.0  # + 0.0: an only code has entropy 0, not -0
