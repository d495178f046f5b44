"""Measures every quantizer against the public library's of the same idea, into ``benchmarks/results/quantizers.jsonl``.

    python benchmarks/quantizers.py              measures what is not there yet of the code at hand
    python benchmarks/quantizers.py --only lfq   that of these alone

A turn is a forward and a backward pass in training mode over :data:`TOKENS` tokens; both sides get the same features in the same
layout (B, C, t, h, w), equal sizes and, as far as the other side has them, equal options. A new quantizer is an entry of
:data:`RIVALS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import timing
import torch
from timing import Case, Timing
from torch import Tensor
from torch.nn import functional as F

from vidgen.registry import build, parts

RESULTS = Path(__file__).parent / "results" / "quantizers.jsonl"
CODE = ("vidgen/quantizers", "vidgen/nn", "benchmarks/quantizers.py", "benchmarks/timing.py")

GRID = (4, 32, 32)
TOKENS = 4096
PAIRS = 15
LARGE_PAIRS = 5
STEP = "forward and backward"
CODES, CHANNELS = 1024, 64
LEVELS = (8, 8, 8, 5, 5, 5)
STAGES = 4
SCALES = tuple((1.0, side / 32, side / 32) for side in (1, 2, 4, 8, 16, 32))

LARGE_BITS, SMALL_BITS = 18, 14
MEMORY, TIMES = 512.0, 10.0
"""What is asked of lfq and bsq at 2**18 codes: at most so many MiB, and so many times the speed of the others' at 2**14."""

Step = Callable[[Tensor], tuple[Tensor, Tensor]]
"""(B, C, t, h, w) -> what the decoder gets, and the sum of the losses."""


@dataclass(frozen=True)
class Rival:
    """A comparison at equal settings.

    Attributes:
        subject: the row's name.
        quantizer: our part by name.
        options: of our part.
        against: what the other side is.
        theirs: builds the other side; it is imported only here.
        settings: in words, what both share beside the number of tokens.
        channels: of the features.
        asked: whether ours must be no slower; not where the other side is our own shortest writing, for want of a library.
    """

    subject: str
    quantizer: str
    options: Mapping[str, Any]
    against: str
    theirs: Callable[[], Step]
    settings: str
    channels: int = CHANNELS
    asked: bool = True


# The other sides ------------------------------------------------------------------------------------------------------------


def vqp(name: str, **options: Any) -> Callable[[], Step]:
    """A quantizer of vector-quantize-pytorch that takes features as they are."""

    def make() -> Step:
        import vector_quantize_pytorch as library

        part = getattr(library, name)(**options).train()

        def step(x: Tensor) -> tuple[Tensor, Tensor]:
            z, _, *losses = part(x)
            return z, sum((loss.sum() for loss in losses), x.new_zeros(()))

        return step

    return make


def vqp_rows(name: str, **options: Any) -> Callable[[], Step]:
    """A quantizer of vector-quantize-pytorch that takes rows (B, N, C)."""
    make = vqp(name, **options)

    def remade() -> Step:
        inner = make()

        def step(x: Tensor) -> tuple[Tensor, Tensor]:
            z, loss = inner(x.flatten(2).transpose(1, 2))
            return z.transpose(1, 2).unflatten(2, x.shape[2:]), loss

        return step

    return remade


LFQS = {"lfq": "LFQ", "bsq": "LFQ, spherical"}
"""What the library calls its nearest to each of ours."""


def library_lfq(name: str, bits: int) -> Callable[[], Step]:
    """The library's LFQ, with its codes on the sphere for ``bsq``."""
    return vqp("LFQ", dim=bits, commitment_loss_weight=0.25, spherical=name == "bsq")


def plain_gumbel() -> Step:
    """The Gumbel-softmax over logits with its divergence from the uniform, in torch's own words."""
    codes = torch.randn(CODES, CHANNELS, requires_grad=True)

    def step(x: Tensor) -> tuple[Tensor, Tensor]:
        one_hot = F.gumbel_softmax(x, tau=1.0, hard=True, dim=1)
        p = x.softmax(dim=1)
        divergence = (p * (p * CODES + 1e-10).log()).sum(dim=1).mean()
        return torch.einsum("bkthw,kc->bcthw", one_hot, codes), 5e-4 * divergence

    return step


def diffusers_gaussian() -> Step:
    """The posterior of the library's autoencoders; they leave its sum over the clip to be averaged by the trainer."""
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    def step(x: Tensor) -> tuple[Tensor, Tensor]:
        posterior = DiagonalGaussianDistribution(x)
        return posterior.sample(), 1e-6 * posterior.kl().mean() / TOKENS

    return step


