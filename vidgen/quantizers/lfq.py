"""``lfq``: lookup-free quantization, the signs of d channels as a code of 2**d words, with its entropy terms exact.

Source: Yu et al., "Language Model Beats Diffusion" (2023), section 3.1, equations 3 to 6.

The entropy terms are exact at any size (:mod:`vidgen.nn.entropy`): p(c|x) = softmax_c(2 x.c / T) over c in {-1, 1}^d gives bit b
the logit 4 x_b / T. Other implementations enumerate 2**d codes for every token, subsample, or bound them.

This is our own code and no adapter: ``vector-quantize-pytorch``, which the tests compare it with, enumerates the codes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgen.latents import Shape
from vidgen.nn.codebook import rows_of
from vidgen.nn.entropy import check_signs, entropy_loss
from vidgen.protocols import Quantized

KIND = "bits"


class LFQ(nn.Module):
    """Binary codes without a codebook.

    The first bit is the most significant of a joint id; a bit is 1 where the channel is positive (0 counts as negative).

    Args:
        bits: channels, hence log2 of the vocabulary; 1 to 63, and at most 32 with entropy terms.
        entropy_weight: weight of E[H(p(c|x))] - ``diversity`` * H(E[p(c|x)]), in nats; 0 does without both.
        entropy_end: the factor that ``entropy_weight`` falls to, linearly, by the end of training; 1 keeps it.
        diversity: gamma, the weight of the codebook's entropy against the tokens' own.
        commitment: weight of mean((x - sign(x))**2), over cells and channels.
        temperature: T of the entropy terms' softmax, above 0.

    Raises:
        UserError: for bits or a temperature outside of those ranges.
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
        check_signs("lfq", bits, temperature, entropies=entropy_weight != 0)
        self.in_channels = self.channels = bits
        self.levels = (2,) * bits
        self.entropy_weight, self.entropy_end = entropy_weight, entropy_end
        self.diversity, self.commitment, self.temperature = diversity, commitment, temperature
        self.progress = 0.0

    def forward(self, x: Tensor) -> Quantized:
        """(B, bits, t, h, w) -> signs with a straight-through gradient, ids of shape (B, N, bits)."""
        x = x.float()  # the entropy terms overflow in half precision
        code = self.project(x)
        losses = self._losses(x, code.z) if self.training else {}
        return Quantized(z=code.z + (x - x.detach()), h=code.h, ids=code.ids, losses=losses)

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

    def _losses(self, x: Tensor, z: Tensor) -> dict[str, Tensor]:
        losses = {"commitment": self.commitment * F.mse_loss(x, z)}
        if self.entropy_weight:
            weight = self.entropy_weight * (1 + (self.entropy_end - 1) * self.progress)
            losses["entropy"] = weight * entropy_loss(rows_of(x) * (4 / self.temperature), self.diversity)
        return losses
