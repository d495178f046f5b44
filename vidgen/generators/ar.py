"""``ar``: one token after another, each predicted from all that come before it, whose keys and values are kept.

Sources: Yan et al., "VideoGPT" (2021), for autoregression over the tokens of a video; Li et al., "Autoregressive Image Generation
without Vector Quantization" (2024), for continuous tokens by a small generative head, here a flow; Yu et al., "Randomized
Autoregressive Visual Generation" (2024), for telling the network where the token lies that it is to predict; Kondratyuk et al.,
"VideoPoet" (2023), for a given part of the video as a prefix that sees itself in both directions.

The input at the place of a token is the embedding of the token before it in the order of generation, with where that one lies as
seen from here (a displacement, in the sinusoids of the rotary embedding); the rotary position is the predicted token's own. So
the network always knows which token it predicts, and any order will do.

Deviations from VideoGPT: token embeddings are learned and not the codebook's vectors; positions are rotary and not tables, so any
length and size will do; attention is to all tokens, or a window, and not strided; no dropout. Its other options are here in
general form: conditional norms are the trunk's adaLN, and attention to given frames is the conditioning part ``frames``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgen.conditioning import Conditioner
from vidgen.errors import UserError, did_you_mean
from vidgen.heads import build_head
from vidgen.latents import Condition, Latent, Losses, Shape
from vidgen.nn.attention import Context
from vidgen.nn.cache import KVCache
from vidgen.nn.layout import token_layout
from vidgen.nn.parallel import counted_mean, randn_like
from vidgen.nn.rope import rotary_table
from vidgen.nn.sequence import ORDERS, Places, full_grid, generation_order
from vidgen.nn.tokens import Tokens
from vidgen.nn.trunk import FinalNorm, Trunk
from vidgen.protocols import LatentSpace
from vidgen.samplers.discrete import check_truncation
from vidgen.samplers.guidance import Guidance, GuidanceOptions, Schedule
from vidgen.samplers.noise import sample_uniform
from vidgen.samplers.places import apart, at_places, window_key

ROUTES = {
    "continuous": "standardised latents, one cell after another",
    "bits": "the bits of one cell after another",
    "ids": "one id after another",
}


class AR(nn.Module):
    """A generator: :class:`vidgen.protocols.Generator`.

    *Known cells* come first, as tokens that see each other and are seen by all others; the rest follows in order. A model that is
    not trained with them still goes on where given cells end: where they are what the order begins with, they count as
    generated before.

    Args:
        space: the tokenizer's latent space, kept as a plain reference.
        num_classes: labels the data has; 0 for none.
        num_actions: actions the data has; 0 for none.
        vocabulary: words of the data's captions.
        width: channels of a token.
        depth: blocks.
        heads: attention heads.
        mlp_ratio: hidden width of the feed-forward layers over ``width``.
        rope_theta: the rotary embedding's longest period over 2 pi, in cells.
        order: of generation, ``raster``, ``frames``, ``columns`` or ``snake`` (:func:`vidgen.nn.sequence.generation_order`).
        time_window: cells of time that a token sees, its own included, in training as in sampling, where older ones leave the
            cache; known cells are always seen, but for those that count as generated. 0: all.
        top_k: sample among so many of the most likely; 0: among all.
        top_p: sample among the most likely that hold this much of the probability.
        conditioning: what it is told, by part (:class:`vidgen.conditioning.Conditioner`).
        head: the likelihood of a token (:func:`vidgen.heads.build_head`).
        guidance_scale: 1 is no guidance, and costs one forward a token.
        guidance_interval: the part of sampling's progress, within 0 and 1, in which there is guidance.
        guidance_schedule: how its strength goes over that progress: ``constant``, ``linear`` or ``cosine``.
        checkpoint: trade time for memory in training (:class:`vidgen.nn.trunk.Trunk`).

    Raises:
        UserError: on a word that it does not know, and on values that do not go together.
    """

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
        order: Literal["raster", "frames", "columns", "snake"] = "raster",
        time_window: int = 0,
        top_k: int = 0,
        top_p: float = 1.0,
        guidance_scale: float = 1.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        guidance_schedule: Schedule = "constant",
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.space = space
        self.tokens = Tokens(space)
        self.spec, self.wants = self.tokens.spec, self.tokens.wants
        self.order, self.time_window, self.top_k, self.top_p, self.rope_theta = order, time_window, top_k, top_p, rope_theta
        self._check_options()
        self.conditioner = Conditioner(
            conditioning,
            width=width,
            space=space,
            num_classes=num_classes,
            num_actions=num_actions,
            vocabulary=vocabulary,
            guidance=GuidanceOptions(guidance_scale, guidance_interval, guidance_schedule),
        )
        self.draws_known = any(hasattr(part, "draw") for part in self.conditioner.parts.values())
        self.trunk = Trunk(
            width=width,
            depth=depth,
            heads=heads,
            mlp_ratio=mlp_ratio,
            context=self.conditioner.needs_context,
            checkpoint=checkpoint,
        )
        self.head: Any = build_head(head, space=space, width=width)
        self.norm = FinalNorm(width)
        self.begin = nn.Parameter(0.02 * torch.randn(width))
        self.step = nn.Linear(self.trunk.head_dim, width, bias=False)
        scales = self.tokens.scales
        self.scale, self.scale_before = (nn.Embedding(scales, width) if scales > 1 else None for _ in range(2))
        self.opening = nn.Parameter(0.02 * torch.randn(width)) if self.spec.causal else None
        for layer in (self.step, self.scale, self.scale_before):
            if layer is not None:
                nn.init.normal_(layer.weight, std=0.02)

    def _check_options(self) -> None:
        if self.order not in ORDERS:
            raise UserError(f"ar knows no order '{self.order}'.{did_you_mean(self.order, ORDERS)} Use {', '.join(ORDERS)}.")
        if self.time_window < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            given = f"time_window={self.time_window}, top_k={self.top_k}, top_p={self.top_p:g}"
            raise UserError(f"ar's time_window and top_k are 0 or more, and top_p is above 0 and at most 1; this is {given}.")
        check_truncation(self.spec.levels, self.top_k, self.top_p)
        if self.time_window and (self.spec.clip is not None or self.order == "columns"):
            what = "columns" if self.order == "columns" else "a pyramid that grows in time"
            raise UserError(f"A time_window needs tokens in the order of time, which {what} has not: use time_window=0.")
        if self.time_window and self.spec.scales is not None and self.order != "frames":
            raise UserError(
                f"A time_window needs tokens in the order of time; of a pyramid, order={self.order} is not: use frames."
            )

    def prepare(self, latents: Latent) -> None:
        """Nothing to measure: ``h`` comes standardised, and ids are ids."""

    # One pass ---------------------------------------------------------------------------------------------------------------

    def forward(
        self,
        x: Tensor,
        c: Tensor,
        rope: tuple[Tensor, Tensor],
        mask: Tensor | tuple[int, ...] | None = None,
        *,
        cache: KVCache | None = None,
        context: Context | None = None,
    ) -> Tensor:
        """One pass of the network: inputs (B, n, width) -> what the head predicts the tokens there from, (B, n, width)."""
        return self.norm(self.trunk(x, c, rope, mask, cache=cache, context=context), c)

    def inputs(self, tokens: Tensor, places: Places) -> Tensor:
        """What goes in at each place, but for :meth:`where`: the token before it, or itself where it is known; (B, L, width).

        ``tokens`` (B, N, E) are all tokens of the latents, in the latents' order.
        """
        before = self.head.embed(_take(tokens, places.before))
        return torch.where(places.first.unsqueeze(-1), self.begin.to(before.dtype), before)

    def where(self, places: Places, start: int = 0) -> Tensor:
        """Where the input's token lies, as seen from the place that it goes in at: (b, L, width).

        A displacement of nothing tells that it is known, and stands in its own place.
        """
        cos, sin = (part.chunk(2, dim=-1)[0] for part in rotary_table(places.displacement, self.trunk.head_dim, self.rope_theta))
        x = self.step(torch.cat([cos, sin], dim=-1).to(self.begin.dtype))
        if self.scale is not None and self.scale_before is not None:
            x = x + self.scale(places.scale) + self.scale_before(places.scale_before)
        if self.opening is not None:  # rotary positions are relative: that cell 0 is a single frame has to be told
            x = x + (places.cell + start == 0).unsqueeze(-1) * self.opening
        return x

    def rope(self, places: Places) -> tuple[Tensor, Tensor]:
        """The rotary table of the tokens that are predicted."""
        return rotary_table(places.position, self.trunk.head_dim, self.rope_theta)

    # Training ---------------------------------------------------------------------------------------------------------------

    def loss(self, latent: Latent, condition: Condition | None = None) -> Losses:
        """The mean loss of a token, over those that are not given."""
        latent, condition = self.conditioner.draw_cells(latent, condition)
        condition = self.conditioner.drop(self.conditioner.draw_known(latent, condition))
        noise = None if latent.logvar is None else randn_like(latent.logvar)
        return self._loss(latent, self.tokens.of(latent, noise), condition)

    @torch.no_grad()
    def validation_loss(self, latent: Latent, condition: Condition | None = None) -> Tensor:
        """The mean loss of a token: nothing is dropped or drawn, but for a flow head's noise, which is the same every time."""
        training = self.head.training
        self.head.eval()  # whose noise then is fixed
        loss = self._loss(latent, self.tokens.of(latent), condition).total
        self.head.train(training)
        return loss

    def _loss(self, latent: Latent, tokens: Tensor, condition: Condition | None) -> Losses:
        losses, counted = self.token_losses(tokens, self.tokens.grids(latent), condition, latent.start)
        total, count = counted_mean(losses, counted)
        return Losses(total=total, scalars={"nll" if self.head.likelihood else "flow": total}, count=count)

    def token_losses(
        self, tokens: Tensor, grids: tuple[Shape, ...], condition: Condition | None = None, start: int = 0
    ) -> tuple[Tensor, Tensor]:
        """The head's loss of each token, (B, N), known ones first and then in order; and (B or 1, N), whether it was not known.

        Of a head with a likelihood, minus the sum of what was not known is the log-likelihood of that given what was.

        Args:
            tokens: (B, N, L) ids of all tokens, in the latents' order, or (B, N, D) standardised values of continuous ones.
            grids: of the tokens.
            condition: what is told, and which cells are known.
            start: absolute index of the first cell.
        """
        batch = len(tokens)
        given, known = self.tokens.given(condition, batch, grids, start, self.begin)
        tokens = tokens if known is None else torch.where(known.unsqueeze(-1), given.to(tokens), tokens)
        places = self.places(grids, start, known, tokens.device, lie=self._apart(condition, grids, start))
        told = self._told(condition, 1, batch, places, grids, start)
        mask = places.mask(self.time_window) if self.time_window or known is not None else (1,) * places.length
        x = self.inputs(tokens, places) + self.where(places, start)
        x = self(x, told.c, self.rope(places), mask, context=told.context)
        return self.head.loss(x, _take(tokens, places.token)), ~places.known

    def places(
        self,
        grids: tuple[Shape, ...],
        start: int,
        known: Tensor | None,
        device: torch.device,
        aligned: bool = False,
        lie: tuple[int, ...] | None = None,
    ) -> Places:
        """The sequence of a latent's tokens, whose cells ``lie`` apart or, where None, do not: see :meth:`Places.of`."""
        order = generation_order(self.spec, grids, self.order).to(device)
        layout = token_layout(self.spec, grids, start, device)
        return Places.of(replace(layout, positions=at_places(layout.positions, layout.cell, lie)), order, known, aligned)

    def _apart(self, condition: Condition | None, grids: tuple[Shape, ...], start: int) -> tuple[int, ...] | None:
        return apart(condition, start, full_grid(self.spec, grids)[0])

    def _told(
        self, condition: Condition | None, copies: int, num: int, places: Places, grids: tuple[Shape, ...], start: int
    ) -> _Told:
        """What ``copies`` times ``num`` clips are told: a vector a clip or a place, and what cross-attention sees."""
        batch = copies * num
        c, context = self.conditioner.told(condition, batch, full_grid(self.spec, grids)[0], start)
        return _Told(c if c.shape[1] == 1 else _take(c, places.cell), context, copies)

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
        """``num`` latents of videos of ``shape`` (T, H, W), in as many sequential passes as there are tokens to generate.

        ``temperature`` divides logits, or scales a flow head's noise; 0 takes what is most likely. The random numbers of a token
        belong to where it lies, whatever the order and whatever is known.

        Raises:
            UserError: where ``steps`` are given, for there is no choice of them; on known cells or words that do not fit.
        """
        if steps is not None:
            raise UserError(f"ar takes one step a token, so steps={steps} says nothing to it: leave steps out.")
        condition = self.conditioner.checked(condition)
        grids, device = self.spec.grids(shape, start), self.begin.device
        tokens, known = self.tokens.given(condition, num, grids, start, self.begin)
        prefix, past = self._split(known, grids)
        lie = self._apart(condition, grids, start)
        places = self.places(grids, start, prefix, device, aligned=True, lie=lie)
        begin = places.prefix + (0 if past is None else int(past.sum(dim=1).min()))
        size, where = (tokens.shape[1], self.head.draws), window_key(start, lie)
        noise = sample_uniform(num, size, seed=seed, first=first, start=where, device=device)
        guidance = self.conditioner.guide(condition, num, scale=guidance_scale)
        order = generation_order(self.spec, grids, self.order).to(device)
        progress = [rank / max(len(order) - 1, 1) for rank in range(len(order))]  # whatever is known
        branches, copies = guidance.at(*progress)
        scales = self._scales(guidance, progress, order, places) if copies > 1 else ()
        told = self._told(branches, copies, num, places, grids, start)
        walk = _Walk(self, F.pad(tokens, (0, 0, 0, 1)), places, told, begin, start, past)
        for place in range(begin, places.length):
            at = slice(place, place + 1)
            u = _take(noise, places.token[:, at].clamp_max(tokens.shape[1] - 1))
            weights = [scale[:, at] for scale in scales]
            drawn, _ = self.head.sample(walk.features(place), weights, temperature, u, self.top_k, self.top_p)
            walk.write(place, drawn)
        return self.tokens.latent(walk.tokens[:, :-1], shape, start, condition)

    def _scales(self, guidance: Guidance, progress: Sequence[float], order: Tensor, places: Places) -> tuple[Tensor, ...]:
        """The scales of guidance at each place, (b, L) from every branch to the next; where there is no token, 1."""
        none = (1.0,) * len(guidance.scales)
        table = torch.tensor([*(guidance.weights(one) or none for one in progress), none], device=order.device)
        return table[F.pad(order.argsort(), (0, 1), value=len(order))[places.token]].unbind(-1)

    def _split(self, known: Tensor | None, grids: tuple[Shape, ...]) -> tuple[Tensor | None, Tensor | None]:
        """Of known tokens (B, N) those that come as a prefix, and those that count as generated before; None where none do.

        Which it is, each sample has for itself: a sample does not depend on its batch.
        """
        if known is None:
            return None, None
        held = known[:, generation_order(self.spec, grids, self.order).to(known.device)].long()
        begins = (held.sum(dim=1) == held.cumprod(dim=1).sum(dim=1)) & (not self.draws_known)
        past = known & begins.unsqueeze(1)
        prefix = known & ~past
        return prefix if bool(prefix.any()) else None, past if bool(past.any()) else None


