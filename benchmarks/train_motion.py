"""Trains the network of ``extractor=motion`` on worlds, writes it into the package, and shows what it sees.

    python benchmarks/train_motion.py         trains, writes vidgen/extractors/motion.safetensors, and prints the table
    python benchmarks/train_motion.py --look  the table alone, of the file that is there

A clip of a world is broken in one of seven ways or left whole, and the network is to say which; by which law the clip moves; how
fast, and how unevenly; and which colours are in it. Everything is a function of the seed, on one core of one kind of processor.

The table holds the Frechet distance of broken clips from whole ones over that of whole ones from whole ones, beside the same of a
network of the same shape that has learnt nothing. The last four ways of breaking a clip are not among those it was trained on.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from vidgen.data.batches import to_video
from vidgen.data.worlds import Worlds, paint
from vidgen.data.worlds.recipe import COLORS, FAMILIES
from vidgen.data.worlds.scenes import Scene
from vidgen.extractors.motion import WEIGHTS, Motion, MotionNetwork

Clip = tuple[NDArray[np.uint8], NDArray[np.float64]]
"""A video (T, H, W, 3) and where its objects are shown, (T, n, 2)."""

SEED, STEPS, BATCH, RATE = 0, 700, 32, 3e-3
SHAPES = ("circle", "square", "diamond", "triangle")
WORLDS = (
    {"families": ("bounce", "gravity", "orbit", "agent"), "shapes": SHAPES},
    {"families": ("bounce", "gravity", "orbit")},
    {"families": ("bounce", "gravity", "collide"), "objects": 2, "radius": (3.0, 5.0)},
    {"families": ("bounce", "gravity", "agent"), "height": 40, "width": 40, "objects": 2, "speed": (1.0, 3.0)},
    {"families": ("bounce", "gravity", "occlude"), "height": 40, "width": 40, "radius": (3.0, 6.0), "shapes": SHAPES},
)
LENGTHS = (17, 17, 12, 8)
CLIPS, SEEN_IN = 384, 32
"""Clips of each side of a distance, and how many the network is given at once."""


def whole(scene: Scene, size: tuple[int, int], rng: np.random.Generator) -> Clip:
    return paint(scene, *size)[0], scene.position


def jitter(scene: Scene, size: tuple[int, int], rng: np.random.Generator, pixels: float | None = None) -> Clip:
    """Every object in every frame that far from its place, in any direction; in training .3 to 2 pixels."""
    angle = rng.uniform(0, 2 * np.pi, scene.position.shape[:2])
    shift = (rng.uniform(0.3, 2.0) if pixels is None else pixels) * np.stack([np.cos(angle), np.sin(angle)], -1)
    return whole(dataclasses.replace(scene, position=scene.position + shift), size, rng)


def teleport(scene: Scene, size: tuple[int, int], rng: np.random.Generator) -> Clip:
    """From a frame of the middle half on, the first object is elsewhere, at least a quarter of the frame away."""
    frames, (height, width), margin = len(scene.position), size, scene.cast.radii[0] * 1.2
    at, position = int(rng.integers(frames // 4, frames - frames // 4)), scene.position.copy()
    shift = np.zeros(2)
    while np.abs(shift).max() < min(size) / 4:
        shift = rng.uniform(margin, [width - margin, height - margin]) - position[at, 0]
    position[at:, 0] = np.clip(position[at:, 0] + shift, margin, [width - margin, height - margin])
    return whole(dataclasses.replace(scene, position=position), size, rng)


def recolour(scene: Scene, size: tuple[int, int], rng: np.random.Generator) -> Clip:
    """From a frame of the middle half on, the first object has a colour that no object had."""
    at = int(rng.integers(len(scene.position) // 4, len(scene.position) - len(scene.position) // 4))
    color = str(rng.choice([name for name in COLORS if name not in scene.cast.colors]))
    cast = dataclasses.replace(scene.cast, colors=(color, *scene.cast.colors[1:]))
    before, after = paint(scene, *size)[0], paint(dataclasses.replace(scene, cast=cast), *size)[0]
    return np.concatenate([before[:at], after[at:]]), scene.position


def vanish(scene: Scene, size: tuple[int, int], rng: np.random.Generator) -> Clip:
    """The first object is not there in the last five frames."""
    position = scene.position.copy()
    position[-5:, 0] = -1000.0
    with np.errstate(invalid="ignore"):  # the share of it that shows is of nothing
        return paint(dataclasses.replace(scene, position=position), *size)[0], scene.position


def shuffle(scene: Scene, size: tuple[int, int], rng: np.random.Generator) -> Clip:
    order = rng.permutation(len(scene.position))
    return paint(scene, *size)[0][order], scene.position[order]


def freeze(scene: Scene, size: tuple[int, int], rng: np.random.Generator, start: int | None = None) -> Clip:
    """All frames after one are that one: in training any of the first half."""
    last = int(rng.integers(len(scene.position) // 2)) if start is None else start
    order = np.minimum(np.arange(len(scene.position)), last)
    return paint(scene, *size)[0][order], scene.position[order]


def reverse(scene: Scene, size: tuple[int, int], rng: np.random.Generator) -> Clip:
    return paint(scene, *size)[0][::-1], scene.position[::-1]


def stutter(scene: Scene, size: tuple[int, int], rng: np.random.Generator) -> Clip:
    """Every second frame is the one before it."""
    order = np.arange(len(scene.position)) // 2 * 2
    return paint(scene, *size)[0][order], scene.position[order]


def grow(scene: Scene, size: tuple[int, int], rng: np.random.Generator) -> Clip:
    """Every object half as large again at the end as at the beginning."""
    frames = []
    for t, scale in enumerate(np.linspace(1, 1.5, len(scene.position))):
        cast = dataclasses.replace(scene.cast, radii=tuple(radius * scale for radius in scene.cast.radii))
        frames.append(paint(dataclasses.replace(scene, cast=cast, position=scene.position[t : t + 1]), *size)[0])
    return np.concatenate(frames), scene.position


def noise(scene: Scene, size: tuple[int, int], rng: np.random.Generator) -> Clip:
    """Of 8 levels in every pixel."""
    video = paint(scene, *size)[0] + rng.normal(0, 8, (len(scene.position), *size, 3))
    return np.clip(np.rint(video), 0, 255).astype(np.uint8), scene.position


def drift(scene: Scene, size: tuple[int, int], rng: np.random.Generator) -> Clip:
    """The whole picture wanders sideways by half a pixel a frame, and comes in again on the other side."""
    video = paint(scene, *size)[0]
    return np.stack([np.roll(frame, t // 2, axis=1) for t, frame in enumerate(video)]), scene.position


TAUGHT: tuple[Callable[..., Clip], ...] = (whole, jitter, teleport, recolour, vanish, shuffle, freeze, reverse)
NEVER_SEEN: tuple[Callable[..., Clip], ...] = (stutter, grow, noise, drift)


def jitter_1px(scene: Scene, size: tuple[int, int], rng: np.random.Generator) -> Clip:
    return jitter(scene, size, rng, pixels=1.0)


def freeze_whole(scene: Scene, size: tuple[int, int], rng: np.random.Generator) -> Clip:
    return freeze(scene, size, rng, start=0)


LOOKED_AT = (jitter_1px, teleport, recolour, vanish, shuffle, freeze_whole, reverse, *NEVER_SEEN)


class Batch(NamedTuple):
    """Clips, and what is asked of each: what was done to it, its law, its speed and unevenness, its colours."""

    video: Tensor
    done: Tensor
    family: Tensor
    motion: Tensor
    colors: Tensor


def batch(seed: int, step: int) -> Batch:
    """The clips of a step, all of one world and one length."""
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, step], dtype=np.uint64)))
    frames = int(rng.choice(LENGTHS))
    world = Worlds(frames=frames, seed=seed, **WORLDS[rng.integers(len(WORLDS))])
    size = (world.recipe.height, world.recipe.width)
    videos, asked = [], []
    for index in range(step * BATCH, (step + 1) * BATCH):
        scene, done = world.scene("train", index), int(rng.integers(len(TAUGHT)))
        video, position = TAUGHT[done](scene, size, rng)
        videos.append(video)
        asked.append((done, FAMILIES.index(scene.family), _pace(position), [name in scene.cast.colors for name in COLORS]))
    done, family, motion, colors = zip(*asked, strict=True)
    return Batch(
        to_video(torch.from_numpy(np.stack(videos))),
        torch.tensor(done),
        torch.tensor(family),
        torch.tensor(motion, dtype=torch.float32),
        torch.tensor(colors, dtype=torch.float32),
    )


def _pace(position: NDArray[np.float64]) -> tuple[float, float]:
    """Logarithms of 1 + the mean length of first and of second differences, in pixels."""
    first = np.diff(position, axis=0)
    second = np.diff(first, axis=0)
    return tuple(float(np.log1p(np.sqrt((difference**2).sum(-1)).mean())) for difference in (first, second))


def train() -> MotionNetwork:
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    network = MotionNetwork()
    answers = nn.Linear(Motion.dim, len(TAUGHT) + len(FAMILIES) + 2 + len(COLORS))
    weights = [*network.parameters(), *answers.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS, pct_start=0.1)
    began = time.process_time()
    for step in range(STEPS):
        asked = batch(SEED, step)
        found = answers(network(asked.video)).split([len(TAUGHT), len(FAMILIES), 2, len(COLORS)], dim=1)
        loss = F.cross_entropy(found[0], asked.done) + 0.5 * F.cross_entropy(found[1], asked.family)
        loss = loss + F.mse_loss(found[2], asked.motion) + F.binary_cross_entropy_with_logits(found[3], asked.colors)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == STEPS - 1:
            right, spent = float((found[0].argmax(1) == asked.done).float().mean()), time.process_time() - began
            print(f"step {step}: loss {float(loss.detach()):.3f}, {right:.0%} right, {spent:.0f} s of a core", flush=True)
    return network.eval()


def write(network: MotionNetwork) -> None:
    """In half precision, which is what is measured."""
    state = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in network.state_dict().items()}
    save_file(state, WEIGHTS, {"made_by": "benchmarks/train_motion.py", "seed": str(SEED), "steps": str(STEPS)})
    print(f"{WEIGHTS.name}: {WEIGHTS.stat().st_size / 1e6:.2f} MB, {sum(map(torch.numel, state.values()))} numbers")


def look() -> None:
    """Prints the table."""
    learnt = Motion()
    torch.manual_seed(SEED)
    random = Motion()
    random.network.load_state_dict(MotionNetwork().state_dict())
    world = Worlds(seed=SEED)
    first = _clips(world, whole, 0)
    second = _clips(world, whole, CLIPS)
    rows = {"nothing": second} | {way.__name__: _clips(world, way, CLIPS) for way in LOOKED_AT}
    print(f"{'what was done':<16}{'learnt':>12}{'random':>12}   ratio to whole against whole ({CLIPS} clips each)")
    least: dict[int, float] = {}
    for name, videos in rows.items():
        ratios = []
        for i, extractor in enumerate((learnt, random)):
            distance = frechet(_features(extractor, first), _features(extractor, videos))
            least.setdefault(i, distance)
            ratios.append(distance / least[i])
        print(f"{name:<16}{ratios[0]:>12.2f}{ratios[1]:>12.2f}")


def _clips(world: Worlds, way: Callable[..., Clip], start: int) -> Tensor:
    rng = np.random.Generator(np.random.Philox(key=np.array([SEED, start], dtype=np.uint64)))
    size = (world.recipe.height, world.recipe.width)
    videos = [way(world.scene("test", index), size, rng)[0] for index in range(start, start + CLIPS)]
    return to_video(torch.from_numpy(np.stack(videos)))


def _features(extractor: Motion, videos: Tensor) -> Tensor:
    return torch.cat([extractor(part) for part in videos.split(SEEN_IN)]).double()


def frechet(one: Tensor, other: Tensor) -> float:
    """Between the normal distributions of two sets of features (N, d), by the nuclear norm."""
    means = [features.mean(0) for features in (one, other)]
    a, b = ((features - mean) / (len(features) - 1) ** 0.5 for features, mean in zip((one, other), means, strict=True))
    cross = torch.linalg.matrix_norm(a @ b.T, ord="nuc")
    return float((means[0] - means[1]).square().sum() + a.square().sum() + b.square().sum() - 2 * cross)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--look", action="store_true", help="print the table of the file that is there")
    if not parser.parse_args(words).look:
        write(train())
    look()


if __name__ == "__main__":
    main()
