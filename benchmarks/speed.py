"""Measures our parts against their public peers, all in one run: ``benchmarks/results/speed.jsonl``.

    python benchmarks/speed.py                    measures what is not there yet of the code at hand
    python benchmarks/speed.py --only quantizer   those subjects alone

What has a benchmark of its own is measured by that, in fewer pairs: quantizers against vector-quantize-pytorch, the trunk against
``torch.nn`` and timm, the Frechet distance against scipy and torchmetrics, decoding against PyAV and torchcodec (which is left
out where it finds no FFmpeg of the system's to load). What is measured here alone: layers and blocks of causal convolutions and
samplers against diffusers', measures of frames against torchmetrics'. Both sides get the same weights, noise and clips, each in
its own layout; that they come to the same is checked first, or the row says in what they differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import decoding
import frechet
import quantizers
import timing
import torch
import training
from timing import Case, Timing
from torch import Tensor, nn

from vidgen.backbones.causal3d import ResidualBlock
from vidgen.errors import UserError
from vidgen.metrics.ms_ssim import ms_ssim
from vidgen.metrics.psnr import psnr
from vidgen.metrics.ssim import ssim
from vidgen.nn.causal_conv import CausalConv, Chain, SpatialConv, TemporalConv
from vidgen.nn.norm import FrameGroupNorm
from vidgen.nn.stream import Stream
from vidgen.samplers.ode import dpm2m, euler
from vidgen.samplers.paths import FLOW, build_path
from vidgen.samplers.sde import ddim

RESULTS = Path(__file__).parent / "results" / "speed.jsonl"
CODE = (
    *(*quantizers.CODE, *training.CODE, *frechet.CODE, *decoding.CODE),
    *("vidgen/backbones/causal3d.py", "vidgen/samplers", "vidgen/metrics", "benchmarks/speed.py"),
)
PAIRS = 5
STEP, STEPS, FRAMES = "forward and backward", 50, "a score for every frame"

Sides = tuple[Callable[[], tuple[Tensor, ...]], Callable[[], tuple[Tensor, ...]]]
"""A call of ours and one of theirs; what they return is of one shape."""


@dataclass(frozen=True)
class Peer:
    """A comparison.

    Attributes:
        subject: our part.
        measure: what both do.
        against: the other side.
        settings: what both share, and in what they differ.
        sides: makes both; the other package is imported only here.
        near: how far apart the results may be, as a share of the largest; None where they are not one function.
    """

    subject: str
    measure: str
    against: str
    settings: str
    sides: Callable[[], Sides]
    near: float | None


@dataclass(frozen=True)
class Sizes:
    """Of what both sides get: features and latents (B, C, t, h, w), videos (B, 3, T, H, W), and for a distance (dim, clips)."""

    features: tuple[int, ...] = (2, 128, 5, 16, 16)
    latents: tuple[int, ...] = (8, 16, 5, 16, 16)
    videos: tuple[int, ...] = (8, 3, 17, 64, 64)
    large: tuple[int, ...] = (1, 3, 8, 256, 256)
    distance: tuple[int, int] = (frechet.DIMS[0], frechet.CLIPS)


# Convolutions ---------------------------------------------------------------------------------------------------------------


class Ours(nn.Module):
    """A layer of ours at the start of a video, called and answering with the channels last, as the layers around it do."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, Stream(keep=False))


def diffusers_part(module: str, name: str, *options: Any, **more: Any) -> nn.Module:
    """A layer or block of one of diffusers' autoencoders for video, with random weights: none are at 0 or 1."""
    made: nn.Module = getattr(import_module(f"diffusers.models.autoencoders.{module}"), name)(*options, **more)
    return training.seeded(made, 0.05)


CONVS: dict[str, tuple[str, str, dict[str, int]]] = {
    "Wan": ("autoencoder_kl_wan", "WanCausalConv3d", {"padding": 1}),
    "CogVideoX": ("autoencoder_kl_cogvideox", "CogVideoXCausalConv3d", {}),
    "Cosmos": ("autoencoder_kl_cosmos", "CosmosCausalConv3d", {}),
}
"""Module, name and options of a causal convolution, by model. Before the first frame Wan has zeros, and the others that frame."""


