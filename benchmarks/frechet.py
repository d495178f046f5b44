"""Measures the Frechet distance against the other ways to it: ``benchmarks/results/frechet.jsonl``.

    python benchmarks/frechet.py               measures what is not there yet of the code at hand
    python benchmarks/frechet.py --only 400    that of this dimension alone

Both sides get the same float64 features of :data:`CLIPS` clips of a kind, or the means and covariances of those, and as many
threads. That they come to the same value is checked first. Peak memory is that of features seen in batches, with and without
keeping them, at two numbers of clips.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import timing
import torch
from timing import Case, Timing
from torch import Tensor

from vidgen.errors import UserError
from vidgen.metrics.frechet import Frechet, frechet, frechet_from_features, frechet_from_stats
from vidgen.metrics.statistics import FeatureStats

RESULTS = Path(__file__).parent / "results" / "frechet.jsonl"
CODE = ("vidgen/metrics/frechet.py", "vidgen/metrics/statistics.py", "benchmarks/frechet.py", "benchmarks/timing.py")

CLIPS = 4096
DIMS = (400, 768, 1024, 2048)
PAIRS = 5
TIMES = 5.0
"""How many times as fast as scipy's root ours has to be."""

AGREE = 1e-6
"""Two routes to one value differ by no more, as a share of it."""

PEAK_DIM, BATCH = 400, 64
PEAK_CLIPS = (4096, 16384)
GROWTH = 1.1
"""How many times the memory four times the clips may take without their features."""

Moments = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
Route = Callable[[], float]


def features(dim: int, clips: int = CLIPS) -> tuple[Tensor, Tensor]:
    """Two sets of features, correlated: variances fall over three magnitudes, along axes of each set's own."""
    rng = torch.Generator().manual_seed(0)

    def draw(rows: int) -> Tensor:
        return torch.randn(rows, dim, generator=rng, dtype=torch.float64)

    deviations = torch.logspace(0, -1.5, dim, dtype=torch.float64)
    a, b = (draw(clips) * deviations @ torch.linalg.qr(draw(dim)).Q for _ in range(2))
    return a, b + 0.1


def statistics(rows: Tensor) -> FeatureStats:
    """Of all rows at once."""
    made = FeatureStats()
    made.update(rows)
    return made


def moments(a: Tensor, b: Tensor) -> Moments:
    """What the other routes begin with: mean and covariance of each set."""
    left, right = a.numpy(), b.numpy()
    return left.mean(0), np.cov(left, rowvar=False), right.mean(0), np.cov(right, rowvar=False)


# The other sides --------------------------------------------------------------------------------------------------------------


def by_scipy(given: Moments) -> float:
    """As StyleGAN-V, Latte, cd-fvd and most others have it."""
    from scipy.linalg import sqrtm

    mean, covariance, other_mean, other = given
    root = sqrtm(covariance @ other)
    return float(np.square(mean - other_mean).sum() + np.trace(covariance + other - 2 * np.real(root)))


def by_torchmetrics(given: tuple[Tensor, ...]) -> float:
    """The eigenvalues of the product, which is not symmetric."""
    from torchmetrics.image.fid import _compute_fid

    return float(_compute_fid(*given))


# Rows -------------------------------------------------------------------------------------------------------------------------


def routes(dim: int, measure: str, clips: int = CLIPS) -> tuple[Route, Route]:
    """Our side of a row, and the other one."""
    a, b = features(dim, clips)
    own, given = (statistics(a), statistics(b)), moments(a, b)
    tensors = tuple(torch.from_numpy(part) for part in given)
    return {
        "from statistics, against scipy": (lambda: float(frechet_from_stats(*own)), lambda: by_scipy(given)),
        "from features, against scipy": (lambda: float(frechet_from_features(a, b)), lambda: by_scipy(moments(a, b))),
        "from statistics, against torchmetrics": (
            lambda: float(frechet_from_stats(*own)),
            lambda: by_torchmetrics(tensors),
        ),
    }[measure]


