"""``autoencoder``: any backbone with any quantizer, trained by reconstruction, behind the tokenizer contract."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgen.errors import UserError
from vidgen.latents import Latent, LatentSpec, Losses
from vidgen.nn.stream import Stream
from vidgen.protocols import Quantized
from vidgen.registry import build
from vidgen.tokenizers.space import BottleneckSpace, Standardise, as_latent, in_pieces


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
            scales=self.quantizer.scales,
            clip=self.quantizer.clip,
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
        code = self._quantized(self.backbone.encode(self._padded(video)))
        latent = as_latent(code, self.spec, self.standardise, num_frames=video.shape[2], start=0)
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
        return self._encode(video)

    @torch.no_grad()
    def decode(self, latent: Latent) -> Tensor:
        """From ``z``, else ``ids``, else ``h`` -> video (B, C, num_frames, H, W)."""
        return self._decode(latent)

    @torch.no_grad()
    def encode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Latent]:
        """Encodes a video that comes in chunks (B, C, any number of frames, H, W), in memory that does not grow with its length.

        Yields:
            latents that follow one another, as soon as their cells are whole; joined by :meth:`Latent.cat` they are what
            :meth:`encode` gives for the whole video, however it was cut into chunks. The last may end in a partly filled cell.

        Raises:
            UserError: where the backbone is not causal, or the height or width is not a multiple of the stride.
        """
        self._check_streams()
        stream, start, waiting = Stream(), 0, None
        for chunk in chunks:
            waiting = chunk if waiting is None else torch.cat([waiting, chunk], dim=2)
            cells = self._whole(waiting.shape[2], start)
            if cells:
                frames = self.spec.frames(cells, start)
                yield self._encode(waiting[:, :, :frames], start, stream)
                start, waiting = start + cells, waiting[:, :, frames:]
        if waiting is not None and waiting.shape[2]:
            yield self._encode(waiting, start, stream)

    @torch.no_grad()
    def decode_stream(self, latents: Iterable[Latent]) -> Iterator[Tensor]:
        """Decodes latents that follow one another from cell 0 on; the frames together are what :meth:`decode` gives for all.

        Raises:
            UserError: where the backbone is not causal.
        """
        self._check_streams()
        stream = Stream()
        for latent in latents:
            yield self._decode(latent, stream)

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

    def _encode(self, video: Tensor, start: int = 0, stream: Stream | None = None) -> Latent:
        """Deterministic, whatever mode the quantizer is in."""
        training = self.quantizer.training
        self.quantizer.eval()
        code = self._quantized(self.backbone.encode(self._padded(video, start), start, stream), start)
        self.quantizer.train(training)
        return as_latent(code, self.spec, self.standardise, num_frames=video.shape[2], start=start)

    def _decode(self, latent: Latent, stream: Stream | None = None) -> Tensor:
        z: Tensor | None
        if latent.z is not None:
            z = latent.z
        elif latent.ids is not None:
            z = self.space.embed(latent.ids, latent.grids)
        elif latent.h is not None:
            z = self.space.project(latent.h, start=latent.start).z
        else:
            raise ValueError("A latent needs z, ids or h to be decoded, and this one has none of them.")
        return self.backbone.decode(z, latent.start, stream)[:, :, : latent.num_frames].float()

    def _quantized(self, x: Tensor, start: int = 0) -> Quantized:
        return in_pieces(self.quantizer, x, self.spec.pieces(x.shape[2], start))

    def _padded(self, video: Tensor, start: int = 0) -> Tensor:
        """The video at a length that fits; its height and width must."""
        self.spec.grid((video.shape[2], video.shape[3], video.shape[4]), start)
        short = self.spec.frames(self.spec.cells(video.shape[2], start), start) - video.shape[2]
        return torch.cat([video, video[:, :, -1:].expand(-1, -1, short, -1, -1)], dim=2) if short else video

    def _whole(self, frames: int, start: int) -> int:
        """Cells that ``frames`` frames from cell ``start`` on fill, and that can be quantized without those to come."""
        first = 1 if start == 0 else 0
        if frames < first:
            return 0
        cells = (frames - first) // self.spec.stride[0]
        return first + cells - cells % (self.spec.clip or 1)

    def _check_streams(self) -> None:
        if not self.spec.causal:
            raise UserError("Only causal tokenizers encode and decode in streams: this one's backbone sees the future.")
