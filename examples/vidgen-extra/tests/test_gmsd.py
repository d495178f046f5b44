# ruff: noqa: D103
"""The measure against its definition by loops, and what it must not depend on."""

from __future__ import annotations

import math
import statistics
from itertools import product

import pytest
import torch
from torch import Tensor
from vidgen_extra.gmsd import GMSD, gmsd

from vidgen import UserError


def pair(frames: int = 2, size: int = 10) -> tuple[Tensor, Tensor]:
    """Two videos in [-1, 1]."""
    real = torch.rand(2, 3, frames, size, size + 2) * 2 - 1
    return (real + 0.2 * torch.randn_like(real)).clamp(-1, 1), real


def magnitudes(frame: Tensor) -> list[float]:
    """Of the gradient of one frame (3, H, W) at half of its size, pixel by pixel."""
    luma = ((0.299 * frame[0] + 0.587 * frame[1] + 0.114 * frame[2]).double() + 1) * 127.5
    rows, columns = luma.shape[0] // 2, luma.shape[1] // 2
    small = [[float(luma[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean()) for j in range(columns)] for i in range(rows)]
    found = []
    for i, j in product(range(1, rows - 1), range(1, columns - 1)):
        x = sum(small[i + k][j - 1] - small[i + k][j + 1] for k in (-1, 0, 1)) / 3
        y = sum(small[i - 1][j + k] - small[i + 1][j + k] for k in (-1, 0, 1)) / 3
        found.append(math.hypot(x, y))
    return found


def by_loops(video: Tensor, real: Tensor) -> float:
    """The deviation of one frame (3, H, W)."""
    alike = [(2 * a * b + 170) / (a * a + b * b + 170) for a, b in zip(magnitudes(video), magnitudes(real), strict=True)]
    return statistics.pstdev(alike)


def test_it_is_its_definition() -> None:
    video, real = pair()
    found = gmsd(video, real)
    assert found.shape == (2, 2)
    for clip in range(2):
        for frame in range(2):
            expected = by_loops(video[clip, :, frame], real[clip, :, frame])
            assert float(found[clip, frame]) == pytest.approx(expected, rel=1e-5)


def test_equal_frames_have_none_and_a_constant_shift_does_not_count() -> None:
    _, real = pair()
    assert not gmsd(real, real).any()
    torch.testing.assert_close(gmsd(real / 2 + 0.3, real / 2), torch.zeros(2, 2, dtype=torch.float64), atol=1e-6, rtol=0)


def test_the_metric_is_the_mean_over_frames_however_they_come() -> None:
    video, real = pair(frames=5)
    metric = GMSD()
    for clip in range(2):
        metric.update(video[clip : clip + 1], real[clip : clip + 1])
    assert float(metric.compute()) == pytest.approx(float(gmsd(video, real).mean()))


def test_frames_that_are_too_small_are_told() -> None:
    with pytest.raises(UserError, match="GMSD needs frames of at least 8x8 pixels and these are 6x8"):
        gmsd(*pair(size=6))
