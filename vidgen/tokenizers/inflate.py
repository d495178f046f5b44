"""From an image tokenizer to a video tokenizer: two-dimensional weights put into three-dimensional kernels.

Source: Yu et al., "Language Model Beats Diffusion" (2023), appendix A.2: a causal kernel takes the image's weights in its last
slice and zeros elsewhere, where Carreira and Zisserman's I3D (2017) spreads them over all. Every frame is then treated as the
image it is: cell k of a video has the code of frame s*k, and decodes to s times that image. Training goes on from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vidgen.backbones.causal3d import Causal3D, Upsample
from vidgen.errors import UserError
from vidgen.nn.causal_conv import TemporalConv
from vidgen.nn.wavelet import haar_matrix
from vidgen.tokenizers.autoencoder import Autoencoder


def inflate(image: Mapping[str, Tensor], video: Autoencoder) -> None:
    """Puts the weights and buffers of an image tokenizer into ``video``.

    Args:
        image: the state (``state_dict()``) of a ``causal3d`` tokenizer whose options are those of ``video`` but for time: its
            ``time_kernel`` is 1, and so are the first number of its ``patch`` and of each of its ``strides``.
        video: the tokenizer to start; whatever it held is replaced.

    Raises:
        UserError: where the backbone is another, or a weight of ``image`` is missing, of another size, or none of ``video``'s.
    """
    if not isinstance(video.backbone, Causal3D):
        raise UserError("Only tokenizers with the causal3d backbone inflate: other backbones have no kernels of one frame.")
    state, spans = video.state_dict(), {f"backbone.{name}": span for name, span in _spans(video.backbone).items()}
    inflated = {}
    for name, like in state.items():
        span = spans.get(name.rpartition(".")[0], Span())
        if name in image:
            inflated[name] = span.grown(name, image[name], like)
        elif span.new:
            inflated[name] = _last_tap(like)
        else:
            raise UserError(f"The image tokenizer has no '{name}', which the video tokenizer has: their options differ.")
    if surplus := sorted(image.keys() - state.keys()):
        raise UserError(f"The image tokenizer has '{surplus[0]}', which the video tokenizer has not: their options differ.")
    video.load_state_dict(inflated)


@dataclass(frozen=True)
class Span:
    """How the weight (out, in, ...) of a layer reaches over more frames than the image tokenizer's.

    Attributes:
        makes: frames that it makes at once, first among its outputs.
        sees: frames that it sees at once, first among its inputs; a 3-D kernel's own length is seen from its shape.
        basis: what those frames are told as (frames, frames), of a tubelet's Haar coefficients; None for themselves.
        new: whether the image tokenizer is without the layer, so that it has to hand on what it gets.
    """

    makes: int = 1
    sees: int = 1
    basis: Tensor | None = None
    new: bool = False

    def grown(self, name: str, weight: Tensor, like: Tensor) -> Tensor:
        """The image's ``weight`` at the size of ``like``: repeated over the frames it makes, on the last of those it sees."""
        expected = list(like.shape)
        for dim, factor in enumerate((self.makes, self.sees, like.shape[2] if like.ndim == 5 else 1)[: like.ndim]):
            expected[dim] //= factor
        if list(weight.shape) != expected:
            raise UserError(
                f"The image tokenizer's '{name}' is {list(weight.shape)}, where {expected} would fit the video tokenizer: their "
                f"options may differ in time alone."
            )
        weight = torch.cat([weight] * self.makes) if self.makes > 1 else weight
        grown = torch.zeros_like(like)
        grown[tuple(slice(size - own, size) for size, own in zip(like.shape, weight.shape, strict=True))] = weight
        for dim, frames in enumerate((self.makes, self.sees)[: like.ndim]):
            if self.basis is not None and frames > 1:
                told = torch.tensordot(self.basis.to(grown), grown.unflatten(dim, (frames, -1)), dims=([1], [dim]))
                grown = told.movedim(0, dim).flatten(dim, dim + 1)
        return grown


def _spans(net: Causal3D) -> dict[str, Span]:
    """The layers of ``net`` that reach over frames, but for the kernels of 3-D convolutions, by name."""
    frames = net.patch[0]
    basis = haar_matrix(frames, torch.empty(0, dtype=torch.float64)) if net.haar else None
    found = {"encoder.stem.0.conv": Span(sees=frames, basis=basis), "decoder.head.conv": Span(makes=frames, basis=basis)}
    for name, module in net.named_modules():
        if isinstance(module, Upsample):
            found[f"{name}.convs.{len(module.convs) - 1}.conv"] = Span(makes=module.stride[0])
        elif isinstance(module, TemporalConv):
            found[f"{name}.linear"] = Span(sees=module.kernel, new=module.stride > 1)
    return found


def _last_tap(like: Tensor) -> Tensor:
    """A temporal convolution's weight (out, taps * in) that hands on the frame it ends with, or its bias."""
    weight = torch.zeros_like(like)
    if like.ndim == 2:
        weight[:, -len(like) :] = torch.eye(len(like), dtype=like.dtype, device=like.device)
    return weight
