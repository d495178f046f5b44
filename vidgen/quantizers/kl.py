"""``kl``: the diagonal Gaussian bottleneck of a variational autoencoder; continuous latents.

Source: Kingma and Welling, "Auto-Encoding Variational Bayes" (2013), appendix B; the bounds on the log-variance and the small
weight are those of Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models" (2021).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vidgen.errors import UserError
from vidgen.latents import Shape
from vidgen.nn.parallel import randn_like
from vidgen.protocols import Quantized

KIND = "continuous"


class KL(nn.Module):
    """Mean and log-variance on the first and second half of the channels (chunked, not interleaved); z is a sample in training.

    Args:
        channels: channels of the latent, at least 1.
        weight: weight of the divergence from N(0, I), in nats, *summed over the channels of a cell and averaged over cells and
            clips*, at least 0. The reduction matters by orders of magnitude: beside a reconstruction loss averaged over pixels,
            this weight equals ``weight * 3 * prod(stride)`` where both are sums. 0 does without the divergence, and without a
            log-variance that nothing would hold: z is the encoder's output, a plain autoencoder.
        std: standard deviation of the posterior, the same everywhere, in the latent's own units; the encoder emits means alone.
            0 lets the encoder emit a log-variance beside each mean.

    Raises:
        UserError: for values outside of those ranges.
    """

    levels = None
    stages = 1
    scales = clip = None

    def __init__(self, *, channels: int = 16, weight: float = 1e-6, std: float = 0.0) -> None:
        super().__init__()
        if channels < 1 or weight < 0 or std < 0:
            raise UserError(f"kl needs channels of at least 1, weight and std of at least 0; got {channels}, {weight} and {std}.")
        self.channels, self.weight, self.std = channels, weight, std
        self.learned = weight > 0 and std == 0
        self.in_channels = 2 * channels if self.learned else channels

    def forward(self, x: Tensor) -> Quantized:
        """(B, in_channels, t, h, w) -> z sampled in training, the mean otherwise."""
        x = x.float()
        if not (self.learned or self.std):
            return Quantized(z=x, h=x)
        mean, logvar = self._posterior(x)
        if not self.training:
            return Quantized(z=mean, h=mean, logvar=logvar)
        z = mean + torch.exp(0.5 * logvar) * randn_like(mean)
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(dim=1).mean()
        return Quantized(z=z, h=mean, logvar=logvar, losses={"kl": self.weight * divergence} if self.weight else {})

    def embed(self, ids: Tensor, grids: tuple[Shape, ...]) -> Tensor:
        """Continuous latents have no ids."""
        raise TypeError("kl latents are continuous and have no ids; decode from z or h.")

    def project(self, h: Tensor) -> Quantized:
        """Every real vector is legal."""
        return Quantized(z=h, h=h)

    def anneal(self, progress: float) -> None:
        """kl has no schedule."""

    def _posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log-variances."""
        if self.std:
            return x, torch.full_like(x, 2 * math.log(self.std))
        mean, logvar = x.chunk(2, dim=1)
        return mean, logvar.clamp(-30, 20)