def plain_pyramid() -> Step:
    """VAR's multi-scale residual quantization over an image or video of any length, each step as its paper has it."""
    codes = torch.randn(CODES, CHANNELS, requires_grad=True)
    phi = torch.nn.ModuleList(torch.nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1) for _ in range(4))

    def step(x: Tensor) -> tuple[Tensor, Tensor]:
        frames = x.transpose(1, 2).flatten(0, 1)
        rest, total, loss = frames.detach().clone(), torch.zeros_like(frames), x.new_zeros(())
        for index, (_, *parts_of_it) in enumerate(SCALES):
            size = [max(1, round(part * side)) for part, side in zip(parts_of_it, frames.shape[2:], strict=True)]
            small = F.interpolate(rest, size=size, mode="area")
            rows = small.permute(0, 2, 3, 1).flatten(0, 2)
            ids = torch.addmm(codes.square().sum(1), rows, codes.T, alpha=-2).argmin(1).detach()
            found = F.embedding(ids, codes).view(len(frames), *size, -1).permute(0, 3, 1, 2)
            wide = F.interpolate(found, size=frames.shape[2:], mode="bicubic") if size != list(frames.shape[2:]) else found
            wide = 0.5 * wide + 0.5 * phi[min(3, 4 * index // len(SCALES))](wide)
            total = total + wide
            rest = rest - wide.detach()
            loss = loss + 0.25 * F.mse_loss(total.detach(), frames) + F.mse_loss(total, frames.detach())
        z = frames + (total - frames).detach()
        return z.unflatten(0, (len(x), x.shape[2])).transpose(1, 2), loss / len(SCALES)

    return step


LIBRARY = "vector-quantize-pytorch"
TABLE = {"codes": CODES, "channels": CHANNELS, "commitment": 0.25}
DEAD = 0.03 * TOKENS / CODES
"""Tokens a step below which a code is dead, as our share of the mean."""

EMA = {"codebook_size": CODES, "decay": 0.99, "commitment_weight": 0.25, "threshold_ema_dead_code": DEAD, "kmeans_init": True}
ROWS = {"dim": CHANNELS, "accept_3d_fmap": True, "rotation_trick": False, **EMA}
WORDS = f"{CODES:,} codes of {CHANNELS} channels"
AVERAGES = f"{WORDS}, averages with decay 0.99, dead codes restarted"

RIVALS = (
    Rival("vq, averages", "vq", TABLE, f"{LIBRARY} VectorQuantize", vqp("VectorQuantize", **ROWS), AVERAGES),
    Rival(
        "vq, averages, on the sphere",
        "vq",
        {**TABLE, "normalise": True},
        f"{LIBRARY} VectorQuantize",
        vqp("VectorQuantize", use_cosine_sim=True, **ROWS),
        f"{AVERAGES}, cosine similarity",
    ),
    Rival(
        "vq, averages, rotation trick",
        "vq",
        {**TABLE, "rotation": True},
        f"{LIBRARY} VectorQuantize",
        vqp("VectorQuantize", **{**ROWS, "rotation_trick": True}),
        AVERAGES,
    ),
    Rival(
        "vq, gradient",
        "vq",
        {**TABLE, "learning": "gradient", "restart": 0.0},
        f"{LIBRARY} VectorQuantize",
        vqp("VectorQuantize", **{**ROWS, "threshold_ema_dead_code": 0}, learnable_codebook=True, ema_update=False),
        f"{WORDS}, learned by gradient",
    ),
    Rival(
        "simvq",
        "simvq",
        {**TABLE, "rotation": True},
        f"{LIBRARY} SimVQ",
        vqp("SimVQ", dim=CHANNELS, codebook_size=CODES, channel_first=True, rotation_trick=True),
        f"{WORDS}, rotation trick",
    ),
    Rival(
        "gumbel",
        "gumbel",
        {"codes": CODES, "channels": CHANNELS},
        "torch's gumbel_softmax",
        plain_gumbel,
        f"{WORDS}, straight through",
        channels=CODES,
    ),
    Rival("fsq", "fsq", {"levels": LEVELS}, f"{LIBRARY} FSQ", vqp("FSQ", levels=list(LEVELS)), f"levels {LEVELS}", len(LEVELS)),
    Rival(
        "residual of vq",
        "residual",
        {"quantizer": {"name": "vq", **TABLE}, "stages": STAGES},
        f"{LIBRARY} ResidualVQ",
        vqp_rows("ResidualVQ", dim=CHANNELS, num_quantizers=STAGES, rotation_trick=False, **EMA),
        f"{STAGES} stages, {AVERAGES}",
    ),
    Rival(
        "residual of fsq",
        "residual",
        {"quantizer": {"name": "fsq", "levels": LEVELS}, "stages": STAGES, "shrink": 0.25},
        f"{LIBRARY} ResidualFSQ",
        vqp_rows("ResidualFSQ", levels=list(LEVELS), num_quantizers=STAGES),
        f"{STAGES} stages, levels {LEVELS}",
        len(LEVELS),
    ),
    Rival(
        "pyramid of vq",
        "pyramid",
        {"quantizer": {"name": "vq", **TABLE, "learning": "gradient", "restart": 0.0}, "scales": SCALES},
        "VAR's loop in plain torch",
        plain_pyramid,
        f"{len(SCALES)} scales, {WORDS}, learned by gradient; no library has it",
        asked=False,
    ),
    Rival(
        "kl", "kl", {"channels": CHANNELS}, "diffusers DiagonalGaussian", diffusers_gaussian, f"{CHANNELS} channels", 2 * CHANNELS
    ),
    *(
        Rival(
            f"{name}, 2^10 codes",
            name,
            {"bits": 10, "commitment": 0.25},
            f"{LIBRARY} {LFQS[name]}",
            library_lfq(name, 10),
            "10 bits, both entropy terms",
            10,
        )
        for name in ("lfq", "bsq")
    ),
)


# Measuring ------------------------------------------------------------------------------------------------------------------


def ours(name: str, options: Mapping[str, Any]) -> Step:
    """One of our quantizers as a step."""
    part = build("quantizers", {"name": name, **options}).train()

    def step(x: Tensor) -> tuple[Tensor, Tensor]:
        code = part(x)
        return code.z, sum(code.losses.values(), x.new_zeros(()))

    return step


def turn(step: Step, channels: int) -> Callable[[], None]:
    """A call that takes features forwards and a gradient backwards, the same ones every time."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, channels, *GRID, generator=generator).requires_grad_()

    def call() -> None:
        x.grad = None
        z, loss = step(x)
        (z.square().mean() + loss).backward()

    return call


def speed(rival: Rival) -> Timing:
    """A quantizer's step against its rival's."""
    torch.manual_seed(0)
    return timing.compared(
        turn(ours(rival.quantizer, rival.options), rival.channels),
        turn(rival.theirs(), rival.channels),
        subject=rival.subject,
        measure=STEP,
        against=rival.against,
        settings=f"{TOKENS:,} tokens, {rival.settings}",
        version=timing.code(*CODE),
        pairs=PAIRS,
        least=1.0 if rival.asked else None,
    )


def large_speed(name: str) -> Timing:
    """lfq or bsq at 2**18 codes against the library's at 2**14, which takes seconds a step."""
    return timing.compared(
        turn(ours(name, {"bits": LARGE_BITS, "commitment": 0.25}), LARGE_BITS),
        turn(library_lfq(name, SMALL_BITS)(), SMALL_BITS),
        subject=f"{name}, 2^{LARGE_BITS} codes",
        measure=STEP,
        against=f"{LIBRARY} {LFQS[name]}, 2^{SMALL_BITS} codes",
        settings=f"{TOKENS:,} tokens, both entropy terms",
        version=timing.code(*CODE),
        pairs=LARGE_PAIRS,
        least=TIMES,
    )


def peak(name: str, bits: int, theirs: bool) -> float:
    """MiB that two steps hold at most beyond what the process held before, features and libraries included in the latter."""
    make = (
        vqp("LFQ", dim=bits, commitment_loss_weight=0.25, spherical=name == "bsq")
        if theirs
        else lambda: ours(name, {"bits": bits, "commitment": 0.25})
    )
    call, small = turn(make(), bits), turn(ours(name, {"bits": 2}), 2)
    small()  # what the first step of any model loads counts as held before
    timing.forget_peak()
    before, _ = timing.memory()
    call()
    call()
    return timing.memory()[1] - before


def large_memory(name: str) -> Timing:
    """Peak memory of a step at 2**18 codes, and of the library's at 2**14, each in a process of its own."""
    mine, other = timing.alone(peak, name, LARGE_BITS, False), timing.alone(peak, name, SMALL_BITS, True)
    return Timing(
        subject=f"{name}, 2^{LARGE_BITS} codes",
        measure="peak memory of a step",
        against=f"{LIBRARY} {LFQS[name]}, 2^{SMALL_BITS} codes",
        ours=mine,
        theirs=other,
        unit="MiB",
        ratio=other / mine,
        quartiles=None,
        pairs=1,
        wanted=f"at most {MEMORY:g} MiB",
        met=mine <= MEMORY,
        settings=f"{TOKENS:,} tokens, beyond the baseline",
        code=timing.code(*CODE),
        **timing.provenance(),
    )


def cases() -> Iterator[Case]:
    """All rows, in the order of the table; parts that are not there yet are passed over."""
    there = parts("quantizers")
    for name in ("lfq", "bsq"):
        if name in there:
            yield Case(f"{name}, 2^{LARGE_BITS} codes", "peak memory of a step", partial(large_memory, name))
            yield Case(f"{name}, 2^{LARGE_BITS} codes", STEP, partial(large_speed, name))
    for rival in RIVALS:
        if rival.quantizer in there:
            yield Case(rival.subject, STEP, partial(speed, rival))


if __name__ == "__main__":
    raise SystemExit(timing.run(RESULTS, cases(), timing.code(*CODE)))
