"""Noise that is a function of (seed, sample, start), whatever the batch it is drawn in."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def key(*parts: int | str) -> int:
    """A 63-bit seed that is a hash of ``parts``: near keys give unrelated streams."""
    plain = tuple(part if isinstance(part, str) else int(part) for part in parts)  # numpy's integers print differently
    digest = hashlib.blake2b(repr(plain).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def sample_noise(
    num: int, shape: tuple[int, ...], *, seed: int, first: int, start: int, device: torch.device, draw: int = 0
) -> Tensor:
    """(num, *shape) standard normal; row i is a function of (seed, first + i, start) and of which ``draw`` of the sample it is.

    Drawn on the CPU, so that every device gives the same samples, and so that batches and rollout windows never repeat it.
    """
    keys = [key(seed, first + i, start, draw) for i in range(num)]
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(one)) for one in keys]).to(device)
