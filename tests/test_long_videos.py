"""The loop over a generator that knows what is right and checks what it is told, and over tokenizers of every kind."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests import tiny
from vidgen.errors import UserError
from vidgen.latents import Condition, Latent, LatentSpec, Shape
from vidgen.rollout import Rollout
from vidgen.samplers.noise import sample_noise
from vidgen.samplers.rollout import SCHEDULES
from vidgen.training.optim import update_average


def of_video(whole: Latent, places: Sequence[int]) -> Latent:
    """Those cells of a latent, as if they followed one another."""
    parts = [whole.cells(place, place + 1) for place in places]
    return Latent.cat([replace(part, start=places[0] + i) for i, part in enumerate(parts)])


class Oracle:
    """Makes the cells of ``whole``, whatever the window, and sees that what it is told of them is true and nothing else."""

    takes_known = takes_frames = takes_places = True

    def __init__(self, whole: Latent, window: int) -> None:
        self.whole, self.window = whole, window
        self.keys: list[tuple[int, int]] = []
        self.conditions: list[Condition] = []

    def __call__(self, shape: Shape, condition: Condition, *, start: int, seed: int) -> Latent:
        spec = self.whole.spec
        self.keys.append((seed, start))
        self.conditions.append(condition)
        cells = spec.cells(shape[0], start)
        assert cells <= self.window
        made = self.whole.cells(start, start + cells) if condition.places is None else of_video(self.whole, condition.places)
        assert (made.num_frames, made.start) == (shape[0], start)
        if condition.known is not None:
            self._check(condition.known, made, condition.known_mask)
        if condition.frames is not None:
            first = start + condition.frames_at
            truth = self.whole.cells(first, first + spec.cells(condition.frames.num_frames, first))
            self._check(condition.frames, truth, condition.frames_mask)
        return made

    def _check(self, told: Latent, truth: Latent, mask: torch.Tensor) -> None:
        assert (told.start, told.grids, told.num_frames) == (truth.start, truth.grids, truth.num_frames)
        assert told.tensors().keys() == truth.tensors().keys()
        assert mask.shape == (len(truth), truth.z.shape[2]) and mask.any()
        for name in ("z", "h"):
            shown = mask[:, None, :, None, None]
            assert torch.equal(getattr(told, name), torch.where(shown, getattr(truth, name), 0))


def same(a: Latent, b: Latent) -> bool:
    named = a.tensors().keys() == b.tensors().keys() and all(torch.equal(v, b.tensors()[k]) for k, v in a.tensors().items())
    return named and (a.grids, a.num_frames, a.start) == (b.grids, b.num_frames, b.start)


def latent_of(tokenizer: Any, frames: int, batch: int = 2) -> tuple[Latent, Shape]:
    _, height, width = tokenizer.spec.stride
    shape = (frames, 2 * height, 3 * width)
    return tokenizer.encode(tiny.video(shape, batch)), shape


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("frames", [45, 43])
def test_a_rollout_is_the_whole_video_with_every_schedule(name: str, frames: int) -> None:
    tokenizer = tiny.tokenizer("lfq")
    whole, shape = latent_of(tokenizer, frames)
    cells = whole.z.shape[2]
    given = {"interpolation": [whole.cells(0, 2), whole.cells(6, 7)]}.get(name, [])
    rollout = Rollout(tokenizer.spec, shape, window=5, name=name, overlap=3, given=given)
    oracle = Oracle(whole, 5)
    rollout.check(oracle)
    actions = torch.arange(frames).expand(2, -1)
    parts = list(rollout.run(oracle, 2, Condition(action=actions), generator=oracle, seed=7))
    assert same(Latent.cat(parts), whole)
    assert len(set(oracle.keys)) == len(oracle.keys)  # no two windows have the same noise
    assert len(parts) > 1
    for condition, stage in zip(oracle.conditions, rollout.stages, strict=True):
        told = condition.action[0].tolist()
        made = [frame for cell in stage.generated for frame in range(*frames_of(tokenizer.spec, cell, frames))]
        assert set(made) <= set(told) and told == sorted(set(told))
        if condition.places is not None:
            assert told == [frame for cell in stage.cells for frame in range(*frames_of(tokenizer.spec, cell, frames))]
    assert cells == rollout.units


def frames_of(spec: LatentSpec, cell: int, frames: int) -> tuple[int, int]:
    return spec.frames(cell), min(frames, spec.frames(cell + 1))


def test_a_generator_without_places_sees_distant_cells_by_cross_attention() -> None:
    tokenizer = tiny.tokenizer("lfq")
    whole, shape = latent_of(tokenizer, 45)
    oracle = Oracle(whole, 5)
    rollout = Rollout(tokenizer.spec, shape, window=5, name="long_range", overlap=3)
    parts = list(rollout.run(oracle, 2, generator=oracle))
    assert same(Latent.cat(parts), whole)
    assert all(condition.places is None for condition in oracle.conditions)
    assert oracle.conditions[-1].frames is not None and oracle.conditions[-1].frames_at < 0
    oracle.takes_frames = False
    oracle.conditions.clear()
    assert same(Latent.cat(list(rollout.run(oracle, 2, generator=oracle))), whole)
    assert all(condition.frames is None for condition in oracle.conditions) and oracle.conditions[-1].places is not None


@pytest.mark.parametrize("name", ["kl", "vq", "residual", "pyramid", "pyramid_clip"])
def test_every_kind_of_latent_and_its_stream(name: str) -> None:
    """Given cells come back bitwise; what leaves is decoded as a stream, and is what decoding the whole gives."""
    tokenizer = tiny.tokenizer(name)
    step = tokenizer.spec.clip or 1
    cells = 1 + 6 * step
    whole, shape = latent_of(tokenizer, tokenizer.spec.frames(cells) - 1, batch=1)
    given = whole.cells(0, 1 + step)
    oracle = Oracle(whole, 4 * step)
    rollout = Rollout(tokenizer.spec, shape, window=1 + 3 * step, overlap=2, given=[given])
    parts = list(rollout.run(oracle, 1, generator=oracle))
    joined = Latent.cat(parts)
    assert same(joined, whole)
    assert same(joined.cells(0, 1 + step), given)
    decoded = torch.cat(list(tokenizer.decode_stream(rollout.run(oracle, 1, generator=oracle))), dim=2)
    assert torch.allclose(decoded, tokenizer.decode(whole), atol=1e-5)
    assert decoded.shape[2] == shape[0]


class Endless:
    """A generator of a made-up space: every cell a function of (seed, sample, start, place in the window)."""

    takes_known = True
    spec = LatentSpec(channels=4, stride=(4, 8, 8), causal=True)

    def __call__(self, shape: Shape, condition: Condition, *, start: int, seed: int, first: int = 0, num: int = 1) -> Latent:
        grid = self.spec.grid(shape, start)
        z = sample_noise(num, (4, *grid), seed=seed, first=first, start=start, device=torch.device("cpu"))
        if condition.known is not None:
            mask = condition.known_mask[:, None, :, None, None]
            z = torch.where(mask, condition.known.z, z + 0.5 * condition.known.z.sum(dim=2, keepdim=True))
        return Latent(spec=self.spec, grids=(grid,), num_frames=shape[0], start=start, z=z)


def live() -> int:
    """Bytes of all tensors there are."""
    tensors = [value for value in gc.get_objects() if type(value) is torch.Tensor]
    return sum({value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in tensors}.values())


def test_memory_does_not_grow_with_the_length() -> None:
    def peak(cells: int) -> int:
        most, before = 0, live()
        rollout = Rollout(Endless.spec, (Endless.spec.frames(cells), 64, 64), window=6)
        for part in rollout.run(Endless(), 1, generator=Endless()):
            if part.start > cells - 9:  # near the end: what piles up has piled up
                most = max(most, live() - before)
        return most

    assert 0 < peak(24) == peak(120)


@pytest.mark.parametrize("name", ["hierarchy_2", "hierarchy_3"])
def test_a_hierarchy_keeps_what_it_still_needs_and_no_more(name: str) -> None:
    """At every stage: finished cells that cannot leave yet, or that a later window observes; and the window's own."""

    class Apart(Endless):
        takes_places = True

    cells, size = 40, 4 * 4 * 8 * 8  # bytes of a cell
    rollout = Rollout(Endless.spec, (Endless.spec.frames(cells), 64, 64), window=6, name=name, overlap=3)
    done: set[int] = set()
    index, before = 0, live()

    def draw(shape: Shape, condition: Condition, *, start: int, seed: int) -> Latent:
        nonlocal index
        front = next(cell for cell in range(cells + 1) if cell not in done)
        seen = {cell for stage in rollout.stages[index:] for cell in stage.observed}
        needed = [cell for cell in done if cell >= front or cell in seen]
        own = 0 if condition.known is None else len(rollout.stages[index].cells)
        assert live() - before <= size * (len(needed) + own) + 1000
        done.update(rollout.stages[index].generated)
        index += 1
        return Endless()(shape, condition, start=start, seed=seed)

    left = 0
    for part in rollout.run(draw, 1, generator=Apart()):
        left += part.z.shape[2]
        del part
    assert left == cells
    assert index == len(rollout.stages) > 5


