"""Heads of generators, one file each: the likelihood of one token, given what the trunk says of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vidgen.registry import build

if TYPE_CHECKING:
    from vidgen.protocols import Head, LatentSpace


def build_head(options: Mapping[str, Any], *, space: LatentSpace, width: int) -> Head:
    """The head ``options["name"]`` for tokens of ``space`` and a trunk of ``width``; ``auto`` is the one that the spec asks for.

    Raises:
        UserError: on an unknown name or option, or a latent that the head cannot represent.
    """
    head: Head = build("heads", options, space=space, width=width)
    return head
