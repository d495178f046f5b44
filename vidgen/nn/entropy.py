"""Entropies of sign codes over all 2**d words, exact and without a list of the words: what lfq and bsq share.

The distribution of one token over the codes is a softmax of inner products, so it factorises into d Bernoulli variables. Hence
its entropy is a sum over bits, and the mean distribution of N tokens is one matrix product A^T B / N, where A and B hold the (N,
2**(d/2)) code distributions of the two halves of the bits. Others enumerate 2**d codes for every token, subsample, or bound the
entropy by the sum over bits or groups of bits. Tests hold both entropies to enumeration.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vidgen.errors import UserError
from vidgen.nn.parallel import mean_over_ranks

LARGEST_ID = 63
"""Bits of a joint id, which is a signed integer of 64."""
LARGEST_MEAN = 32
"""Bits whose mean distribution, 4 * 2**bits bytes, is the most that any one device holds."""
FLOOR = -42.0
"""What log-probabilities are clamped to: two halves of it are just above the least normal float32, 1.2e-38, so that no product is
denormal (processors take a hundred times longer for these) or has an infinite logarithm, and e**-42 counts for nothing."""


def check_signs(name: str, bits: int, temperature: float, *, entropies: bool) -> None:
    """Raises UserError where quantizer ``name`` is asked for bits that no id or no entropy can be of, or such a temperature."""
    if temperature <= 0:
        raise UserError(f"{name}'s temperature is above 0; got {temperature}.")
    if not 1 <= bits <= LARGEST_ID:
        raise UserError(f"{name} needs between 1 and {LARGEST_ID} bits, as many as an id of 64 with its sign holds, not {bits}.")
    if entropies and bits > LARGEST_MEAN:
        raise UserError(
            f"The exact entropy over {name}'s 2^{bits} codes takes {2 ** (bits - 28):,} GiB and more, so it is of at most "
            f"{LARGEST_MEAN} bits; with entropy_weight=0 there may be up to {LARGEST_ID}."
        )


def entropy_loss(logits: Tensor, diversity: float) -> Tensor:
    """E[H(p)] - ``diversity`` * H(E[p]) of :func:`code_entropies`, in the precision of ``logits`` also under autocast."""
    with torch.autocast(logits.device.type, enabled=False):
        token, codebook = code_entropies(logits)
        return token - diversity * codebook


def code_entropies(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Exact (E[H(p)], H(E[p])) in nats over the 2**d sign codes, the mean E over the tokens of all processes in H(E[p]).

    Args:
        logits: (N, d), float32 or more, of bit b of token n being 1; N is the same in every process.

    Returns:
        the mean entropy of this process's tokens, of which the processes' mean is that of all; the entropy of the mean
        distribution, the same in every process. Its gradient is the whole batch's when processes average theirs, as DDP does.
    """
    one, zero = F.logsigmoid(logits), F.logsigmoid(-logits)
    token = -(one.exp() * one + zero.exp() * zero).sum(dim=1).mean()
    half = (logits.shape[1] + 1) // 2
    first, second = (_code_distribution(one[:, part], zero[:, part]) for part in (slice(half), slice(half, None)))
    mean = mean_over_ranks(first.T @ second / len(logits))
    return token, -(mean * mean.log()).sum()


def _code_distribution(one: Tensor, zero: Tensor) -> Tensor:
    """(N, d) log-probabilities of bits being 1 and 0 -> (N, 2**d) probabilities of codes, the first bit most significant."""
    places = torch.arange(one.shape[1] - 1, -1, -1, device=one.device)
    bits = (torch.arange(2 ** len(places), device=one.device) >> places.unsqueeze(1) & 1).to(one.dtype)
    return (torch.cat([one, zero], dim=1) @ torch.cat([bits, 1 - bits])).clamp_min(FLOOR).exp()
