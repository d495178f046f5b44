"""The variational bound that teaches a network the variances of DDPM's steps (Nichol and Dhariwal, "Improved DDPM", 2021)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vidgen.samplers.paths import DDPM
from vidgen.samplers.sde import log_variance, posterior_weights, step_variances

BIN = 1 / 255
"""Half the width of the bins in which the last step's likelihood is counted: that of 8-bit values in [-1, 1], as DiT has it."""


def vlb_bits(path: DDPM, x: Tensor, x_t: Tensor, v: Tensor, share: Tensor, t: Tensor) -> Tensor:
    """The term of the bound at each element, in bits: that of step k = t T.

    KL(q(x_{k-1} | x_k, x) || p(x_{k-1} | x_k)), and for k = 1 minus log p(x | x_1), of x inside a bin. The mean of p follows from
    the velocity, without gradient: only the variance learns from the bound. As in DiT the smaller variance, 0 at k = 1, is there
    that of k = 2; unlike in DiT bins are everywhere alike, since latents do not end at 1.

    Args:
        path: of the noise levels.
        x: clean.
        x_t: noisy.
        v: the network's velocity.
        share: where between the smaller and the larger variance the network's is, 0 to 1 (its logarithm).
        t: levels of the path, k / T with k from 1, broadcast against ``x``.
    """
    t = t.double()
    now, then = path.at(t), path.at(t - 1 / path.T)
    off = x - now.data_of(x_t, v.detach()).to(x.dtype)  # the clean point's error, which is the mean's but for a factor
    second = t.clamp_min(2 / path.T)
    smaller, _ = step_variances(path.at(second), path.at(second - 1 / path.T))
    _, larger = step_variances(now, then)
    posterior = smaller.log().to(x.dtype)
    own = log_variance(share, smaller, larger)
    _, weight = posterior_weights(now, then)
    apart = (weight.to(x.dtype) * off).square()
    divergence = 0.5 * (own - posterior + torch.exp(posterior - own) + apart * torch.exp(-own) - 1)
    deviation = torch.exp(own / 2)
    inside = torch.special.ndtr((off + BIN) / deviation) - torch.special.ndtr((off - BIN) / deviation)
    return torch.where(t * path.T < 1.5, -inside.clamp_min(1e-12).log(), divergence) / math.log(2)
