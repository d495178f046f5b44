"""What each measure sees and what it misses: true clips, spoilt in known ways, into ``benchmarks/results/corruptions.jsonl``.

    python benchmarks/corruptions.py                  measures all of it anew, in minutes, and renders the tables
    python benchmarks/corruptions.py --show FOLDER    writes contact sheets of the first spoilt clips, and measures nothing

A corruption is a pure function of clips and of random numbers that are a function of (seed, corruption), so the table is the same
wherever it is made. Every measure is given the same spoilt clips: those of pixels their originals, the Frechet distances true
clips of the training split, the judge and the physics the labels, actions, states and captions that the clips were made for.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compare_tokenizers import h264
from sensitivity import FIGURES, FRESH, NONE, RESULTS, Point
from torch import Tensor, nn

from vidgen.data.batches import to_pixels, to_video
from vidgen.data.worlds import Worlds, laws, paint
from vidgen.data.worlds.recipe import COLORS, GROUND, RESTITUTION, SHAPES, WALL
from vidgen.data.worlds.scenes import Scene
from vidgen.errors import UserError
from vidgen.metrics.factors import Factors, factor_fd, novelty, true_factors
from vidgen.metrics.frechet import frechet_from_features
from vidgen.metrics.physics import Physics
from vidgen.metrics.psnr import PSNR
from vidgen.metrics.ssim import SSIM
from vidgen.registry import build
from vidgen.runs import environment
from vidgen.viz import contact_sheet

SEED = 0
REFERENCE, SETS, BATCH = 1024, 6, 16
"""True clips that the Frechet distances compare with, sets of fresh true clips that say what chance does, clips at a time."""

WORLDS: dict[str, tuple[int, dict[str, Any]]] = {
    "one object": (
        192,
        {
            "families": ("bounce", "gravity", "orbit", "occlude", "agent"),
            "shapes": tuple(SHAPES),
            "height": 48,
            "width": 48,
        },
    ),
    "two discs": (64, {"families": ("bounce", "gravity", "collide"), "objects": 2, "height": 48, "width": 48}),
}
"""The worlds by name: how many clips of the test split are spoilt, and the recipe."""

# Clips ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Clips:
    """Clips with all that they were made for; what a corruption does not touch stays that of the true clips."""

    world: Worlds
    scenes: tuple[Scene, ...]
    video: np.ndarray
    label: np.ndarray
    actions: np.ndarray
    states: np.ndarray
    colors: tuple[tuple[str, ...], ...]
    captions: tuple[str, ...]
    first: int

    @classmethod
    def of(cls, world: Worlds, count: int, first: int = 0, split: str = "test") -> Clips:
        """``count`` clips of a split from ``first`` on."""
        found = [world.clip(split, index) for index in range(first, first + count)]
        return cls(
            world=world,
            scenes=tuple(world.scene(split, index) for index in range(first, first + count)),
            video=np.stack([clip["video"] for clip in found]),
            label=np.array([clip["label"] for clip in found]),
            actions=np.stack([clip["actions"] for clip in found]),
            states=np.stack([clip["states"] for clip in found]),
            colors=tuple(tuple(clip["factors"]["colors"]) for clip in found),
            captions=tuple(clip["caption"] for clip in found),
            first=first,
        )

    def shown(self, video: np.ndarray) -> Clips:
        """The same clips with other pixels."""
        return replace(self, video=np.ascontiguousarray(video))

    def painted(self, change: Callable[[Scene], Scene]) -> np.ndarray:
        """The pixels of every scene as ``change`` makes it."""
        _, height, width = self.world.shape
        return np.stack([paint(change(scene), height, width)[0] for scene in self.scenes])

    def moved(self, position: Callable[[Scene], np.ndarray]) -> Clips:
        """The clips with the objects at ``position(scene)`` (T, n, 2), kept within the frame."""

        def change(scene: Scene) -> Scene:
            low, high = self.limits(scene)
            return replace(scene, position=np.clip(position(scene), low, high))

        return self.shown(self.painted(change))

    def limits(self, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
        """Where the centres of a scene's objects can be: the least and the greatest (n, 2)."""
        cast = scene.cast
        box = np.array([self.world.recipe.box(s, r) for s, r in zip(cast.shapes, cast.radii, strict=True)])
        return box[:, ::2], box[:, 1::2]


Corruption = Callable[[Clips, np.random.Generator], Clips]


# Corruptions ------------------------------------------------------------------------------------------------------------


