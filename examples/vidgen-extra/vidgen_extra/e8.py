"""``e8``: the directions of the 240 shortest vectors of the lattice E8, a codebook that is known and has nothing to learn.

Sources: Zhao et al., "Spherical Leech Quantization for Visual Tokenization and Generation" (2025), for the shortest vectors of a
dense lattice as the codes of a tokenizer that needs no losses of its own; Conway and Sloane, "Sphere Packings, Lattices and
Groups" (1999), chapter 4, section 8.1, for the vectors. In 8 dimensions no 240 points lie farther apart on the sphere.

Deviations: the paper's lattice is Leech's, of 24 dimensions and 196,560 shortest vectors. Here a larger vocabulary is made of
several groups of 8 channels, each with an id of its own.
"""

from __future__ import annotations

import math
from itertools import combinations, product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgen.errors import UserError
from vidgen.latents import Shape
from vidgen.protocols import Quantized

DIM = 8
LEAST = 1e-6
"""Length below which a vector is not made longer: its direction is noise."""


class E8(nn.Module):
    """Each group of 8 channels takes the code of the nearest direction: :class:`vidgen.protocols.Quantizer`.

    h is the direction of each group, z the nearest code, of length 1 as well, and an id the code's place in :func:`directions`.

    Args:
        groups: of 8 channels, at least 1; the vocabulary is 240**groups.

    Raises:
        UserError: for less than one group.
    """

    stages = 1
    scales = clip = None

    codes: Tensor

    def __init__(self, *, groups: int = 1) -> None:
        super().__init__()
        if groups < 1:
            raise UserError(f"e8 needs at least 1 group of {DIM} channels, not {groups}.")
        self.in_channels = self.channels = DIM * groups
        self.register_buffer("codes", directions(), persistent=False)
        self.levels = (len(self.codes),) * groups

    def forward(self, x: Tensor) -> Quantized:
        """(B, channels, t, h, w) -> codes with a straight-through gradient to the directions, ids (B, N, groups)."""
        u = self.bounded(x.float())
        code = self.project(u)
        return Quantized(z=code.z + (u - u.detach()), h=u.detach(), ids=code.ids)

    def bounded(self, x: Tensor) -> Tensor:
        """The direction of each group; with this, ``residual`` and ``pyramid`` take the quantizer as an inner one."""
        return F.normalize(x.unflatten(1, (-1, DIM)), dim=2, eps=LEAST).flatten(1, 2)

    def embed(self, ids: Tensor, grids: tuple[Shape, ...]) -> Tensor:
        """(B, N, groups) of 0 to 239 -> their codes (B, channels, t, h, w)."""
        (grid,) = grids
        return F.embedding(ids, self.codes.to(ids.device)).flatten(2).unflatten(1, grid).movedim(-1, 1)

    @torch.no_grad()
    def project(self, h: Tensor) -> Quantized:
        """The nearest codes to ``h``, whatever its lengths, and their ids."""
        grid = (h.shape[2], h.shape[3], h.shape[4])
        with torch.autocast(h.device.type, enabled=False):  # bfloat16 would mistake neighbours for one another
            groups = h.float().movedim(1, -1).flatten(1, 3).unflatten(-1, (-1, DIM))
            ids = (groups @ self.codes.to(h.device).T).argmax(dim=-1)
        return Quantized(z=self.embed(ids, (grid,)).to(h.dtype), h=h, ids=ids)

    def anneal(self, progress: float) -> None:
        """Nothing here changes during training."""


def directions() -> Tensor:
    """(240, 8) of length 1: 112 with two entries that are not 0, then 128 with entries of one size and an even number below 0."""
    short = []
    for places, signs in product(combinations(range(DIM), 2), product((1.0, -1.0), repeat=2)):
        short.append([0.0] * DIM)
        for place, sign in zip(places, signs, strict=True):
            short[-1][place] = sign
    half = [list(signs) for signs in product((0.5, -0.5), repeat=DIM) if math.prod(signs) > 0]
    return torch.tensor(short + half) / math.sqrt(2)