@pytest.mark.parametrize("name", ["autoregressive", "interpolation"])
def test_a_video_does_not_depend_on_its_batch(name: str) -> None:
    shape = (Endless.spec.frames(20), 16, 16)
    given = Endless()((1, 16, 16), Condition(), start=0, seed=5)

    def drawn(first: int, num: int) -> torch.Tensor:
        def draw(shape: Shape, condition: Condition, *, start: int, seed: int) -> Latent:
            return Endless()(shape, condition, start=start, seed=seed, first=first, num=num)

        rollout = Rollout(Endless.spec, shape, window=6, name=name, given=[given])
        return Latent.cat(list(rollout.run(draw, num, generator=Endless()))).z

    together = drawn(0, 3)
    assert torch.equal(together, torch.cat([drawn(0, 1), drawn(1, 2)]))
    assert not torch.equal(together[0], together[1])
    assert torch.equal(together[:, :, :1], given.z.expand(3, -1, -1, -1, -1))


def test_what_fits_one_window_is_a_plain_sample() -> None:
    tokenizer = tiny.tokenizer("lfq")
    generator = tiny.stirred(tiny.generator("dit", tokenizer.space, num_classes=3))
    shape = tiny.shape_of(tokenizer)
    rollout = Rollout(tokenizer.spec, shape, window=3)
    rollout.check(generator)

    def draw(shape: Shape, condition: Condition, *, start: int, seed: int) -> Latent:
        return generator.sample(2, shape, condition, start=start, seed=seed)

    parts = list(rollout.run(draw, 2, tiny.labels(0, 2), generator=generator, seed=3))
    assert len(parts) == 1
    assert same(parts[0], generator.sample(2, shape, tiny.labels(0, 2), seed=3))


