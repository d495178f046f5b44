"""The residual perceptrons that work on one token at a time."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from vidgen.errors import UserError
from vidgen.nn.trunk import modulate


def check_sizes(head: str, hidden: int, depth: int) -> None:
    """Sees that a head's perceptron is one.

    Raises:
        UserError: where it has no blocks, or fewer than no channels.
    """
    if depth < 1 or hidden < 0:
        raise UserError(
            f"The {head} head needs depth of at least 1 and hidden of at least 0 (as wide as the trunk), not {depth}, {hidden}."
        )


class ResidualMLP(nn.Module):
    """x plus two layers of its norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.first, self.last = nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(F.silu(self.first(self.norm(x))))


class ModulatedMLP(nn.Module):
    """x plus two gated layers of its norm, modulated by a condition (adaLN-Zero): nothing but x at the start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(width, width), nn.Linear(width, width)
        self.modulation = nn.Linear(width, 3 * width)
        for layer in (self.first, self.last):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """``c``, already through its nonlinearity, broadcasts against ``x`` (..., width)."""
        shift, scale, gate = self.modulation(c).to(x.dtype).chunk(3, dim=-1)
        return x + gate * self.last(F.silu(self.first(modulate(x, shift, scale))))
