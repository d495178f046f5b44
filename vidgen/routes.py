"""How a generator takes each kind of latent, in words: what ``vidgen list --pairs`` shows and ``fit`` prints and saves.

A generator's file states in ``ROUTES`` what it does to latents that are not its native kind, so that nothing is approximated in
silence, and a quantizer's file in ``KIND`` which kind it makes. Both are read without importing the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vidgen.registry import constant


def route(generator: str, kind: str) -> str:
    """What the generator of that name does with latents of ``kind`` (``continuous``, ``bits`` or ``ids``)."""
    known: Mapping[str, str] = constant("generators", generator, "ROUTES") or {}
    return known.get(kind, f"{kind} latents")


def kind(tokenizer: Mapping[str, Any]) -> str | None:
    """The kind of latent that a tokenizer's recipe makes, or None where only building it would tell."""
    found: str | None = constant("quantizers", tokenizer.get("quantizer", {}).get("name", ""), "KIND")
    return found