def refused(generator: Any, name: str) -> str:
    rollout = Rollout(Endless.spec, (45, 16, 16), window=5, name=name, overlap=3)
    with pytest.raises(UserError) as error:
        rollout.check(generator)
    return str(error.value)


def test_generators_say_what_they_can_make() -> None:
    class Plain:
        pass

    assert "generator/conditioning=[label,frames]" in refused(Plain(), "autoregressive")
    assert refused(Endless(), "hierarchy_2").endswith("it makes autoregressive, interpolation.")
    assert refused(Endless(), "long_range").endswith("it makes autoregressive, interpolation.")
    spread = Rollout(Endless.spec, (25, 16, 16), window=4, name="hierarchy_2", overlap=2)
    assert all(len(stage.runs) == 1 for stage in spread.stages[1:])  # only what is made first, without seeing any, has gaps
    with pytest.raises(UserError, match="windows with gaps"):
        spread.check(Endless())
    crossing = Endless()
    crossing.takes_frames = True  # type: ignore[attr-defined]
    assert refused(crossing, "hierarchy_3").endswith("it makes autoregressive, long_range, interpolation.")
    Rollout(Endless.spec, (45, 16, 16), window=5, name="long_range", overlap=3).check(crossing)


def given_of(frames: int, start: int = 0) -> Iterator[Latent]:
    yield Endless()((frames, 16, 16), Condition(), start=start, seed=0)


