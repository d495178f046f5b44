"""``fsq``: finite scalar quantization, each channel rounded to one of a few values: a codebook without a table.

Source: Mentzer et al., "Finite Scalar Quantization: VQ-VAE Made Simple" (2023), section 3.1 and appendix A.1. Its level sets, for
codebooks of about 2^8 to 2^16: (8, 6, 5), (8, 5, 5, 5), (7, 5, 5, 5, 5), (8, 8, 8, 6, 5) and (8, 8, 8, 5, 5, 5).

Deviations: ids are each channel's digit, and in a joint id the first channel is the most significant, where the paper's is the
least (reverse digits and levels to get one from the other); digits are integers from the rounding on, never sums of floats; a
channel of two levels, which the paper's bound would split at -3.8, is split at 0 into -1 and 1.

This is our own code and no adapter: ids are digits, and one channel may have two levels beside others with more.
``vector-quantize-pytorch`` is what the tests compare it with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vidgen.errors import UserError
from vidgen.latents import Shape
from vidgen.protocols import Quantized

KIND = "ids"
MARGIN = 1e-3
"""By how much of its range the bound goes beyond the outermost levels, so that they are reached."""
LARGEST = 2**16
"""Levels of a channel; float32 still tells them apart within tanh's range."""


class FSQ(nn.Module):
    """Digit k of L is the code (k - L//2) / (L//2): from -1 to 1 for odd L, to 1 - 2 / L for even L; -1 and 1 for L = 2.

    A channel is bounded by tanh, shifted for even L so that 0 stays a code, and rounded. h is what is rounded, in the space of
    the codes, where all of them lie equally far apart; where all levels are 2 it is the code itself, so that the latents are bits
    like any others.

    Args:
        levels: of each channel, at least 2; their product, the vocabulary, is at most 2**63.

    Raises:
        UserError: for levels outside of those ranges.
    """

    stages = 1
    scales = clip = None

    constants: Tensor

    def __init__(self, *, levels: Sequence[int] = (8, 5, 5, 5)) -> None:
        super().__init__()
        if not levels or min(levels) < 2 or max(levels) > LARGEST or math.prod(levels) > 2**63:
            raise UserError(
                f"fsq needs levels between 2 and {LARGEST}, one a channel, whose product is at most 2^63; got {list(levels)}."
            )
        self.levels = tuple(levels)
        self.in_channels = self.channels = len(levels)
        self.bits = all(level == 2 for level in levels)
        shift = [0.0 if level % 2 or level == 2 else math.atanh(1 / ((level - 1) * (1 + MARGIN))) for level in levels]
        zero = [0.5 if level == 2 else level // 2 for level in levels]  # the digit of code 0, and how many digits are 1 in a code
        last = [level - 1 for level in levels]
        constants = torch.tensor([shift, zero, last], dtype=torch.float32).view(3, -1, 1, 1, 1)
        self.register_buffer("constants", constants, persistent=False)

    def forward(self, x: Tensor) -> Quantized:
        """(B, C, t, h, w) -> codes with a straight-through gradient to the bounded channels, ids (B, N, C) of digits."""
        code = self.quantize(self.bounded(x.float()))
        return Quantized(z=code.z, h=code.z.detach() if self.bits else code.h, ids=code.ids)

    def bounded(self, x: Tensor) -> Tensor:
        """What is rounded, in the space of the codes: whatever ``x``, beyond the outermost of them by a hair at most."""
        shift, zero, last = self.constants.to(x.device)
        return (torch.tanh(x + shift) * (last / 2 * (1 + MARGIN)) + (last / 2 - zero)) / zero

    def quantize(self, v: Tensor) -> Quantized:
        """The nearest codes to ``v`` (B, C, t, h, w), float32, in the space of the codes; :meth:`forward` without its bound."""
        _, zero, last = self.constants.to(v.device)
        digits = torch.minimum((v.detach() * zero + zero).round().clamp_min(0), last)
        return Quantized(z=self._codes(digits) + (v - v.detach()), h=v.detach(), ids=digits.movedim(1, -1).flatten(1, 3).long())

    def embed(self, ids: Tensor, grids: tuple[Shape, ...]) -> Tensor:
        """(B, N, C) digits -> their codes (B, C, t, h, w)."""
        (grid,) = grids
        return self._codes(ids.unflatten(1, grid).movedim(-1, 1).float())

    def project(self, h: Tensor) -> Quantized:
        """``h`` rounded as in :meth:`forward`, which has bounded it already: what lies beyond the outermost codes is theirs."""
        with torch.no_grad():
            code = self.quantize(h.float())
        z = code.z.to(h.dtype)
        return Quantized(z=z, h=z if self.bits else h, ids=code.ids)

    def anneal(self, progress: float) -> None:
        """fsq has no schedule."""

    def _codes(self, digits: Tensor) -> Tensor:
        """The one way from digits to codes, so that both give the same bits."""
        _, zero, _ = self.constants.to(digits.device)
        return (digits - zero) / zero
