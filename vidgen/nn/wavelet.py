"""The orthonormal Haar transform of tubelets: a patch's pixels as averages and differences, and exactly back."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor


def haar_matrix(size: int, like: Tensor) -> Tensor:
    """The orthonormal Haar basis (size, size) of 2**n samples, of the dtype and on the device of ``like``.

    Row 0 is the mean times sqrt(size); then come the differences, coarse to fine.
    """
    if size == 1:
        return like.new_ones(1, 1)
    coarse = torch.kron(haar_matrix(size // 2, like), like.new_tensor([[1.0, 1.0]]))
    fine = torch.kron(torch.eye(size // 2, dtype=like.dtype, device=like.device), like.new_tensor([[1.0, -1.0]]))
    return torch.cat([coarse, fine]) / 2**0.5


def haar(x: Tensor, patch: tuple[int, int, int], *, inverse: bool = False) -> Tensor:
    """(..., p*q*r*C) pixels of patches (p, q, r), powers of two -> as many coefficients, those of all axes at once; or back.

    The transform keeps lengths: the first coefficient of a constant patch is sqrt(p*q*r) times its value. It is computed in
    float32 at least, also under autocast, as one matrix product.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    time, height, width = (haar_matrix(side, x) for side in patch)
    channels = torch.eye(x.shape[-1] // prod(patch), dtype=x.dtype, device=x.device)
    basis = torch.kron(torch.kron(time, height), torch.kron(width, channels))
    with torch.autocast(x.device.type, enabled=False):
        return x @ (basis if inverse else basis.T)
