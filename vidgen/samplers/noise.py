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
    num: int, shape: tuple[int, ...], *, seed: int, first: int, start: int | str, device: torch.device, draw: int = 0
) -> Tensor:
    """(num, *shape) standard normal; row i is a function of (seed, first + i, start) and of which ``draw`` of the sample it is.

    Drawn on the CPU, so that every device gives the same samples, and so that batches and rollout windows never repeat it. Of a
    window whose cells lie apart ``start`` is :func:`vidgen.samplers.places.window_key`.
    """
    streams = _streams(num, seed, first, start, draw)
    return torch.stack([torch.randn(shape, generator=stream) for stream in streams]).to(device)


def sample_uniform(
    num: int, shape: tuple[int, ...], *, seed: int, first: int, start: int | str, device: torch.device, draw: int = 0
) -> Tensor:
    """(num, *shape) uniform on the open interval (0, 1), in float64, keyed and drawn like :func:`sample_noise`.

    Rounding to float32 may make a 1 of the last of them: compare and invert in float64.
    """
    streams = _streams(num, seed, first, start, draw, "uniform")
    drawn = torch.stack([torch.rand(shape, generator=stream, dtype=torch.float64) for stream in streams])
    return drawn.clamp_min(2.0**-54).to(device)


def _streams(num: int, seed: int, first: int, start: int | str, *rest: int | str) -> list[torch.Generator]:
    """A generator for each sample."""
    return [torch.Generator().manual_seed(key(seed, first + i, start, *rest)) for i in range(num)]
