"""How each generator takes each kind of latent, in words: what ``vidgen list --pairs`` shows and ``fit`` prints and saves.

A generator states here what it does to latents that are not its native kind, so that nothing is approximated in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BOTTLENECKS = {"kl": "continuous", "lfq": "bits"}
"""``LatentSpec.kind`` of each quantizer with its recipe's options, so that it can be told without building one."""

ROUTES = {
    "dit": {
        "continuous": "standardised latents",
        "bits": "analog bits, sign at decode",
        "ids": "pre-quantised latents, nearest code at decode",
    },
}


def route(generator: str, kind: str) -> str:
    """What the generator of that name does with latents of ``kind`` (``continuous``, ``bits`` or ``ids``)."""
    return ROUTES.get(generator, {}).get(kind, f"{kind} latents")


def kind(tokenizer: Mapping[str, Any]) -> str | None:
    """The kind of latent that a tokenizer's recipe makes, or None where only building it would tell (another package's part)."""
    return BOTTLENECKS.get(tokenizer.get("quantizer", {}).get("name", ""))
