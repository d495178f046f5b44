"""Measures backbones against plain 3-D convolutions, streams against their length: ``benchmarks/results/backbones.jsonl``.

    python benchmarks/backbones.py             measures what is not there yet of the code at hand
    python benchmarks/backbones.py --only vit  that of this one alone

The other side is :class:`Plain`: what one writes first, in fp32, of the same stride and the small recipe's width and depths. Both
get the same clips and take turns. Where there is a GPU its rows are measured too: the recipe of the paper's size, compiled, in
bf16, with the share that it reaches of a large product's speed there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

import timing
import torch
from timing import Case, Timing
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from vidgen import config, hub
from vidgen.registry import build
from vidgen.training.precision import choose

RESULTS = Path(__file__).parent / "results" / "backbones.jsonl"
CODE = (
    *("vidgen/backbones", "vidgen/nn", "vidgen/tokenizers", "configs/tokenizer/backbone"),
    *("benchmarks/backbones.py", "benchmarks/timing.py"),
)

NAMES = ("causal3d", "axial", "vit")
"""Recipes for two CPU cores, all of stride 4x4x4."""

FASTEST, TIMES = "causal3d", 2.0
"""The backbone of the default recipes, and how many times the speed of plain convolutions is asked of it."""

WIDE = {"encoder_kernel": 3}
"""What makes an encoder of :data:`FASTEST` that sees as far as the plain one does: by default it sees each tubelet by itself."""

CLIP = (8, 3, 17, 32, 32)
LATENT = 16
PAIRS = 9
STRIDE, WIDTH, ENCODER_DEPTH, DECODER_DEPTH = (4, 4, 4), 128, 2, 4
WORK = ("training step", "encoding", "decoding")

LENGTHS, SIDE, CHUNK = (64, 256, 1024), 64, 16
"""Frames of the videos that are streamed, their height and width, and frames at a time."""
FLAT = 1.05
"""How much more memory the longest stream may take than the shortest."""

LARGE, LARGE_CLIP = ("causal3d_magvit2",), (2, 3, 17, 128, 128)
"""What is measured on a GPU beside the small recipes."""
PRODUCT = 8192


# Plain 3-D convolutions -----------------------------------------------------------------------------------------------------


class CausalConv3d(nn.Conv3d):
    """A 3x3x3 convolution that sees no frame to come: zeros before the first."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(channels, out, 3, padding=(0, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 0, 0, 0, 2, 0)))


class FrameNorm(nn.GroupNorm):
    """Group norm of every frame by itself, for over a clip it would see the future."""

    def forward(self, x: Tensor) -> Tensor:
        frames = super().forward(x.transpose(1, 2).flatten(0, 1))
        return frames.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)


class Block(nn.Module):
    """Norm, SiLU, convolution, twice; added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(layer for _ in range(2) for layer in (FrameNorm(32, width), nn.SiLU(), CausalConv3d(width, width)))
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Plain(nn.Module):
    """Tubelets, then residual blocks of full 3x3x3 convolutions; causal, 1 + s*k frames to 1 + k cells."""

    def __init__(self, *, stride: tuple[int, int, int], width: int, encoder_depth: int, decoder_depth: int, latent: int) -> None:
        super().__init__()
        self.stride = stride
        self.encoder = nn.Sequential(
            nn.Conv3d(3, width, stride, stride=stride),
            CausalConv3d(width, width),
            *(Block(width) for _ in range(encoder_depth)),
            FrameNorm(32, width),
            nn.SiLU(),
            nn.Conv3d(width, latent, 1),
        )
        self.decoder = nn.Sequential(
            CausalConv3d(latent, width),
            *(Block(width) for _ in range(decoder_depth)),
            FrameNorm(32, width),
            nn.SiLU(),
            CausalConv3d(width, 3 * prod(stride)),
        )

    def encode(self, video: Tensor) -> Tensor:
        first = video[:, :, :1].expand(-1, -1, self.stride[0] - 1, -1, -1)
        return self.encoder(torch.cat([first, video], dim=2))

    def decode(self, z: Tensor) -> Tensor:
        x = self.decoder(z).unflatten(1, (3, *self.stride)).permute(0, 1, 5, 2, 6, 3, 7, 4)
        return x.flatten(2, 3).flatten(3, 4).flatten(4, 5)[:, :, self.stride[0] - 1 :]


# Speed ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Side:
    """An encoder and decoder with how it is run."""

    model: Any
    device: torch.device
    precision: str

    def calls(self, clip: tuple[int, ...]) -> dict[str, Callable[[], None]]:
        """A call for each of :data:`WORK`."""
        generator = torch.Generator().manual_seed(0)
        video = (torch.rand(clip, generator=generator) * 2 - 1).to(self.device)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        with torch.no_grad():
            z = self.model.encode(video).float()

        def train() -> None:
            with self._autocast():
                loss = F.l1_loss(self.model.decode(self.model.encode(video)).float(), video)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            self.wait()

        @torch.no_grad()
        def encode() -> None:
            with self._autocast():
                self.model.encode(video)
            self.wait()

        @torch.no_grad()
        def decode() -> None:
            with self._autocast():
                self.model.decode(z)
            self.wait()

        return dict(zip(WORK, (train, encode, decode), strict=True))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def wait(self) -> None:
        """Until what was asked of a GPU is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def backbone(name: str, **options: Any) -> Any:
    """A backbone of that recipe, with as many channels between encoder and decoder as :class:`Plain` has."""
    return build("backbones", config.load("tokenizer/backbone", name, options), latent_out=LATENT, latent_in=LATENT)


