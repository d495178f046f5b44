"""``auto``: the head that the latents ask for, with its default options (:func:`vidgen.routes.head_for`)."""

from __future__ import annotations

from vidgen.protocols import Head, LatentSpace
from vidgen.registry import build
from vidgen.routes import head_for


class Auto:
    """Not a head itself: building it gives one of the others.

    Args:
        space: the tokenizer's latent space.
        width: channels of the trunk.
    """

    def __new__(cls, *, space: LatentSpace, width: int) -> Head:  # type: ignore[misc]
        """The head called ``head_for(space.spec)``."""
        head: Head = build("heads", {"name": head_for(space.spec)}, space=space, width=width)
        return head
