"""``dit``: a diffusion transformer on the tokenizer's ``h``, along a rectified flow or along DDPM's path.

Sources: Peebles and Xie, "Scalable Diffusion Models with Transformers" (2022) for the network, and for DDPM's objective and
sampler; Esser et al., "Scaling Rectified Flow Transformers" (2024) for the flow's; Chen et al., "Analog Bits" (2022) for binary
codes, which are diffused as the real numbers -1 and 1 and decided by their sign at the end; Ma et al., "Latte" (2024) for
factorised attention; Chen et al., "Diffusion Forcing" (2024) for noise levels by cell.

Deviations from DiT: rectified flow by default in the place of 1000 discrete steps; rotary positions; normalised queries and keys;
guidance acts on every channel; DDPM's level k of 1000 is told as k and not as k - 1, 0 being clean data. From Analog Bits: a
network that predicts clean bits is given what each noisy bit says of itself, in closed form (``bit_evidence`` in
:mod:`vidgen.samplers.paths`), and learns only what the other bits and the condition add to its log-odds. From Diffusion Forcing:
clean cells that are shown at a small noise level have that noise, and are not merely scaled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from vidgen.conditioning import Conditioner
from vidgen.errors import UserError, did_you_mean
from vidgen.latents import Condition, Latent, Losses, Shape
from vidgen.nn.causal_conv import patchify, unpatchify
from vidgen.nn.embeddings import TimestepEmbedding
from vidgen.nn.given import given_field, known_cells, per_cell, with_given
from vidgen.nn.parallel import counted_mean, own_rows, randn_like, world_size
from vidgen.nn.rope import grid_positions, rotary_table
from vidgen.nn.trunk import FinalLayer, Layers, Trunk
from vidgen.protocols import LatentSpace
from vidgen.samplers import flow
from vidgen.samplers.forcing import SCHEDULES, forced_times
from vidgen.samplers.forcing import Schedule as Forcing
from vidgen.samplers.guidance import Guidance, GuidanceOptions, Schedule
from vidgen.samplers.noise import sample_noise
from vidgen.samplers.paths import DDPM, PATHS, PREDICTIONS, Prediction, build_path
from vidgen.samplers.places import apart, at_places, window_key
from vidgen.samplers.solve import SOLVERS, Network, Solver, solve
from vidgen.samplers.vlb import vlb_bits

ROUTES = {
    "continuous": "standardised latents",
    "bits": "analog bits, sign at decode",
    "ids": "pre-quantised latents, nearest code at decode",
}

Shown = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From samples and their noise levels to those that the network sees."""

CHOICES = {
    "path": PATHS,
    "prediction": PREDICTIONS,
    "times": ("logit_normal", "uniform"),
    "noise_levels": ("clip", "cell"),
    "solver": SOLVERS,
    "forcing": SCHEDULES,
}