def test_what_is_given_is_whole_cells_inside_the_video() -> None:
    with pytest.raises(UserError, match="1 of the 4 frames of cell 2: give whole cells"):
        Rollout(Endless.spec, (45, 16, 16), window=5, given=list(given_of(6)))
    with pytest.raises(UserError, match="Cells 10 to 13 are given, and the video's 12 cells"):
        Rollout(Endless.spec, (45, 16, 16), window=5, given=list(given_of(16, start=10)))
    with pytest.raises(ValueError, match="its own `given`"):
        known = next(given_of(5))
        next(Rollout(Endless.spec, (45, 16, 16), window=5).run(Endless(), 1, Condition(known=known), generator=Endless()))


@pytest.mark.parametrize("schedule", ["hierarchy_2", "hierarchy_3", "long_range"])
@pytest.mark.parametrize(
    ("name", "tokens"), [("dit", "lfq"), ("maskgit", "lfq"), ("ar", "vq"), ("var", "pyramid_lfq"), ("var", "kl")]
)
def test_generators_make_windows_whose_cells_lie_apart(name: str, tokens: str, schedule: str) -> None:
    """What a window observes is what has been made there, and stays so; what is made does not depend on the batch."""
    tokenizer = tiny.tokenizer(tokens).double()
    far = {"label": {"dropout": 0.1}, "frames": {"spread": 0.5}}
    generator = tiny.stirred(tiny.generator(name, tokenizer.space, num_classes=3, conditioning=far)).double().eval()
    shape = tiny.shape_of(tokenizer, (9, 2, 2))
    rollout = Rollout(tokenizer.spec, shape, window=4, overlap=2, name=schedule)
    rollout.check(generator)
    seen: list[tuple[Condition, Latent]] = []

    def drawn(first: int, num: int) -> Latent:
        def draw(shape: Shape, condition: Condition, *, start: int, seed: int) -> Latent:
            made = generator.sample(num, shape, condition, start=start, first=first, seed=seed)
            seen.append((condition, made))
            return made

        return Latent.cat(list(rollout.run(draw, num, tiny.labels(*[1] * num), generator=generator)))

    together = drawn(0, 2)
    assert (together.z.shape[2], together.num_frames) == (9, shape[0])
    assert any(condition.places is not None for condition, _ in seen)
    made: set[int] = set()
    for (condition, window), stage in zip(seen, rollout.stages, strict=True):
        places = list(condition.places or range(window.start, window.start + window.z.shape[2]))
        assert places == list(stage.cells) and set(stage.observed) <= made
        assert torch.equal(window.z, together.z[:, :, places])  # also what it has only observed
        assert len({*stage.generated} & made) == 0
        made |= {*stage.generated}
    assert made == set(range(9))
    torch.testing.assert_close(drawn(1, 1).z, together.z[1:], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["maskgit", "ar", "dit"])
def test_generators_go_on_from_what_they_have_made(name: str) -> None:
    """The cells between two windows are those of the first; what is made does not depend on the batch."""
    tokenizer = tiny.tokenizer("lfq")
    changes = {"noise_levels": "cell", "shift": 1.0} if name == "dit" else {}
    generator = tiny.stirred(tiny.generator(name, tokenizer.space, num_classes=3, **changes)).eval()
    shape = tiny.shape_of(tokenizer, (6, 2, 2))
    rollout = Rollout(tokenizer.spec, shape, window=3, overlap=1, given=[])
    rollout.check(generator)
    seen: list[Condition] = []

    def drawn(first: int, num: int) -> Latent:
        def draw(shape: Shape, condition: Condition, *, start: int, seed: int) -> Latent:
            seen.append(condition)
            made = generator.sample(num, shape, condition, start=start, first=first, seed=seed)
            if condition.known is not None:
                assert torch.equal(made.ids[:, :4], condition.known.ids[:, :4])
            return made

        return Latent.cat(list(rollout.run(draw, num, tiny.labels(*[1] * num), generator=generator)))

    together = drawn(0, 2)
    assert together.grids == ((6, 2, 2),) and together.num_frames == shape[0]
    assert torch.equal(seen[1].known.ids[:, :4], together.ids[:, 8:12])
    assert (drawn(1, 1).ids == together.ids[1:]).float().mean() > 0.95  # equal but for rounding, which may turn a bit


