"""Measures sampling, generator against generator on one trunk: ``benchmarks/results/sampling.jsonl``.

    python benchmarks/sampling.py                     measures what is not there yet of the code at hand
    python benchmarks/sampling.py --only "var"        that of this one alone

All have the same trunk and are guided by the same scale at every step, by labels, so that every step is of twice the batch. Each
side samples in the dtype that is faster for it on the device at the row's own length, fp32 or bf16, tried before. Beside the time
stand sequential calls of the trunk and the arithmetic of one batch; weights are random, for the time does not depend on them. On
a GPU the trunk is DiT-B's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

import timing
import torch
from timing import Case, Timing
from torch.utils.flop_counter import FlopCounterMode

from vidgen import Condition, Latent, config, hub
from vidgen.latents import Shape
from vidgen.samplers.noise import sample_uniform

RESULTS = Path(__file__).parent / "results" / "sampling.jsonl"
CODE = (
    *("vidgen/generators", "vidgen/nn", "vidgen/heads", "vidgen/samplers", "vidgen/conditioning", "configs/generator"),
    *("benchmarks/sampling.py", "benchmarks/timing.py"),
)
PAIRS, FEW_PAIRS = 5, 3
"""Turns of both sides, and where one of them takes minutes."""

TRIED = 3.0
"""Seconds for which dtypes are tried, or one turn."""

CLASSES, SCALE = 8, 2.0
SPACE = (8, 8)
"""Cells of a frame."""

LENGTHS = (4, 8, 12, 16)
"""Cells along time of the clips: 256 to 1024 tokens."""

USUAL = 5
"""Cells along time of the default recipes' clips: 320 tokens."""

BATCHES = (1, 16)
SMALL = {"width": 256, "depth": 6, "heads": 4}
LARGE = {"width": 768, "depth": 12, "heads": 12}
"""The trunk on a processor, and on a GPU."""

GUIDED = {"guidance_interval": [0.0, 1.0], "guidance_schedule": "constant"}
RECIPES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ar": ("ar", "lfq", {}),
    "ar without a cache": ("ar", "lfq", {}),
    "maskgit": ("maskgit", "lfq", {"steps": 8}),
    "var": ("var", "pyramid_lfq", {}),
    "dit": ("dit", "lfq", {"patch": [1, 2, 2], "solver": "euler", "steps": 250}),
}
"""Recipe, tokenizer and what differs from them, by the name of the side. DiT is as published: patches of 1x2x2, 250 steps."""


@dataclass(frozen=True)
class Side:
    """A generator and the batch that it samples.

    Attributes:
        name: of :data:`RECIPES`.
        cells: of the clips along time.
        batch: clips.
        trunk: options of its size.
        device: where it is.
        area: cells of a frame.
    """

    name: str
    cells: int
    batch: int
    trunk: tuple[tuple[str, int], ...]
    device: torch.device
    area: tuple[int, int] = SPACE

    @cached_property
    def tokenizer(self) -> Any:
        torch.manual_seed(0)
        return hub.build_tokenizer(config.load("tokenizer", RECIPES[self.name][1])).eval().to(self.device)

    @cached_property
    def model(self) -> Any:
        torch.manual_seed(0)
        recipe, _, options = RECIPES[self.name]
        made = config.load("generator", recipe, {**dict(self.trunk), **GUIDED, **options})
        return hub.build_generator(made, space=self.tokenizer.space, num_classes=CLASSES).eval().to(self.device)

    def shape(self, cells: int) -> Shape:
        """The video of so many cells."""
        spec = self.tokenizer.spec
        return spec.frames(cells), self.area[0] * spec.stride[1], self.area[1] * spec.stride[2]

    def sample(self, cells: int | None = None) -> Latent:
        """One batch, of clips of ``cells`` where they are not as long as all."""
        shape, label = self.shape(cells or self.cells), torch.arange(self.batch, device=self.device) % CLASSES
        if self.name == "ar without a cache":
            return without_cache(self.model, self.batch, shape, Condition(label=label))
        return self.model.sample(self.batch, shape, Condition(label=label), guidance_scale=SCALE)

    def call(self, precision: str, cells: int | None = None, decode: bool = False) -> Callable[[], None]:
        """A call that samples, in that precision, and decodes; it returns when the device is done."""

        @torch.no_grad()
        def run() -> None:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16"):
                latent = self.sample(cells)
                if decode:
                    self.tokenizer.decode(latent)
            if self.device.type == "cuda":
                torch.cuda.synchronize()

        return run

    @cached_property
    def precision(self) -> str:
        """The faster of fp32 and bf16 here, at the row's own length: each is tried in turns, the slow ones once."""
        calls = {precision: self.call(precision) for precision in ("fp32", "bf16")}
        taken: dict[str, list[float]] = {precision: [] for precision in calls}
        for precision in calls:
            self.call(precision, cells=1)()
        while sum(map(sum, taken.values())) < TRIED:
            for precision, call in calls.items():
                begin = time.perf_counter()
                call()
                taken[precision].append(time.perf_counter() - begin)
        return min(taken, key=lambda precision: median(taken[precision]))

    @cached_property
    def work(self) -> tuple[int, float]:
        """Sequential calls of the trunk, and floating-point operations, of one batch."""
        calls = 0

        def count(*_: object) -> None:
            nonlocal calls
            calls += 1

        hook = self.model.trunk.blocks[0].register_forward_hook(count)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self.sample()
        hook.remove()
        return calls, float(counter.get_total_flops())

    @property
    def words(self) -> str:
        """What it does, for a row."""
        calls, operations = self.work
        return f"{self.name} {calls} calls, {operations / 1e9:.3g} GFLOP, {self.precision}"