AGAINST = {
    "from statistics, against scipy": ("scipy's sqrtm", TIMES),
    "from features, against scipy": ("numpy's cov and scipy's sqrtm", None),
    "from statistics, against torchmetrics": ("torchmetrics' eigvals", None),
}
"""What the other side of each row is, and what is asked of ours."""


def speed(dim: int, measure: str, clips: int = CLIPS) -> Timing:
    """One of our routes against another's.

    Raises:
        UserError: where the two do not come to one value.
    """
    ours, theirs = routes(dim, measure, clips)
    values = ours(), theirs()
    if abs(values[0] - values[1]) > AGREE * abs(values[1]):
        raise UserError(f"Two routes to one distance differ, {measure}, d = {dim}: {values[0]!r} and {values[1]!r}.")
    against, least = AGAINST[measure]
    return timing.compared(
        ours,
        theirs,
        subject=_subject(dim),
        measure=measure,
        against=against,
        settings=f"{clips:,} clips of a kind, float64, {torch.get_num_threads()} threads",
        version=timing.code(*CODE),
        pairs=PAIRS,
        least=least,
    )


def whole_estimate(dim: int, clips: int) -> Timing:
    """The distance with its error and its limit, against the distance alone: how much the forty blocks cost."""
    a, b = features(dim, clips)
    return timing.compared(
        lambda: frechet(a, b),
        lambda: frechet_from_features(a, b),
        subject=_subject(dim),
        measure=ESTIMATE,
        against="the value alone",
        settings=f"{clips:,} clips of a kind, float64, {torch.get_num_threads()} threads",
        version=timing.code(*CODE),
        pairs=PAIRS,
    )


ESTIMATE = "with error and limit"


def stream(keep_features: bool, clips: int, dim: int) -> float:
    """The metric from the first batch to the value."""
    rng = torch.Generator().manual_seed(0)
    metric = Frechet(keep_features=keep_features)
    for _ in range(clips // BATCH):
        metric.update(torch.randn(BATCH, dim, generator=rng), torch.randn(BATCH, dim, generator=rng))
    return float(metric.compute())


def peak(keep_features: bool, clips: int, dim: int = PEAK_DIM) -> float:
    """MiB that :func:`stream` takes at most beyond what was held before."""
    stream(keep_features, 2 * dim, dim)  # what the first one loads counts as held before
    timing.forget_peak()
    before, _ = timing.memory()
    stream(keep_features, clips, dim)
    return timing.memory()[1] - before


def memory(keep_features: bool) -> Timing:
    """Of four times the clips, against as many as are usual: without features it does not grow."""
    usual, many = (timing.alone(peak, keep_features, clips) for clips in PEAK_CLIPS)
    return Timing(
        subject=MEMORY[keep_features],
        measure=PEAK,
        against=f"the same of {PEAK_CLIPS[0]:,}",
        ours=many,
        theirs=usual,
        unit="MiB",
        ratio=usual / many,
        quartiles=None,
        pairs=1,
        wanted="" if keep_features else f"at most {GROWTH:g} times as much",
        met=None if keep_features else many <= GROWTH * usual,
        settings=f"d = {PEAK_DIM}, batches of {BATCH}, beyond the baseline",
        code=timing.code(*CODE),
        **timing.provenance(),
    )


MEMORY = {False: "statistics alone", True: "features kept"}
PEAK = f"peak memory of {PEAK_CLIPS[1]:,} clips of a kind"


def cases(dims: tuple[int, ...] = DIMS, clips: int = CLIPS, estimated: int = 2048) -> Iterator[Case]:
    """All rows, in the order of the table."""
    for dim in dims:
        for measure in AGAINST:
            yield Case(_subject(dim), measure, partial(speed, dim, measure, clips))
    yield Case(_subject(dims[0]), ESTIMATE, partial(whole_estimate, dims[0], estimated))
    for keep_features in MEMORY:
        yield Case(MEMORY[keep_features], PEAK, partial(memory, keep_features))


def _subject(dim: int) -> str:
    return f"d = {dim}"


if __name__ == "__main__":
    raise SystemExit(timing.run(RESULTS, cases(), timing.code(*CODE)))
