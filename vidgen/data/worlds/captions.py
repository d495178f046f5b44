"""One sentence for every scene, from a grammar that can be read back: facts to caption, caption to facts, and its words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vidgen.data.worlds.recipe import COLORS, SHAPES, Recipe
from vidgen.data.worlds.scenes import Cast
from vidgen.errors import UserError

# family: (what one object does, what several do)
_DOES = {
    "bounce": ("bounces off the walls", "bounce off the walls"),
    "gravity": ("falls and bounces on the floor", "fall and bounce on the floor"),
    "orbit": ("circles around a point", "circle around a point"),
    "collide": ("collides with the others", "collide with one another"),
    "occlude": ("passes behind a grey wall", "pass behind a grey wall"),
    "agent": ("is steered around", "are steered around"),
}
_FAMILY = {phrase: family for family, phrases in _DOES.items() for phrase in phrases}
SIZES = ("small", "large")
_THING = re.compile(rf"a ({'|'.join(SIZES)}) ({'|'.join(COLORS)}) ({'|'.join(SHAPES)})")
_SENTENCE = re.compile(rf"(?P<things>.+?) (?P<does>{'|'.join(map(re.escape, _FAMILY))})\.")


_WORDS = " ".join(["a and , .", *SIZES, *COLORS, *SHAPES, *(does for both in _DOES.values() for does in both)]).split()
VOCABULARY = tuple(dict.fromkeys(_WORDS))
"""Every word of every caption of any world, in small letters, in an order that does not change."""


def sizes(recipe: Recipe, cast: Cast) -> list[str]:
    """Small or large, for each object: on which side of the middle of the recipe's radii it is."""
    middle = (recipe.radius[0] + recipe.radius[1]) / 2
    return ["small" if radius < middle else "large" for radius in cast.radii]


def write_caption(recipe: Recipe, family: str, cast: Cast) -> str:
    """What a scene shows, such as "A small red circle and a large blue circle bounce off the walls."."""
    return tell({"family": family, "sizes": sizes(recipe, cast), "colors": cast.colors, "shapes": cast.shapes})


def tell(facts: Mapping[str, Any]) -> str:
    """The caption of these facts, ``family``, ``sizes``, ``colors`` and ``shapes``: the inverse of :func:`parse_caption`."""
    words = zip(facts["sizes"], facts["colors"], facts["shapes"], strict=True)
    things = [f"a {size} {color} {shape}" for size, color, shape in words]
    listed = things[0] if len(things) == 1 else f"{', '.join(things[:-1])} and {things[-1]}"
    return f"{listed[0].upper()}{listed[1:]} {_DOES[facts['family']][len(things) > 1]}."


def parse_caption(caption: str) -> dict[str, Any]:
    """The factors that a caption names: ``family``, and ``colors``, ``shapes`` and ``sizes`` in the order of the objects.

    Raises `UserError` for a sentence that the grammar does not make.
    """
    sentence = _SENTENCE.fullmatch(caption.strip())
    things = re.split(r", | and ", sentence["things"].lower()) if sentence else []
    matches = [_THING.fullmatch(thing) for thing in things]
    found = [match.groups() for match in matches if match]
    if sentence is None or len(found) < len(matches):
        raise UserError(
            f"The caption {caption!r} is not of the worlds' grammar; write one like 'A small red circle bounces off the walls.' "
            "or 'A large blue square and a small white circle fall and bounce on the floor.'."
        )
    return {
        "family": _FAMILY[sentence["does"]],
        "sizes": [size for size, _, _ in found],
        "colors": [color for _, color, _ in found],
        "shapes": [shape for _, _, shape in found],
    }