def test_dit_without_known_cells_in_training_is_refused() -> None:
    tokenizer = tiny.tokenizer("lfq")
    generator = tiny.generator("dit", tokenizer.space)
    with pytest.raises(UserError, match=r"generator/conditioning=\[label,frames\]"):
        Rollout(tokenizer.spec, tiny.shape_of(tokenizer, (6, 2, 2)), window=3).check(generator)


# Learning to do so

CIRCLE = LatentSpec(channels=2, stride=(4, 1, 1), causal=True)
SPEEDS = torch.tensor([0.0, 0.25, -0.25])
"""Radians a cell, by label."""


def turning(num: int, cells: int, label: torch.Tensor) -> torch.Tensor:
    """``h`` (num, 2, cells, 1, 1): a point that goes around a circle at its label's speed, from anywhere."""
    angle = 2 * math.pi * torch.rand(num, 1) + SPEEDS[label].unsqueeze(1) * torch.arange(cells)
    return math.sqrt(2) * torch.stack([angle.cos(), angle.sin()], dim=1)[..., None, None]


def off_the_law(h: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """(num,): how far from the nearest lawful motion each is, in radii, root mean square over its cells."""
    points = torch.complex(h[:, 0, :, 0, 0], h[:, 1, :, 0, 0]) / math.sqrt(2)
    still = points * torch.exp(-1j * SPEEDS[label].unsqueeze(1) * torch.arange(h.shape[2]))
    mean = still.mean(dim=1, keepdim=True)
    return (still - mean / mean.abs()).abs().square().mean(dim=1).sqrt()


@pytest.mark.slow
def test_a_hierarchy_moves_by_the_law_where_training_saw_cells_that_lie_apart() -> None:
    """Videos of 13 cells in windows of 5. A dit that has seen 5 cells that follow one another alone knows nothing of far ones."""

    def project(h: torch.Tensor, *, num_frames: int | None = None, start: int = 0) -> Latent:
        frames = num_frames or CIRCLE.frames(h.shape[2], start)
        return Latent(spec=CIRCLE, grids=(tuple(h.shape[2:]),), num_frames=frames, start=start, z=h, h=h)

    def trained(spread: float, cells: int, steps: int = 1500, lr: float = 2e-3) -> Any:
        torch.manual_seed(0)
        parts = {"label": {"dropout": 0.0}, "frames": {"spread": spread}}
        own = {"patch": (1, 1, 1), "prediction": "v", "solver": "heun", "shift": 1.0, "steps": 20, "guidance_scale": 1.0}
        space = SimpleNamespace(spec=CIRCLE, h_channels=2, project=project)
        dit = tiny.generator("dit", space, 3, width=64, depth=3, conditioning=parts, **own)
        average = deepcopy(dit).eval().requires_grad_(False)
        optimizer = torch.optim.AdamW(dit.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.0)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = lr * min(1.0, (step + 1) / 50) * (1 + math.cos(math.pi * step / steps)) / 2
            label = torch.randint(3, (128,))
            optimizer.zero_grad()
            dit.loss(project(turning(128, cells, label)), Condition(label=label)).total.backward()
            torch.nn.utils.clip_grad_norm_(dit.parameters(), 1.0)
            optimizer.step()
            update_average(average.parameters(), dit.parameters(), min(0.99, (1 + step) / (10 + step)))
        return average

    label = torch.arange(48) % 3

    def error(dit: Any, name: str) -> float:
        rollout = Rollout(CIRCLE, (CIRCLE.frames(13), 1, 1), window=5, overlap=2, name=name)

        def draw(shape: Shape, condition: Condition, *, start: int, seed: int) -> Latent:
            return dit.sample(48, shape, condition, start=start, seed=seed)

        dit.conditioner.parts["frames"].spread = 0.5  # so that it does what it is asked, trained for it or not
        rollout.check(dit)
        drawn = Latent.cat(list(rollout.run(draw, 48, Condition(label=label), generator=dit, seed=3)))
        return float(off_the_law(drawn.h, label).mean())

    assert off_the_law(turning(48, 13, label), label).max() < 1e-5
    dit, near = trained(spread=1.0, cells=13), trained(spread=0.0, cells=5)
    far, further, other = error(dit, "hierarchy_2"), error(dit, "hierarchy_3"), error(near, "hierarchy_2")
    print(far, further, other)
    assert far < 0.15 and further < 0.15 and other > 3 * far, (far, further, other)
