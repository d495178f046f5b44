"""``autoencoder``: any backbone with any quantizer, trained by reconstruction, behind the tokenizer contract."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgen.latents import Latent, LatentSpec, Losses
from vidgen.registry import build
from vidgen.tokenizers.space import BottleneckSpace, Standardise


class Autoencoder(nn.Module):
    """A video tokenizer: :class:`vidgen.protocols.Tokenizer`.

    Args:
        backbone: options of the encoder and decoder, with their ``name``.
        quantizer: options of the bottleneck, with its ``name``.
        l1: weight of the mean absolute error of the reconstruction.
        mse: weight of its mean squared error.
    """

    def __init__(self, *, backbone: Mapping[str, Any], quantizer: Mapping[str, Any], l1: float = 1.0, mse: float = 1.0) -> None:
        super().__init__()
        self.l1, self.mse = l1, mse
        self.quantizer = build("quantizers", quantizer)
        latent_out, latent_in = self.quantizer.in_channels, self.quantizer.channels
        self.backbone = build("backbones", backbone, latent_out=latent_out, latent_in=latent_in)
        self.spec = LatentSpec(
            channels=latent_in,
            stride=self.backbone.stride,
            causal=self.backbone.causal,
            levels=self.quantizer.levels,
            stages=self.quantizer.stages,
        )
        self.standardise = Standardise(latent_in)  # stays the identity for bits, which are -1 and 1 as they are

    @property
    def space(self) -> BottleneckSpace:
        """The bottleneck as generators see it: no encoder, no decoder."""
        return BottleneckSpace(spec=self.spec, quantizer=self.quantizer, standardise=self.standardise)

    def forward(self, video: Tensor) -> tuple[Tensor, Latent, Losses]:
        """One training step's forward on (B, C, T, H, W) in [-1, 1].

        Returns:
            the reconstruction, the latent, and losses whose total is ``l1`` * L1 + ``mse`` * MSE + the quantizer's own.

        Raises:
            UserError: where the height or width is not a multiple of the stride.
        """
        code = self.quantizer(self.backbone.encode(self._padded(video)))
        latent = self._latent(code.z, code.h, code.logvar, code.ids, frames=video.shape[2])
        reconstruction = self.backbone.decode(code.z)[:, :, : video.shape[2]].float()
        scalars = {
            "l1": F.l1_loss(reconstruction, video),
            "mse": F.mse_loss(reconstruction, video),
            **code.losses,
        }
        total = self.l1 * scalars["l1"] + self.mse * scalars["mse"] + sum(code.losses.values())
        return reconstruction, latent, Losses(total=total, scalars=scalars)

    @torch.no_grad()
    def encode(self, video: Tensor) -> Latent:
        """(B, C, T, H, W) in [-1, 1] -> latent; deterministic. A length that does not fit repeats the last frame.

        Raises:
            UserError: where the height or width is not a multiple of the stride.
        """
        padded = self._padded(video)
        training = self.quantizer.training
        self.quantizer.eval()
        code = self.quantizer(self.backbone.encode(padded))
        self.quantizer.train(training)
        return self._latent(code.z, code.h, code.logvar, code.ids, frames=video.shape[2])

    @torch.no_grad()
    def decode(self, latent: Latent) -> Tensor:
        """From ``z``, else ``ids``, else ``h`` -> video (B, C, num_frames, H, W)."""
        z: Tensor | None
        if latent.z is not None:
            z = latent.z
        elif latent.ids is not None:
            z = self.space.embed(latent.ids, latent.grids)
        elif latent.h is not None:
            z = self.space.project(latent.h, start=latent.start).z
        else:
            raise ValueError("A latent needs z, ids or h to be decoded, and this one has none of them.")
        return self.backbone.decode(z, latent.start)[:, :, : latent.num_frames].float()

    @torch.no_grad()
    def measure(self, videos: Iterable[Tensor]) -> None:
        """Sets the mean and standard deviation of ``h`` per channel from ``videos``, each (B, C, T, H, W); bits need none."""
        if self.spec.kind == "bits":
            return
        count = 0
        total = squares = torch.zeros_like(self.standardise.mean, dtype=torch.float64)
        for video in videos:
            latent = self.encode(video)
            assert latent.h is not None
            h = self.standardise.inverse(latent.h).double()
            count += h.numel() // h.shape[1]
            total = total + h.sum(dim=(0, 2, 3, 4))
            squares = squares + h.square().sum(dim=(0, 2, 3, 4))
        if count == 0:
            raise ValueError("measure needs at least one batch of videos.")
        mean = total / count
        self.standardise.mean.copy_(mean)
        self.standardise.std.copy_((squares / count - mean.square()).clamp_min(1e-12).sqrt())

    def anneal(self, progress: float) -> None:
        """Tells the quantizer's schedules how far training has come, from 0 to 1."""
        self.quantizer.anneal(progress)

    def _padded(self, video: Tensor) -> Tensor:
        """The video at a length that fits; its height and width must."""
        self.spec.grid((video.shape[2], video.shape[3], video.shape[4]))
        short = self.spec.frames(self.spec.cells(video.shape[2])) - video.shape[2]
        return torch.cat([video, video[:, :, -1:].expand(-1, -1, short, -1, -1)], dim=2) if short else video

    def _latent(self, z: Tensor, h: Tensor, logvar: Tensor | None, ids: Tensor | None, frames: int) -> Latent:
        grid = (z.shape[2], z.shape[3], z.shape[4])
        if logvar is not None:
            logvar = logvar - 2 * self.standardise.std.log().view(1, -1, 1, 1, 1)
        return Latent(
            spec=self.spec,
            grids=(grid,),
            num_frames=frames,
            z=z,
            h=self.standardise(h),
            logvar=logvar,
            ids=None if ids is None else ids.reshape(len(ids), prod(grid), -1),
        )
