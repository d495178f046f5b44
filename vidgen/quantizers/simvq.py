"""``simvq``: vector quantization with a frozen random codebook seen through one learned linear map.

Source: Zhu et al., "Addressing Representation Collapse in Vector Quantized Models with One Linear Layer" (2024), section 4: the
gradient of any chosen code moves the map, hence all codes, so none is left behind and nothing is restarted.

The map has a bias, for the encoder's outputs are seldom around the origin, and starts at a tenth of the identity: the nearest
among codes that are small beside the data is told by its direction, so that many are used at once; among large ones a single
code, the innermost, was all that an encoder's first outputs met, and training stayed there. The commitment is on the encoder's
term, as in its equation; some public code has it on the codes' term.

This is our own code and no adapter: its codes have to be the same bits whichever way they are asked for.
``vector-quantize-pytorch``'s ``SimVQ`` is what the tests compare it with.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgen.latents import Shape
from vidgen.nn.codebook import cells_of, check_table, nearest, pass_through, rows_of
from vidgen.protocols import Quantized

KIND = "ids"
START = 0.1
"""Of the map, times the identity."""


class SimVQ(nn.Module):
    """Codes W c_k + b, c_k drawn once from N(0, 1 / channels), W and b learned; h is what the encoder gave, z the code, L = 1.

    Args:
        codes: K, the vocabulary, at least 2.
        channels: of the encoder's output and of a code.
        commitment: weight of mean((x - sg z)^2), beside mean((z - sg x)^2) of weight 1, which moves the codes.
        rotation: gradients to the encoder by the rotation trick, not straight through.

    Raises:
        UserError: for fewer codes or channels.
    """

    stages = 1
    scales = clip = None

    table: Tensor

    def __init__(self, *, codes: int = 1024, channels: int = 8, commitment: float = 0.25, rotation: bool = False) -> None:
        super().__init__()
        check_table("simvq", codes, channels)
        self.in_channels = self.channels = channels
        self.levels = (codes,)
        self.commitment, self.rotation = commitment, rotation
        self.register_buffer("table", torch.randn(codes, channels) * channels**-0.5)
        self.map = nn.Linear(channels, channels)
        with torch.no_grad():
            self.map.weight.copy_(START * torch.eye(channels))
            self.map.bias.zero_()

    def forward(self, x: Tensor) -> Quantized:
        """(B, channels, t, h, w) -> the nearest codes with a gradient to ``x``, ids (B, N, 1)."""
        x = x.to(self.table.dtype)
        with torch.autocast(x.device.type, enabled=False):
            rows, table = rows_of(x), self._codes(x)
            ids = nearest(rows.detach(), table.detach())
            codes = F.embedding(ids, table)
            losses = {}
            if self.training:
                losses["commitment"] = self.commitment * F.mse_loss(rows, codes.detach())
                losses["codebook"] = F.mse_loss(codes, rows.detach())
            z = cells_of(pass_through(rows, codes, rotation=self.rotation), x)
        return Quantized(z=z, h=x.detach(), ids=ids.view(len(x), -1, 1), losses=losses)

    def embed(self, ids: Tensor, grids: tuple[Shape, ...]) -> Tensor:
        """(B, N, 1) of 0 to K - 1 -> their codes (B, channels, t, h, w)."""
        (grid,) = grids
        with torch.autocast(ids.device.type, enabled=False):
            return F.embedding(ids.squeeze(-1), self._codes(ids)).unflatten(1, grid).movedim(-1, 1)

    def project(self, h: Tensor) -> Quantized:
        """The nearest codes and their ids."""
        with torch.autocast(h.device.type, enabled=False):
            table = self._codes(h)
            ids = nearest(rows_of(h).to(table.dtype), table)
            z = cells_of(F.embedding(ids, table), h).to(h.dtype)
        return Quantized(z=z, h=z, ids=ids.view(len(h), -1, 1))

    def anneal(self, progress: float) -> None:
        """simvq has no schedule."""

    def _codes(self, like: Tensor) -> Tensor:
        """The whole table through the map, in one product of always the same shape, so that a code is always the same bits."""
        return F.linear(self.table.to(like.device), self.map.weight.to(like.device), self.map.bias.to(like.device))
