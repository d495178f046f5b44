"""``kl``: the diagonal Gaussian bottleneck of a variational autoencoder; continuous latents.

Source: Kingma and Welling, "Auto-Encoding Variational Bayes" (2013), appendix B; the bounds on the log-variance and the small
weight are those of Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models" (2021).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vidgen.latents import Shape
from vidgen.protocols import Quantized

KIND = "continuous"


class KL(nn.Module):
    """Mean and log-variance on the first and second half of the channels (chunked, not interleaved).

    Args:
        channels: channels of the latent.
        weight: weight of the divergence from N(0, I), *summed over the channels of a cell and averaged over cells and clips*. The
            reduction matters by orders of magnitude: beside a reconstruction loss averaged over pixels, this weight equals
            ``weight * 3 * prod(stride)`` where both are sums. 0 makes a plain autoencoder: the encoder emits means alone.
    """

    levels = None
    stages = 1
    scales = clip = None

    def __init__(self, *, channels: int = 16, weight: float = 1e-6) -> None:
        super().__init__()
        self.channels, self.weight = channels, weight
        self.in_channels = 2 * channels if weight > 0 else channels

    def forward(self, x: Tensor) -> Quantized:
        """(B, in_channels, t, h, w) -> z sampled in training, the mean otherwise."""
        x = x.float()
        if self.weight == 0:
            return Quantized(z=x, h=x)
        mean, logvar = x.chunk(2, dim=1)
        logvar = logvar.clamp(-30, 20)
        if not self.training:
            return Quantized(z=mean, h=mean, logvar=logvar)
        z = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(dim=1).mean()
        return Quantized(z=z, h=mean, logvar=logvar, losses={"kl": self.weight * divergence})

    def embed(self, ids: Tensor, grids: tuple[Shape, ...]) -> Tensor:
        """Continuous latents have no ids."""
        raise TypeError("kl latents are continuous and have no ids; decode from z or h.")

    def project(self, h: Tensor) -> Quantized:
        """Every real vector is legal."""
        return Quantized(z=h, h=h)

    def anneal(self, progress: float) -> None:
        """kl has no schedule."""
