"""``var``: next-scale prediction. A video is a pyramid of grids, coarse to fine; each is drawn at once, given those before it.

Sources: Tian et al., "Visual Autoregressive Modeling" (2024), for the order, the inputs, the loss and the ramp of guidance; Han
et al., "Infinity" (2024), for pyramids of bits and their self-correction; Liu et al., "InfinityStar" (2025), for videos as a
first frame and clips after it, each with a pyramid of its own; Ren et al., "FlowAR" (2024), for continuous latents by a flow.

The input of a scale is the sum of the scales before it, averaged down to its grid: real numbers, never an index, and the same in
training and in sampling. Where latents are continuous the generator owns the scales: each holds what those before it have left.

Deviations: the trunk and its positions are those of all generators here; time is an axis, constant over the scales unless a
pyramid has clips; a clip sees the finished latent of the clip before it, where InfinityStar shows it the largest scale, whose
input lacks what that scale itself adds; given cells are a prefix of finished latents too, and their tokens are forced at every
scale; FlowAR draws a scale by a flow over all its tokens, and here each token has its own, given the trunk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from vidgen.conditioning import Conditioner
from vidgen.errors import UserError
from vidgen.heads import build_head
from vidgen.latents import Condition, Latent, LatentSpec, Losses, Shape
from vidgen.nn.attention import Context, Mask, Sparse, sparse
from vidgen.nn.cache import KVCache
from vidgen.nn.given import covered, given_field, known_cells, with_given
from vidgen.nn.layout import Layout, from_tokens, to_tokens, token_layout
from vidgen.nn.parallel import counted_mean, own_rows, randn_like, world_size
from vidgen.nn.pyramid import area_down, checked_scales, residual_pyramid, upsample
from vidgen.nn.rope import rotary_table
from vidgen.nn.sequence import full_grid
from vidgen.nn.trunk import FinalNorm, Trunk
from vidgen.protocols import LatentSpace
from vidgen.samplers.guidance import GuidanceOptions, Schedule
from vidgen.samplers.noise import sample_uniform
from vidgen.samplers.places import apart, at_places, window_key

SCALES = True
"""Latents come coarse to fine: ``fit`` trains a discrete tokenizer as a pyramid for this generator."""

ROUTES = {
    "continuous": "unquantised residual pyramid of the standardised latents",
    "bits": "bitwise residual pyramid, with self-correction",
    "ids": "residual pyramid of codes",
}

UPSAMPLING = "trilinear"
"""The way up in the generator's own pyramid."""

LEAST_STD = 1e-4
"""Of a scale: on small grids two may be the same, and the second of these has nothing left."""


@dataclass(frozen=True)
class Block:
    """Tokens that are drawn, or shown, at once.

    Attributes:
        piece: which of the parts of the window that have a pyramid each.
        scale: of it, or one more than its last: the finished piece, as those after it see it.
        grid: cells.
        first: of its tokens in the layout of all scales; a finished piece lies where its last scale does.
        time: its piece's first cell of the window along time, and the one after its last.
    """

    piece: int
    scale: int
    grid: Shape
    first: int
    time: tuple[int, int]

    @property
    def tokens(self) -> slice:
        """Its places in the layout of all scales."""
        return slice(self.first, self.first + prod(self.grid))


@dataclass(frozen=True)
class Given:
    """Known cells as the first tokens of the sequence.

    Attributes:
        z: all cells (B, D, t, h, w), as tokens are made of.
        tokens: (B, N) those of all scales that are forced: they cover known cells alone.
        places: (n,) cells, in raster order, that are known in any clip.
        seen: (B, n) which of those each clip knows; None where all know the same.
    """

    z: Tensor
    tokens: Tensor
    places: Tensor
    seen: Tensor | None


Part = tuple[Tensor, Tensor, Tensor]
"""Tokens (B, n, width), what they are told (B, 1 or n, width) and where they lie (n, 3)."""


