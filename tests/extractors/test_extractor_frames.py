"""Resizing and quantising against loops over pixels, and against what the original code does to 8 bits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vidgen.data.batches import to_video
from vidgen.extractors import frames


def random(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def tf1_pixel(image: np.ndarray, row: int, column: int, size: int) -> np.float32:
    """``resize_bilinear`` of TensorFlow 1 for one pixel, in float32: across the row first, then down."""
    height, width = image.shape
    y = np.float32(row) * (np.float32(height) / np.float32(size))
    x = np.float32(column) * (np.float32(width) / np.float32(size))
    top, left = math.floor(y), math.floor(x)
    down, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = np.float32(y - top), np.float32(x - left)
    upper = image[top, left] + (image[top, right] - image[top, left]) * dx
    lower = image[down, left] + (image[down, right] - image[down, left]) * dx
    return np.float32(upper + (lower - upper) * dy)


@pytest.mark.parametrize(("height", "width", "size"), [(5, 7, 16), (16, 16, 16), (23, 9, 10), (1, 2, 5), (64, 48, 30)])
def test_tf1_resize_is_exact(height: int, width: int, size: int) -> None:
    video = random(2, 3, 2, height, width)
    found = frames.resize_tf1(video, size)
    assert found.shape == (2, 3, 2, size, size)
    image = video[1, 2, 0].numpy()
    expected = np.array([[tf1_pixel(image, row, column, size) for column in range(size)] for row in range(size)])
    np.testing.assert_array_equal(found[1, 2, 0].numpy(), expected)


def test_tf1_resize_is_not_torch_s() -> None:
    """Doubled, every other pixel is an old one, in its own place: there are no centres."""
    video = random(1, 3, 1, 8, 8)
    doubled = frames.resize_tf1(video, 16)
    assert torch.equal(doubled[..., ::2, ::2], video)
    assert float((doubled - frames.resize_torch(video, 16)).abs().mean()) > 0.05


def test_the_other_resizes_are_torch_s_on_every_frame() -> None:
    video = random(2, 3, 4, 12, 20)
    one = F.interpolate(video[1, :, 2].unsqueeze(0), (30, 30), mode="bilinear", align_corners=False)[0]
    assert torch.equal(frames.resize_torch(video, 30)[1, :, 2], one)
    wide = F.interpolate(video[1, :, 2].unsqueeze(0), (30, 50), mode="bilinear", align_corners=False)[0]
    assert torch.equal(frames.resize_crop(video, 30)[1, :, 2], wide[..., 10:40])
    tall = F.interpolate(video.mT[1, :, 2].unsqueeze(0), (50, 30), mode="bilinear", align_corners=False)[0]
    assert torch.equal(frames.resize_crop(video.mT, 30)[1, :, 2], tall[:, 10:40])


@pytest.mark.parametrize("how", frames.QUANTISE)
def test_eight_bits_stay_what_they_are(how: str) -> None:
    """Truncation must not take a level from what was 8 bits before."""
    video = to_video(torch.arange(256, dtype=torch.uint8).repeat_interleave(3).view(1, 1, 16, 16, 3))
    torch.testing.assert_close(frames.quantised(video, how), video, rtol=0, atol=1e-6)


def test_rounding_and_truncating_are_those_of_the_sources() -> None:
    """StyleGAN-V: (x * 127.5 + 128) to uint8; TATS: x in [0, 1] times 255 to uint8."""
    video = random(1, 3, 2, 40, 40)
    level = {
        "round": (video * 127.5 + 128).clamp(0, 255).byte(),
        "truncate": ((video + 1) / 2 * 255).byte(),
    }
    for how, expected in level.items():
        found = ((frames.quantised(video, how) + 1) * 127.5).round().byte()
        assert float((found != expected).float().mean()) < 2e-3  # but for those within a thousandth of a level
        assert int((found.int() - expected.int()).abs().max()) <= 1
    assert torch.equal(frames.quantised(video, "none"), video)


def test_normalising_is_of_images_within_0_and_1() -> None:
    video = random(1, 3, 1, 2, 2)
    found = frames.normalised(video, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    torch.testing.assert_close(found[0, 2], ((video[0, 2] + 1) / 2 - 0.3) / 0.7)
