"""Worlds: small scenes under exact laws of motion, drawn by formula, so that a clip's every fact is known.

Nothing is downloaded or stored: a clip is a pure function of (recipe, split, index), the same to the last bit on every
machine. `parse` reads positions back from pixels and `fit` asks which law explains them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from vidgen.data.worlds.captions import VOCABULARY, parse_caption, sizes, tell, write_caption
from vidgen.data.worlds.draw import Draw
from vidgen.data.worlds.recipe import ACTIONS, VERSION, Recipe
from vidgen.data.worlds.render import paint
from vidgen.data.worlds.scenes import Scene, draw_scene
from vidgen.errors import UserError, did_you_mean
from vidgen.protocols import SPLITS

__all__ = ["ACTIONS", "Recipe", "Worlds", "paint", "parse_caption", "tell"]

_SIZES = {"train": 2**32, "val": 2**20, "test": 2**20}


class Worlds:
    """Procedural clips of ``objects`` shapes that move by one law, the class label.

    Families (the label is the position in ``families``):

    - ``bounce``: constant velocity, reflected without loss where the object's edge meets the frame's.
    - ``gravity``: constant acceleration downwards; floor and side walls keep 0.6 of the speed.
    - ``orbit``: uniform circular motion, at least 4 radians in a clip of 5 frames or more; several objects share one orbit.
    - ``collide``: two discs or more that bounce off the frame and, alike in mass, off one another without loss.
    - ``occlude``: as ``bounce``, behind a static grey wall that can hide an object whole.
    - ``agent``: every object makes the move that the action names, ``speed``'s most in pixels, unless the border stops it.

    Args:
        frames: frames of a clip.
        height: of a frame, in pixels.
        width: of a frame, in pixels.
        families: which laws, in the order of the labels.
        objects: in every scene, each with a colour of its own. All but those of ``collide`` pass over one another.
        radius: least and most, in pixels; a square, diamond or triangle has the area of a circle of that radius. Objects of
            ``occlude`` are no larger than a wall of a third of the frame's width can hide.
        speed: least and most, in pixels per frame; the least does not bind ``gravity``, ``collide`` and ``agent``. A fall
            passes the most in a few clips of a thousand, by less than a tenth. In an orbit it is measured along the tangents
            from frame to frame, which are a little longer than the arc.
        colors: how many of the eight colours are used.
        shapes: among circle, square, diamond and triangle.
        seed: another seed gives other clips.

    Raises `UserError` for values that no world can have.
    """

    def __init__(
        self,
        *,
        frames: int = 17,
        height: int = 32,
        width: int = 32,
        families: Sequence[str] = ("bounce", "gravity", "orbit"),
        objects: int = 1,
        radius: Sequence[float] = (4.0, 6.0),
        speed: Sequence[float] = (1.0, 2.0),
        colors: int = 8,
        shapes: Sequence[str] = ("circle",),
        seed: int = 0,
    ) -> None:
        self.recipe = Recipe(
            frames=frames,
            height=height,
            width=width,
            families=tuple(families),
            objects=objects,
            radius=_pair(radius),
            speed=_pair(speed),
            colors=colors,
            shapes=tuple(shapes),
            seed=seed,
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, height and width of every clip."""
        return self.recipe.frames, self.recipe.height, self.recipe.width

    @property
    def class_names(self) -> tuple[str, ...]:
        """The families, in the order of the labels."""
        return self.recipe.families

    @property
    def action_names(self) -> tuple[str, ...]:
        """The moves of `agent`, in the order of their numbers; none where no object is steered."""
        return ACTIONS if "agent" in self.recipe.families else ()

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The words of the captions, those of every world."""
        return VOCABULARY

    @property
    def fingerprint(self) -> str:
        """The sha256, in hex, of all that decides the pixels."""
        text = json.dumps({"version": VERSION, **dataclasses.asdict(self.recipe)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def size(self, split: str) -> int:
        """How many clips "train", "val" or "test" has; no clip is in two of them."""
        _stream(split)
        return _SIZES[split]

    def clip(self, split: str, index: int, epoch: int = 0) -> dict[str, Any]:
        """The clip at ``index`` of a split, the same at every ``epoch`` (no training sees all 2**32).

        Returns a dict of ``video`` uint8 (T, H, W, 3); ``label``; ``caption``, which `parse_caption` reads back; ``actions``
        int64 (T,), ``actions[t]`` the move from frame t - 1 to frame t (0, noop, at t = 0 and in every family but `agent`);
        ``states`` float64 (T, n, 5): x, y in pixels, vx, vy in pixels per frame, visible share in [0, 1]; ``factors``, a
        dict of plain values. Objects come in the order in which they are painted.
        """
        label, scene = self._scene(split, index)
        video, visible = paint(scene, self.recipe.height, self.recipe.width)
        return {
            "video": video,
            "label": label,
            "caption": write_caption(self.recipe, scene.family, scene.cast),
            "actions": scene.actions,
            "states": np.concatenate([scene.position, scene.velocity, visible[..., None]], -1),
            "factors": {
                "family": scene.family,
                "colors": list(scene.cast.colors),
                "shapes": list(scene.cast.shapes),
                "radii": list(scene.cast.radii),
                "sizes": sizes(self.recipe, scene.cast),
                "wall": list(scene.wall),
            },
        }

    def scene(self, split: str, index: int) -> Scene:
        """The scene behind ``clip(split, index)``, for whoever wants to paint it differently."""
        return self._scene(split, index)[1]

    def _scene(self, split: str, index: int) -> tuple[int, Scene]:
        if not 0 <= index < self.size(split):
            raise IndexError(f"index {index} of split '{split}', which has {self.size(split)} clips")
        draw = Draw(seed=self.recipe.seed, stream=_stream(split), index=index)
        label = draw.integer(len(self.recipe.families))
        return label, draw_scene(self.recipe, self.recipe.families[label], draw)


def _stream(split: str) -> int:
    if split not in SPLITS:
        raise UserError(f"The worlds have no split '{split}'.{did_you_mean(str(split), SPLITS)} They have {', '.join(SPLITS)}.")
    return SPLITS.index(split)


def _pair(values: Sequence[float]) -> tuple[float, float]:
    return tuple(float(value) for value in values)  # type: ignore[return-value] # the recipe checks how many there are
