"""Measures beside those that every report has, chosen by the names of their recipes.

Of clips, each held against its original or looked at alone; and of two sets of clips, held against each other by their features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor

from vidgen.config import load
from vidgen.errors import UserError
from vidgen.latents import Shape
from vidgen.metrics.statistics import interval_95
from vidgen.registry import build, find, options

IN_EVERY_REPORT = {"frechet": "motion-FD", "memorisation": "Memorised"}
"""Measures of sets that a run has anyway, and what its report calls them."""


def of_sets(recipe: Mapping[str, Any]) -> bool:
    """Whether a measure compares two sets of features, and not each clip with its original."""
    return "extractor" in options(find("metrics", recipe["name"]))


def needs_originals(metric: Any) -> bool:
    """Whether a measure of clips, built or its class, holds each against another one."""
    return signature(metric.update).parameters["real"].default is Parameter.empty


def is_lone(recipe: Mapping[str, Any]) -> bool:
    """Whether a measure looks at each clip by itself, so that originals, reconstructions and samples may all have it."""
    return not of_sets(recipe) and not needs_originals(find("metrics", recipe["name"]))


def clip_metrics(names: Sequence[str]) -> dict[str, Any]:
    """Those of the measures ``names`` that are shown clips, built.

    Raises:
        UserError: on an unknown name, or where one lacks its weights.
    """
    recipes = {name: load("metric", name) for name in names}
    return {name: build("metrics", recipe) for name, recipe in recipes.items() if not of_sets(recipe)}


def lone_metrics(names: Sequence[str]) -> dict[str, Any]:
    """Those of :func:`clip_metrics` that need no original."""
    return {name: build("metrics", recipe) for name in names if is_lone(recipe := load("metric", name))}


def set_recipes(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The recipes of those of the measures ``names`` that compare sets.

    Raises:
        UserError: on an unknown name, or one of a measure that every report has.
    """
    recipes = {name: load("metric", name) for name in names}
    for name in recipes:
        if name in IN_EVERY_REPORT:
            raise UserError(f"'{name}' is in every report, as {IN_EVERY_REPORT[name]}: leave it out of evaluation.metrics.")
    return {name: recipe for name, recipe in recipes.items() if of_sets(recipe)}


def unsuited(names: Sequence[str], shape: Shape) -> dict[str, str]:
    """Those of the measures ``names`` that clips of ``shape`` are too short or too small for, and why."""
    blank, reasons = torch.zeros(1, 3, *shape), {}
    for name, metric in clip_metrics(names).items():
        try:
            metric.update(blank, blank)
        except UserError as error:
            reasons[name] = str(error)
    return reasons


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What a measure of sets says: its own name or, where it says several things, that of one of them; with its interval."""

    name: str
    value: float
    interval: tuple[float, float] | None = None


def set_figures(name: str, metric: Any) -> tuple[list[Figure], list[str]]:
    """All that a measure of sets says of what it was shown, and what has to be known of it, a sentence each.

    Raises:
        UserError: where it was shown too few clips.
    """
    if not hasattr(metric, "estimate"):
        value = metric.compute()
        parts = value.items() if isinstance(value, Mapping) else [(name, value)]
        return [Figure(name=part, value=float(one)) for part, one in parts], []
    estimates = metric.estimate()
    estimates = estimates if isinstance(estimates, Mapping) else {name: estimates}
    figures = []
    for part, one in estimates.items():
        figures.append(Figure(name=part, value=one.value, interval=getattr(one, "interval", None)))
        limit = getattr(one, "extrapolated", None)
        if limit is not None:
            figures.append(Figure(name=f"{part}_extrapolated", value=limit, interval=interval_95(limit, one.extrapolated_error)))
    return figures, list(dict.fromkeys(f"{name}: {warning}" for one in estimates.values() for warning in one.warnings))


def shown(recipe: Mapping[str, Any], fake: Tensor, real: Tensor) -> Any:
    """A measure of sets that has seen the features of generated clips, (N, d), and of real ones, (M, d)."""
    metric: Any = build("metrics", recipe, extractor=None)
    metric.update(fake, real=real)
    return metric
