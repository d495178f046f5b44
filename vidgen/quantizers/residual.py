"""``residual``: a stack of quantizers, each of them on what those before it left.

Sources: Zeghidour et al., "SoundStream: An End-to-End Neural Audio Codec" (2021), section III-C, for the stack and its dropout;
Yang et al., "HiFi-Codec" (2023), for groups of channels; Kumar et al., "High-Fidelity Audio Compression with Improved RVQGAN"
(2023), section 3.3, for a dropout drawn for each clip and with a probability.

Deviations: dropout is of what the decoder sees. The stages that it leaves out quantize and learn as ever, so their ids are there,
a codebook ages equally in all of them, and processes that draw differently still add up the same sums. Each stage sees its rest
in units of its own code; its losses are weighted back by the square of that unit, as squared errors are. The gradient passes
through the first stage alone: straight through, a rest falls as much as the code before it rises. In
``vector-quantize-pytorch``, which the tests compare this with, rests are cut off from that, so that its gradient is as many times
too large as there are stages. Where a stage's sample is relaxed (``gumbel``) nothing goes straight through, and the gradient
passes through all stages and rests as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from vidgen.errors import UserError
from vidgen.latents import Shape
from vidgen.nn.parallel import own_rows, world_size
from vidgen.protocols import Quantized
from vidgen.registry import build

KIND = "ids"


class Residual(nn.Module):
    """z is the sum of the stages' codes, stage s (from 0) scaled by ``shrink``**s; h is what they share out.

    Sub-ids are stage-major: of the first stage those of all groups, then of the second. Where the inner quantizer bounds its
    input (bsq, fsq), the stages share out what comes of that bound: such a quantizer has ``bounded(x)``, into the space of its
    codes, and, where bounding twice is not bounding once (fsq), ``quantize(v)``, its forward and projection without the bound.

    Args:
        quantizer: options of the inner quantizer with its ``name``: discrete, of one scale and stage, and with codes of as many
            channels as it is given.
        stages: how many there are, at least 1.
        groups: equal parts of the channels, each with its own stack; the channels are ``groups`` times the inner quantizer's.
        shrink: the factor by which the codes' scale falls from stage to stage, above 0 and at most 1. 1 for learned codes, which
            find their scale by themselves. Fixed ones refine nothing at 1: 0.5 for lfq and bsq, 1 / (L - 1) for fsq, with L the
            least of its levels (the next stage then covers whatever error a stage leaves).
        dropout: probability that the decoder sees the first n stages of a clip alone, n uniform from 1 to ``stages``; in
            training.

    Raises:
        UserError: for an inner quantizer of another kind, or a value outside of those ranges.
    """

    scales = clip = None

    def __init__(
        self, *, quantizer: Mapping[str, Any], stages: int = 4, groups: int = 1, shrink: float = 1.0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if min(stages, groups) < 1 or not (0 < shrink <= 1 and 0 <= dropout <= 1):
            raise UserError(
                "residual needs stages and groups of at least 1, shrink above 0 and at most 1, and dropout between 0 and 1; "
                f"got {stages}, {groups}, {shrink} and {dropout}."
            )
        parts = [[build("quantizers", quantizer) for _ in range(groups)] for _ in range(stages)]
        first = parts[0][0]
        if first.levels is None or first.stages > 1 or first.scales is not None or first.in_channels != first.channels:
            raise UserError(
                f"residual stacks discrete quantizers of one scale and stage whose codes are as wide as their input, such as vq, "
                f"simvq, lfq, bsq or fsq, and '{quantizer['name']}' is none of these."
            )
        self.quantizers: Any = nn.ModuleList(Side(stage) for stage in parts)
        self.in_channels = self.channels = groups * first.channels
        self.levels = first.levels * groups * stages
        self.stages, self.shrink, self.dropout = stages, shrink, dropout
        self.relaxed = getattr(first, "relaxed", False)

    def forward(self, x: Tensor) -> Quantized:
        """(B, C, t, h, w) -> the sum of the codes, ids (B, N, stages * groups * L); losses are means over stages and groups."""
        x = self.quantizers[0].bounded(x.float())
        codes = self._refined(x, lambda stage, v: stage(v))
        seen = self._seen(x)
        # What the stages after the first add has no slope: their rest falls as much as the code before them rises.
        sloped = len(codes) if self.relaxed else 1
        z = self._sum(seen[index] * (code.z if index < sloped else code.z.detach()) for index, code in enumerate(codes))
        losses = _mean_losses(codes, [self.shrink ** (2 * index) for index in range(self.stages)])
        return Quantized(z=z, h=x.detach(), ids=_all_ids(codes), losses=losses)

    def embed(self, ids: Tensor, grids: tuple[Shape, ...]) -> Tensor:
        """(B, N, stages * groups * L) -> the sum of their codes (B, C, t, h, w); the sub-ids of the first stages are enough."""
        parts = ids.split(len(self.levels) // self.stages, dim=-1)
        return self._sum(stage.embed(part, grids) for stage, part in zip(self.quantizers, parts, strict=False))

    def project(self, h: Tensor) -> Quantized:
        """What :meth:`forward` makes of ``h``, which it has bounded already, in use; h stays as it is."""
        with torch.no_grad():
            codes = self._refined(h.float(), lambda stage, v: stage.project(v))
        z = self._sum(code.z for code in codes).to(h.dtype)
        return Quantized(z=z, h=h, ids=_all_ids(codes))

    def anneal(self, progress: float) -> None:
        """Tells the schedules of all stages; ``progress`` in [0, 1]."""
        for stage in self.quantizers:
            stage.anneal(progress)

    def _refined(self, x: Tensor, quantize: Callable[[Any, Tensor], Quantized]) -> list[Quantized]:
        """What each stage makes of the rest of those before it, in the units of its own code."""
        codes: list[Quantized] = []
        for index, stage in enumerate(self.quantizers):
            scale = self.shrink**index
            codes.append(quantize(stage, x / scale))
            x = x - scale * (codes[-1].z if self.relaxed else codes[-1].z.detach())
        return codes

    def _sum(self, zs: Iterable[Tensor]) -> Tensor:
        """The one way from the stages' codes to z, so that all give the same bits."""
        return reduce(torch.add, (self.shrink**index * z for index, z in enumerate(zs)))

    def _seen(self, x: Tensor) -> Tensor:
        """(stages, B, 1, 1, 1, 1): 1 where the decoder sees that stage of that clip, else 0."""
        last = torch.full((len(x),), self.stages, device=x.device)
        if self.training and self.dropout:
            whole = (world_size() * len(x),)
            drawn = own_rows(torch.randint(1, self.stages + 1, whole, device=x.device))
            last = torch.where(own_rows(torch.rand(whole, device=x.device)) < self.dropout, drawn, last)
        return (torch.arange(self.stages, device=x.device).unsqueeze(1) < last).to(x.dtype)[..., None, None, None, None]


