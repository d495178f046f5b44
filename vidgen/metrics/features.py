"""What measures of distributions share: two sets of features, of generated and of real clips, and what is said beside a figure.

Such a measure compares sets and not pairs. Measures of one extractor in one ``MetricCollection`` find that they keep the same
features and share them (torchmetrics' compute groups): from the second batch on a clip is seen by the network once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torchmetrics import Metric

from vidgen.errors import UserError
from vidgen.metrics.statistics import check_features, interval_95

ENOUGH = 2048
"""Clips below which a set is called small: most published distances are of so many."""

BLOCKS = 20
"""What the jackknife leaves out, one after another, of each set: with so many the error itself is known to about a tenth."""

ONE = "take all of them with one extractor"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure with what belongs beside it.

    Attributes:
        value: the figure.
        standard_error: of the value over fresh draws of both sets; None where it cannot be told.
        extrapolated: the value for sets without end; None where nothing is extrapolated. It may be negative, by chance.
        extrapolated_error: its standard error.
        num_generated: clips.
        num_real: clips.
        least: no figure of this kind is smaller.
        most: nor larger.
        warnings: what to know before comparing it, a sentence each.
    """

    value: float
    standard_error: float | None = None
    extrapolated: float | None = None
    extrapolated_error: float | None = None
    num_generated: int
    num_real: int
    least: float = -math.inf
    most: float = math.inf
    warnings: tuple[str, ...] = ()

    @property
    def interval(self) -> tuple[float, float] | None:
        """Where the value lies with 95 % certainty, cut to what it can be; None where there is no error."""
        ends = interval_95(self.value, self.standard_error)
        return ends and (max(ends[0], self.least), min(ends[1], self.most))


class FeatureSets(Metric):
    """Keeps the features of generated and of real clips; what is made of them, subclasses say in ``compute``.

    Args:
        extractor: a module that makes features (B, d) of videos (B, C, T, H, W) in [-1, 1]. Without one, the "videos" that
            :meth:`update` is given are features already.
        reset_real_features: whether ``reset`` forgets the real clips too. They need not be seen again for every model.
    """

    is_differentiable = False
    full_state_update = False

    least = 2
    """Clips of each kind that it needs."""

    extractor: Any
    generated: list[Tensor]
    real: list[Tensor]

    def __init__(self, *, extractor: nn.Module | None = None, reset_real_features: bool = True) -> None:
        super().__init__(dist_sync_fn=gathered)
        self.extractor = extractor
        self.reset_real_features = reset_real_features
        self.dim: int | None = None
        for name in ("generated", "real"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, video: Tensor | None, real: Tensor | None = None, valid: Tensor | None = None) -> None:
        """Take in generated clips ``video``, ``real`` ones, or both, as videos (B, C, T, H, W) in [-1, 1]; they are no pairs.

        ``valid`` (B,) says which clips of a batch count, of both kinds; all where it is left out. What a sampler repeats to give
        all processes equally many does not: :func:`vidgen.metrics.statistics.not_padding`.

        Raises:
            UserError: where there are neither, a clip is too short for the extractor, or features are not finite or not of the
                dimension of those before.
        """
        given = {"generated": video, "real": real}
        if valid is not None:
            given = {name: None if clips is None else clips[valid.to(clips.device)] for name, clips in given.items()}
        self.take(given)

    def take(self, given: dict[str, Tensor | None]) -> None:
        """Add the features of clips to the states that are named."""
        # All are made before any is kept, so that a refused batch leaves nothing behind.
        if all(clips is None for clips in given.values()):
            raise UserError("There are neither generated nor real clips to take in: give at least one of the two.")
        made = {name: self.features(clips) for name, clips in given.items() if clips is not None and len(clips)}
        if not made:
            return
        dims = {features.shape[1] for features in made.values()} | ({self.dim} if self.dim else set())
        if len(dims) > 1:
            raise UserError(f"Features of {' and of '.join(map(str, sorted(dims)))} numbers cannot be compared: {ONE}.")
        (self.dim,) = dims
        for name, features in made.items():
            if len(features):
                self.keep(name, features)

    def keep(self, name: str, features: Tensor) -> None:
        """Add rows to the state ``name``."""
        getattr(self, name).append(features)

    def features(self, given: Tensor) -> Tensor:
        """The features of a batch of clips, (B, d)."""
        made = given
        if self.extractor is not None:
            least, frames = self.extractor.min_frames, given.shape[2] if given.ndim == 5 else None
            if frames is not None and frames < least:
                raise UserError(
                    f"Clips of {frames} frames are too short for this extractor: give at least {least}, or another one."
                )
            made = self.extractor(given)
        made = check_features(made.detach())
        return made if made.dtype == torch.float64 else made.float()

    def sets(self) -> tuple[Tensor, Tensor]:
        """All generated rows (N, d) and all real ones (M, d), in the order of ranks and of batches."""
        return rows_of(self.generated, "generated"), rows_of(self.real, "real")

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """Take in a batch, like :meth:`update`: a batch by itself is no distribution and has no figure."""
        self.update(*args, **kwargs)

    def reset(self) -> None:
        """Forget the generated clips, and the real ones unless they are to stay."""
        # Copies, for torchmetrics empties the lists themselves.
        kept = (
            {} if self.reset_real_features else {name: getattr(self, name)[:] for name in self._defaults if name != "generated"}
        )
        super().reset()
        for name, rows in kept.items():
            setattr(self, name, rows)
        self.dim = self.dim if any(map(len, kept.values())) else None


