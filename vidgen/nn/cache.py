"""Keys and values that a trunk has made already, so that sampling token by token, or scale by scale, makes each of them once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from vidgen.nn.trunk import Trunk


class BlockCache:
    """What one block holds.

    Attributes:
        length: tokens held.
        context: keys and values of the block's cross-attention; None before they are made.
        modulation: what the block makes of the condition; None before it is made.
    """

    def __init__(self, batch: int, heads: int, capacity: int, head_dim: int) -> None:
        self.length = 0
        self.context: tuple[Tensor, Tensor] | None = None
        self.modulation: Tensor | None = None
        self.shape = (2, batch, heads, capacity, head_dim)
        self.held: Tensor | None = None

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Takes (B, heads, N, head_dim) of the next N tokens -> those of all tokens so far, of which these are the last.

        Raises:
            ValueError: where they are of another batch, or do not fit any more.
        """
        _, batch, heads, capacity, head_dim = self.shape
        first, last = self.length, self.length + k.shape[2]
        if k.shape != (batch, heads, last - first, head_dim) or last > capacity:
            raise ValueError(
                f"A cache of {batch} x {capacity} tokens that holds {first} cannot take {k.shape[0]} x {k.shape[2]}."
            )
        if self.held is None:
            self.held = k.new_empty(self.shape)
        self.held[0, :, :, first:last] = k.detach()
        self.held[1, :, :, first:last] = v.detach()
        self.length = last
        keys, values = self.held[:, :, :, :last]
        return keys, values

    def drop(self, first: int, last: int) -> None:
        """Forgets the tokens ``first`` to ``last`` (exclusive); those after them move up."""
        if self.held is not None:
            rest = self.held[:, :, :, last : self.length].clone()
            self.held[:, :, :, first : first + rest.shape[3]] = rest
        self.length -= last - first

    @property
    def tensors(self) -> list[Tensor]:
        """All that is held."""
        return [part for part in (self.held, self.modulation, *(self.context or ())) if part is not None]


class KVCache:
    """Keys (already rotated) and values of every block of a trunk, for sampling: what is held carries no gradient.

    Memory is taken once, at the first write, whose dtype and device it has. A context's keys and values are made at the first
    forward that is given one and used from then on, whatever is given later. What blocks make of the condition is used again
    while it is the same tensor, which nobody may write into meanwhile: one token at a time, that is a third of their weights.

    Args:
        trunk: whose tokens are held.
        batch: samples.
        length: tokens that there will be at most.

    Attributes:
        blocks: what each block holds, in the trunk's order.
    """

    def __init__(self, trunk: Trunk, batch: int, length: int) -> None:
        self.condition: Tensor | None = None
        self.blocks = [BlockCache(batch, trunk.heads, length, trunk.head_dim) for _ in trunk.blocks]

    def tell(self, c: Tensor) -> None:
        """The condition of the forward that begins: what was made of another one is forgotten."""
        if c is not self.condition:
            self.condition = c
            for block in self.blocks:
                block.modulation = None

    @property
    def length(self) -> int:
        """Tokens held."""
        return self.blocks[0].length

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes."""
        return sum(part.nbytes for block in self.blocks for part in block.tensors)

    def drop(self, first: int, last: int) -> None:
        """Forgets the tokens ``first`` to ``last`` (exclusive), as a sliding window in time does; there is room for others then.

        What later tokens have taken from them stays: only attention to them ends.

        Raises:
            ValueError: where they are not among those held.
        """
        if not 0 <= first <= last <= self.length:
            raise ValueError(f"Tokens {first} to {last} are not among the {self.length} that the cache holds.")
        for block in self.blocks:
            block.drop(first, last)
