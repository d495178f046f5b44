"""What a generator may be told: parts that are combined freely, each with its own dropout in training, and their nulls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, groupby
from typing import Any

import torch
from torch import Tensor, nn

from vidgen.conditioning.base import Part
from vidgen.errors import UserError, did_you_mean
from vidgen.latents import Condition, Latent
from vidgen.nn.attention import Context
from vidgen.nn.parallel import own_rows, world_size
from vidgen.protocols import LatentSpace
from vidgen.registry import build, taken
from vidgen.samplers.guidance import Guidance, GuidanceOptions

__all__ = ["Conditioner", "Part"]

GIVEN_BY = {"num_classes": "labels", "num_actions": "actions"}
"""What of the data a part needs at least one of, and how it is called."""


class Conditioner(nn.Module):
    """All that a generator is told besides its tokens, as vectors for its modulation and tokens for its cross-attention.

    Args:
        parts: the options of each part, by name, as in a recipe: ``{"label": {"dropout": 0.1}}``.
        width: channels of a token.
        space: the latent space; a plain reference.
        num_classes: labels the data has; without any the part ``label``, which every recipe has, falls away.
        num_actions: actions the data has.
        vocabulary: the words of the data's captions.
        guidance: how samples are guided by it; None: not.

    Attributes:
        needs_context: whether there are parts that give tokens, so that the trunk needs cross-attention.

    Raises:
        UserError: on an unknown part or option, and on one that the data has nothing for.
    """

    def __init__(
        self,
        parts: Mapping[str, Mapping[str, Any]],
        *,
        width: int,
        space: LatentSpace,
        num_classes: int = 0,
        num_actions: int = 0,
        vocabulary: Sequence[str] = (),
        guidance: GuidanceOptions | None = None,
    ) -> None:
        super().__init__()
        self.guidance = guidance or GuidanceOptions()
        given = {
            "width": width,
            "space": space,
            "num_classes": num_classes,
            "num_actions": num_actions,
            "vocabulary": tuple(vocabulary),
        }
        kept = {name: how for name, how in parts.items() if num_classes or how.get("name", name) != "label"}
        self.parts: Any = nn.ModuleDict({name: _built({"name": name, **how}, given) for name, how in kept.items()})
        self.width = width
        self.needs_context = any(part.context for part in self.parts.values())
        self._here: Tensor
        self.register_buffer("_here", torch.zeros(()), persistent=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The parts, in the order of the recipe."""
        return tuple(self.parts)

    @property
    def takes_frames(self) -> bool:
        """Whether it can be told frames that are not in the window."""
        return any(part.field == "frames" and part.context for part in self.parts.values())

    @property
    def takes_places(self) -> bool:
        """Whether it was trained on windows whose cells lie apart."""
        return any(getattr(part, "spread", 0) > 0 for part in self.parts.values())

    def told(self, condition: Condition | None, batch: int, cells: int, start: int = 0) -> tuple[Tensor, Context | None]:
        """What the parts say, summed, and what they give to cross-attention.

        Args:
            condition: of ``batch`` clips; what it lacks is null.
            batch: clips.
            cells: cells of the window along time.
            start: absolute index of the first of them.

        Returns:
            (batch, 1, width), or (batch, cells, width) where one of them tells cells apart; and (batch, M, width), or None where
            none of them has tokens for any clip of the batch. To a clip of others that has none of its own it is silent.
        """
        total, said = self._here.new_zeros(batch, 1, self.width), []
        for part in self.parts.values():
            vector, tokens = part.told(condition or Condition(), batch, cells, start)
            total = total if vector is None else total + vector
            said += [] if tokens is None else [tokens]
        if not said:
            return total, None
        tokens, there = (torch.cat(parts, dim=1) for parts in zip(*said, strict=True))
        return total, Context(tokens=tokens, mask=there)

    def checked(self, condition: Condition | None) -> Condition | None:
        """The condition on the model's device, if the model was trained with all that it is told, and knows the values.

        Raises:
            UserError: naming what it does know.
        """
        if condition is None:
            return None
        readers = {part.field: part for part in self.parts.values()}
        for field in ("label", "text", "action", "frames"):
            if getattr(condition, field) is None:
                continue
            if field not in readers or (field == "frames" and not readers[field].context):
                known = f"it knows {', '.join(self.names)}" if self.parts else "it knows no condition"
                raise UserError(f"This model was not trained with '{field}', so that says nothing to it: leave it out; {known}.")
            readers[field].check(condition)
        places = condition.places
        if places and places[-1] - places[0] >= len(places) and not self.takes_places:
            raise UserError(
                "This model was not trained on windows whose cells lie apart: train one with "
                "generator.conditioning.frames.spread=0.5, or leave 'places' out."
            )
        self.checked(condition.negative)
        return condition.to(self._here.device)

    def drop(self, condition: Condition | None) -> Condition | None:
        """In training: each part's word is taken from a share of the clips, its ``dropout``, independently of the others."""
        if condition is None:
            return None
        for part in self.parts.values():
            value = getattr(condition, part.field)
            if value is not None and part.dropout:
                device = self._here.device if isinstance(value, list | Latent) else value.device
                condition = part.silence(condition, own_rows(torch.rand(world_size() * len(value), device=device)) < part.dropout)
        return condition

    def without(self, condition: Condition | None, names: Iterable[str] | None = None) -> Condition:
        """The condition with the null in the place of what the parts ``names`` say (None: all of them).

        ``known`` cells stay: they are a part of the video, not a word about it.
        """
        chosen = self.names if names is None else names
        silent: dict[str, Any] = {self.parts[name].field: None for name in chosen}
        return replace(condition or Condition(), **silent)

    def guide(
        self,
        condition: Condition | None,
        batch: int,
        *,
        scale: float | Mapping[str, float] | None = None,
    ) -> Guidance:
        """The guidance of one sampling of ``batch`` clips; known cells are no part of it, for they are part of the video.

        Args:
            condition: what the samples are told; its ``negative`` takes the place of the nulls that guidance leads away from.
            batch: clips.
            scale: of all that they are told together, or of each part by its name: these are guided one after another in that
                order, each given those before it, and after those that are not named, whose scale is 1. Neighbours of equal scale
                are one. None: what the options of guidance say.

        Raises:
            UserError: on an unknown part.
        """
        scale = self.guidance.scale if scale is None else scale
        full = replace(condition or Condition(), known=None, known_mask=None)
        if isinstance(scale, Mapping):
            for name in scale:
                if name not in self.parts:
                    raise UserError(f"This model has no condition '{name}' to be guided by.{did_you_mean(name, self.names)}")
            named: list[tuple[tuple[str, ...], float]] = [((name,), float(value)) for name, value in scale.items()]
        else:
            named = [(self.names, float(scale))]
        away = full.negative or Condition()
        told = [(names, value) for names, value in named if self._differ(full, away, names)]
        steps = [(tuple(chain(*(names for names, _ in same))), value) for value, same in groupby(told, key=lambda one: one[1])]
        if steps and steps[0][1] == 1:  # a later one is what those before it are guided under, so it stays
            del steps[0]
        branches = [replace(full, negative=None)]
        for names, _ in reversed(steps):
            nulls: dict[str, Any] = {self.parts[name].field: getattr(away, self.parts[name].field) for name in names}
            branches.insert(0, replace(branches[0], **nulls))
        scales = tuple(value for _, value in steps)
        return Guidance(branches=tuple(branches), scales=scales, batch=batch, options=self.guidance)

    def _differ(self, one: Condition, other: Condition, names: Iterable[str]) -> bool:
        """Whether one of the parts hears something else from ``one`` than from ``other``."""
        fields = (self.parts[name].field for name in names)
        return any(getattr(one, field) is not getattr(other, field) for field in fields)

    def draw_cells(self, latent: Latent, condition: Condition | None) -> tuple[Latent, Condition | None]:
        """In training: with the part ``frames``, in a share of the steps cells that lie apart, and what is told of those.

        Which steps and which cells is a function of the step's randomness, the same for all clips of a batch.
        """
        for part in self.parts.values():
            if getattr(part, "spread", 0):
                latent, condition = part.draw_cells(latent, condition)
        return latent, condition

    def draw_known(self, latent: Latent, condition: Condition | None) -> Condition | None:
        """In training: with the part ``frames``, the clips' own cells as given ones, by the tasks that it draws."""
        for part in self.parts.values():
            if hasattr(part, "draw"):
                condition = part.draw(latent, condition or Condition())
        return condition


def _built(recipe: Mapping[str, Any], given: Mapping[str, Any]) -> Part:
    """The part of that recipe, given what it takes of ``given``."""
    takes = taken("conditioning", recipe["name"], given)
    for option, what in GIVEN_BY.items():
        if option in takes and not takes[option]:
            raise UserError(f"This data has no {what}, so a generator cannot be told them: leave '{recipe['name']}' out.")
    part: Part = build("conditioning", recipe, **takes)
    return part
