"""Latents as tokens, for generators that draw them cell by cell: ids of all scales, or the standardised values of one grid."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from vidgen.latents import Condition, Latent, Shape
from vidgen.nn.given import given_field, known_tokens, with_given
from vidgen.nn.layout import from_tokens, to_tokens
from vidgen.protocols import LatentSpace


class Tokens:
    """The tokens of a space: (B, N, L) ids in the latents' order, or (B, N, D) cells of ``h`` where they are continuous.

    Attributes:
        spec: of the tokens: continuous ones are one full grid, whatever the tokenizer makes them of.
        scales: grids that each piece of a video has.
        wants: the fields that training needs.
    """

    def __init__(self, space: LatentSpace) -> None:
        self.space = space
        self.continuous = space.spec.levels is None
        self.spec = replace(space.spec, scales=None, clip=None) if self.continuous else space.spec
        self.scales = len(self.spec.scales or (1,))
        self.wants: tuple[str, ...] = ("h", "logvar") if self.continuous else ("ids",)

    def grids(self, latent: Latent) -> tuple[Shape, ...]:
        """The grids of a latent's tokens."""
        return (latent.full_grid,) if self.continuous else latent.grids

    def of(self, latent: Latent, noise: Tensor | None = None) -> Tensor:
        """A latent's tokens; of continuous ones the mean, or with standard normal ``noise`` a draw of the posterior."""
        if not self.continuous:
            assert latent.ids is not None
            return latent.ids.long()
        h = latent.h if noise is None else latent.drawn(noise)
        assert h is not None
        return to_tokens(h)

    def given(
        self, condition: Condition | None, num: int, grids: tuple[Shape, ...], start: int, like: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """``num`` clips' tokens of ``grids``, known ones as they are given and the others 0; and (num, N) which these are.

        The latter is None where nothing is known. ``like`` says device and dtype.

        Raises:
            UserError: where what is known is not of this window.
        """
        count = sum(map(prod, grids))
        if self.continuous:
            tokens = like.new_zeros(num, count, self.space.h_channels)
        else:
            tokens = torch.zeros(num, count, len(self.spec.levels or ()), dtype=torch.long, device=like.device)
        known = known_tokens(condition, self.spec, grids, start)
        if condition is None or known is None:
            return tokens, None
        known, values = known.to(tokens.device), given_field(condition, "h" if self.continuous else "ids")
        values = to_tokens(values) if self.continuous else values
        return torch.where(known.unsqueeze(-1), values.to(tokens), tokens), known

    def latent(self, tokens: Tensor, shape: Shape, start: int, condition: Condition | None) -> Latent:
        """The latent of a video of ``shape`` that all ``tokens`` make, its known cells as they were given, to the bit."""
        spec = self.space.spec
        if self.continuous:
            made = self.space.project(from_tokens(tokens, spec.grid(shape, start)), num_frames=shape[0], start=start)
        else:
            grids = spec.grids(shape, start)
            z = self.space.embed(tokens, grids)
            h = from_tokens(2 * tokens - 1, grids[-1]).to(z.dtype) if spec.kind == "bits" else None
            made = Latent(spec=spec, grids=grids, num_frames=shape[0], start=start, z=z, h=h, ids=tokens)
        return with_given(made, condition)
