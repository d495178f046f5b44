"""Random numbers that are the same on every machine: Philox bits turned into doubles by hand."""

from __future__ import annotations

import numpy as np


class Draw:
    """A stream of doubles that is a pure function of (seed, stream, index).

    Only the raw 64-bit outputs of numpy's Philox are used, which its documentation fixes; its distributions may change
    between versions. The index is a word of the counter, so streams of different indices never overlap.
    """

    def __init__(self, *, seed: int, stream: int, index: int) -> None:
        # A plain list of a number beyond 2**63 and a small one would become doubles.
        key, counter = np.array([seed, stream], dtype=np.uint64), np.array([0, index, 0, 0], dtype=np.uint64)
        self._bits = np.random.Philox(key=key, counter=counter)
        self._pool: list[int] = []

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A double in [low, high), of 53 random bits."""
        if not self._pool:
            self._pool = self._bits.random_raw(32).tolist()[::-1]
        return low + (high - low) * ((self._pool.pop() >> 11) * 2.0**-53)

    def integer(self, count: int) -> int:
        """A whole number in [0, count)."""
        return int(self.uniform() * count)

    def sign(self) -> float:
        """Minus one or one."""
        return -1.0 if self.uniform() < 0.5 else 1.0

    def distinct(self, count: int, among: int) -> list[int]:
        """``count`` different whole numbers in [0, among), in random order."""
        left = list(range(among))
        return [left.pop(self.integer(len(left))) for _ in range(count)]

    def direction(self, steepest: float = 1.0) -> tuple[float, float]:
        """A unit vector, from the rational points of the circle; ``steepest`` in (0, 1] bounds tan(angle / 2) to the x axis.

        With 1 every direction can come, with no sine or cosine, whose last bit differs between machines.
        """
        u = self.uniform(-steepest, steepest)
        sign = self.sign()
        scale = 1.0 + u * u
        return sign * (1.0 - u * u) / scale, sign * (2.0 * u) / scale