def causal_conv(channels: int, library: str) -> tuple[nn.Module, nn.Module]:
    """A causal 3x3x3 convolution, ours and that of a model in diffusers."""
    module, name, options = CONVS[library]
    theirs = diffusers_part(module, name, channels, channels, 3, **options)
    ours = CausalConv(channels, channels, repeat=library != "Wan")
    take(ours, theirs)
    return ours, theirs


def cosmos_block(channels: int) -> tuple[nn.Module, nn.Module]:
    """The residual block of Cosmos, of our layers and of theirs: norm per frame, convolutions in space and then in time."""
    norms = [FrameGroupNorm(channels, groups=1) for _ in range(2)]
    convs = [Chain([SpatialConv(channels, channels), TemporalConv(channels, channels, repeat=True)]) for _ in range(2)]
    theirs: Any = diffusers_part("autoencoder_kl_cosmos", "CosmosResnetBlock3d", channels, channels)
    for norm, other in zip(norms, (theirs.norm1, theirs.norm2), strict=True):
        take(norm, other)
    for (space, time), other in zip(convs, (theirs.conv1, theirs.conv2), strict=True):
        space.conv.weight.data.copy_(other.conv_s.weight.squeeze(2))
        space.conv.bias.data.copy_(other.conv_s.bias)
        time.linear.weight.data.copy_(other.conv_t.weight.flatten(2).transpose(1, 2).flatten(1))  # a tap after the other
        time.linear.bias.data.copy_(other.conv_t.bias)
    return ResidualBlock(norms, convs, channels, channels), theirs


def cogvideox_block(channels: int) -> tuple[nn.Module, nn.Module]:
    """The residual block of CogVideoX, with our norm per frame where theirs is over the clip: equal on one frame alone."""
    norms = [FrameGroupNorm(channels) for _ in range(2)]
    convs = [CausalConv(channels, channels, repeat=True) for _ in range(2)]
    theirs: Any = diffusers_part("autoencoder_kl_cogvideox", "CogVideoXResnetBlock3D", channels, temb_channels=0)
    for layer, other in zip([*norms, *convs], (theirs.norm1, theirs.norm2, theirs.conv1, theirs.conv2), strict=True):
        take(layer, other)
    return ResidualBlock(norms, convs, channels, channels), theirs


def take(ours: nn.Module, theirs: nn.Module) -> None:
    """Gives a layer of ours the weight and the bias of one of theirs."""
    for weight, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        weight.data.copy_(other.data)


def conv_sides(make: Callable[[int], tuple[nn.Module, nn.Module]], shape: tuple[int, ...]) -> Sides:
    """Forward and backward through both layers of ``make``: what comes out, and the slope at what went in."""
    ours, theirs = make(shape[1])
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return step(Ours(ours), x.movedim(1, -1).contiguous(), last=True), step(theirs, x)


def step(layer: nn.Module, x: Tensor, last: bool = False) -> Callable[[], tuple[Tensor, ...]]:
    """A call that goes through ``layer`` and back; ``last`` where channels come last."""
    x = x.clone().requires_grad_()

    def call() -> tuple[Tensor, ...]:
        layer.zero_grad()
        x.grad = None
        y = layer(x)
        y = y[0] if isinstance(y, tuple) else y  # CogVideoX's give what a next chunk needs, too
        y.square().sum().backward()
        assert x.grad is not None
        return tuple(part.movedim(-1, 1) if last else part for part in (y.detach(), x.grad))

    return call


def convolutions(shape: tuple[int, ...]) -> Iterator[Peer]:
    """Layers and blocks against diffusers'."""
    words = f"features of {'x'.join(map(str, shape))}, fp32"
    for library in CONVS:
        sides = partial(conv_sides, partial(causal_conv, library=library), shape)
        yield Peer(f"causal convolution and {library}'s", STEP, "diffusers", f"3x3x3, {words}", sides, 1e-4)
    sides = partial(conv_sides, cosmos_block, shape)
    yield Peer("residual block and Cosmos's", STEP, "diffusers", f"convolutions in space and in time, {words}", sides, 1e-4)
    sides = partial(conv_sides, cogvideox_block, shape)
    clip = f"3x3x3, {words}; ours with a norm of each frame, theirs of the clip"
    yield Peer("residual block and CogVideoX's", STEP, "diffusers", clip, sides, None)


