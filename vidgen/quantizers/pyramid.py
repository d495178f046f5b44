"""``pyramid``: any quantizer over the scales of a grid, coarse to fine, each coding what the scales before it have left.

Sources: Tian et al., "Visual Autoregressive Modeling" (2024), algorithms 1 and 2, for the pyramid, phi and the losses; Han et
al., "Infinity: Scaling Bitwise AutoRegressive Modeling" (2024), section 3, for pyramids of bits and their self-correction.

Deviations from VAR: time is an axis, constant by default, so that a pyramid is causal and one frame is treated as in a video;
phi starts as the identity; codes may be means, which learn from all scales at once; the codes of each scale have a gain of their
own, fixed or learned, for what is left shrinks from scale to scale while bits have one length. From Infinity: the input of the
next scale is the sum so far by area, not interpolated, as in VAR; flips are drawn for each clip, not for a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgen.errors import UserError
from vidgen.latents import Shape, scale_grids
from vidgen.nn.parallel import own_rows, world_size
from vidgen.nn.pyramid import SPATIAL, Phi, area_down, checked_scales, nearest_tick, residual_pyramid, split_scales, upsample
from vidgen.protocols import Quantized
from vidgen.registry import build, unknown

KIND = "ids"


class Scale(NamedTuple):
    """One step down a pyramid: what was left at the scale's grid in units of codes, its ids, and the sum z with its code."""

    residue: Tensor
    ids: Tensor | None
    z: Tensor


