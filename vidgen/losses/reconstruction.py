"""Distances between a reconstruction and its video, both (B, C, T, H, W); each is a mean, 0 where the two are equal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from vidgen.registry import unknown


def l1(reconstruction: Tensor, video: Tensor) -> Tensor:
    """Mean absolute error."""
    return F.l1_loss(reconstruction, video)


def mse(reconstruction: Tensor, video: Tensor) -> Tensor:
    """Mean squared error (L2)."""
    return F.mse_loss(reconstruction, video)


def charbonnier(reconstruction: Tensor, video: Tensor, epsilon: float = 1e-3) -> Tensor:
    """Mean of sqrt(d**2 + epsilon**2) - epsilon: L1 that is smooth at 0 (Charbonnier et al., 1994).

    The constant is taken off, which theirs leaves in, so that equal videos have distance 0.
    """
    return ((reconstruction - video).square() + epsilon**2).sqrt().mean() - epsilon


def temporal(reconstruction: Tensor, video: Tensor) -> Tensor:
    """Mean absolute error of the differences between one frame and the next; 0 for a single frame, which has none."""
    steps = (reconstruction - video).diff(dim=2)
    return steps.abs().sum() / max(1, steps.numel())


def wavelet(reconstruction: Tensor, video: Tensor) -> Tensor:
    """Mean absolute error of the eight bands of one orthonormal Haar transform over (T, H, W).

    An odd axis is made even by repeating its first frame, row or column: at 1 + s*k frames that pairs the first with itself, as
    causal tokenizers do. Li et al., "WF-VAE" (2024), compare bands by L1 too, but those of their own energy path.
    """
    bands = reconstruction - video  # the transform is linear
    for axis in (2, 3, 4):
        if bands.shape[axis] % 2:
            bands = torch.cat([bands.narrow(axis, 0, 1), bands], dim=axis)
        even, odd = bands.unfold(axis, 2, 2).unbind(-1)
        bands = torch.cat([even + odd, even - odd], dim=1) * 0.5**0.5
    return bands.abs().mean()


RECONSTRUCTION: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": l1,
    "mse": mse,
    "charbonnier": charbonnier,
    "temporal": temporal,
    "wavelet": wavelet,
}


def check_names(names: Iterable[str]) -> None:
    """Sees that all of ``names`` are in :data:`RECONSTRUCTION`.

    Raises:
        UserError: naming the nearest and all of them.
    """
    for name in names:
        if name not in RECONSTRUCTION:
            raise unknown("reconstruction loss", name, RECONSTRUCTION)


def reconstruction_losses(reconstruction: Tensor, video: Tensor, weights: Mapping[str, float]) -> dict[str, Tensor]:
    """The losses whose weight is above 0, by name and not yet weighted; no other is computed."""
    return {name: RECONSTRUCTION[name](reconstruction, video) for name, weight in weights.items() if weight > 0}
