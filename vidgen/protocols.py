"""What each kind of part promises, as typing protocols: satisfy one, and every other part of the library works with yours.

See ``docs/concepts.md`` for how they meet. Nothing here needs torch to be imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from vidgen.latents import Condition, Latent, LatentSpec, Losses, Shape

if TYPE_CHECKING:
    from torch import Tensor

    from vidgen.nn.stream import Stream


SPLITS = ("train", "val", "test")
"""The parts that data is cut into, in order."""


@runtime_checkable
class Data(Protocol):
    """Clips by (split, index, epoch): a pure function, so resume needs no worker state.

    Data whose clips have a ``caption`` (a text) also has ``vocabulary``, a tuple of the captions' words in small letters; data
    whose clips have ``actions`` (T,), the move that leads to each frame, has ``action_names``, a tuple of what they are called.

    Data whose clips have several sizes has ``buckets``, a tuple of data with one size each and the same names and words, of which
    training takes batches in turns; its own ``shape``, ``size`` and ``clip`` are those of the first. Such data may have
    ``tokens``, the most that a training batch of any bucket holds.
    """

    @property
    def shape(self) -> Shape:
        """(T, H, W) of every clip."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the labels in order; empty when the data has no labels."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides the pixels."""
        ...

    def size(self, split: str) -> int:
        """Distinct clips in one epoch of ``train``, ``val`` or ``test``."""
        ...

    def clip(self, split: str, index: int, epoch: int = 0) -> dict[str, Any]:
        """One clip: ``video`` uint8 (T, H, W, 3), ``label`` int (-1: none), and whatever else the data knows."""
        ...


@dataclass(kw_only=True)
class Quantized:
    """What a quantizer makes of the encoder's output; see :class:`vidgen.latents.Latent` for ``z``, ``h``, ``logvar``.

    ``h`` is in the bottleneck's own units, ``ids`` (B, N, L) over one grid, or over the grids of a pyramid, coarse to fine.
    ``losses`` are already weighted, so that their sum joins the tokenizer's total.
    """

    z: Tensor
    h: Tensor
    logvar: Tensor | None = None
    ids: Tensor | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)


@runtime_checkable
class Quantizer(Protocol):
    """The bottleneck of a tokenizer, a ``torch.nn.Module``.

    ``in_channels`` is what the encoder must emit, ``channels`` what the decoder receives (``z``, and ``h`` too); ``levels``,
    ``stages``, ``scales`` and ``clip`` are as in :class:`vidgen.latents.LatentSpec`. State that training changes outside the
    gradient (counts, averages, whether a codebook has been started) is in buffers, so that it is saved and resumed.

    One that first brings its input into the space of its codes says so with two more methods, by which ``residual`` and
    ``pyramid`` take rests there: ``bounded(x)``, into that space, and ``quantize(v)``, its forward from there on.
    """

    in_channels: int
    channels: int
    levels: tuple[int, ...] | None
    stages: int
    scales: tuple[tuple[float, float, float], ...] | None
    clip: int | None

    def __call__(self, x: Tensor) -> Quantized:
        """(B, in_channels, t, h, w) -> :class:`Quantized`; losses and updates of buffers only in training mode."""
        ...

    def embed(self, ids: Tensor, grids: tuple[Shape, ...]) -> Tensor:
        """(B, N, L) ids over ``grids`` -> z (B, channels, t, h, w); of a pyramid the ids of its first scales are enough.

        Continuous bottlenecks have no ids and raise TypeError.
        """
        ...

    def project(self, h: Tensor) -> Quantized:
        """The nearest legal latent to ``h`` (B, channels, t, h, w) in the bottleneck's own units: z, h and ids, no losses."""
        ...

    def anneal(self, progress: float) -> None:
        """Tells schedules how far training has come, from 0 to 1."""
        ...


@runtime_checkable
class Backbone(Protocol):
    """Encoder and decoder of a tokenizer, a ``torch.nn.Module``; ``stride`` and ``causal`` as in the spec."""

    stride: Shape
    causal: bool

    def encode(self, video: Tensor, start: int = 0, stream: Stream | None = None) -> Tensor:
        """(B, C, T, H, W) whose length fits -> (B, latent_out, t, h, w); at ``start`` > 0 the first cell is a whole one.

        With a ``stream`` (causal backbones), ``video`` goes on where the chunk before it ended: the cells of all chunks are those
        of the whole video, however it is cut.
        """
        ...

    def decode(self, z: Tensor, start: int = 0, stream: Stream | None = None) -> Tensor:
        """(B, latent_in, t, h, w) -> (B, C, T, H, W); ``start`` and ``stream`` as in :meth:`encode`."""
        ...


@runtime_checkable
class LatentSpace(Protocol):
    """All that a generator may know of a tokenizer: its frozen bottleneck, without encoder and decoder.

    Its methods carry no gradient, update nothing, and follow their input's device and dtype.
    """

    @property
    def spec(self) -> LatentSpec:
        """The tokenizer's spec."""
        ...

    @property
    def h_channels(self) -> int:
        """Channels of ``h``."""
        ...

    def embed(self, ids: Tensor, grids: tuple[Shape, ...]) -> Tensor:
        """(B, N, L) ids over ``grids`` -> z; the first scales' ids alone give the partial z."""
        ...

    def project(self, h: Tensor, *, num_frames: int | None = None, start: int = 0) -> Latent:
        """The nearest legal latent: ``embed(project(h).ids) == project(h).z``."""
        ...

    def pyramid(self, latent: Latent, flip: float = 0.0) -> tuple[list[Tensor], list[Tensor]]:
        """Of a tokenizer with ``spec.scales``, per scale: the ids to predict (B, N, L), and z (B, D, t, h, w) summed so far."""
        ...