@dataclass(frozen=True)
class View:
    """What stays the same over all blocks of a window.

    Attributes:
        batch: clips, with those of guidance.
        layout: of the tokens of all scales.
        told: (B, 1, width), or (B, cells, width) one a cell.
        context: for cross-attention.
        given: known cells.
        full: (t * h * w,) places in the layout of the cells of the whole window, in raster order.
    """

    batch: int
    layout: Layout
    told: Tensor
    context: Context | None
    given: Given | None
    full: Tensor

    def condition(self, tokens: slice | Tensor) -> Tensor:
        """What tokens at these places of the layout are told."""
        return self.told if self.told.shape[1] == 1 else self.told[:, self.layout.cell[tokens]]


class VAR(nn.Module):
    """A generator: :class:`vidgen.protocols.Generator`.

    *Attention.* A token sees its whole scale, the scales before it, and known cells. In a pyramid with clips it sees these of its
    own clip, and the finished latents of ``memory`` clips before.

    *Known cells* (``Condition.known``) may be any, (B, t) or (B, t, h, w): inpainting, outpainting and editing by a label need no
    training. A token all of whose cells are known is forced at its scale, and z is the given one there; where known and new cells
    are in one frame, a pyramid's interpolation blurs over their border, so that z of known cells there is not quite the ids'.

    Args:
        space: the tokenizer's latent space, kept as a plain reference: continuous, or with scales.
        num_classes: labels the data has; 0 for none.
        num_actions: actions the data has; 0 for none.
        vocabulary: words of the data's captions.
        conditioning: what it is told, by part (:class:`vidgen.conditioning.Conditioner`).
        head: the likelihood of a token (:func:`vidgen.heads.build_head`).
        width: channels of a token.
        depth: blocks.
        heads: attention heads.
        mlp_ratio: hidden width of the feed-forward layers over ``width``.
        rope_theta: the rotary embedding's longest period over 2 pi, in cells of the full grid.
        scales: of continuous latents, fractions (t, h, w) of the grid, coarse to fine; a tokenizer with scales has its own.
        clip: of continuous latents, cells of time that have a pyramid of their own after cell 0; 0: one for the whole window.
        memory: finished clips that a clip sees, in pyramids with clips; at least 1.
        flip: of pyramids of bits, the largest chance that a training input's bit is wrong, so that later scales learn to mend it
            (Infinity's self-correction); others have none.
        noise: of continuous latents the same: the largest standard deviation of what is added to a scale in training, as a share
            of the scale's own, for later scales to take away.
        label_smoothing: share of each softmax's target that is uniform, in training.
        top_k: likeliest ids that sampling keeps, 0 for all: one number, or one a scale; real numbers have none.
        top_p: probability of the ids that sampling keeps, likewise.
        guidance_scale: 1 is no guidance, and costs one forward a scale.
        guidance_interval: the part of sampling's progress, 0 at the first scale and 1 at the last, that is guided.
        guidance_schedule: how guidance comes to its scale: ``constant``, ``linear`` (VAR's ramp from 1) or ``cosine``.
        checkpoint: less memory in training for more time.

    Raises:
        UserError: on discrete latents without scales, and on values that do not go together.
    """

    std: Tensor
    z_mean: Tensor
    z_std: Tensor

    takes_known = True

    def __init__(
        self,
        *,
        space: LatentSpace,
        num_classes: int = 0,
        num_actions: int = 0,
        vocabulary: Sequence[str] = (),
        conditioning: Mapping[str, Mapping[str, Any]],
        head: Mapping[str, Any],
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        mlp_ratio: float = 4.0,
        rope_theta: float = 10000.0,
        scales: Sequence[tuple[float, float, float]] = ((1.0, 0.125, 0.125), (1.0, 0.25, 0.25), (1.0, 0.5, 0.5), (1.0, 1.0, 1.0)),
        clip: int = 0,
        memory: int = 1,
        flip: float = 0.3,
        noise: float = 0.3,
        label_smoothing: float = 0.0,
        top_k: Sequence[int] = (0,),
        top_p: Sequence[float] = (1.0,),
        guidance_scale: float = 1.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        guidance_schedule: Schedule = "linear",
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.space = space
        self.spec = _with_scales(space.spec, scales, clip)
        assert self.spec.scales is not None
        self.scales = len(self.spec.scales)
        self.continuous = self.spec.levels is None
        if memory < 1 or not 0 <= flip <= 1 or noise < 0 or not 0 <= label_smoothing < 1:
            raise UserError(
                "var needs memory of at least 1, flip between 0 and 1, noise of at least 0 and label_smoothing of at least 0 and "
                f"below 1; got {memory}, {flip:g}, {noise:g} and {label_smoothing:g}."
            )
        self.memory, self.label_smoothing, self.rope_theta = memory, label_smoothing, rope_theta
        bits = self.spec.levels is not None and set(self.spec.levels) == {2}
        self.wrong = noise if self.continuous else flip if bits else 0.0
        self.top_k = _per_scale("top_k", (0,) if self.continuous else top_k, self.scales)
        self.top_p = _per_scale("top_p", (1.0,) if self.continuous else top_p, self.scales)
        self.wants = ("h", "logvar") if self.continuous else ("ids", "h") if self.wrong else ("ids",)
        self.conditioner = Conditioner(
            conditioning,
            width=width,
            space=space,
            num_classes=num_classes,
            num_actions=num_actions,
            vocabulary=vocabulary,
            guidance=GuidanceOptions(guidance_scale, guidance_interval, guidance_schedule),
        )
        if self.conditioner.takes_places and self.continuous and clip > 1 and any(scale[0] < 1 for scale in self.spec.scales):
            raise UserError("Cells that lie apart in time make no token of a coarse scale together: with spread, use clip=1.")
        self.trunk = Trunk(
            width=width,
            depth=depth,
            heads=heads,
            mlp_ratio=mlp_ratio,
            context=self.conditioner.needs_context,
            checkpoint=checkpoint,
        )
        channels = space.h_channels if self.continuous else self.spec.channels
        self.embed = nn.Linear(channels, width)
        self.begin = nn.Parameter(0.02 * torch.randn(width))
        self.scale = nn.Embedding(self.scales + 1, width)
        self.norm = FinalNorm(width)
        self.head: Any = build_head(head, space=space, width=width)
        for part in ("embed", "table"):  # tokens come in as sums of z, so that a head's own embedding has nothing to learn
            if isinstance(own := getattr(self.head, part, None), nn.Module):
                own.requires_grad_(False)
        nn.init.xavier_uniform_(self.embed.weight)
        nn.init.zeros_(self.embed.bias)
        nn.init.normal_(self.scale.weight, std=0.02)
        self.register_buffer("std", torch.ones(self.scales, channels))
        self.register_buffer("z_mean", torch.zeros(channels))
        self.register_buffer("z_std", torch.ones(channels))

    # Training

    @torch.no_grad()
    def prepare(self, latents: Latent) -> None:
        """Measures how large z is, channel by channel, and of continuous latents what each scale holds, noise included."""
        with torch.random.fork_rng():  # the same after a resume
            torch.manual_seed(0)
            _, sums = self._pyramid(latents)
            whole = torch.cat([z.flatten(2) for z in sums[self.scales - 1 :: self.scales]], dim=2)
            self.z_mean.copy_(whole.mean(dim=(0, 2)))
            self.z_std.copy_(whole.std(dim=(0, 2)).clamp_min(LEAST_STD))
            for scale in range(self.scales if self.continuous else 0):  # the noise of a scale is measured by its own size
                targets, _ = self._pyramid(latents, self.wrong)
                values = torch.cat(targets[scale :: self.scales], dim=1) * self.std[scale]
                self.std[scale] = values.square().mean(dim=(0, 1)).sqrt().clamp_min(LEAST_STD)

    def loss(self, latent: Latent, condition: Condition | None = None) -> Losses:
        """The mean over tokens of all scales: their negative log-likelihood, or for continuous latents the flow's loss."""
        latent, condition = self.conditioner.draw_cells(latent, condition)
        condition = self.conditioner.drop(self.conditioner.draw_known(latent, condition))
        return self._loss(latent, condition, self.wrong, self.label_smoothing)

    @torch.no_grad()
    def validation_loss(self, latent: Latent, condition: Condition | None = None) -> Tensor:
        """The same without anything that is random: no flips, no dropout, the posterior's mean."""
        training = self.head.training
        self.head.eval()  # whose own noise then is fixed
        loss = self._loss(replace(latent, logvar=None), condition, 0.0, 0.0).total
        self.head.train(training)
        return loss

    def _loss(self, latent: Latent, condition: Condition | None, wrong: float, smoothing: float) -> Losses:
        targets, sums = self._pyramid(latent, wrong)
        grids = self._grids(latent)
        given = self._given(condition, grids, latent.start)
        losses = self.head.loss(self(sums, grids, condition, latent.start, given), torch.cat(targets, dim=1), smoothing)
        total, count = counted_mean(losses, None if given is None else ~given.tokens)  # what is given need not be said
        return Losses(total=total, scalars={"flow" if self.continuous else "nll": total}, count=count)

    def forward(
        self,
        sums: Sequence[Tensor],
        grids: tuple[Shape, ...],
        condition: Condition | None = None,
        start: int = 0,
        given: Given | None = None,
    ) -> Tensor:
        """The trunk's output, after its norm, at the tokens of all scales at once, in the order of ``grids``: (B, N, width).

        Args:
            sums: z (B, D, t, h, w) after each scale, of each piece of the window that has a pyramid.
            grids: of all scales of all pieces.
            condition: of B clips.
            start: absolute index of the first cell.
            given: what is known of ``condition``, where it has been found already.
        """
        given = self._given(condition, grids, start) if given is None else given
        blocks = _blocks(grids, self.scales)
        view = self._view(condition, given, len(sums[0]), grids, start)
        parts = [self._shown(block, sums[block.piece * self.scales + block.scale - 1], view) for block in blocks]
        parts = [self._prefix(view), *parts] if given is not None else parts
        x, c, positions = (list(column) for column in zip(*parts, strict=True))
        per_token = view.told.shape[1] > 1
        rope = self._rope(torch.cat(positions))
        out = self.trunk(
            torch.cat(x, dim=1), torch.cat(c, dim=1) if per_token else c[0], rope, self._mask(grids, given), context=view.context
        )
        drawn = [block.scale < self.scales for block in blocks]
        drawn = [False, *drawn] if given is not None else drawn
        pairs = zip(out.split([part.shape[1] for part in x], dim=1), c, drawn, strict=True)
        kept = [(part, told) for part, told, is_drawn in pairs if is_drawn]
        told = torch.cat([told for _, told in kept], dim=1) if per_token else c[0]
        return self.norm(torch.cat([part for part, _ in kept], dim=1), told)

    # Sampling

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
        """``num`` latents of videos of ``shape`` (T, H, W), a forward for each scale, whose keys and values later ones find kept.

        Raises:
            UserError: for ``steps`` that are not as many as there are scales, and conditions that it was not trained with.
        """
        if steps not in (None, self.scales):
            raise UserError(f"var takes a step for each of its {self.scales} scales, and not {steps}: leave steps out.")
        condition = self.conditioner.checked(condition)
        grids = self.spec.grids(shape, start)
        guidance = self.conditioner.guide(condition, num, scale=guidance_scale)
        progress = [scale / max(self.scales - 1, 1) for scale in range(self.scales)]
        told, copies = guidance.at(*progress)
        where = window_key(start, apart(condition, start, full_grid(self.spec, grids)[0]))
        blocks, given = _blocks(grids, self.scales), self._given(condition, grids, start, copies=copies)
        view = self._view(told, given, copies * num, grids, start)
        stream = _Stream(self, view, blocks)
        ids: list[Tensor] = []
        finished: list[tuple[Tensor, list[Tensor]]] = []
        for index, block in enumerate(blocks):
            if block.scale == 0:
                z, ids = self.z_std.new_zeros(num, len(self.z_std), block.time[1] - block.time[0], *grids[-1][1:]), []
            x = stream.next(block, z)
            if block.scale == self.scales:
                continue
            size, weights = (prod(block.grid), self.head.draws), guidance.weights(progress[block.scale])
            tokens, _ = self.head.sample(
                x if weights else x[-num:],
                weights,
                temperature,
                sample_uniform(num, size, seed=seed, first=first, start=where, device=x.device, draw=index),
                self.top_k[block.scale],
                self.top_p[block.scale],
            )
            tokens = self._kept(tokens, z, block, given, condition)
            if self.continuous:
                z = z + upsample(from_tokens(tokens * self.std[block.scale], block.grid), _grid(z), UPSAMPLING)
            else:
                ids.append(tokens)
                z = self.space.embed(torch.cat(ids, dim=1), grids[block.piece * self.scales :][: self.scales])
            if block.scale == self.scales - 1:
                finished.append((z, ids))
        return self._latent(finished, shape, start, condition)

    def _kept(self, tokens: Tensor, z: Tensor, block: Block, given: Given | None, condition: Condition | None) -> Tensor:
        """The tokens of a scale, with those of known cells in the place of what was drawn."""
        if given is None or condition is None or condition.known is None:
            return tokens
        time = slice(*block.time)
        if self.continuous:  # what is left there of what is given
            h = given_field(condition, "h")
            truth = to_tokens(area_down(h[:, :, time].to(z) - z, block.grid)) / self.std[block.scale]
        else:
            truth = given_field(condition, "ids")[:, block.tokens]
        return torch.where(given.tokens[: len(tokens), block.tokens].unsqueeze(-1), truth, tokens)

    def _latent(
        self, finished: list[tuple[Tensor, list[Tensor]]], shape: Shape, start: int, condition: Condition | None
    ) -> Latent:
        """The pieces as one latent, in which known cells are what they were."""
        z = torch.cat([z for z, _ in finished], dim=2)
        if self.continuous:
            made = self.space.project(z, num_frames=shape[0], start=start)
        else:
            ids = torch.cat([part for _, parts in finished for part in parts], dim=1)
            made = Latent(
                spec=self.space.spec, grids=self.space.spec.grids(shape, start), num_frames=shape[0], start=start, z=z, ids=ids
            )
        return with_given(made, condition)

    # What the trunk is shown

    def _view(self, condition: Condition | None, given: Given | None, batch: int, grids: tuple[Shape, ...], start: int) -> View:
        layout = token_layout(self.spec, grids, start, self.begin.device)
        cells = full_grid(self.spec, grids)[0]
        positions = at_places(layout.positions, layout.cell, apart(condition, start, cells))
        told, context = self.conditioner.told(condition, batch, cells, start)
        return View(
            batch=batch,
            layout=replace(layout, positions=positions),
            told=told,
            context=context,
            given=given,
            full=_full(grids, self.scales, self.begin.device),
        )

    def _shown(self, block: Block, z: Tensor, view: View) -> Part:
        """A block's tokens: the sum so far at its grid, or the vector that begins; ``z`` is that sum, unused at scale 0."""
        c = view.condition(block.tokens)
        scale = self.scale.weight[block.scale]
        if block.scale == 0:
            return (self.begin + scale + c).expand(view.batch, prod(block.grid), -1), c, view.layout.positions[block.tokens]
        z = z if block.scale == self.scales else area_down(z, block.grid)
        x = self.embed(self._standard(z)) + scale
        x = x.repeat(view.batch // len(x), 1, 1)
        return x, c, view.layout.positions[block.tokens]

    def _prefix(self, view: View) -> Part:
        """Known cells as tokens."""
        assert view.given is not None
        places = view.full[view.given.places]
        x = self.embed(self._standard(view.given.z)[:, view.given.places]) + self.scale.weight[self.scales]
        return x, view.condition(places), view.layout.positions[places]

    def _standard(self, z: Tensor) -> Tensor:
        """(B, D, t, h, w) in whatever units -> tokens (B, n, D) of unit variance, in the dtype of the weights."""
        return (to_tokens(z).to(self.begin.dtype) - self.z_mean) / self.z_std

    def _rope(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        return rotary_table(positions, self.trunk.head_dim, self.rope_theta)

    def _mask(self, grids: tuple[Shape, ...], given: Given | None) -> Mask:
        """Who sees whom, of all blocks at once, the known cells first."""
        seen = None if given is None else given.seen
        known = 0 if given is None else len(given.places)
        if seen is None and len(grids) == self.scales:
            return (*([known] if known else []), *map(prod, grids))
        sight = _sight(grids, self.scales, self.memory, known, self.begin.device)
        if seen is None:
            return sight
        mask = sight.dense().to(seen.device).expand(len(seen), 1, -1, -1).clone()
        mask[..., :known] &= seen[:, None, None]
        return mask | torch.eye(mask.shape[-1], dtype=torch.bool, device=mask.device)  # a softmax needs something

    # Latents

    def _grids(self, latent: Latent) -> tuple[Shape, ...]:
        """Of all scales; a continuous latent's own grids know nothing of them."""
        if self.space.spec.scales is not None:
            return latent.grids
        t, h, w = latent.grids[0]
        spec = self.spec
        return spec.grids((spec.frames(t, latent.start), h * spec.stride[1], w * spec.stride[2]), latent.start)

    @torch.no_grad()
    def _pyramid(self, latent: Latent, wrong: float = 0.0) -> tuple[list[Tensor], list[Tensor]]:
        """Per scale of each piece what is to be predicted (B, n, L or D), and z (B, D, t, h, w) with it.

        ``wrong`` is the largest chance of a flipped bit, or the largest noise, which later scales are to mend.
        """
        if not self.continuous:
            return self.space.pyramid(latent, wrong)
        h, grids = latent.h, self._grids(latent)
        assert h is not None
        if latent.logvar is not None:
            h = latent.drawn(randn_like(h))
        targets, sums = [], []
        for piece, part in enumerate(h.split(self.spec.pieces(h.shape[2], latent.start), dim=2)):
            residues, own = residual_pyramid(
                part, grids[piece * self.scales :][: self.scales], UPSAMPLING, partial(self._seen, wrong)
            )
            targets += [to_tokens(residue) / self.std[scale] for scale, residue in enumerate(residues)]
            sums += own
        return targets, sums

    def _seen(self, wrong: float, scale: int, residue: Tensor) -> Tensor:
        """What a scale of real numbers adds to the sum in training: itself and, but for the last, noise."""
        if not wrong or scale == self.scales - 1:
            return residue
        level = wrong * own_rows(torch.rand(world_size() * len(residue), 1, 1, 1, 1, device=residue.device))
        return residue + level * self.std[scale].view(-1, 1, 1, 1) * randn_like(residue)

    @torch.no_grad()
    def _given(self, condition: Condition | None, grids: tuple[Shape, ...], start: int, copies: int = 1) -> Given | None:
        """The known cells of a condition, ``copies`` times; None where there are none."""
        mask = known_cells(condition, full_grid(self.spec, grids), start)
        if condition is None or condition.known is None or mask is None or not bool(mask.any()):
            return None
        if not self.continuous and condition.known.z is None:
            z = self.space.embed(given_field(condition, "ids"), condition.known.grids)
        else:
            z = given_field(condition, "h" if self.continuous else "z")
        z, mask = z.repeat(copies, 1, 1, 1, 1), mask.repeat(copies, 1, 1, 1).to(z.device)
        flat = mask.flatten(1)
        places = flat.any(dim=0).nonzero().squeeze(1)
        seen = flat[:, places]
        return Given(z, covered(mask, grids, self.scales), places, None if bool(seen.all()) else seen)


class _Stream:
    """The trunk with its cache, shown one block after another; what no later block sees is forgotten."""

    def __init__(self, model: VAR, view: View, blocks: Sequence[Block]) -> None:
        self.model, self.view = model, view
        self.held: list[tuple[Block | None, int]] = []
        prefix = 0 if view.given is None else len(view.given.places)
        most = max(
            sum(prod(other.grid) for other in blocks[: index + 1] if _sees(block, other, model.scales, model.memory))
            for index, block in enumerate(blocks)
        )
        self.cache = KVCache(model.trunk, view.batch, prefix + most)
        if view.given is not None:
            self._run(None, model._prefix(view))

    def next(self, block: Block, z: Tensor) -> Tensor:
        """The trunk's output (B, n, width) at the next block, given z so far."""
        first = 0
        for other, size in list(self.held):
            if _sees(block, other, self.model.scales, self.model.memory):
                first += size
            else:
                self.cache.drop(first, first + size)
                self.held.remove((other, size))
        return self._run(block, self.model._shown(block, z, self.view))

    def _run(self, block: Block | None, part: Part) -> Tensor:
        x, c, positions = part
        mask = self._mask(x.shape[1])
        self.held.append((block, x.shape[1]))
        out = self.model.trunk(x, c, self.model._rope(positions), mask, cache=self.cache, context=self.view.context)
        return self.model.norm(out, c)

    def _mask(self, new: int) -> Tensor | None:
        """Where clips know different cells, each sees its own."""
        given = self.view.given
        if given is None or given.seen is None:
            return None
        if not self.held:
            return (given.seen.unsqueeze(1) | torch.eye(new, dtype=torch.bool, device=given.seen.device)).unsqueeze(1)
        seen = given.seen.new_ones(len(given.seen), 1, 1, self.cache.length + new)
        seen[..., : len(given.places)] = given.seen[:, None, None]
        return seen


@lru_cache(maxsize=64)
def _blocks(grids: tuple[Shape, ...], scales: int) -> tuple[Block, ...]:
    """Piece after piece its scales, and then, but for the last, the piece as a whole."""
    blocks, first, cell = [], 0, 0
    for piece in range(len(grids) // scales):
        own = grids[piece * scales :][:scales]
        time = (cell, cell + own[-1][0])
        for scale, grid in enumerate(own):
            blocks.append(Block(piece, scale, grid, first, time))
            first += prod(grid)
        if (piece + 1) * scales < len(grids):
            blocks.append(Block(piece, scales, own[-1], first - prod(own[-1]), time))
        cell = time[1]
    return tuple(blocks)


def _sees(one: Block | None, other: Block | None, scales: int, memory: int) -> bool:
    """Whether tokens of ``one`` see those of ``other``; None for the known cells."""
    if other is None or one is None:
        return other is None
    if other.scale == scales:
        return one == other or 0 < one.piece - other.piece <= memory
    return one.piece == other.piece and other.scale <= one.scale < scales


@lru_cache(maxsize=16)
def _sight(grids: tuple[Shape, ...], scales: int, memory: int, known: int, device: torch.device) -> Sparse:
    """Which tokens of all blocks see which, after ``known`` cells that are given; a piece's blocks attend together."""
    blocks = [*([None] if known else []), *_blocks(grids, scales)]
    pieces = Counter(None if block is None else block.piece for block in blocks)
    with torch.inference_mode(False):  # what was made for sampling is used in training too
        table = torch.tensor([[_sees(one, other, scales, memory) for other in blocks] for one in blocks])
        return sparse(table, [known if block is None else prod(block.grid) for block in blocks], list(pieces.values()), device)


@lru_cache(maxsize=64)
def _full(grids: tuple[Shape, ...], scales: int, device: torch.device) -> Tensor:
    """The places, in the layout of all scales, of the cells of the whole window."""
    last = [block for block in _blocks(grids, scales) if block.scale == scales - 1]
    with torch.inference_mode(False):
        return torch.cat([torch.arange(block.first, block.tokens.stop, device=device) for block in last])


def _grid(z: Tensor) -> Shape:
    return z.shape[2], z.shape[3], z.shape[4]


def _per_scale(option: str, values: Sequence[Any], scales: int) -> tuple[Any, ...]:
    """One value a scale."""
    if len(values) not in (1, scales):
        raise UserError(f"{option} has one value for all scales, or one for each of the {scales}, and this has {len(values)}.")
    return tuple(values) * (scales if len(values) == 1 else 1)


def _with_scales(spec: LatentSpec, scales: Sequence[tuple[float, float, float]], clip: int) -> LatentSpec:
    """A tokenizer's spec with the scales that are generated: its own, or of continuous latents the generator's."""
    if spec.scales is not None:
        return spec
    if spec.levels is not None:
        bits = all(level == 2 for level in spec.levels)
        raise UserError(
            "var goes from coarse to fine, and this tokenizer's ids have a single scale: use "
            f"tokenizer={'pyramid_lfq' if bits else 'pyramid'}, or let 'vidgen fit generator=var' train this one with scales."
        )
    return replace(spec, scales=checked_scales(scales, clip), clip=clip or None)