def rows_of(state: list[Tensor] | Tensor, what: str) -> Tensor:
    """A state's rows as one tensor, whether or not torchmetrics has joined them. Raises UserError where there is none."""
    if not any_rows(state):
        raise UserError(f"No {what} clips were given: call update with some before asking for a figure.")
    return torch.cat(state) if isinstance(state, list) else state


def any_rows(state: list[Tensor] | Tensor) -> bool:
    """Whether a state holds anything."""
    return any(rows.numel() for rows in state) if isinstance(state, list) else state.numel() > 0


def check_sets(generated: Tensor, real: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Two sets of rows as float64, if each has at least ``least``.

    Raises:
        UserError: where one has fewer, or they are no features of one dimension.
    """
    for rows, what in ((generated, "generated"), (real, "real")):
        if len(check_features(rows)) < least:
            raise UserError(too_few(least, f"got {len(rows)} {what}"))
    if generated.shape[1] != real.shape[1]:
        raise UserError(f"Generated features have {generated.shape[1]} numbers and real ones {real.shape[1]}: {ONE}.")
    return generated.double(), real.to(generated.device, torch.float64)


def too_few(least: int, got: str) -> str:
    """What is said where a set is smaller than a measure can do with."""
    return f"This measure needs at least {least} clips of each kind and {got}: give more."


def small_sets(num_generated: int, num_real: int, dim: int, *, few: str, flat: str) -> tuple[str, ...]:
    """Warnings for sets that are small: what that means of fewer clips than usual, and of no more than there are features."""
    said = []
    for number, what in ((num_generated, "generated"), (num_real, "real")):
        if number <= dim:
            said.append(f"{number} {what} clips do not span {dim} features: {flat}.")
        if number < ENOUGH:
            said.append(f"{number} {what} clips are fewer than {ENOUGH}: {few}.")
    return tuple(said)


def dealt(rows: Tensor) -> Tensor:
    """A block for each row, (N,), of equal sizes but for one row: by a hash of its bits, wherever it stands.

    Not by what a row is like: blocks that are all alike would say that there is no error. So rows are taken to be independent;
    where several are predictions of one context, the error that blocks tell is too small.
    """
    weights = torch.randint(-(2**63), 2**63 - 1, rows.shape[1:], generator=torch.Generator().manual_seed(0)).to(rows.device)
    order = (rows.contiguous().view(torch.long) * weights).sum(dim=1).argsort()
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(rows), device=rows.device) % BLOCKS)


def jackknife_variance(without: Tensor) -> float:
    """The jackknife's variance of a figure, of its values without each of the blocks."""
    return float((len(without) - 1) * without.var(correction=0))


def gathered(rows: Tensor, group: Any = None) -> list[Tensor]:
    """The rows (n, d) of every process, float64; unlike torchmetrics' own, also where some process has none and knows no d."""
    rows = rows.double() if rows.numel() else rows.new_zeros(0, 0, dtype=torch.float64)
    shape = torch.tensor(rows.shape, device=rows.device)
    shapes = [torch.zeros_like(shape) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(shapes, shape, group=group)
    most, dim = (int(size) for size in torch.stack(shapes).amax(dim=0))
    if not most:
        return [rows]
    if any(int(shape[1]) not in (0, dim) for shape in shapes):
        raise UserError(f"Processes have features of different dimensions, {dim} numbers the most: {ONE}.")
    padded = nn.functional.pad(rows, (0, dim - rows.shape[1], 0, most - len(rows))).contiguous()
    parts = [torch.empty_like(padded) for _ in shapes]
    distributed.all_gather(parts, padded, group=group)
    return [part[: int(shape[0])] for part, shape in zip(parts, shapes, strict=True)]
