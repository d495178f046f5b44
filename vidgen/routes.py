"""How a generator takes each kind of latent, in words: what ``vidgen list --pairs`` shows and ``fit`` prints and saves.

A generator's file states in ``ROUTES`` what it does to latents that are not its native kind, so that nothing is approximated in
silence, and in ``SCALES`` whether it goes from coarse to fine; a quantizer's file states in ``KIND`` which kind it makes. These
are read without importing the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vidgen.config import load
from vidgen.latents import LatentSpec
from vidgen.registry import build, constant

LARGEST_JOINT = 2**14
"""Joint vocabularies up to this one are predicted by one softmax."""

LEFT_TO_PYRAMID = ("commitment", "restart")
"""Options of a quantizer that are as the pyramid's recipe has them inside one: its commitment is to the sum of all scales."""


def route(generator: str, kind: str) -> str:
    """What the generator of that name does with latents of ``kind`` (``continuous``, ``bits`` or ``ids``)."""
    known: Mapping[str, str] = constant("generators", generator, "ROUTES") or {}
    return known.get(kind, f"{kind} latents")


def kind(tokenizer: Mapping[str, Any]) -> str | None:
    """The kind of latent that a tokenizer's recipe makes, or None where only building it would tell."""
    found: str | None = constant("quantizers", tokenizer.get("quantizer", {}).get("name", ""), "KIND")
    return found or constant("tokenizers", tokenizer.get("name", ""), "KIND")


def head_for(spec: LatentSpec) -> str:
    """The head that fits a spec: ``flow``, ``categorical`` up to :data:`LARGEST_JOINT` codes, then ``depth`` or ``factored``."""
    if spec.vocab_size is None:
        return "flow"
    if spec.vocab_size <= LARGEST_JOINT:
        return "categorical"
    return "depth" if spec.stages > 1 else "factored"


def head_of(generator: Mapping[str, Any], spec: LatentSpec) -> str:
    """The head of a generator's recipe on latents of ``spec``; ``-`` for one that has none."""
    if "head" not in generator:
        return "-"
    name = generator["head"]["name"]
    name = head_for(spec) if name == "auto" else name
    return "bits" if name == "factored" and _binary(spec) else str(name)


def fitted(tokenizer: Mapping[str, Any], generator: str) -> dict[str, Any]:
    """A tokenizer's recipe as the generator of that name needs it: of one that goes from coarse to fine, with scales.

    The quantizer is then the inner one of a ``pyramid``: by the recipe ``pyramid`` where it has a table of codes, and where its
    codes have one size for good (bits, fsq) by ``pyramid_lfq``, whose scales have gains. It stays as it is but for
    :data:`LEFT_TO_PYRAMID`, and gumbel, whose logits then are distances. Continuous tokenizers and those that have scales already
    come back as they are, and so do tokenizers without a quantizer of their own, which are trained elsewhere.
    """
    recipe = dict(tokenizer)
    inner = recipe.get("quantizer")
    if not constant("generators", generator, "SCALES") or not inner or "scales" in inner or kind(recipe) == "continuous":
        return recipe
    pyramid = load("tokenizer/quantizer", "pyramid" if _has_table(inner) else "pyramid_lfq")
    return recipe | {"quantizer": pyramid | {"quantizer": _inside(inner, pyramid["quantizer"])}}


def _inside(inner: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """A quantizer's options as they are in a pyramid whose inner one is ``usual``; those inside of it likewise."""
    own = {key: _inside(value, usual) if isinstance(value, Mapping) else value for key, value in inner.items()}
    own |= {key: usual[key] for key in LEFT_TO_PYRAMID if key in own and key in usual}
    return own | ({"logits": "distance"} if own["name"] == "gumbel" else {})


def _has_table(quantizer: Mapping[str, Any]) -> bool:
    return "codes" in quantizer or any(_has_table(part) for part in quantizer.values() if isinstance(part, Mapping))


def _binary(spec: LatentSpec) -> bool:
    return spec.levels is not None and all(level == 2 for level in spec.levels)


@dataclass(frozen=True)
class Pair:
    """How a generator takes a tokenizer's latents, in words.

    Attributes:
        layout: the grids that its tokens lie on.
        head: the likelihood of a token; ``-`` where it has none.
        route: what it does with them.
    """

    layout: str
    head: str
    route: str


def pair(spec: LatentSpec, generator: Mapping[str, Any]) -> Pair:
    """How a generator of that recipe takes latents of ``spec``."""
    scaled = constant("generators", generator["name"], "SCALES")
    latents = "bits" if scaled and _binary(spec) else spec.kind
    return Pair(_layout(spec, generator, scaled), head_of(generator, spec), route(generator["name"], latents))


def _layout(spec: LatentSpec, generator: Mapping[str, Any], scaled: bool | None) -> str:
    if scaled and spec.levels is None and spec.scales is None:
        return f"{len(generator['scales'])} scales of its own"
    if spec.scales is None or (spec.kind != "bits" and "head" not in generator):
        return "one grid"
    each = {None: "", 1: " for each cell of time"}.get(spec.clip, f" for each {spec.clip} cells of time")
    return f"{len(spec.scales)} scales{each}"


def spec_of(tokenizer: Mapping[str, Any]) -> LatentSpec:
    """What a tokenizer of that recipe says of its latents, but for strides and causality: its quantizer alone is built."""
    if "quantizer" not in tokenizer:  # one that is published: what it is is told when it is opened
        return LatentSpec(channels=1, stride=(1, 1, 1), causal=True)
    built = build("quantizers", tokenizer["quantizer"])
    return LatentSpec(
        channels=built.channels,
        stride=(1, 1, 1),
        causal=True,
        levels=built.levels,
        stages=built.stages,
        scales=built.scales,
        clip=built.clip,
    )