def plain() -> Plain:
    """The other side."""
    return Plain(stride=STRIDE, width=WIDTH, encoder_depth=ENCODER_DEPTH, decoder_depth=DECODER_DEPTH, latent=LATENT)


def speed(name: str, options: dict[str, Any], precision: str, device: torch.device, subject: str, work: str) -> Timing:
    """A backbone's work against that of plain convolutions."""
    torch.manual_seed(0)
    sides = Side(backbone(name, **options).to(device), device, precision), Side(plain().to(device), device, "fp32")
    mine, other = (side.calls(CLIP)[work] for side in sides)
    frames = CLIP[0] * CLIP[2]
    wanted = TIMES if name == FASTEST and precision == choose("auto", device) else None
    return timing.compared(
        mine,
        other,
        subject=subject,
        measure=work,
        against="plain 3-D convolutions, fp32",
        settings=f"{CLIP[0]} clips of {CLIP[2]}x{CLIP[3]}x{CLIP[4]}, stride {'x'.join(map(str, STRIDE))}",
        version=timing.code(*CODE),
        pairs=PAIRS,
        rate=(1, "steps/s") if work == WORK[0] else (frames, "frames/s"),
        least=wanted,
    )


# Streams --------------------------------------------------------------------------------------------------------------------


def peak(name: str, frames: int, chunk: int) -> float:
    """MiB that encoding and decoding ``frames`` in chunks takes at most beyond what the process held before."""
    tokenizer = hub.build_tokenizer(config.load("tokenizer", "kl", {"backbone": name})).eval()
    chunks = (torch.rand(1, 3, min(chunk, frames - start), SIDE, SIDE) * 2 - 1 for start in range(0, frames, chunk))
    timing.forget_peak()
    before, _ = timing.memory()
    for part in tokenizer.decode_stream(tokenizer.encode_stream(chunks)):
        del part
    return timing.memory()[1] - before


def streaming(name: str) -> Timing:
    """Memory of the longest stream beside the shortest's and that of the longest at once, each in a process of its own."""
    taken = {length: timing.alone(peak, name, length, CHUNK) for length in LENGTHS}
    whole = timing.alone(peak, name, LENGTHS[-1], LENGTHS[-1])
    shortest, longest = taken[LENGTHS[0]], taken[LENGTHS[-1]]
    between = ", ".join(f"{taken[length]:.0f} MiB at {length}" for length in LENGTHS[1:-1])
    return Timing(
        subject=name,
        measure=f"peak memory of a stream of {LENGTHS[-1]:,} frames",
        against=f"a stream of {LENGTHS[0]} frames",
        ours=longest,
        theirs=shortest,
        unit="MiB",
        ratio=shortest / longest,
        quartiles=None,
        pairs=1,
        wanted=f"at most {100 * (FLAT - 1):.0f} % more",
        met=longest <= FLAT * shortest,
        settings=f"{SIDE}x{SIDE} in chunks of {CHUNK} frames, encoded and decoded ({between}, {whole:.0f} MiB without chunks)",
        code=timing.code(*CODE),
        **timing.provenance(),
    )


# GPUs -----------------------------------------------------------------------------------------------------------------------


def share_of_peak(name: str, work: str, device: torch.device) -> Timing:
    """Compiled and in bf16: what a backbone reaches of the speed of a large product of matrices on the same device."""
    model = backbone(name).to(device)
    side = Side(model, device, "bf16")
    eager = side.calls(LARGE_CLIP)[work]
    with FlopCounterMode(display=False) as counter:
        eager()
    model.encode, model.decode = torch.compile(model.encode), torch.compile(model.decode)
    call = side.calls(LARGE_CLIP)[work]
    a, b = (torch.randn(PRODUCT, PRODUCT, device=device, dtype=torch.bfloat16) for _ in range(2))

    def product() -> None:
        torch.mm(a, b)
        side.wait()

    found = timing.paired(call, product, pairs=PAIRS)
    ours, fastest = counter.get_total_flops() / median(found.ours), 2 * PRODUCT**3 / median(found.theirs)
    return Timing(
        subject=f"{name}, compiled, bf16",
        measure=work,
        against=f"a product of {PRODUCT}x{PRODUCT} matrices",
        ours=ours / 1e12,
        theirs=fastest / 1e12,
        unit="TFLOP/s",
        ratio=ours / fastest,
        quartiles=None,
        pairs=PAIRS,
        wanted="",
        met=None,
        settings=f"{LARGE_CLIP[0]} clips of {'x'.join(map(str, LARGE_CLIP[2:]))}",
        code=timing.code(*CODE),
        **timing.provenance(),
    )


def cases() -> Iterator[Case]:
    """All rows, in the order of the table; recipes that are not there yet are passed over."""
    names = [name for name in NAMES if name in config.names("backbones")]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    best = choose("auto", device)
    for name in names:
        settings: dict[str, tuple[dict[str, Any], str]] = {f"{name}, {best}": ({}, best)}
        if name == FASTEST:
            settings |= {f"{name}, fp32": ({}, "fp32"), f"{name}, {best}, encoder kernels of 3": (WIDE, best)}
        for subject, (options, precision) in settings.items():
            for work in WORK:
                yield Case(subject, work, partial(speed, name, options, precision, device, subject, work))
    for name in names:
        yield Case(name, f"peak memory of a stream of {LENGTHS[-1]:,} frames", partial(streaming, name))
    if device.type == "cuda":
        for name in (*names, *LARGE):
            for work in WORK:
                yield Case(f"{name}, compiled, bf16", work, partial(share_of_peak, name, work, device))


if __name__ == "__main__":
    raise SystemExit(timing.run(RESULTS, cases(), timing.code(*CODE)))
