"""``maskgit``: a transformer that sees both ways fills in masked tokens, many in each of a few steps.

Sources: Chang et al., "MaskGIT" (2022), for the objective and the decoding; Yu et al., "MAGVIT" (2023), for videos; Chang et al.,
"Muse" (2023), for guidance; Li et al., "Autoregressive Image Generation without Vector Quantization" (MAR, 2024), for continuous
tokens and their mask ratios; Besnier et al., "Halton Scheduler for Masked Generative Image Transformer" (2025); Lee et al.,
"Draft-and-Revise" (2022), for revisions.

Deviations. From MaskGIT: the trunk of this library (pre-norm, adaLN-Zero, rotary positions) and no tied output; the label is a
vector of the modulation, not a token. From MAGVIT: no loss on visible tokens; tokens of a condition are exact ones, in place, and
not those of a padded clip. From MAR: masked tokens go through the whole trunk, which an encoder and a decoder share there, and a
head of rectified flow. From Halton-MaskGIT: decoded tokens are not drawn again, as the loss is on masked tokens only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vidgen.conditioning import Conditioner
from vidgen.errors import UserError, did_you_mean
from vidgen.heads import build_head
from vidgen.latents import Condition, Latent, Losses, Shape
from vidgen.nn.given import known_tokens
from vidgen.nn.layout import Layout, token_layout
from vidgen.nn.parallel import counted_mean, own_rows, randn_like, world_size
from vidgen.nn.rope import rotary_table
from vidgen.nn.sequence import full_grid
from vidgen.nn.tokens import Tokens
from vidgen.nn.trunk import FinalNorm, Trunk
from vidgen.protocols import LatentSpace
from vidgen.samplers import unmask
from vidgen.samplers.discrete import check_truncation
from vidgen.samplers.guidance import Guidance, GuidanceOptions
from vidgen.samplers.noise import sample_uniform
from vidgen.samplers.places import apart, at_places, window_key

ROUTES = {
    "continuous": "standardised latents, masked cells filled in",
    "bits": "the bits of masked cells filled in",
    "ids": "masked ids filled in",
}

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Quantiles of the training mask ratios at which the validation loss is taken."""