class Side(nn.Module):
    """Quantizers side by side, each on its share of the channels: one stage."""

    def __init__(self, parts: Iterable[nn.Module]) -> None:
        super().__init__()
        self.parts: Any = nn.ModuleList(parts)

    def forward(self, v: Tensor) -> Quantized:
        """What all of them give; losses are their means."""
        return self._joined([getattr(part, "quantize", part)(share) for part, share in self._shares(v)])

    def embed(self, ids: Tensor, grids: tuple[Shape, ...]) -> Tensor:
        """(B, N, groups * L) -> (B, C, t, h, w)."""
        own = ids.chunk(len(self.parts), dim=-1)
        return torch.cat([part.embed(share, grids) for part, share in zip(self.parts, own, strict=True)], dim=1)

    def project(self, v: Tensor) -> Quantized:
        """As :meth:`forward` in use."""
        return self._joined([getattr(part, "quantize", part.project)(share) for part, share in self._shares(v)])

    def bounded(self, x: Tensor) -> Tensor:
        """``x`` in the space of the codes."""
        return torch.cat([part.bounded(share) if hasattr(part, "bounded") else share for part, share in self._shares(x)], dim=1)

    def anneal(self, progress: float) -> None:
        """Tells the schedules of all."""
        for part in self.parts:
            part.anneal(progress)

    def _shares(self, x: Tensor) -> Iterable[tuple[Any, Tensor]]:
        return zip(self.parts, x.chunk(len(self.parts), dim=1), strict=True)

    @staticmethod
    def _joined(codes: list[Quantized]) -> Quantized:
        z, h = (torch.cat([getattr(code, name) for code in codes], dim=1) for name in ("z", "h"))
        return Quantized(z=z, h=h, ids=_all_ids(codes), losses=_mean_losses(codes, [1.0] * len(codes)))


def _all_ids(codes: Sequence[Quantized]) -> Tensor:
    return torch.cat([code.ids for code in codes if code.ids is not None], dim=-1)


def _mean_losses(codes: Sequence[Quantized], weights: Sequence[float]) -> dict[str, Tensor]:
    """Of each loss, the mean of what ``codes`` have of it, each times its weight."""
    return {
        name: torch.stack([weight * code.losses[name] for weight, code in zip(weights, codes, strict=True)]).mean()
        for name in codes[0].losses
    }
