"""``bsq``: binary spherical quantization, the signs of a unit vector as a code on the sphere, with its entropy terms exact.

Source: Zhao et al., "Image and Video Tokenization with Binary Spherical Quantization" (2024), sections 3.2 and 3.3, and its
public code, which gives the defaults: its ``zeta`` * ``gamma0`` over the inverse temperature, times its weight of the quantizer's
losses, is ``entropy_weight`` here, ``gamma`` / ``gamma0`` is ``diversity``, and ``beta`` times that weight ``commitment``.

Deviations: the entropy of the codebook is exact (:mod:`vidgen.nn.entropy`), where the paper takes the sum over bits or groups of
bits, an upper bound; the gradient passes straight through from the code to the unit vector, where that code scales it by
1 / sqrt(d) on the way; code 0, all bits 0, is a code like others.

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
LEAST = 1e-6
"""Length below which a vector is not made longer: its direction is noise, and its gradient would be too."""


class BSQ(nn.Module):
    """Binary codes without a codebook, u = x / |x| and z = sign(u) / sqrt(d): all codes have length 1, as what they stand for.

    h is the bits as -1 and 1, so z = h / sqrt(d). The first bit is the most significant of a joint id; a bit is 1 where the
    channel is positive (0 counts as negative).

    Args:
        bits: d, the channels, hence log2 of the vocabulary; 1 to 63, and at most 32 with entropy terms.
        entropy_weight: weight of E[H(p(c|u))] - ``diversity`` * H(E[p(c|u)]), in nats, with p(c|u) = softmax_c(2 u.c / T) over
            all 2**d codes c; 0 does without both.
        entropy_end: the factor that ``entropy_weight`` falls to, linearly, by the end of training; 1 keeps it.
        diversity: gamma, the weight of the codebook's entropy against the tokens' own.
        commitment: weight of |u - z|**2, the squared distance of a cell, averaged over cells.
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
        commitment: float = 0.0,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        check_signs("bsq", bits, temperature, entropies=entropy_weight != 0)
        self.in_channels = self.channels = bits
        self.levels = (2,) * bits
        self.entropy_weight, self.entropy_end = entropy_weight, entropy_end
        self.diversity, self.commitment, self.temperature = diversity, commitment, temperature
        self.progress = 0.0

    def forward(self, x: Tensor) -> Quantized:
        """(B, bits, t, h, w) -> codes with a straight-through gradient to the unit vectors, ids of shape (B, N, bits)."""
        u = self.bounded(x.float())
        code = self.project(u)
        losses = self._losses(u, code.z) if self.training else {}
        return Quantized(z=code.z + (u - u.detach()), h=code.h, ids=code.ids, losses=losses)

    def bounded(self, x: Tensor) -> Tensor:
        """What is quantized, in the space of the codes: the direction of each cell's vector."""
        return F.normalize(x, dim=1, eps=LEAST)

    def embed(self, ids: Tensor, grids: tuple[Shape, ...]) -> Tensor:
        """(B, N, bits) of 0 and 1 -> (B, bits, t, h, w) of -1 / sqrt(bits) and 1 / sqrt(bits)."""
        (grid,) = grids
        return self._codes(ids.unflatten(1, grid).movedim(-1, 1) > 0)

    def project(self, h: Tensor) -> Quantized:
        """Signs of ``h``, the code that they are, and its bits; lengths do not matter, so z itself gives z again."""
        positive = h > 0
        bits = torch.where(positive, 1.0, -1.0).to(h.dtype)
        return Quantized(z=self._codes(positive).to(h.dtype), h=bits, ids=positive.movedim(1, -1).flatten(1, 3).long())

    def anneal(self, progress: float) -> None:
        """Moves the entropy weight along its schedule; ``progress`` in [0, 1]."""
        self.progress = progress

    def _losses(self, u: Tensor, z: Tensor) -> dict[str, Tensor]:
        losses = {"commitment": self.commitment * (u - z).square().sum(dim=1).mean()}
        if self.entropy_weight:
            weight = self.entropy_weight * (1 + (self.entropy_end - 1) * self.progress)
            logits = rows_of(u) * (4 / (self.temperature * self.channels**0.5))
            losses["entropy"] = weight * entropy_loss(logits, self.diversity)
        return losses

    def _codes(self, positive: Tensor) -> Tensor:
        side = self.channels**-0.5
        return torch.where(positive, side, -side)
