"""``dit``: a diffusion transformer trained as a rectified flow on the tokenizer's ``h``.

Sources: Peebles and Xie, "Scalable Diffusion Models with Transformers" (2022) for the network; Esser et al., "Scaling Rectified
Flow Transformers" (2024) for the objective; Chen et al., "Analog Bits" (2022) for binary codes, which are diffused as the real
numbers -1 and 1 and decided by their sign at the end.

Deviations from DiT: rectified flow in the place of 1000 discrete steps; rotary positions; normalised queries and keys; guidance
acts on every channel. Deviation from Analog Bits: a network that predicts clean bits is given what each noisy bit says of itself,
in closed form (:func:`vidgen.samplers.flow.bit_evidence`), and learns only what the other bits and the label add to its log-odds.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgen.errors import UserError, did_you_mean
from vidgen.latents import Condition, Latent, Losses, Shape
from vidgen.nn.causal_conv import patchify, unpatchify
from vidgen.nn.embeddings import LabelEmbedding, TimestepEmbedding
from vidgen.nn.rope import grid_positions, rotary_table
from vidgen.nn.trunk import FinalLayer, Trunk
from vidgen.protocols import LatentSpace
from vidgen.samplers import flow
from vidgen.samplers.guidance import guide
from vidgen.samplers.noise import sample_noise
from vidgen.samplers.ode import euler, heun
from vidgen.samplers.sde import sde

ROUTES = {
    "continuous": "standardised latents",
    "bits": "analog bits, sign at decode",
    "ids": "pre-quantised latents, nearest code at decode",
}


class DiT(nn.Module):
    """A generator: :class:`vidgen.protocols.Generator`.

    Args:
        space: the tokenizer's latent space, kept as a plain reference.
        num_classes: labels the data has; 0 for none.
        width: channels of a token.
        depth: blocks.
        heads: attention heads.
        mlp_ratio: hidden width of the feed-forward layers over ``width``.
        patch: cells (t, h, w) that make one token; where it does not divide a grid, empty cells fill the last tokens.
        prediction: what the network emits: the velocity ``v``, or the clean latent ``x`` (of bits, the context's part of their
            log-odds); the loss is on the velocity either way.
        time_mean: mean of the logit of the training noise levels.
        time_std: its standard deviation.
        shift: moves training and sampling noise levels towards noise (> 1), as redundant latents want.
        label_dropout: fraction of labels replaced by the null label, for guidance.
        solver: ``euler``, ``heun``, or ``sde``, which renews the noise as it goes.
        churn: of ``sde``: how much faster than DDPM noise is renewed; 0 is ``euler``, much of it mends errors but costs variety.
        steps: solver steps of a sample.
        guidance_scale: 1 is no guidance, and costs one forward a step.
        rope_theta: the rotary embedding's longest period over 2 pi, in cells.

    Raises:
        UserError: on a word that it does not know, and on sizes that make no network or no sample.
    """

    wants = ("h",)

    def __init__(
        self,
        *,
        space: LatentSpace,
        num_classes: int = 0,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        mlp_ratio: float = 4.0,
        patch: Shape = (1, 2, 2),
        prediction: Literal["v", "x"] = "v",
        time_mean: float = 0.0,
        time_std: float = 1.0,
        shift: float = 1.0,
        label_dropout: float = 0.1,
        solver: Literal["euler", "heun", "sde"] = "euler",
        churn: float = 1.0,
        steps: int = 50,
        guidance_scale: float = 1.0,
        rope_theta: float = 10000.0,
    ) -> None:
        super().__init__()
        for option, value, choices in (("prediction", prediction, ("v", "x")), ("solver", solver, ("euler", "heun", "sde"))):
            if value not in choices:
                raise UserError(f"dit knows no {option} '{value}'.{did_you_mean(value, choices)} Use {', '.join(choices)}.")
        if len(patch) != 3 or min(patch) < 1:
            given, fits = (list(cells) for cells in (patch, [max(1, cells) for cells in (1, 1, 1, *patch)[-3:]]))
            raise UserError(f"dit's patch={given} is not [frames,height,width] of at least 1 each; the nearest is patch={fits}.")
        for size, number, made in (("width", width, "transformer"), ("steps", steps, "sample")):
            if number < 1:
                raise UserError(f"{size}={number} makes no {made}: give {size}=1 or more.")
        self.space = space
        self.patch, self.prediction, self.label_dropout = patch, prediction, label_dropout
        self.time_mean, self.time_std, self.shift = time_mean, time_std, shift
        self.solver, self.churn, self.steps, self.guidance_scale, self.rope_theta = (
            solver,
            churn,
            steps,
            guidance_scale,
            rope_theta,
        )
        features = space.h_channels * prod(patch)
        self.embed = nn.Linear(features, width)
        self.time = TimestepEmbedding(width)
        self.label = LabelEmbedding(num_classes, width) if num_classes else None
        self.trunk = Trunk(width=width, depth=depth, heads=heads, mlp_ratio=mlp_ratio)
        self.final = FinalLayer(width, features)
        nn.init.xavier_uniform_(self.embed.weight)
        nn.init.zeros_(self.embed.bias)

    def prepare(self, latents: Latent) -> None:
        """Nothing to measure: ``h`` comes standardised, or as bits."""

    def forward(self, x: Tensor, t: Tensor, condition: Condition | None = None, start: int = 0) -> Tensor:
        """The network: noisy ``h`` (B, D, t, h, w) at noise levels (B,), or (B, t) one a cell -> velocity, of the same shape."""
        _, _, frames, height, width = x.shape
        tokens = patchify(self._filled(x).movedim(1, -1), self.patch)
        grid = tokens.shape[1:4]
        c = self.time(t).view(len(x), -1, self.embed.out_features)
        if self.label is not None:
            label = condition.label if condition is not None and condition.label is not None else x.new_full((len(x),), -1).long()
            c = c + self.label(label).unsqueeze(1)
        if t.ndim == 2:  # one noise level a cell: the token's is that of its first cell
            c = c[:, :: self.patch[0]].repeat_interleave(grid[1] * grid[2], dim=1)
        positions = grid_positions((grid[0], grid[1], grid[2]), start / self.patch[0], x.device)
        rope = rotary_table(positions, self.trunk.head_dim, self.rope_theta)
        features = self.final(self.trunk(self.embed(tokens.flatten(1, 3)), c, rope), c)
        out = unpatchify(features.to(x.dtype).unflatten(1, grid), self.patch)[:, :frames, :height, :width].movedim(-1, 1)
        return out if self.prediction == "v" else self._from_data(x, out, _per_cell(t))

    def _from_data(self, x: Tensor, out: Tensor, t: Tensor) -> Tensor:
        """The velocity to the clean latent: ``out``, or for bits their mean, of which ``out`` is the context's part."""
        if self.space.spec.kind == "bits":
            out = torch.tanh(flow.bit_evidence(x, t) + out)
        return flow.velocity_from_data(x, out, t)

    def _filled(self, x: Tensor) -> Tensor:
        """``x`` with empty cells after its last ones, so that whole patches cover it: every size and length is welcome."""
        short = [-size % patch for size, patch in zip(x.shape[2:], self.patch, strict=True)]
        return F.pad(x, (0, short[2], 0, short[1], 0, short[0])) if any(short) else x

    def loss(self, latent: Latent, condition: Condition | None = None) -> Losses:
        """Mean squared error of the velocity at logit-normal noise levels."""
        x = latent.h
        assert x is not None
        t = flow.logit_normal_times((len(x),), self.time_mean, self.time_std, self.shift, x.device)
        return self.loss_at(x, t, torch.randn_like(x), self._drop_labels(condition), latent.start)

    @torch.no_grad()
    def validation_loss(self, latent: Latent, condition: Condition | None = None) -> Tensor:
        """The mean loss at five noise levels, each clip with noise of its own that is the same every time."""
        x = latent.h
        assert x is not None
        noise = sample_noise(len(x), x.shape[1:], seed=0, first=0, start=latent.start, device=x.device)
        levels = [
            self.loss_at(x, x.new_full((len(x),), t), noise, condition, latent.start).total for t in (0.1, 0.3, 0.5, 0.7, 0.9)
        ]
        return torch.stack(levels).mean()

    def loss_at(self, x: Tensor, t: Tensor, noise: Tensor, condition: Condition | None, start: int = 0) -> Losses:
        """The objective at given noise levels (B,) or (B, t) and noise."""
        predicted = self(flow.interpolate(x, noise, _per_cell(t)), t, condition, start)
        loss = F.mse_loss(predicted, flow.velocity(x, noise))
        return Losses(total=loss, scalars={"flow": loss})

    @torch.no_grad()
    def sample(
        self,
        num: int,
        shape: Shape,
        condition: Condition | None = None,
        *,
        start: int = 0,
        first: int = 0,
        steps: int | None = None,
        guidance_scale: float | None = None,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> Latent:
        """``num`` latents of videos of ``shape`` (T, H, W); ``temperature`` scales the noise."""
        weight, grid = self.embed.weight, self.space.spec.grid(shape, start)

        def noise(draw: int) -> Tensor:
            size = (self.space.h_channels, *grid)
            drawn = sample_noise(num, size, seed=seed, first=first, start=start, device=weight.device, draw=draw)
            return temperature * drawn.to(weight.dtype)

        field = self._field(condition, self.guidance_scale if guidance_scale is None else guidance_scale, start)
        times = flow.sampling_times(self.steps if steps is None else steps, self.shift, weight.device)
        if self.solver == "sde":
            h = sde(field, noise(0), times, fresh=lambda step: noise(step + 1), churn=self.churn)
        else:
            h = {"euler": euler, "heun": heun}[self.solver](field, noise(0), times)
        return self.space.project(h, num_frames=shape[0], start=start)

    def _field(self, condition: Condition | None, scale: float, start: int) -> Callable[[Tensor, Tensor], Tensor]:
        """The guided velocity; both halves of guidance go through the network as one batch."""
        if scale == 1 or self.label is None or condition is None or condition.label is None:
            return lambda x, t: self(x, t.to(x.dtype).expand(len(x)), condition, start)
        label = condition.label
        both = Condition(label=torch.cat([label, torch.full_like(label, -1)]))

        def guided(x: Tensor, t: Tensor) -> Tensor:
            conditional, unconditional = self(torch.cat([x, x]), t.to(x.dtype).expand(2 * len(x)), both, start).chunk(2)
            return guide(conditional, unconditional, scale)

        return guided

    def _drop_labels(self, condition: Condition | None) -> Condition | None:
        if condition is None or condition.label is None or self.label_dropout == 0:
            return condition
        dropped = torch.rand(condition.label.shape, device=condition.label.device) < self.label_dropout
        return Condition(label=torch.where(dropped, -1, condition.label))


def _per_cell(t: Tensor) -> Tensor:
    """(B,) or (B, t) noise levels, shaped to broadcast against (B, D, t, h, w)."""
    return t.view(len(t), 1, -1, 1, 1)
