"""The grammar of the worlds' captions: facts to caption and back, and every word known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from vidgen.conditioning.text import join_words, split_words, word_ids
from vidgen.data.worlds import Worlds, parse_caption, tell
from vidgen.data.worlds.captions import SIZES, VOCABULARY
from vidgen.data.worlds.recipe import COLORS, FAMILIES, SHAPES


def facts() -> list[dict[str, object]]:
    """All that can be said of one object, and a thousand things of two and three."""
    things = list(itertools.product(SIZES, COLORS, SHAPES))
    rng = np.random.default_rng(0)
    casts = [[thing] for thing in things]
    casts += [[things[i] for i in rng.integers(len(things), size=n)] for n in rng.integers(2, 4, size=200)]
    named = [dict(zip(("sizes", "colors", "shapes"), map(list, zip(*cast, strict=True)), strict=True)) for cast in casts]
    return [{"family": family, **cast} for family in FAMILIES for cast in named]


def test_facts_and_captions_are_inverse() -> None:
    told = facts()
    captions = [tell(fact) for fact in told]
    assert [parse_caption(caption) for caption in captions] == told
    one = captions[: len(SIZES) * len(COLORS) * len(SHAPES)]
    assert len(set(one)) == len(one)


@pytest.mark.parametrize("objects", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_clips_of_every_recipe(family: str, objects: int) -> None:
    """Caption to facts to the same caption, and the facts are the clip's."""
    if family == "collide" and objects == 1:
        objects = 2
    shapes = ("circle",) if family == "collide" else tuple(SHAPES)
    world = Worlds(
        families=(family,), objects=objects, height=64, width=64, shapes=shapes, frames=5, radius=(2, 3), speed=(1, 12)
    )
    for index in range(4):
        clip = world.clip("test", index)
        found = parse_caption(clip["caption"])
        assert found == {name: clip["factors"][name] for name in ("family", "sizes", "colors", "shapes")}
        assert tell(found) == clip["caption"]


def test_every_word_is_in_the_vocabulary_once() -> None:
    assert len(set(VOCABULARY)) == len(VOCABULARY)
    used = {word for fact in facts() for word in split_words(tell(fact))}
    assert used == set(VOCABULARY)
    assert Worlds().vocabulary == Worlds(families=("agent",)).vocabulary == VOCABULARY


def test_ids_spell_the_caption() -> None:
    """Which is read back from them: nothing of it is lost but the capital."""
    told = facts()[::37]
    captions = [tell(fact) for fact in told]
    ids = word_ids(captions, VOCABULARY)
    spelt = [join_words([VOCABULARY[place - 1] for place in row if place]) for row in ids.tolist()]
    assert spelt == [caption.lower() for caption in captions]
    assert [parse_caption(text) for text in spelt] == told


def test_actions_are_named_where_something_is_steered() -> None:
    assert Worlds().action_names == ()
    world = Worlds(families=("bounce", "agent"))
    actions = np.concatenate([world.clip("train", index)["actions"] for index in range(20)])
    assert actions.max() < len(world.action_names)