# Samplers -------------------------------------------------------------------------------------------------------------------


def half(x: Tensor, t: Tensor) -> Tensor:
    """A network that costs nothing: what is measured is what is made of it."""
    return x / 2


def flow_euler(x: Tensor, steps: int) -> Sides:
    """Euler's method on rectified flow."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler, sigmas = FlowMatchEulerDiscreteScheduler(), FLOW.times(steps)[:-1].tolist()
    prepare = partial(scheduler.set_timesteps, sigmas=sigmas)
    return lambda: (euler(half, x, FLOW.times(steps)),), scheduled(scheduler, prepare, x)


def ddim_linear(x: Tensor, steps: int) -> Sides:
    """DDIM on the linear path of DDPM, without fresh noise."""
    from diffusers import DDIMScheduler

    path = build_path("linear")
    scheduler = DDIMScheduler(
        beta_start=1e-4, beta_end=0.02, prediction_type="v_prediction", clip_sample=False, timestep_spacing="trailing"
    )
    prepare = partial(scheduler.set_timesteps, steps)
    prepare()
    times = torch.cat([(scheduler.timesteps.double() + 1) / 1000, torch.zeros(1, dtype=torch.float64)])
    return lambda: (ddim(half, x, times, path, fresh=lambda _: x, eta=0.0),), scheduled(scheduler, prepare, x)


def flow_dpm(x: Tensor, steps: int) -> Sides:
    """DPM-Solver++ (2M) on rectified flow."""
    from diffusers import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, solver_order=2, lower_order_final=True
    )
    prepare = partial(scheduler.set_timesteps, steps)
    prepare()
    times = scheduler.sigmas.double()
    return lambda: (dpm2m(half, x, times),), scheduled(scheduler, prepare, x)


def scheduled(scheduler: Any, prepare: Callable[[], None], x: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    """A call that samples by a scheduler of diffusers, as its pipelines do."""

    def call() -> tuple[Tensor, ...]:
        prepare()
        here = x
        for t in scheduler.timesteps:
            here = scheduler.step(half(here, t), t, here).prev_sample
        return (here,)

    return call


def samplers(shape: tuple[int, ...], steps: int) -> Iterator[Peer]:
    """Samplers against diffusers' schedulers."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    words = f"latents of {'x'.join(map(str, shape))}, a network that costs nothing"
    for subject, theirs, sides in (
        ("Euler's method on the flow", "FlowMatchEulerDiscreteScheduler", flow_euler),
        ("DDIM", "DDIMScheduler", ddim_linear),
        ("DPM-Solver++ on the flow", "DPMSolverMultistepScheduler", flow_dpm),
    ):
        yield Peer(subject, f"{steps} steps", f"diffusers' {theirs}", words, partial(sides, x, steps), 1e-4)


# Measures -------------------------------------------------------------------------------------------------------------------


def measure_sides(ours: Callable[[Tensor, Tensor], Tensor], theirs: str, shape: tuple[int, ...], **options: Any) -> Sides:
    """A measure of frames, and torchmetrics' on the same frames, laid out for it before."""
    from torchmetrics.functional import image

    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(shape[0], 3, 3, 4, 4, generator=generator) * 2 - 1
    real = nn.functional.interpolate(coarse, shape[2:], mode="trilinear", align_corners=True)
    video = (real + 0.1 * torch.randn(real.shape, generator=generator)).clamp(-1, 1)
    frames = [(one.transpose(1, 2).flatten(0, 1) + 1).contiguous() for one in (video, real)]
    scored = partial(getattr(image, theirs), *frames, data_range=2.0, reduction="none", **options)
    return lambda: (ours(video, real).flatten(),), lambda: (scored().double(),)