class Pyramid(nn.Module):
    """z is the sum over scales of codes, sent up to the full grid; h is what the encoder gave, and ids go coarse to fine.

    At each scale what is left of the whole is averaged down to the scale's grid and quantized there; its code goes up by
    interpolation, through one of a few shared convolutions phi, and onto the sum. With ids of the first scales alone the sum is a
    blurred z. Each scale has ids of the inner quantizer, the same one for all.

    Where time is constant (all its fractions are 1) cells in time never meet, and phi convolves each of them by itself; where it
    grows they meet within a clip (``clip``), and phi convolves over time too.

    *Losses* are VAR's: the mean squared distance between what is to be coded and the sum after each scale, averaged over scales.
    As ``commitment``, weighted, it moves the encoder; as ``codebook``, phi, learned gains and codes learned by gradient. On top
    come the inner quantizer's own: for bits averaged over scales, so that a coarse scale's few codes have as large an entropy
    term as a fine one's many; for codebooks over the cells of all scales. Its own commitment is one to what is left at a
    scale's grid; recipes leave it out.

    *Codebooks* see the cells of all scales in one batch, after all of them have been quantized: one update of averages a step,
    and dead codes restart in each scale by its share of cells. Scale by scale, they would all restart in the coarsest, as it
    comes first. They start from the scales of the unquantized pyramid of the first training batch.

    *Relaxed quantizers* (gumbel, with ``logits=distance``) draw codes in training, and each sample brings a gradient of its own,
    which then takes the place of the straight-through one: it goes down the scales as their sum does.

    *Bounded quantizers* (bsq, fsq) bound the whole once, to h, and the scales share it out; as in ``residual``, they have
    ``bounded(x)``, into the space of the codes, and ``quantize(v)``, their forward without that bound.

    Args:
        quantizer: options of the inner quantizer with its ``name``: of one scale, and with codes as wide as its input. ``kl``
            with weight 0 makes a pyramid without quantization: no ids, and without phi z is what the encoder gave.
        scales: fractions (t, h, w) of the full grid, each above 0 and at most 1, the last 1, 1, 1. See
            :func:`vidgen.latents.scale_grids`.
        clip: cells in time that have a pyramid of their own, after cell 0, which has one too; 0: one for the whole. Scales that
            grow in time need it.
        upsampling: ``bicubic`` (VAR) or ``trilinear`` (Infinity) in space; linear in time.
        phi: how many convolutions the scales share, 4 in VAR; 0: none, as in Infinity. See
            :func:`vidgen.nn.pyramid.nearest_tick`.
        phi_ratio: of phi's convolution in the whole, between 0 and 1.
        commitment: weight of that loss, 0.25 in VAR. Beside a plain reconstruction loss on small data that pulled everything to
            the coarsest scale, where a tenth of it did not.
        gain: codes of scale k are ``gain``**k times as large; above 0.
        learn_gain: whether that is only where the gains start, and the codebook loss moves them.

    Raises:
        UserError: for an inner quantizer of another kind, or a value outside of those ranges.
    """

    log_gains: Tensor
    started: Tensor

    def __init__(
        self,
        *,
        quantizer: Mapping[str, Any],
        scales: Sequence[tuple[float, float, float]],
        clip: int = 0,
        upsampling: str = "bicubic",
        phi: int = 4,
        phi_ratio: float = 0.5,
        commitment: float = 0.25,
        gain: float = 1.0,
        learn_gain: bool = False,
    ) -> None:
        super().__init__()
        self.scales = checked_scales(scales, clip)
        if upsampling not in SPATIAL:
            raise unknown("way up in a pyramid", upsampling, SPATIAL)
        if phi < 0 or not 0 <= phi_ratio <= 1 or gain <= 0:
            raise UserError(
                f"pyramid needs phi of at least 0, phi_ratio between 0 and 1 and gain above 0; got {phi}, {phi_ratio} and {gain}."
            )
        self.quantizer = inner = build("quantizers", quantizer)
        if inner.in_channels != inner.channels or inner.scales is not None:
            raise UserError(
                "pyramid needs a quantizer of one scale with codes as wide as its input (vq, simvq, lfq, bsq, fsq, residual, "
                f"gumbel with logits=distance, or kl with weight 0 for none), and '{quantizer['name']}' is not one."
            )
        self.in_channels = self.channels = inner.channels
        self.levels, self.stages, self.clip = inner.levels, inner.stages, clip or None
        self.bits = self.levels is not None and all(level == 2 for level in self.levels)
        self.upsampling, self.commitment = upsampling, commitment
        ticks = [nearest_tick(scale, len(self.scales), phi) for scale in range(len(self.scales))] if phi else []
        used = sorted(set(ticks))
        self.phi_of = [used.index(tick) for tick in ticks]
        time_kernel = 3 if _grows(self.scales) else 1
        self.phis = nn.ModuleList(Phi(self.channels, ratio=phi_ratio, time_kernel=time_kernel) for _ in used)
        gains = torch.tensor([gain**scale for scale in range(len(self.scales))]).log()
        if learn_gain:
            self.log_gains = nn.Parameter(gains)
        else:
            self.register_buffer("log_gains", gains)
        self.register_buffer("started", torch.tensor(False))

    def forward(self, x: Tensor) -> Quantized:
        """(B, C, t, h, w) -> the sum with a straight-through gradient, ids (B, N, L) over the scales; in training codes learn."""
        x = x.to(self.log_gains.dtype)
        with torch.autocast(x.device.type, enabled=False):
            target = self.quantizer.bounded(x) if hasattr(self.quantizer, "bounded") else x
            if self.training and not self.started:
                self._start(target.detach())
            relaxed = self.training and getattr(self.quantizer, "relaxed", False)
            steps = self._down(target, relaxed=relaxed)
            losses = self._losses(target, steps) if self.training else {}
            z = steps[-1].z if relaxed else steps[-1].z.detach() + (target - target.detach())
        return Quantized(z=z, h=target.detach(), ids=_ids(steps), losses=losses)

    def embed(self, ids: Tensor, grids: tuple[Shape, ...]) -> Tensor:
        """(B, N, L) ids -> z (B, channels, t, h, w); ``grids`` names all scales, of which N cells may be the first ones alone."""
        return self.sums(ids, grids)[1][-1]

    def sums(self, ids: Tensor, grids: tuple[Shape, ...]) -> tuple[list[Tensor], list[Tensor]]:
        """As :meth:`embed`: per scale its ids (B, n, L), and z (B, channels, t, h, w) with all codes so far.

        Raises:
            ValueError: where N cells end inside a scale.
        """
        parts = split_scales(ids, grids)
        z = torch.zeros(len(ids), self.channels, *grids[-1], device=ids.device, dtype=self.log_gains.dtype)
        sums = []
        with torch.autocast(ids.device.type, enabled=False):
            for scale, part in enumerate(parts):
                z = z + self._up(self.quantizer.embed(part, (grids[scale],)), scale, grids[-1])
                sums.append(z)
        return parts, sums

    def project(self, h: Tensor) -> Quantized:
        """The sum that :meth:`forward` gives in use. ``h`` is returned as it is: a sum, coded anew, may give another."""
        with torch.no_grad(), torch.autocast(h.device.type, enabled=False):
            steps = self._down(h.to(self.log_gains.dtype))
        return Quantized(z=steps[-1].z.to(h.dtype), h=h, ids=_ids(steps))

    @torch.no_grad()
    def decompose(
        self, h: Tensor, flip: float = 0.0, generator: torch.Generator | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """As :meth:`sums`, from ``h`` (B, channels, t, h, w); with ``flip``, bits go wrong on the way and later scales mend them.

        Bitwise self-correction (Infinity, section 3.4): before a scale's code goes up, each of its bits is flipped with a chance
        that is drawn from [0, flip] for that scale and clip. The sums have the flipped bits, and what is left for the next scale
        is left by them; the ids are those of what was left, not flipped. The last scale has no flips: nothing comes after it.

        Args:
            h: as :meth:`forward` gives it.
            flip: the largest chance, 0.3 in Infinity's recipes.
            generator: of the flips, on the device of ``h``.

        Raises:
            UserError: where ``flip`` is above 0 and ids are not bits.
        """
        if flip and not self.bits:
            raise UserError(
                "Only bits can be flipped, and this pyramid's ids are none: leave flip at 0, or use lfq or bsq in it."
            )
        with torch.autocast(h.device.type, enabled=False):
            steps = self._down(h.to(self.log_gains.dtype), flip, generator)
        return [step.ids for step in steps if step.ids is not None], [step.z.to(h.dtype) for step in steps]

    def anneal(self, progress: float) -> None:
        """Tells the inner quantizer's schedules; ``progress`` in [0, 1]."""
        self.quantizer.anneal(progress)

    def _down(
        self, x: Tensor, flip: float = 0.0, generator: torch.Generator | None = None, *, relaxed: bool = False
    ) -> list[Scale]:
        """Scale after scale. ``x`` has its gradient in the residues; phi, gains and codes have theirs in the sums.

        With ``relaxed`` codes are training samples of the inner quantizer, through which ``x`` has a gradient in the sums too.
        """
        inner, full = self.quantizer, _grid(x)
        z = torch.zeros_like(x)
        steps: list[Scale] = []
        for scale, grid in enumerate(scale_grids(full, self.scales)):
            residue = area_down(x - (z if relaxed else z.detach()), grid) / self._gain(scale, x).detach()
            with torch.set_grad_enabled(relaxed):
                code = inner(residue) if relaxed else getattr(inner, "quantize", inner.project)(residue)
            sent = code.z
            if code.ids is not None and not relaxed:
                wrong = flip if scale < len(self.scales) - 1 else 0.0
                sent = inner.embed(_flipped(code.ids, wrong, generator) if wrong else code.ids, (grid,))
            z = z + self._up(sent, scale, full)
            steps.append(Scale(residue, code.ids, z))
        return steps

    def _up(self, code: Tensor, scale: int, full: Shape) -> Tensor:
        """The one way from a scale's code to its part of z, so that both directions give the same bits."""
        code = code.to(self.log_gains.dtype).contiguous()
        lifted = upsample(code * self._gain(scale, code), full, self.upsampling)
        return self.phis[self.phi_of[scale]](lifted) if self.phi_of else lifted

    def _gain(self, scale: int, like: Tensor) -> Tensor:
        return self.log_gains[scale].to(like.device).exp()

    def _losses(self, x: Tensor, steps: Sequence[Scale]) -> dict[str, Tensor]:
        sums, residues = [step.z for step in steps], [step.residue for step in steps]
        losses = {"commitment": self.commitment * _mean(F.mse_loss(x, z.detach()) for z in sums)}
        if sums[-1].requires_grad:
            losses["codebook"] = _mean(F.mse_loss(z, x.detach()) for z in sums)
        learn = getattr(self.quantizer, "quantize", self.quantizer)
        parts = [learn(part).losses for part in (residues if self.bits else [_in_a_row(residues)])]
        own = {name: _mean(part[name] for part in parts) for name in parts[0]}
        return losses | {name: losses.get(name, 0) + value for name, value in own.items()}

    @torch.no_grad()
    def _start(self, x: Tensor) -> None:
        """Shows a codebook what scales are about, before its codes decide what is left for them."""
        if not self.bits:
            residues, _ = residual_pyramid(x, scale_grids(_grid(x), self.scales), self.upsampling)
            self.quantizer(_in_a_row([residue / self._gain(scale, x) for scale, residue in enumerate(residues)]))
        self.started.fill_(True)


def _grows(scales: Sequence[tuple[float, float, float]]) -> bool:
    return any(scale[0] != 1 for scale in scales)


def _grid(x: Tensor) -> Shape:
    return x.shape[2], x.shape[3], x.shape[4]


def _mean(values: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()


def _in_a_row(residues: Sequence[Tensor]) -> Tensor:
    """The cells of all scales as (B, C, N, 1, 1), for a quantizer that treats each by itself."""
    return torch.cat([residue.flatten(2) for residue in residues], dim=2)[..., None, None]


def _ids(steps: Sequence[Scale]) -> Tensor | None:
    ids = [step.ids for step in steps if step.ids is not None]
    return torch.cat(ids, dim=1) if ids else None


def _flipped(ids: Tensor, flip: float, generator: torch.Generator | None) -> Tensor:
    """Bits (B, n, L), each flipped with the chance that its clip draws from [0, flip]."""
    clips = world_size() * len(ids)
    chance = flip * own_rows(torch.rand(clips, 1, 1, generator=generator, device=ids.device))
    flips = own_rows(torch.rand(clips, *ids.shape[1:], generator=generator, device=ids.device))
    return torch.where(flips < chance, 1 - ids, ids)