@runtime_checkable
class Tokenizer(Protocol):
    """A video tokenizer, a ``torch.nn.Module``: backbone + quantizer behind one contract."""

    @property
    def spec(self) -> LatentSpec:
        """Shape and kind of its latents."""
        ...

    @property
    def space(self) -> LatentSpace:
        """Its bottleneck, as generators see it."""
        ...

    def encode(self, video: Tensor) -> Latent:
        """(B, C, T, H, W) in [-1, 1] -> latent, deterministic, without gradient."""
        ...

    def decode(self, latent: Latent) -> Tensor:
        """From ``z``, else ``ids``, else ``project(h)`` -> video (B, C, num_frames, H, W) in about [-1, 1]."""
        ...

    def __call__(self, video: Tensor) -> tuple[Tensor, Latent, Losses]:
        """Reconstruction, latent and losses: one training step's forward."""
        ...

    def measure(self, videos: Sequence[Tensor]) -> None:
        """Once, after training: per-channel mean and standard deviation of the latents."""
        ...


@runtime_checkable
class Head(Protocol):
    """The likelihood of one token given the trunk's output, a ``torch.nn.Module`` built with a :class:`LatentSpace` and a width.

    Tokens are ids (B, n, L) where latents are discrete, else values of h (B, n, D). Losses and log-probabilities are in nats and
    at least float32, under autocast too. It is given the trunk's output after the generator's own final norm.
    """

    draws: int
    """Uniform numbers that a token takes to be sampled."""

    likelihood: bool
    """Whether log-probabilities exist."""

    def embed(self, tokens: Tensor) -> Tensor:
        """Tokens (B, n, L or D) -> (B, n, width), for the trunk."""
        ...

    def loss(self, x: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
        """The trunk's (B, n, width) and the tokens (B, n, L or D) that it should give -> (B, n), a loss for each.

        Of discrete tokens the negative log-likelihood of the whole token, summed over its sub-ids; ``smoothing`` is the share of
        each softmax's target that is uniform.
        """
        ...

    def sample(
        self,
        x: Tensor,
        scales: Sequence[float | Tensor],
        temperature: float,
        noise: Tensor,
        top_k: int = 0,
        top_p: float = 1.0,
    ) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, n, L or D), a function of ``noise``, with their log-probability (B, n) where the head has a likelihood.

        Args:
            x: the trunk's output, (B, n, width), or ((1 + K) B, n, width) with guidance: that under the fewest conditions first,
                that under all of them last.
            scales: of guidance, from each of these branches to the next, K numbers or tensors (B or 1, n or 1). The branches'
                logits or velocities are joined by :func:`vidgen.samplers.guidance.guide_chain`. None of them is no guidance.
            temperature: divides logits, 0 for the most likely ids; scales the noise that real numbers start from.
            noise: uniform numbers (B, n, draws) in the open interval (0, 1), float32 or float64.
            top_k: most likely ids that each softmax keeps; 0 keeps all.
            top_p: the probability that the ids kept of each softmax hold together, at least; 1 keeps all.

        Returns:
            The log-probability is that of the law that was drawn from: guided, tempered and truncated. At temperature 0, where
            that law is a point, it is of the guided law alone, so that there still is an order of confidence.
        """
        ...


@runtime_checkable
class Generator(Protocol):
    """A generator over latents, a ``torch.nn.Module`` built with a :class:`LatentSpace` that it keeps as a plain reference."""

    wants: tuple[str, ...]
    """Fields of :class:`vidgen.latents.Latent` that training needs, of z, h, logvar, ids."""

    takes_known: bool
    """Whether it was trained to see finished cells in its window, so that it can go on from a video (:mod:`vidgen.rollout`)."""

    def prepare(self, latents: Latent) -> None:
        """Once, before training: whatever the generator measures on latents."""
        ...

    def loss(self, latent: Latent, condition: Condition | None = None) -> Losses:
        """The training objective on a batch."""
        ...

    def validation_loss(self, latent: Latent, condition: Condition | None = None) -> Tensor:
        """The objective with everything random held fixed, so that its curve is smooth and runs can be compared."""
        ...

    def sample(
        self,
        num: int,
        shape: Shape,
        condition: Condition | None = None,
        *,
        start: int = 0,
        first: int = 0,
        steps: int | None = None,
        guidance_scale: float | Mapping[str, float] | None = None,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> Latent:
        """``num`` latents of videos of ``shape`` (T, H, W), with z, and ids where discrete.

        ``start`` is the absolute index of the first cell; sample i draws its noise from (seed, first + i, start).
        ``guidance_scale`` is one for all that it is told, or one for each part of the condition by its name.
        """
        ...


class Extractor(Protocol):
    """Features of clips, for distances between distributions: a frozen network.

    Attributes:
        dim: of the features.
        min_frames: the shortest clip that it takes.
        rule: all that decides the features, plain values: architecture, sha256 of the weights, resize, value range, rounding.
    """

    dim: int
    min_frames: int
    rule: dict[str, Any]

    def __call__(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W) in [-1, 1] -> float32 (B, dim)."""
        ...