@dataclass(frozen=True)
class _Told:
    """The conditions of one batch, or of all branches of guidance, branch after branch.

    Attributes:
        c: (copies * B, 1 or L, width).
        context: what cross-attention sees.
        copies: how many branches.
    """

    c: Tensor
    context: Context | None
    copies: int


class _Walk:
    """The way through a sequence, place by place: tokens are written as they are drawn, keys and values are kept.

    Args:
        model: whose network goes.
        tokens: (B, N + 1, E), with those that are known or were generated before.
        places: of all tokens.
        told: the conditions of each copy of the batch.
        begin: places that are done; they go through the network at once.
        start: absolute index of the first cell.
        past: (B, N) tokens that stay as they are, though they have places after ``begin``.
    """

    def __init__(
        self, model: AR, tokens: Tensor, places: Places, told: _Told, begin: int, start: int, past: Tensor | None = None
    ) -> None:
        self.model, self.tokens, self.places, self.told = model, tokens, places, told
        self.past = None if past is None else F.pad(past, (0, 1))
        self.where, self.rope = model.where(places, start), tuple(self._copied(part) for part in model.rope(places))
        windowed = model.time_window > 0
        self.seen = self._copied(places.mask(model.time_window)) if places.padded or (windowed and not places.plain) else None
        self.oldest = places.oldest(model.time_window) if windowed and places.plain else [0] * places.length
        self.dropped = 0
        room = max([begin, *(place + 1 - self.oldest[place] for place in range(begin, places.length))])
        self.cache = KVCache(model.trunk, len(tokens) * told.copies, room)
        if begin:
            self._passed(0, begin, self._at_once(begin))

    def _copied(self, value: Tensor) -> Tensor:
        """For all copies of the batch, where it is not the same for all samples."""
        return value if len(value) == 1 else value.repeat(self.told.copies, *[1] * (value.ndim - 1))

    def _at_once(self, begin: int) -> Tensor | tuple[int, ...] | None:
        """What the first places see: known ones all, those that were generated before what they saw then."""
        if self.seen is not None:
            return self.seen[..., :begin, :begin]
        if not self.places.plain:
            return None
        return self.places.part(0, begin).mask(self.model.time_window) if self.model.time_window else (1,) * begin

    def features(self, place: int) -> Tensor:
        """What the head draws the token of the next place from, (copies * B, 1, width)."""
        if gone := self.oldest[place] - self.dropped:
            self.cache.drop(0, gone)
            self.dropped += gone
        return self._passed(place, place + 1, None if self.seen is None else self.seen[..., place : place + 1, : place + 1])

    def _passed(self, begin: int, end: int, mask: Tensor | tuple[int, ...] | None) -> Tensor:
        x = self.model.inputs(self.tokens, self.places.part(begin, end)) + self.where[:, begin:end]
        c, (cos, sin) = self.told.c, self.rope
        return self.model(
            x.repeat(self.told.copies, 1, 1),
            c if c.shape[1] == 1 else c[:, begin:end],
            (cos[:, begin:end], sin[:, begin:end]),
            mask,
            cache=self.cache,
            context=self.told.context,
        )

    def write(self, place: int, drawn: Tensor) -> None:
        """Puts the token (B, 1, E) of a place where it lies; of a sample without one there, where nobody looks."""
        index, drawn = self.places.token[:, place : place + 1].expand(len(drawn), 1), drawn.to(self.tokens.dtype)
        if self.past is not None:
            drawn = torch.where(self.past.gather(1, index).unsqueeze(-1), _take(self.tokens, index), drawn)
        self.tokens.scatter_(1, index.unsqueeze(-1).expand_as(drawn), drawn)


def _take(x: Tensor, index: Tensor) -> Tensor:
    """(B, N, E), (b, L) -> (B, L, E): of each sample the rows of its index; where b is less than B, indices begin again."""
    index = index.expand(len(x), -1) if len(index) == 1 else index.repeat(len(x) // len(index), 1)
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
