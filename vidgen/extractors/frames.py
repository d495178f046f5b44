"""What extractors do to frames before their networks see them: quantising to 8 bits and resizing, each in the field's variants.

The variants differ by more than the figures that are compared with them: between the first two of :data:`RESIZES` lie 7.2 of
255 levels, root mean square, from 64 to 224 pixels. So each is named and part of an extractor's rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from vidgen.registry import unknown

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def quantised(video: Tensor, how: str) -> Tensor:
    """A video within [-1, 1] with its 256 levels as whole numbers, or as it is.

    ``round`` takes the nearest level (half up, as StyleGAN-V does), ``truncate`` the one below (as TATS and cd-fvd do), ``none``
    keeps the values. A thousandth of a level is forgiven, so that what was 8 bits before stays what it was.
    """
    if how == "none":
        return video
    levels = torch.floor((video + 1) * 127.5 + {"round": 0.5, "truncate": 1e-3}[how])
    return levels.clamp(0, 255) / 127.5 - 1


def resize_tf1(video: Tensor, size: int) -> Tensor:
    """To ``size`` squared as TensorFlow 1's ``resize_bilinear`` does: pixel i is read at i * (old / new), in float32.

    No centres of pixels, so everything shifts to the top left; no antialiasing; what lies past the last pixel is the last.
    """
    for dim in (-1, -2):  # along rows first, which decides the last bit
        length = video.shape[dim]
        at = torch.arange(size, device=video.device, dtype=torch.float32) * (
            torch.tensor(length, dtype=torch.float32) / torch.tensor(size, dtype=torch.float32)
        ).to(video.device)
        low = at.floor().long().clamp(max=length - 1)
        share = (at - low).view(-1, *[1] * (-1 - dim))
        first, second = video.index_select(dim, low), video.index_select(dim, (low + 1).clamp(max=length - 1))
        video = first + (second - first) * share
    return video


def resize_torch(video: Tensor, size: int) -> Tensor:
    """To ``size`` squared as torch's bilinear interpolation does: with centres of pixels, without antialiasing."""
    return _framewise(video, lambda frames: F.interpolate(frames, (size, size), mode="bilinear", align_corners=False))


def resize_crop(video: Tensor, size: int) -> Tensor:
    """The shorter side to ``size`` as :func:`resize_torch`, the longer with it, and its middle cut out."""
    height, width = video.shape[-2:]
    scale = size / min(height, width)
    high, wide = (size if side == min(height, width) else math.ceil(side * scale) for side in (height, width))
    video = _framewise(video, lambda frames: F.interpolate(frames, (high, wide), mode="bilinear", align_corners=False))
    top, left = (high - size) // 2, (wide - size) // 2
    return video[..., top : top + size, left : left + size]


def resize_smooth(video: Tensor, height: int, width: int) -> Tensor:
    """To that size by bilinear interpolation with antialiasing: what is smaller has no aliases of what was there."""
    return _framewise(
        video, lambda frames: F.interpolate(frames, (height, width), mode="bilinear", align_corners=False, antialias=True)
    )


def _framewise(video: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    frames = change(video.transpose(1, 2).flatten(0, 1))
    return frames.unflatten(0, (video.shape[0], video.shape[2])).transpose(1, 2)


RESIZES: dict[str, Callable[[Tensor, int], Tensor]] = {"tf1": resize_tf1, "torch": resize_torch, "crop": resize_crop}
QUANTISE = ("none", "round", "truncate")


def check_choices(resize: str, quantise: str) -> None:
    """Sees that both are known.

    Raises:
        UserError: naming the nearest and all of them.
    """
    if resize not in RESIZES:
        raise unknown("resize of an extractor", resize, RESIZES)
    if quantise not in QUANTISE:
        raise unknown("quantisation of an extractor", quantise, QUANTISE)


def normalised(video: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """A video within [-1, 1] in units of those of images within [0, 1]."""
    shift, scale = (video.new_tensor(values).view(1, 3, 1, 1, 1) for values in (mean, std))
    return ((video + 1) / 2 - shift) / scale