def none(clips: Clips, rng: np.random.Generator) -> Clips:
    return clips


def fresh(clips: Clips, rng: np.random.Generator, draw: int = 0) -> Clips:
    """Other true clips of the same split."""
    return Clips.of(clips.world, len(clips.video), first=(draw + 1) * len(clips.video))


def blur(clips: Clips, rng: np.random.Generator, sigma: float = 1.0) -> Clips:
    offsets = torch.arange(-4, 5, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel /= kernel.sum()
    image = torch.from_numpy(clips.video).double().permute(0, 1, 4, 2, 3).flatten(0, 2)[:, None]
    image = nn.functional.pad(image, (4, 4, 4, 4), mode="replicate")
    image = nn.functional.conv2d(nn.functional.conv2d(image, kernel[None, None, None]), kernel[None, None, :, None])
    count, frames = clips.video.shape[:2]
    return clips.shown(image.round().byte().reshape(count, frames, 3, *image.shape[-2:]).permute(0, 1, 3, 4, 2).numpy())


def noise(clips: Clips, rng: np.random.Generator, sigma: float = 8.0) -> Clips:
    return clips.shown(_bytes(clips.video + rng.normal(scale=sigma, size=clips.video.shape)))


def jitter(clips: Clips, rng: np.random.Generator, sigma: float = 1.0) -> Clips:
    """Every object in every frame displaced, by ``sigma`` pixels along each axis."""
    return clips.moved(lambda scene: scene.position + rng.normal(scale=sigma, size=scene.position.shape))


def accelerated(clips: Clips, rng: np.random.Generator) -> Clips:
    """Each step 6 per cent longer than the last, along the same path."""
    return _at_times(clips, np.concatenate([[0.0], np.cumsum(1.06 ** np.arange(clips.video.shape[1] - 1))]))


def faster(clips: Clips, rng: np.random.Generator) -> Clips:
    """The motion at one and a half times its speed."""
    return _at_times(clips, 1.5 * np.arange(clips.video.shape[1]))


def teleport(clips: Clips, rng: np.random.Generator) -> Clips:
    """From some frame on, the objects are elsewhere by 8 to 16 pixels, and go on as they would."""

    def position(scene: Scene) -> np.ndarray:
        low, high = clips.limits(scene)
        path, when = scene.position.copy(), int(rng.integers(4, len(scene.position) - 4))
        for k in range(path.shape[1]):
            # The one of many places that leaves most of the path within the frame.
            angle, length = rng.uniform(0, 2 * math.pi, 64), rng.uniform(8, 16, 64)
            shift = np.stack([length * np.cos(angle), length * np.sin(angle)], -1)
            ends = path[when:, k][None] + shift[:, None]
            beyond = np.maximum(np.maximum(low[k] - ends, ends - high[k]), 0).sum((1, 2))
            path[when:, k] += shift[beyond.argmin()]
        return path

    return clips.moved(position)


def through(clips: Clips, rng: np.random.Generator, depth: float = 2.0) -> Clips:
    """Every path stretched about the frame's centre, so that what touches a wall goes ``depth`` pixels through it."""

    def change(scene: Scene) -> Scene:
        low, high = clips.limits(scene)
        middle, half = (low + high) / 2, (high - low) / 2
        return replace(scene, position=middle + (scene.position - middle) * (half + depth) / half)

    return clips.shown(clips.painted(change))


def recolour(clips: Clips, rng: np.random.Generator) -> Clips:
    """Half-way through, the first object takes a colour that no object has."""

    def change(scene: Scene) -> Scene:
        left = [name for name in COLORS if name not in scene.cast.colors]
        return replace(scene, cast=replace(scene.cast, colors=(left[rng.integers(len(left))], *scene.cast.colors[1:])))

    return _from(clips, clips.video.shape[1] // 2, clips.painted(change))


def reshape(clips: Clips, rng: np.random.Generator) -> Clips:
    """Half-way through, the first object takes another shape of the same area, within the frame."""

    def change(scene: Scene) -> Scene:
        left = [name for name in SHAPES if name != scene.cast.shapes[0]]
        return replace(scene, cast=replace(scene.cast, shapes=(left[rng.integers(len(left))], *scene.cast.shapes[1:])))

    def kept(scene: Scene) -> Scene:
        other = change(scene)
        return replace(other, position=np.clip(other.position, *clips.limits(other)))

    return _from(clips, clips.video.shape[1] // 2, clips.painted(kept))


def vanish(clips: Clips, rng: np.random.Generator, frames: int = 5) -> Clips:
    """The first object is not there in the last frames."""
    gone = np.stack([_without(clips, scene) for scene in clips.scenes])
    return _from(clips, clips.video.shape[1] - frames, gone)


def duplicate(clips: Clips, rng: np.random.Generator) -> Clips:
    """The first object is there twice: its mirror image about the frame's centre moves with it."""
    _, height, width = clips.world.shape

    def change(scene: Scene) -> Scene:
        cast = scene.cast
        more = replace(
            cast, colors=(cast.colors[0], *cast.colors), shapes=(cast.shapes[0], *cast.shapes), radii=(cast.radii[0], *cast.radii)
        )
        path = np.concatenate([np.array([width, height]) - scene.position[:, :1], scene.position], 1)
        other = replace(scene, cast=more, position=path, velocity=np.zeros_like(path))
        return replace(other, position=np.clip(path, *clips.limits(other)))

    return clips.shown(clips.painted(change))


def shuffle(clips: Clips, rng: np.random.Generator) -> Clips:
    return clips.shown(np.stack([video[rng.permutation(len(video))] for video in clips.video]))


def freeze(clips: Clips, rng: np.random.Generator) -> Clips:
    return clips.shown(clips.video[:, :1].repeat(clips.video.shape[1], 1))


def backwards(clips: Clips, rng: np.random.Generator) -> Clips:
    return clips.shown(clips.video[:, ::-1])


def wrong_label(clips: Clips, rng: np.random.Generator) -> Clips:
    """Every clip says that it is of another family; its pixels are untouched."""
    count = len(clips.world.class_names)
    return replace(clips, label=(clips.label + rng.integers(1, count, len(clips.label))) % count)


def brighten(clips: Clips, rng: np.random.Generator, most: float = 24.0) -> Clips:
    """Brightness drifts upwards, by ``most`` of 255 in the last frame."""
    drift = np.linspace(0.0, most, clips.video.shape[1])[:, None, None, None]
    return clips.shown(_bytes(clips.video + drift))


def compress(clips: Clips, rng: np.random.Generator, crf: int = 45) -> Clips:
    """Through x264 and back, each clip by itself."""
    return clips.shown(np.stack([h264(video, crf, preset="medium", rate=8)[1] for video in clips.video]))


def halve(clips: Clips, rng: np.random.Generator) -> Clips:
    """Half the resolution and back, by averages and bilinear interpolation."""
    video = to_video(torch.from_numpy(clips.video))
    small = nn.functional.avg_pool3d(video, (1, 2, 2)).transpose(1, 2)
    count, frames = small.shape[:2]
    large = nn.functional.interpolate(small.flatten(0, 1), scale_factor=2, mode="bilinear", align_corners=False)
    return clips.shown(to_pixels(large.unflatten(0, (count, frames)).transpose(1, 2)))


def mirror(clips: Clips, rng: np.random.Generator) -> Clips:
    return clips.shown(clips.video[:, :, :, ::-1])


CORRUPTIONS: dict[str, Corruption] = {
    NONE: none,
    FRESH: fresh,
    "mirrored": mirror,
    "blur, 1 px": blur,
    "noise, 8 of 255": noise,
    "half resolution": halve,
    "H.264, crf 45": compress,
    "brighter, to 24 of 255": brighten,
    "jitter, 0.5 px": partial(jitter, sigma=0.5),
    "jitter, 1 px": jitter,
    "6 % faster each frame": accelerated,
    "1.5 times as fast": faster,
    "teleport": teleport,
    "2 px through the walls": through,
    "backwards": backwards,
    "shuffled frames": shuffle,
    "frozen": freeze,
    "other colour half-way": recolour,
    "other shape half-way": reshape,
    "vanished for 5 frames": vanish,
    "a second of it": duplicate,
    "wrong label": wrong_label,
}
"""What is done to the clips, in the words of the tables."""


def spoilt(clips: Clips, name: str, seed: int = SEED) -> Clips:
    """The clips with a corruption of ``CORRUPTIONS`` done to them."""
    return CORRUPTIONS[name](clips, np.random.default_rng([seed, list(CORRUPTIONS).index(name)]))


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _from(clips: Clips, frame: int, video: np.ndarray) -> Clips:
    """The clips with other pixels from ``frame`` on."""
    return clips.shown(np.concatenate([clips.video[:, :frame], video[:, frame:]], 1))


def _without(clips: Clips, scene: Scene) -> np.ndarray:
    """The pixels of a scene without its first object."""
    frames, height, width = clips.world.shape
    if len(scene.cast.radii) == 1:
        video = np.full((frames, height, width, 3), GROUND, dtype=np.uint8)
        video[:, :, scene.wall[0] : scene.wall[1]] = WALL
        return video
    cast = replace(scene.cast, colors=scene.cast.colors[1:], shapes=scene.cast.shapes[1:], radii=scene.cast.radii[1:])
    return paint(replace(scene, cast=cast, position=scene.position[:, 1:], velocity=scene.velocity[:, 1:]), height, width)[0]


def _at_times(clips: Clips, times: np.ndarray) -> Clips:
    """The clips with what their laws show at other ``times`` (T,), in frames; what is steered moves that much farther."""
    return clips.moved(lambda scene: _positions(clips, scene, times))


def _positions(clips: Clips, scene: Scene, times: np.ndarray) -> np.ndarray:
    recipe, start, speed = clips.world.recipe, scene.position[0], scene.velocity[0]
    (x0, y0), (x1, y1) = (ends.T for ends in clips.limits(scene))
    t = times[:, None]
    if scene.family == "agent":
        push = laws.moves(scene.actions, recipe.speed[1]) * np.diff(times, prepend=0.0)[:, None]
        return np.stack(
            [laws.steer(start[:, a], low, high, push[:, a]).T for a, (low, high) in enumerate(((x0, x1), (y0, y1)))], -1
        )
    if scene.family == "orbit":
        turned = scene.velocity[:2, 0]
        rate = math.atan2(turned[0, 0] * turned[1, 1] - turned[0, 1] * turned[1, 0], (turned[0] * turned[1]).sum())
        arm = np.stack([speed[:, 1], -speed[:, 0]], -1) / rate
        c, s = np.cos(rate * t), np.sin(rate * t)
        return np.stack([c * arm[:, 0] - s * arm[:, 1], s * arm[:, 0] + c * arm[:, 1]], -1) + start - arm
    if scene.family == "collide":
        fine = 16  # between two frames
        frames = math.ceil(times[-1] * fine) + 1
        radius = np.array([scene.cast.radii])
        path = laws.collide(start[None], speed[None] / fine, radius, recipe.height, recipe.width, frames)[0][0]
        return path[np.rint(times * fine).astype(int)]
    if scene.family == "gravity":
        x = laws.ricochet(start[:, 0], speed[:, 0], x0, x1, t, RESTITUTION)[0]
        return np.stack([x, y1 - laws.fall(y1 - start[:, 1], -speed[:, 1], recipe.gravity, t, RESTITUTION)[0]], -1)
    ends = ((start[:, 0], speed[:, 0], x0, x1), (start[:, 1], speed[:, 1], y0, y1))
    return np.stack([laws.ricochet(*axis, t)[0] for axis in ends], -1)


# Measuring --------------------------------------------------------------------------------------------------------------


class Random3D(nn.Module):
    """Features of 3-D convolutions with random weights: means and deviations of the last layer. A smoke test, and never FVD."""

    def __init__(self, *, width: int = 32, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.layers = nn.ModuleList(
            nn.Conv3d(before, after, 3, stride=(1 if first else 2, 2, 2), padding=1)
            for first, before, after in ((True, 3, width), (False, width, width), (False, width, width))
        )
        for layer in self.layers:
            nn.init.normal_(layer.weight, std=math.sqrt(2 / layer.weight[0].numel()), generator=generator)
            nn.init.normal_(layer.bias, std=0.1, generator=generator)

    @torch.no_grad()
    def forward(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W) in [-1, 1] -> (B, 2 * width)."""
        for layer in self.layers:
            video = layer(video).relu()
        return torch.cat([video.mean((2, 3, 4)), video.std((2, 3, 4))], 1)


FEATURES: dict[str, Callable[[], Any]] = {
    "random3d": Random3D,
    "motion": lambda: build("extractors", {"name": "motion"}),
}
"""What makes features of videos (B, 3, T, H, W) in [-1, 1], by name; one that there is not is left out of the table."""


@cache
def extractors() -> dict[str, Any]:
    """Those of ``FEATURES`` that there are."""
    found = {}
    for name, make in FEATURES.items():
        try:
            found[name] = make()
        except UserError as error:
            print(f"The column fd_{name} is left out: {error}")
    return found


def features(extractor: Any, video: np.ndarray) -> Tensor:
    """(N, d) of clips uint8 (N, T, H, W, 3)."""
    parts = [video[begin : begin + BATCH] for begin in range(0, len(video), BATCH)]
    return torch.cat([extractor(to_video(torch.from_numpy(part))) for part in parts])


@dataclass(frozen=True, kw_only=True)
class Reference:
    """True clips of the training split: their features by the name of the extractor, and their factors."""

    features: dict[str, Tensor]
    factors: Factors

    @classmethod
    def of(cls, world: Worlds, count: int = REFERENCE) -> Reference:
        video = np.stack([world.clip("train", index)["video"] for index in range(count)])
        return cls(
            features={name: features(extractor, video) for name, extractor in extractors().items()},
            factors=true_factors(world, "train", range(count)),
        )


def measure(clips: Clips, originals: Clips, reference: Reference) -> dict[str, tuple[float | None, int, int]]:
    """Every figure of the tables: its value, on how many it was measured, and out of how many."""
    count = len(clips.video)
    psnr, ssim = PSNR(), SSIM()
    for begin in range(0, count, BATCH):
        pair = [to_video(torch.from_numpy(one.video[begin : begin + BATCH])) for one in (clips, originals)]
        psnr.update(*pair)
        ssim.update(*pair)
    found: dict[str, tuple[float, int, int]] = {
        "psnr": (psnr.compute().item(), count, count),
        "ssim": (ssim.compute().item(), count, count),
    }
    for name, extractor in extractors().items():
        distance = frechet_from_features(features(extractor, clips.video), reference.features[name])
        found[f"fd_{name}"] = (float(distance), count, count)
    findings = Physics(clips.world)(
        clips.video, clips.label, clips.actions, states=clips.states, colors=clips.colors, captions=clips.captions
    )
    found |= {name: (one.value, one.n, one.of or one.n) for name, one in findings.summary().items()}
    near = novelty(findings.factors, reference.factors, clips.world.recipe)
    objects = findings.factors.read.size
    found["novelty"] = (float(near.mean()) if len(near) else math.nan, len(near), objects)
    if len(near) > 1:
        found["factor_fd"] = (factor_fd(findings.factors, reference.factors, clips.world.recipe), len(near), objects)
    return {name: (value if math.isfinite(value) else None, n, of) for name, (value, n, of) in found.items() if name in FIGURES}


def run(count: int | None = None) -> Iterator[Point]:
    """Measures every corruption of every world, on ``count`` clips where that is not its own."""
    for world_name, (own, recipe) in WORLDS.items():
        world = Worlds(**recipe)
        originals, reference = Clips.of(world, count or own), Reference.of(world, REFERENCE if count is None else 2 * count)
        for name in CORRUPTIONS:
            for draw in range(SETS if name == FRESH else 1):
                clips = fresh(originals, np.random.default_rng(), draw) if draw else spoilt(originals, name)
                begin = time.monotonic()
                figures = measure(clips, originals, reference)
                seconds = round(time.monotonic() - begin, 2)
                yield Point(
                    world=world_name, corruption=name, draw=draw, clips=len(clips.video), figures=figures, seconds=seconds
                )


def show(folder: Path, count: int = 6) -> None:
    """Writes a contact sheet of the first clips for each corruption of each world."""
    for world_name, (_, recipe) in WORLDS.items():
        originals = Clips.of(Worlds(**recipe), count)
        for name in CORRUPTIONS:
            file = f"{world_name} {name}".replace(",", "").replace(" ", "-").replace("%", "percent")
            contact_sheet(folder / f"{file}.png", spoilt(originals, name).video, every=2)


def main(words: Sequence[str] | None = None) -> int:
    """Measures everything, and renders."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--show", type=Path, metavar="FOLDER", help="write contact sheets there, and measure nothing")
    folder = parser.parse_args(words).show
    if folder is not None:
        show(folder)
        return 0
    lines, place = [], environment()  # before there is anything that git has not seen
    for point in run():
        lines.append(json.dumps({**asdict(point), "seed": SEED, **place}, allow_nan=False) + "\n")
        print(f"{point.world}: {point.corruption} ({point.seconds:.1f} s)", flush=True)
    partial_file = RESULTS.with_name(f".{RESULTS.name}.partial")
    partial_file.write_text("".join(lines), encoding="utf-8")
    partial_file.replace(RESULTS)
    import render

    return render.main([])


if __name__ == "__main__":
    raise SystemExit(main())