def measures(shape: tuple[int, ...], large: tuple[int, ...]) -> Iterator[Peer]:
    """Measures of frames against torchmetrics'."""

    def words(of: tuple[int, ...], how: str = "in float64, theirs in float32") -> str:
        return f"{of[0]} clips of {'x'.join(map(str, of[2:]))}; ours {how}"

    sides = partial(measure_sides, psnr, "peak_signal_noise_ratio", shape, dim=(1, 2, 3))
    yield Peer("PSNR", FRAMES, "torchmetrics", words(shape, "clips to [-1, 1] and sums in float64"), sides, 1e-3)
    sides = partial(measure_sides, partial(ssim, window="padded"), "structural_similarity_index_measure", shape)
    yield Peer("SSIM", FRAMES, "torchmetrics", words(shape), sides, 1e-4)
    sides = partial(measure_sides, ms_ssim, "multiscale_structural_similarity_index_measure", large)
    apart = "which continues frames beyond their border and takes the channels together"
    yield Peer("MS-SSIM", FRAMES, f"torchmetrics, {apart}", words(large), sides, None)


# Rows -----------------------------------------------------------------------------------------------------------------------


def peers(sizes: Sizes = Sizes(), steps: int = STEPS) -> Iterator[Peer]:
    """What is measured here alone."""
    yield from convolutions(sizes.features)
    yield from samplers(sizes.latents, steps)
    yield from measures(sizes.videos, sizes.large)


def check(peer: Peer, ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> None:
    """Sees that both sides come to the same, where they are one function.

    Raises:
        UserError: naming how far apart they are.
    """
    for mine, other in zip(ours, theirs, strict=True):
        apart = float((mine - other).abs().max())
        if peer.near is not None and not apart <= peer.near * float(other.abs().max()):
            raise UserError(f"'{peer.subject}' and that of {peer.against} differ by up to {apart:g}: nothing is timed.")


def speed(peer: Peer) -> Timing:
    """One row."""
    torch.manual_seed(0)
    ours, theirs = peer.sides()
    check(peer, ours(), theirs())
    return timing.compared(
        ours,
        theirs,
        subject=peer.subject,
        measure=peer.measure,
        against=peer.against,
        settings=peer.settings,
        version=timing.code(*CODE),
        pairs=PAIRS,
    )


def again(module: ModuleType, case: Case, subject: str) -> Timing:
    """A row of another benchmark in fewer pairs, under another name; nothing is asked of it here."""
    with patch.object(module, "PAIRS", PAIRS):
        return replace(case.work(), subject=subject, wanted="", met=None, code=timing.code(*CODE))


def elsewhere(distance: tuple[int, int]) -> Iterator[tuple[str, ModuleType, Case]]:
    """What other benchmarks measure against public packages: in a word, whose it is, and the case."""
    dim, clips = distance
    public = {rival.subject for rival in quantizers.RIVALS if rival.against.startswith((quantizers.LIBRARY, "diffusers"))}
    for case in quantizers.cases():
        if case.subject in public:
            yield "quantizer", quantizers, case
    exact = tuple(f"trunk and {name}," for name, kind in training.OTHERS.items() if kind.exact)
    for case in training.cases():
        if case.subject.startswith(exact) and case.subject.endswith((training.SMALL[1].words, training.LARGE.words)):
            yield "", training, case
    for case in frechet.cases((dim,), clips):
        if case.measure in frechet.AGAINST:
            yield "Frechet distance", frechet, case
    for case in decoding.cases():
        if case.measure in ("clips at random, short files", "a whole file as RGB"):
            yield "decoding", decoding, case


def cases(sizes: Sizes = Sizes(), steps: int = STEPS) -> Iterator[Case]:
    """All rows, in the order of the table."""
    for word, module, case in elsewhere(sizes.distance):
        subject = f"{word}: {case.subject}" if word else case.subject
        yield Case(subject, case.measure, partial(again, module, case, subject))
    for peer in peers(sizes, steps):
        yield Case(peer.subject, peer.measure, partial(speed, peer))


if __name__ == "__main__":
    raise SystemExit(timing.run(RESULTS, cases(), timing.code(*CODE)))