class DiT(nn.Module):
    """A generator: :class:`vidgen.protocols.Generator`.

    Args:
        space: the tokenizer's latent space, kept as a plain reference.
        num_classes: labels the data has; 0 for none.
        num_actions: actions the data has; 0 for none.
        vocabulary: words of the data's captions.
        width: channels of a token.
        depth: blocks.
        heads: attention heads.
        mlp_ratio: hidden width of the feed-forward layers over ``width``.
        patch: cells (t, h, w) that make one token; where it does not divide a grid, empty cells fill the last tokens. What is
            told of each cell along time (actions) is told to a token as the mean over its cells.
        attention: ``joint``, ``alternate`` or ``divided`` (:class:`vidgen.nn.trunk.Trunk`).
        rope_theta: the rotary embedding's longest period over 2 pi, in tokens.
        path: from data to noise: ``flow``, or DDPM's with ``linear`` or ``cosine`` variances.
        prediction: what the network emits: the velocity ``v``, the clean latent ``x`` (of bits, the context's part of their
            log-odds), or the noise ``epsilon``. The loss is on that; on the flow it is on the velocity, whatever is predicted.
        learned_sigma: DDPM's variances are learned too, by the variational bound.
        times: law of the training noise levels: ``logit_normal``, or ``uniform``, which has no use for the next two.
        time_mean: mean of their logit.
        time_std: its standard deviation.
        shift: of the flow: moves training and sampling noise levels towards noise (> 1), as redundant latents want.
        min_snr: weighs errors of the clean latent by the ratio of signal to noise up to this (Hang et al., 2023: 5); 0: not.
        noise_levels: of training: one for a ``clip``, or one for each ``cell`` along time (diffusion forcing).
        conditioning: what it is told, by part (:class:`vidgen.conditioning.Conditioner`).
        solver: ``euler``, ``heun``, ``ddim``, ``dpm2m`` (DPM-Solver++), ``ddpm``, ``euler_maruyama``, or ``sde``, which renews
            the noise as it goes (:mod:`vidgen.samplers.ode`, :mod:`vidgen.samplers.sde`).
        churn: of ``sde``: how much faster than DDPM noise is renewed; 0 is ``ddim``, much of it mends errors but costs variety;
            of ``euler_maruyama``: the strength of its noise.
        eta: of ``ddim``: the share of DDPM's noise that is fresh.
        forcing: how the noise levels of cells fall: ``full_sequence``, all as one; ``pyramid``, ``autoregressive`` or
            ``trapezoid``, which need a model of ``noise_levels: cell`` (:mod:`vidgen.samplers.forcing`).
        lag: of ``pyramid`` and ``trapezoid``: steps from one cell to the next.
        stabilisation: noise level at which given and finished cells are shown, against errors that pile up.
        steps: solver steps of a sample; with ``forcing``, of a cell.
        guidance_scale: 1 is no guidance, and costs one forward a step.
        guidance_interval: the part of sampling's progress, from 0 to 1, in which there is guidance.
        guidance_schedule: how its strength goes over that progress: ``constant``, ``linear`` or ``cosine``.
        checkpoint: trade time for memory in training.

    Raises:
        UserError: on a word that it does not know, on sizes that make no network or no sample, and on options that need others.
    """

    def __init__(
        self,
        *,
        space: LatentSpace,
        num_classes: int = 0,
        num_actions: int = 0,
        vocabulary: Sequence[str] = (),
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        mlp_ratio: float = 4.0,
        patch: Shape = (1, 2, 2),
        attention: Layers = "joint",
        rope_theta: float = 10000.0,
        path: Literal["flow", "linear", "cosine"] = "flow",
        prediction: Prediction = "v",
        learned_sigma: bool = False,
        times: Literal["logit_normal", "uniform"] = "logit_normal",
        time_mean: float = 0.0,
        time_std: float = 1.0,
        shift: float = 1.0,
        min_snr: float = 0.0,
        noise_levels: Literal["clip", "cell"] = "clip",
        conditioning: Mapping[str, Mapping[str, Any]] | None = None,
        solver: Solver = "euler",
        churn: float = 1.0,
        eta: float = 0.0,
        forcing: Forcing = "full_sequence",
        lag: float = 1.0,
        stabilisation: float = 0.0,
        steps: int = 50,
        guidance_scale: float = 1.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        guidance_schedule: Schedule = "constant",
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        words = (path, prediction, times, noise_levels, solver, forcing)
        for (option, choices), value in zip(CHOICES.items(), words, strict=True):
            if value not in choices:
                raise UserError(f"dit knows no {option} '{value}'.{did_you_mean(value, choices)} Use {', '.join(choices)}.")
        if len(patch) != 3 or min(patch) < 1:
            given, fits = (list(cells) for cells in (patch, [max(1, cells) for cells in (1, 1, 1, *patch)[-3:]]))
            raise UserError(f"dit's patch={given} is not [frames,height,width] of at least 1 each; the nearest is patch={fits}.")
        for size, number, made in (("width", width, "transformer"), ("steps", steps, "sample")):
            if number < 1:
                raise UserError(f"{size}={number} makes no {made}: give {size}=1 or more.")
        for wrong, what in (
            (path == "flow" and prediction == "epsilon", "On the flow pure noise tells no data: use prediction=v or x"),
            (path == "flow" and learned_sigma, "The flow has no variances to learn: use learned_sigma=false, or path=linear"),
            (path != "flow" and shift != 1, f"shift={shift:g} is of the flow: use shift=1 with path={path}"),
            (forcing != SCHEDULES[0] and noise_levels == "clip", f"forcing={forcing} needs a model of noise_levels=cell"),
            (stabilisation > 0 and noise_levels == "clip", "stabilisation needs a model of noise_levels=cell"),
            (not 0 <= stabilisation < 1, f"stabilisation={stabilisation:g} is no noise level: give one from 0 to below 1"),
        ):
            if wrong:
                raise UserError(f"{what}.")
        self.space = space
        self.wants: tuple[str, ...] = ("h", "logvar") if space.spec.kind == "continuous" else ("h",)
        self.patch, self.rope_theta = patch, rope_theta
        self.path, self.prediction, self.learned_sigma = build_path(path, shift), prediction, learned_sigma
        self.times, self.time_mean, self.time_std = times, time_mean, time_std
        self.min_snr, self.noise_levels = min_snr, noise_levels
        self.solver, self.churn, self.eta, self.steps = solver, churn, eta, steps
        self.forcing, self.lag, self.stabilisation = forcing, lag, stabilisation
        features = space.h_channels * prod(patch)
        self.embed = nn.Linear(features, width)
        self.time = TimestepEmbedding(width)
        self.conditioner = Conditioner(
            {} if conditioning is None else conditioning,
            width=width,
            space=space,
            num_classes=num_classes,
            num_actions=num_actions,
            vocabulary=vocabulary,
            guidance=GuidanceOptions(guidance_scale, guidance_interval, guidance_schedule),
        )
        self.trunk = Trunk(
            width=width,
            depth=depth,
            heads=heads,
            mlp_ratio=mlp_ratio,
            context=self.conditioner.needs_context,
            attention=attention,
            checkpoint=checkpoint,
        )
        self.final = FinalLayer(width, (2 if learned_sigma else 1) * features)
        nn.init.xavier_uniform_(self.embed.weight)
        nn.init.zeros_(self.embed.bias)
        frames = self.conditioner.parts["frames"] if "frames" in self.conditioner.names else None
        self.by_cell = noise_levels == "cell" or frames is not None  # whether it learns of cells at unlike levels
        self.takes_known = self.by_cell
        if self.conditioner.takes_places and patch[0] > 1:
            raise UserError(f"Cells that lie apart in time make no token together: with spread, use patch={[1, *patch[1:]]}.")
        inside = (self.by_cell and patch[0] > 1) or (frames is not None and frames.regions and prod(patch) > 1)
        self.unlike = nn.Parameter(torch.zeros(prod(patch), width)) if inside else None

    def prepare(self, latents: Latent) -> None:
        """Nothing to measure: ``h`` comes standardised, or as bits."""

    # The network ------------------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, t: Tensor, condition: Condition | None = None, start: int = 0) -> Tensor:
        """The network: noisy ``h`` (B, D, t, h, w) -> what it predicts, (B, D, t, h, w).

        With learned variances, (B, 2 D, t, h, w): the second half is -1 for the smaller variance and 1 for the larger.

        Args:
            x: noisy ``h``.
            t: noise levels (B,), or one a cell: (B, t) or (B, t, h, w).
            condition: what it is told.
            start: absolute index of the first cell.
        """
        _, _, frames, height, width = x.shape
        tokens = patchify(self._filled(x).movedim(1, -1), self.patch)
        grid = tokens.shape[1:4]
        embedded = self.embed(tokens.flatten(1, 3))
        said, context = self.conditioner.told(condition, len(x), frames, start)
        c = self._by_token(said, grid)
        if t.ndim == 1:
            c = c + self.time(t).unsqueeze(1)
        else:  # a token is at the level of its noisiest cell, and is told how much cleaner the others are
            by_cell = self._filled(per_cell(t).expand(-1, -1, frames, height, width), "replicate").movedim(1, -1)
            levels = patchify(by_cell, self.patch).flatten(1, 3)
            highest = levels.amax(-1, keepdim=True)
            c = c + self.time(highest.squeeze(-1))
            if self.unlike is not None:
                embedded = embedded + (levels - highest).to(embedded.dtype) @ self.unlike.to(embedded.dtype)
        positions = grid_positions((grid[0], grid[1], grid[2]), start / self.patch[0], x.device)
        cell = torch.arange(grid[0], device=x.device).repeat_interleave(grid[1] * grid[2])  # one a token, where they lie apart
        positions = at_places(positions, cell, apart(condition, start, frames))
        rope = rotary_table(positions, self.trunk.head_dim, self.rope_theta)
        features = self.final(self.trunk(embedded, c, rope, context=context, frames=grid[0]), c)
        out = unpatchify(features.to(x.dtype).unflatten(1, grid), self.patch)[:, :frames, :height, :width].movedim(-1, 1)
        if self.prediction == "x" and self.space.spec.kind == "bits":
            log_odds, *share = out.chunk(2, dim=1) if self.learned_sigma else (out,)
            out = torch.cat([torch.tanh(self.path.bit_evidence(x, per_cell(t)) + log_odds), *share], dim=1)
        return out

    def _by_token(self, said: Tensor, grid: Sequence[int]) -> Tensor:
        """What cells are told, (B, t, width), for tokens, (B, N, width): the mean over its cells. What all are told stays."""
        if said.shape[1] == 1:
            return said
        last = torch.arange(grid[0] * self.patch[0], device=said.device).clamp_max(said.shape[1] - 1)
        return said[:, last].unflatten(1, (grid[0], self.patch[0])).mean(2).repeat_interleave(grid[1] * grid[2], dim=1)

    def _filled(self, x: Tensor, mode: str = "constant") -> Tensor:
        """``x`` with more cells after its last ones, so that whole patches cover it: every size and length is welcome."""
        short = [-size % patch for size, patch in zip(x.shape[2:], self.patch, strict=True)]
        return F.pad(x, (0, short[2], 0, short[1], 0, short[0]), mode=mode) if any(short) else x

    def denoise(
        self, x: Tensor, t: Tensor, condition: Condition | None = None, start: int = 0
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """One pass of the network: the velocity, the share of the larger variance (0 to 1) or None, and what it predicted."""
        out, *rest = self(x, t, condition, start).chunk(2 if self.learned_sigma else 1, dim=1)
        share = (rest[0].float() + 1) / 2 if rest else None
        return self.path.velocity_from(self.prediction, out, x, per_cell(t)), share, out

    # Training ---------------------------------------------------------------------------------------------------------------

    def loss(self, latent: Latent, condition: Condition | None = None) -> Losses:
        """Mean squared error at random noise levels over the cells that are not given; with learned variances, and the bound."""
        latent, condition = self.conditioner.draw_cells(latent, condition)
        x = latent.h
        assert x is not None
        clips = world_size() * len(x)
        shape = (clips, x.shape[2]) if self.noise_levels == "cell" else (clips,)
        if self.times == "uniform":
            t = self.path.levels(own_rows(torch.rand(shape, device=x.device)))
        else:
            t = self.path.levels(own_rows(flow.logit_normal(shape, self.time_mean, self.time_std, x.device)))
        noise = randn_like(x)
        condition = self.conditioner.drop(self.conditioner.draw_known(latent, condition))
        if latent.logvar is not None:  # of a continuous latent each step sees another draw of the posterior
            x = latent.drawn(randn_like(x))
        return self.loss_at(x, t, noise, condition, latent.start)

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
        """The objective at given noise levels (B,) or (B, t) and noise; given cells are clean, and count for nothing."""
        level = per_cell(t)
        x_t, counted, path = self.path.interpolate(x, noise, level), None, self.path
        if (given := _given(condition, (x.shape[2], x.shape[3], x.shape[4]), start)) is not None:
            known, mask = given
            x_t, level = torch.where(mask, known.to(x), x_t), torch.where(mask, 0, level)
            t, counted = level.expand(-1, 1, *x.shape[2:]).squeeze(1), (~mask).expand_as(x).to(x.dtype)
            x = torch.where(mask, known.to(x), x)
        v, share, out = self.denoise(x_t, t, condition, start)
        unit: Prediction = self.prediction if isinstance(path, DDPM) else "v"
        error = F.mse_loss(v if unit == "v" else out, path.target(unit, x, noise, level), reduction="none")
        if self.min_snr:
            error = error * path.min_snr(unit, level, self.min_snr)
        total, count = counted_mean(error, counted)
        scalars = {"ddpm" if isinstance(path, DDPM) else "flow": total}
        if share is not None and isinstance(path, DDPM):
            bits = vlb_bits(path, x.float(), x_t.float(), v.float(), share, level.clamp_min(1 / path.T))
            scalars["vlb"], _ = counted_mean(bits, counted)
        return Losses(total=torch.stack(list(scalars.values())).sum(), scalars=scalars, count=count)

    # Sampling ---------------------------------------------------------------------------------------------------------------

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
        guidance_scale: float | Mapping[str, float] | None = None,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> Latent:
        """``num`` latents of videos of ``shape`` (T, H, W); ``temperature`` scales the noise.

        ``guidance_scale`` may be a scale for each part of the condition by its name. Given cells come back to the bit. A model
        that has not seen given cells in training is shown them at the noise level of the rest (as Song et al., "Score-Based
        Generative Modeling", 2021, inpaint).
        """
        condition = self.conditioner.checked(condition)
        weight, grid = self.embed.weight, self.space.spec.grid(shape, start)
        given, where = _given(condition, grid, start), window_key(start, apart(condition, start, grid[0]))

        def noise(draw: int) -> Tensor:
            size = (self.space.h_channels, *grid)
            drawn = sample_noise(num, size, seed=seed, first=first, start=where, device=weight.device, draw=draw)
            return temperature * drawn.to(weight.dtype)

        times, length = self._times(self.steps if steps is None else steps, given, grid[0])
        guidance = self.conditioner.guide(condition, num, scale=guidance_scale)
        shown = self._shown(given, noise(-1) if given or self.stabilisation else None)
        network = self._guided(guidance, times, length, shown, start)
        h = solve(self.solver, network, noise(0), times, self.path, fresh=lambda i: noise(i + 1), churn=self.churn, eta=self.eta)
        h = h if given is None else torch.where(given[1], given[0].to(h), h)
        return with_given(self.space.project(h, num_frames=shape[0], start=start), condition)

    def _times(self, steps: int, given: Given | None, cells: int) -> tuple[Tensor, int]:
        """Falling noise levels, numbers or with forcing (rows, B, 1, cells, 1, 1); and how many where nothing is given."""
        times = self.path.times(steps, self.embed.weight.device)
        if self.forcing == "full_sequence":
            return times, len(times)
        free = [False] * cells
        known = [free] if given is None else given[1].flatten(3).all(3)[:, 0].tolist()
        rows = pad_sequence([forced_times(self.forcing, times, clip, self.lag) for clip in known])  # those who are done wait
        return rows[:, :, None, :, None, None], len(forced_times(self.forcing, times, free, self.lag))

    def _shown(self, given: Given | None, noise: Tensor | None) -> Shown:
        """How samples at noise levels, a number or one a cell, are shown to the network, and at which levels."""

        def shown(x: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
            if given is not None and noise is not None:
                known, mask = given[0].to(x), given[1]
                x = torch.where(mask, known if self.by_cell else self.path.interpolate(known, noise, level), x)
                level = torch.where(mask, 0, level) if self.by_cell else level
            if self.stabilisation and noise is not None:
                clean, low = level == 0, torch.full_like(level, self.stabilisation)
                x, level = torch.where(clean, self.path.interpolate(x, noise, low), x), torch.where(clean, low, level)
            return x, level

        return shown

    def _guided(self, guidance: Guidance, times: Tensor, length: int, shown: Shown, start: int) -> Network:
        """The guided velocity and the share of the larger variance, which is not guided; all copies go as one batch.

        Progress is counted over ``length`` times, whatever is given: a sample does not depend on its batch.
        """
        totals = times.flatten(1).sum(1).tolist() if times.ndim > 1 else times.tolist()

        def network(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
            progress = 1.0
            if guidance.scales and length > 2 and not guidance.options.steady:
                now = float(t.sum()) + 1e-9
                progress = min(sum(total > now for total in totals) / (length - 2), 1.0)
            condition, copies = guidance.at(progress)
            x, level = shown(x, t.to(x.dtype))
            level = level.expand(len(x)) if level.ndim == 0 else level.expand(len(x), 1, *x.shape[2:]).squeeze(1)
            v, share, _ = self.denoise(torch.cat([x] * copies), torch.cat([level] * copies), condition, start)
            return guidance.join(v, progress), None if share is None else share.chunk(copies)[-1]

        return network


Given = tuple[Tensor, Tensor]
"""``h`` of a window (B, D, t, h, w), and which of its cells are given, (B, 1, t, h, w)."""


def _given(condition: Condition | None, grid: Shape, start: int) -> Given | None:
    """The given cells of a condition; None where there are none."""
    cells = known_cells(condition, grid, start)
    if condition is None or cells is None:
        return None
    h = given_field(condition, "h")
    return h, cells.unsqueeze(1).to(h.device)
