"""``lfq``: lookup-free quantization, the signs of d channels as a code of 2**d words, with its entropy terms exact.

Source: Yu et al., "Language Model Beats Diffusion" (2023), section 3.1, equations 3 to 6.

The entropy terms are exact at any size. With p(c|x) = softmax_c(2 x.c / T) over c in {-1, 1}^d the softmax factorises into d
Bernoulli variables with logits 4 x_b / T, so the mean conditional entropy is a sum over bits; the mean distribution over all
2**d codes is one matrix product of the two halves' code distributions. Other implementations enumerate 2**d codes for every
token, subsample, or bound it. Tests hold both to enumeration.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgen.latents import Shape
from vidgen.protocols import Quantized

KIND = "bits"


class LFQ(nn.Module):
    """Binary codes without a codebook.

    The first bit is the most significant of a joint id; a bit is 1 where the channel is positive (0 counts as negative).

    Args:
        bits: channels, hence log2 of the vocabulary.
        entropy_weight: weight of E[H(p(c|x))] - ``diversity`` * H(E[p(c|x)]), in nats.
        entropy_end: the factor that ``entropy_weight`` falls to, linearly, by the end of training; 1 keeps it.
        diversity: gamma, the weight of the codebook's entropy against the tokens' own.
        commitment: weight of mean((x - sign(x))**2).
        temperature: T of the entropy terms' softmax.
    """

    stages = 1
    scales = clip = None

    def __init__(
        self,
        *,
        bits: int = 18,
        entropy_weight: float = 0.1,
        entropy_end: float = 1.0,
        diversity: float = 1.0,
        commitment: float = 0.25,
        temperature: float = 0.01,
    ) -> None:
        super().__init__()
        self.in_channels = self.channels = bits
        self.levels = (2,) * bits
        self.entropy_weight, self.entropy_end = entropy_weight, entropy_end
        self.diversity, self.commitment, self.temperature = diversity, commitment, temperature
        self.progress = 0.0

    def forward(self, x: Tensor) -> Quantized:
        """(B, bits, t, h, w) -> signs with a straight-through gradient, ids of shape (B, N, bits)."""
        x = x.float()  # the entropy terms overflow in half precision
        code = self.project(x)
        losses = {}
        if self.training:
            tokens = x.movedim(1, -1).reshape(-1, x.shape[1])
            with torch.autocast(x.device.type, enabled=False):
                token, codebook = lfq_entropies(tokens, self.temperature)
            weight = self.entropy_weight * (1 + (self.entropy_end - 1) * self.progress)
            losses["entropy"] = weight * (token - self.diversity * codebook)
            losses["commitment"] = self.commitment * F.mse_loss(x, code.z.detach())
        return Quantized(z=x + (code.z - x).detach(), h=code.h.detach(), ids=code.ids, losses=losses)

    def embed(self, ids: Tensor, grids: tuple[Shape, ...]) -> Tensor:
        """(B, N, bits) of 0 and 1 -> (B, bits, t, h, w) of -1 and 1."""
        (grid,) = grids
        return ids.unflatten(1, grid).movedim(-1, 1).float() * 2 - 1

    def project(self, h: Tensor) -> Quantized:
        """Signs of ``h`` and the bits that they are."""
        positive = h > 0
        z = torch.where(positive, 1.0, -1.0).to(h.dtype)
        return Quantized(z=z, h=z, ids=positive.movedim(1, -1).flatten(1, 3).long())

    def anneal(self, progress: float) -> None:
        """Moves the entropy weight along its schedule; ``progress`` in [0, 1]."""
        self.progress = progress


def lfq_entropies(tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Exact (E[H(p(c|x))], H(E[p(c|x)])) in nats over all 2**d sign codes of (N, d) tokens.

    The mean distribution is A^T B / N with A and B the (N, 2**(d/2)) code distributions of the two halves of the bits.
    """
    logits = tokens * (4 / temperature)
    p = torch.sigmoid(logits)
    token = (F.softplus(logits) - p * logits).sum(dim=1).mean()
    half = (tokens.shape[1] + 1) // 2
    mean = _code_distribution(p[:, :half]).T @ _code_distribution(p[:, half:]) / len(tokens)
    codebook = -(mean * mean.clamp_min(1e-37).log()).sum()  # the slope of x log x is infinite at 0, where codes underflow to
    return token, codebook


def _code_distribution(p: Tensor) -> Tensor:
    """(N, d) probabilities of the bits being 1 -> (N, 2**d) probabilities of the codes, by Kronecker products."""
    codes = p.new_ones(len(p), 1)
    for bit in p.unbind(dim=1):
        pair = torch.stack([1 - bit, bit], dim=1)
        codes = (codes.unsqueeze(2) * pair.unsqueeze(1)).flatten(1)
    return codes