@torch.no_grad()
def without_cache(model: Any, num: int, shape: Shape, condition: Condition) -> Latent:
    """What ``ar`` samples, by going through all tokens so far for each, as one does who keeps nothing."""
    grids, device = model.space.spec.grids(shape), model.begin.device
    places = model.places(grids, 0, None, device)
    told, copies = model.conditioner.guide(condition, num, scale=SCALE).at(0.0)
    c, _ = model.conditioner.told(told, copies * num, grids[-1][0])
    size = sum(map(prod, grids))
    noise = sample_uniform(num, (size, model.head.draws), seed=0, first=0, start=0, device=device)
    tokens = torch.zeros(num, size, len(model.spec.levels), dtype=torch.long, device=device)
    for place, index in enumerate(places.token[0].tolist()):
        seen = places.part(0, place + 1)
        x = (model.inputs(tokens, seen) + model.where(seen)).repeat(copies, 1, 1)
        x = model(x, c, model.rope(seen), (1,) * (place + 1))[:, -1:]
        tokens[:, index : index + 1], _ = model.head.sample(x, (SCALE,), 1.0, noise[:, index : index + 1])
    return Latent(spec=model.spec, grids=grids, num_frames=shape[0], z=model.space.embed(tokens, grids), ids=tokens)


# Rows -----------------------------------------------------------------------------------------------------------------------


def against(one: Side, other: Side, subject: str, measure: str, least: float | None) -> Timing:
    """How many times faster the one samples."""
    return timing.compared(
        one.call(one.precision),
        other.call(other.precision),
        subject=subject,
        measure=measure,
        against=_named(other.name),
        settings=f"{_settings(one)}; {one.words}; {other.words}",
        version=timing.code(*CODE),
        pairs=FEW_PAIRS if other.name == "ar without a cache" and one.batch > 1 else PAIRS,
        rate=(one.batch, "clips/s"),
        least=least,
    )


def first_frame(side: Side, measure: str) -> Timing:
    """The first frame decoded as soon as its tokens are there, against the whole clip: samples are the same, cell by cell."""
    return timing.compared(
        side.call(side.precision, cells=1, decode=True),
        side.call(side.precision, decode=True),
        subject=side.name,
        measure=measure,
        against="the whole clip",
        settings=f"{_settings(side)}; {side.precision}",
        version=timing.code(*CODE),
        pairs=PAIRS,
    )


def peak(side: Side) -> float:
    """MiB that sampling takes at most beyond what was held before."""
    call = side.call(side.precision)
    if side.device.type == "cuda":
        call()
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return (torch.cuda.max_memory_allocated() - held) / 2**20
    timing.forget_peak()
    before, _ = timing.memory()
    call()
    return timing.memory()[1] - before


def memory(side: Side, measure: str) -> Timing:
    """Of sampling, in a process of its own."""
    return Timing(
        subject=side.name,
        measure=measure,
        against="",
        ours=timing.alone(peak, side),
        theirs=None,
        unit="MiB",
        ratio=None,
        quartiles=None,
        pairs=1,
        wanted="",
        met=None,
        settings=_settings(side),
        code=timing.code(*CODE),
        **timing.provenance(),
    )


def _settings(side: Side) -> str:
    trunk = dict(side.trunk)
    return (
        f"width {trunk['width']}, {trunk['depth']} blocks, batch {side.batch}, {side.cells}x{side.area[0]}x{side.area[1]} cells, "
        f"guidance {SCALE:g}"
    )


def _named(name: str) -> str:
    _, _, options = RECIPES[name]
    return f"{name}, {options['steps']} steps" if "steps" in options else name


def cases(
    trunk: dict[str, int] | None = None,
    device: torch.device | None = None,
    lengths: tuple[int, ...] = LENGTHS,
    usual: int = USUAL,
    area: tuple[int, int] = SPACE,
) -> Iterator[Case]:
    """All rows, in the order of the table."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu") if device is None else device
    cuda = device.type == "cuda"
    size = tuple((trunk or (LARGE if cuda else SMALL)).items())

    def row(one: str, other: str, cells: int, batch: int, least: float | None) -> Case:
        mine, theirs = (Side(name, cells, batch, size, device, area) for name in (one, other))
        subject, measure = f"{_named(one)} against {_named(other)}", f"{prod((cells, *area))} cells, batch {batch}"
        return Case(subject, measure, partial(against, mine, theirs, subject, measure, least))

    for batch in BATCHES:
        for cells in lengths:
            yield row("maskgit", "ar", cells, batch, (10.0 if cuda else 3.0) if batch == 1 else None)
    for batch in BATCHES:
        yield row("var", "dit", usual, batch, 10.0)
        yield row("maskgit", "dit", usual, batch, None)
        yield row("var", "ar", usual, batch, None)
    for batch in BATCHES:
        yield row("ar", "ar without a cache", usual, batch, 5.0)
    measure = f"time to the first frame of {prod((usual, *area))} cells, batch 1"
    side = Side("ar", usual, 1, size, device, area)
    yield Case("ar", measure, partial(first_frame, side, measure))
    for name in ("ar", "maskgit", "var", "dit"):
        measure = f"peak memory of sampling {prod((usual, *area))} cells, batch {BATCHES[-1]}"
        side = Side(name, usual, BATCHES[-1], size, device, area)
        yield Case(name, measure, partial(memory, side, measure))


if __name__ == "__main__":
    raise SystemExit(timing.run(RESULTS, cases(), timing.code(*CODE)))