class MaskGIT(nn.Module):
    """A generator: :class:`vidgen.protocols.Generator`.

    Tokens of all scales of a pyramid are one sequence, in which each is told its scale and where it lies. Given cells
    (``condition.known``) are visible from the start: prediction, interpolation, in- and outpainting need no training of their
    own. A token of a coarse scale is given where all cells that it covers are.

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
        mask_schedule: the share of masked tokens over progress, in decoding and, at random progress, in training: ``cosine``,
            ``linear``, ``square``, ``cubic``, ``sqrt`` or ``arccos`` (:data:`vidgen.samplers.unmask.SCHEDULES`).
        mask_ratio: of training: ``schedule``, ``normal`` (MAR's: mean 1, deviation 0.25, cut to 0.7 to 1), or ``auto``: normal
            where latents are continuous.
        label_smoothing: share of each softmax's target that is uniform, in training; continuous latents have none.
        order: in which tokens are revealed: ``confidence``; ``random``; ``halton``, evenly spread over space and time, and coarse
            scales first; or ``auto``: confidence where the head has a likelihood, else random, as MAR.
        choice_temperature: of the Gumbel noise on confidence, which falls to nothing over the steps.
        top_k: sample among so many of the most likely; 0: among all.
        top_p: sample among the most likely that hold this much of the probability.
        revisions: passes after the last step, each of as many steps again, in which every token is masked and drawn once more.
        conditioning: what it is told, by part (:class:`vidgen.conditioning.Conditioner`).
        head: the likelihood of a token (:func:`vidgen.heads.build_head`).
        steps: of decoding; with fewer tokens than steps, one token a step.
        guidance_scale: 1 is no guidance, and costs one forward a step.
        guidance_interval: the part of decoding's progress, from 0 to 1, in which there is guidance.
        guidance_schedule: how its strength goes over that progress: ``constant``, ``linear`` (Muse, MAR) or ``cosine``.
        checkpoint: trade time for memory in training (:class:`vidgen.nn.trunk.Trunk`).

    Raises:
        UserError: on a word that it does not know, and on values that make no network, no sample, or no sense together.
    """

    takes_known = True

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
        rope_theta: float = 10000.0,
        mask_schedule: str = "cosine",
        mask_ratio: Literal["auto", "schedule", "normal"] = "auto",
        label_smoothing: float = 0.1,
        order: Literal["auto", "confidence", "random", "halton"] = "auto",
        choice_temperature: float = 4.5,
        top_k: int = 0,
        top_p: float = 1.0,
        revisions: int = 0,
        conditioning: Mapping[str, Mapping[str, Any]] = {"label": {"dropout": 0.1}},
        head: Mapping[str, Any] = {"name": "auto"},
        steps: int = 12,
        guidance_scale: float = 1.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        guidance_schedule: Literal["constant", "linear", "cosine"] = "constant",
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        for option, value, choices in (
            ("mask_schedule", mask_schedule, tuple(unmask.SCHEDULES)),
            ("mask_ratio", mask_ratio, ("auto", "schedule", "normal")),
            ("order", order, unmask.ORDERS),
        ):
            if value not in choices:
                raise UserError(f"maskgit knows no {option} '{value}'.{did_you_mean(value, choices)} Use {', '.join(choices)}.")
        if steps < 1:
            raise UserError(f"steps={steps} makes no sample: give steps=1 or more.")
        if revisions < 0 or choice_temperature < 0 or top_k < 0 or not 0 < top_p <= 1 or not 0 <= label_smoothing < 1:
            raise UserError(
                "maskgit needs revisions, choice_temperature and top_k of at least 0, top_p above 0 and at most 1, and "
                f"label_smoothing from 0 to below 1; got {revisions}, {choice_temperature:g}, {top_k}, {top_p:g} and "
                f"{label_smoothing:g}."
            )
        check_truncation(space.spec.levels, top_k, top_p)
        self.space, self.tokens = space, Tokens(space)
        self.spec, self.wants = self.tokens.spec, self.tokens.wants
        self.rope_theta, self.mask_schedule, self.label_smoothing = rope_theta, mask_schedule, label_smoothing
        self.mask_ratio = ("normal" if self.tokens.continuous else "schedule") if mask_ratio == "auto" else mask_ratio
        self.choice_temperature, self.top_k, self.top_p = choice_temperature, top_k, top_p
        self.steps, self.revisions = steps, revisions
        self.conditioner = Conditioner(
            conditioning,
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
            checkpoint=checkpoint,
        )
        self.head: Any = build_head(head, space=space, width=width)
        self.order = self._ordered(order)
        self.norm = FinalNorm(width)
        self.mask = nn.Parameter(0.02 * torch.randn(width))
        self.place = nn.Linear(self.trunk.head_dim, width, bias=False)
        self.scale = nn.Embedding(self.tokens.scales, width) if self.tokens.scales > 1 else None
        self.opening = nn.Parameter(0.02 * torch.randn(width)) if space.spec.causal else None
        nn.init.normal_(self.place.weight, std=0.02)
        if self.scale is not None:
            nn.init.normal_(self.scale.weight, std=0.02)

    def _ordered(self, order: str) -> str:
        if order == "confidence" and not self.head.likelihood:
            raise UserError(
                "order=confidence asks how likely a token is, which the flow head of continuous latents cannot tell: use "
                "order=random, order=halton, or order=auto."
            )
        return order if order != "auto" else "confidence" if self.head.likelihood else "random"

    def prepare(self, latents: Latent) -> None:
        """Nothing to measure: ``h`` comes standardised, and ids are ids."""

    # The network ------------------------------------------------------------------------------------------------------------

    def forward(
        self,
        tokens: Tensor,
        masked: Tensor,
        condition: Condition | None = None,
        *,
        grids: tuple[Shape, ...],
        start: int = 0,
    ) -> Tensor:
        """One pass: tokens (B, N, L or D), not looked at where ``masked`` (B, N) -> what the head takes, (B, N, width)."""
        layout, cells = token_layout(self.spec, grids, start, tokens.device), full_grid(self.spec, grids)[0]
        places = apart(condition, start, cells)
        c, context = self.conditioner.told(condition, len(tokens), cells, start)
        c = c if c.shape[1] == 1 else c[:, layout.cell]
        x = torch.where(masked.unsqueeze(-1), self.mask.to(self.place.weight.dtype), self.head.embed(tokens))
        rope = rotary_table(at_places(layout.positions, layout.cell, places), self.trunk.head_dim, self.rope_theta)
        from_first = token_layout(self.spec, grids, 0, tokens.device).positions
        x = x + self._where(layout, at_places(from_first, layout.cell, places), start)
        x = self.trunk(x, c, rope, context=context)
        return self.norm(x, c)

    def _where(self, layout: Layout, from_first: Tensor, start: int) -> Tensor:
        """(N, width): where each token lies. Rotary positions are relative, and masked tokens alike: they could not tell.

        Time is counted ``from_first``, the window's first cell, so that later windows are no news; cell 0 is told apart.
        """
        half = self.trunk.head_dim // 2
        cos, sin = rotary_table(from_first, self.trunk.head_dim, self.rope_theta)
        x = self.place(torch.cat([cos[:, :half], sin[:, :half]], dim=-1).to(self.place.weight.dtype))
        if self.scale is not None:
            x = x + self.scale(layout.scale)
        if self.opening is not None:
            x = x + (layout.cell + start == 0).unsqueeze(-1) * self.opening
        return x

    # Training ---------------------------------------------------------------------------------------------------------------

    def loss(self, latent: Latent, condition: Condition | None = None) -> Losses:
        """The head's loss on masked tokens, whose share differs from clip to clip; of given cells none is masked."""
        latent, condition = self.conditioner.draw_cells(latent, condition)
        noise = None if latent.logvar is None else randn_like(latent.logvar)
        tokens, grids = self.tokens.of(latent, noise), self.tokens.grids(latent)
        condition = self.conditioner.drop(self.conditioner.draw_known(latent, condition))
        known = self._known(condition, tokens, grids, latent.start)
        clips = world_size() * len(latent)
        ratio = self._ratios(own_rows(torch.rand(clips, device=tokens.device)))
        masked = unmask.draw_mask(ratio, own_rows(torch.rand(clips, tokens.shape[1], device=tokens.device)), known)
        return self.loss_at(tokens, masked, condition, grids, latent.start, self.label_smoothing)

    @torch.no_grad()
    def validation_loss(self, latent: Latent, condition: Condition | None = None) -> Tensor:
        """The mean loss at five mask ratios of training, each clip with a mask of its own that is the same every time.

        Labels are not smoothed: of a head with a likelihood it is a mean of nats a token. Of a posterior it is its mean's.
        """
        tokens, grids = self.tokens.of(latent, None), self.tokens.grids(latent)
        u = sample_uniform(len(latent), tokens.shape[1:2], seed=0, first=0, start=latent.start, device=tokens.device)
        known = self._known(condition, tokens, grids, latent.start)
        training = self.head.training
        self.head.eval()  # whose own noise then is fixed
        losses = [
            self.loss_at(tokens, unmask.draw_mask(ratio, u, known), condition, grids, latent.start).total
            for ratio in self._ratios(u.new_tensor(LEVELS)).unsqueeze(1).expand(-1, len(latent))
        ]
        self.head.train(training)
        return torch.stack(losses).mean()

    def loss_at(
        self,
        tokens: Tensor,
        masked: Tensor,
        condition: Condition | None,
        grids: tuple[Shape, ...],
        start: int = 0,
        smoothing: float = 0.0,
    ) -> Losses:
        """The mean of the head's loss over the ``masked`` (B, N) ones of ``tokens``."""
        each = self.head.loss(self(tokens, masked, condition, grids=grids, start=start), tokens, smoothing)
        loss, count = counted_mean(each, masked)
        return Losses(total=loss, scalars={"masked": loss}, count=count)

    def _ratios(self, u: Tensor) -> Tensor:
        """Mask ratios of training from uniform numbers."""
        return unmask.truncated_normal(u) if self.mask_ratio == "normal" else unmask.SCHEDULES[self.mask_schedule](u)

    def _known(self, condition: Condition | None, tokens: Tensor, grids: tuple[Shape, ...], start: int) -> Tensor:
        """(B, N): the tokens that are given."""
        known = known_tokens(condition, self.spec, grids, start)
        return torch.zeros_like(tokens[..., 0], dtype=torch.bool) if known is None else known.to(tokens.device)

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
        """``num`` latents of videos of ``shape`` (T, H, W); at ``temperature`` 0 the most likely tokens, whatever the seed."""
        condition = self.conditioner.checked(condition)
        steps = self.steps if steps is None else steps
        if steps < 1:
            raise UserError(f"steps={steps} makes no sample: give steps=1 or more.")
        grids, device = self.spec.grids(shape, start), self.mask.device
        tokens, given = self.tokens.given(condition, num, grids, start, self.mask)
        known = torch.zeros_like(tokens[..., 0], dtype=torch.bool) if given is None else given
        unknown = (~known).sum(dim=1).cpu()  # waited for before the steps, which never wait
        if not bool(unknown.any()):
            return self.tokens.latent(tokens, shape, start, condition)
        size, draws = tokens.shape[1], self.head.draws
        where = window_key(start, apart(condition, start, full_grid(self.spec, grids)[0]))

        def uniform(draw: int, *shape: int) -> Tensor:
            own = seed if temperature > 0 else 0
            return sample_uniform(num, shape, seed=own, first=first, start=where, device=device, draw=draw)

        guidance = self.conditioner.guide(condition, num, scale=guidance_scale)
        work = _Work(guidance, steps, temperature, grids, start)
        remaining = unmask.masked_counts(unknown, steps, self.mask_schedule)
        if self.order == "confidence":
            noise = uniform(0, steps, size, draws + 1).transpose(0, 1)
            gumbel = unmask.annealed_gumbel(noise[..., -1], self.choice_temperature if temperature > 0 else 0.0)
            tokens = unmask.by_confidence(self._draw(work, noise[..., :-1]), tokens, known, remaining, gumbel)
        else:
            noise, ranks = uniform(0, size, draws).unsqueeze(0), self._ranks(grids, uniform(1, size))
            tokens = unmask.in_order(self._draw(work, noise), tokens, known, remaining, ranks)
        even = unmask.masked_counts(unknown, steps, "linear")
        for turn in range(1, 1 + self.revisions):
            noise, ranks = uniform(2 * turn, size, draws).unsqueeze(0), uniform(2 * turn + 1, size).argsort(dim=1)
            tokens = unmask.in_order(self._draw(work, noise), tokens, known, even, ranks, first=turn * steps, revise=True)
        return self.tokens.latent(tokens, shape, start, condition)

    def _ranks(self, grids: tuple[Shape, ...], u: Tensor) -> Tensor:
        """(B, N): the order in which tokens are revealed."""
        if self.order == "halton":
            return unmask.halton_order(grids, self.tokens.scales, u[:, 0])
        return u.argsort(dim=1)

    def _draw(self, work: _Work, noise: Tensor) -> unmask.Draw:
        """The guided network and its head; ``noise`` (steps, B, N, draws), or (1, B, N, draws) where tokens are drawn once."""

        def draw(step: int, tokens: Tensor, masked: Tensor, at: Tensor | None) -> tuple[Tensor, Tensor | None]:
            # revisions are guided as the last step is
            progress = min(step / (work.steps - 1), 1.0) if work.steps > 1 else 1.0
            told, copies = work.guidance.at(progress)
            x = self(tokens.repeat(copies, 1, 1), masked.repeat(copies, 1), told, grids=work.grids, start=work.start)
            u = noise[step if len(noise) > 1 else 0]
            if at is not None:
                x, u = _take(x, at.repeat(copies, 1)), _take(u, at)
            return self.head.sample(x, work.guidance.weights(progress), work.temperature, u, self.top_k, self.top_p)

        return draw


@dataclass(frozen=True)
class _Work:
    """What stays the same from step to step."""

    guidance: Guidance
    steps: int
    temperature: float
    grids: tuple[Shape, ...]
    start: int


def _take(x: Tensor, at: Tensor) -> Tensor:
    """(B, N, C) at the indices (B, n) -> (B, n, C)."""
    return x.gather(1, at.unsqueeze(-1).expand(-1, -1, x.shape[2]))
