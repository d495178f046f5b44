"""``autoencoder``: any backbone with any quantizer, trained by reconstruction, behind the tokenizer contract."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from vidgen.errors import UserError
from vidgen.latents import Latent, LatentSpec, Losses
from vidgen.losses.reconstruction import check_names, reconstruction_losses
from vidgen.nn.stream import Stream
from vidgen.protocols import Quantized
from vidgen.registry import build
from vidgen.tokenizers.checks import check_form, check_range
from vidgen.tokenizers.space import BottleneckSpace, Standardise, as_latent, in_pieces

LOSS = MappingProxyType({"l1": 1.0, "mse": 1.0})
"""Weights of the losses of the reconstruction, unless a recipe says others."""


class Autoencoder(nn.Module):
    """A video tokenizer: :class:`vidgen.protocols.Tokenizer`.

    Args:
        backbone: options of the encoder and decoder, with their ``name``.
        quantizer: options of the bottleneck, with its ``name``.
        loss: weights of the losses of the reconstruction (:data:`vidgen.losses.reconstruction.RECONSTRUCTION`), by name; what
            has weight 0 is not computed.

    Raises:
        UserError: on a loss of another name.
    """

    def __init__(self, *, backbone: Mapping[str, Any], quantizer: Mapping[str, Any], loss: Mapping[str, float] = LOSS) -> None:
        super().__init__()
        check_names(loss)
        self.loss = dict(loss)
        self._looked = False
        bottleneck = build("quantizers", quantizer)
        ends = build("backbones", backbone, latent_out=bottleneck.in_channels, latent_in=bottleneck.channels)
        self._assemble(ends, bottleneck)

    @property
    def streams(self) -> bool:
        """Whether videos can go through it in chunks."""
        return self.spec.causal

    @property
    def space(self) -> BottleneckSpace:
        """The bottleneck as generators see it: no encoder, no decoder."""
        return BottleneckSpace(spec=self.spec, quantizer=self.quantizer, standardise=self.standardise)

    def forward(self, video: Tensor) -> tuple[Tensor, Latent, Losses]:
        """One training step's forward on (B, C, T, H, W) in [-1, 1].

        Returns:
            the reconstruction, the latent, and losses whose total is the weighted sum of ``loss`` and the quantizer's own.

        Raises:
            UserError: where the video is not a float tensor of five axes, its height or width is not a multiple of the stride, or
                the first of all videos is not in [-1, 1].
        """
        check_form(video)
        if not (self._looked or torch.compiler.is_compiling()):  # once: to look at values, the host waits for a GPU
            check_range(video)
            self._looked = True
        code = self._quantized(self.backbone.encode(self._padded(video)))
        latent = as_latent(code, self.spec, self.standardise, num_frames=video.shape[2], start=0)
        reconstruction = self.backbone.decode(code.z)[:, :, : video.shape[2]].float()
        errors = reconstruction_losses(reconstruction, video, self.loss)
        total = sum(self.loss[name] * error for name, error in errors.items()) + sum(code.losses.values())
        return reconstruction, latent, Losses(total=torch.as_tensor(total), scalars={**errors, **code.losses})

    @torch.no_grad()
    def encode(self, video: Tensor) -> Latent:
        """(B, C, T, H, W) in [-1, 1] -> latent; deterministic. A length that does not fit repeats the last frame.

        Raises:
            UserError: where the video is not a float tensor of five axes in [-1, 1], or its height or width is not a multiple of
                the stride.
        """
        check_form(video)
        check_range(video)
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
            check_form(chunk)
            check_range(chunk)
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

    def _assemble(self, backbone: Any, quantizer: Any) -> None:
        """Takes its two parts, and what follows from them."""
        self.quantizer, self.backbone = quantizer, backbone
        self.spec = LatentSpec(
            channels=quantizer.channels,
            stride=backbone.stride,
            causal=backbone.causal,
            levels=quantizer.levels,
            stages=quantizer.stages,
            scales=quantizer.scales,
            clip=quantizer.clip,
        )
        self.standardise = Standardise(quantizer.channels)  # stays the identity for bits, which are -1 and 1 as they are

    def _encode(self, video: Tensor, start: int = 0, stream: Stream | None = None) -> Latent:
        """Deterministic, whatever mode the tokenizer is in."""
        with evaluating(self):
            code = self._quantized(self.backbone.encode(self._padded(video, start), start, stream), start)
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
        with evaluating(self):
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


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """``module`` in evaluation mode, and then in the mode it was in: batch norms neither use nor update a batch's statistics."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
