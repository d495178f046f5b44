"""The Frechet distance against closed forms and other implementations, and its error and limit against fresh draws."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing import spawn
from torchmetrics import MetricCollection

from vidgen.errors import UserError
from vidgen.metrics.features import BLOCKS, Estimate, dealt
from vidgen.metrics.frechet import Frechet, frechet, frechet_from_features, frechet_from_stats
from vidgen.metrics.kvd import KVD
from vidgen.metrics.prdc import PRDC
from vidgen.metrics.psnr import PSNR
from vidgen.metrics.statistics import FeatureStats, not_padding


def draw(n: int, d: int, *, seed: int = 0, mean: float = 0.0, scale: float = 1.0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return mean + scale * torch.randn(n, d, generator=rng, dtype=torch.float64)


def pair(n: int, d: int) -> tuple[Tensor, Tensor]:
    """Two sets whose covariances have no directions in common and eigenvalues of several magnitudes."""
    mixed = [
        draw(d, d, seed=10 + side) * torch.logspace(0, -1, d, dtype=torch.float64) + 0.5 * torch.eye(d, dtype=torch.float64)
        for side in (0, 1)
    ]
    return draw(n, d, seed=1) @ mixed[0], 0.3 + draw(n + 17, d, seed=2) @ mixed[1]


def stats(rows: Tensor) -> FeatureStats:
    made = FeatureStats()
    made.update(rows)
    return made


def by_scipy(a: Tensor, b: Tensor, ddof: int = 1) -> float:
    linalg = pytest.importorskip("scipy.linalg")
    covariances = [np.cov(rows.numpy(), rowvar=False, ddof=ddof) for rows in (a, b)]
    root = linalg.sqrtm(covariances[0] @ covariances[1])
    apart = a.numpy().mean(0) - b.numpy().mean(0)
    return float(apart @ apart + np.trace(covariances[0] + covariances[1] - 2 * root.real))


# Its value ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize(("n", "d"), [(200, 5), (300, 40), (500, 100)])
def test_both_routes_equal_scipys_root_in_float64(n: int, d: int, ddof: int) -> None:
    a, b = pair(n, d)
    expected = by_scipy(a, b, ddof)
    assert float(frechet_from_features(a, b, ddof=ddof)) == pytest.approx(expected, rel=1e-9)
    assert float(frechet_from_stats(stats(a), stats(b), ddof=ddof)) == pytest.approx(expected, rel=1e-9)


def test_equals_torchmetrics_fid_on_the_same_features() -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Same(nn.Module):
        num_features = 12

        def forward(self, rows: Tensor) -> Tensor:
            return rows

    a, b = pair(200, 12)
    oracle = FrechetInceptionDistance(feature=Same())
    oracle.update(a, real=False)
    oracle.update(b, real=True)
    ours = Frechet()
    ours.update(a, b)
    assert float(ours.compute()) == pytest.approx(float(oracle.compute()), rel=1e-9)


@pytest.mark.parametrize(("n", "d"), [(40, 3), (4, 9), (6, 5)])
def test_between_sets_of_known_moments_it_is_the_closed_form(n: int, d: int) -> None:
    """A set moved and stretched by c is |shift|^2 + (c - 1)^2 tr S from where it was: then S2 = c^2 S1, of any rank."""
    a = draw(n, d)
    shift, factor = draw(1, d, seed=5), 2.5
    mean = a.mean(dim=0)
    b = mean + shift + factor * (a - mean)
    expected = float(shift.square().sum() + (factor - 1) ** 2 * (a - mean).square().sum() / (n - 1))
    assert float(frechet_from_features(a, b)) == pytest.approx(expected, rel=1e-12)
    assert float(frechet_from_stats(stats(a), stats(b))) == pytest.approx(expected, rel=1e-12)


def test_of_covariances_that_commute_it_is_the_distance_of_their_roots() -> None:
    """Diagonal ones, made exactly: rows at +-s along each axis."""
    first, second = torch.tensor([3.0, 1.0, 0.5]).double(), torch.tensor([1.0, 2.0, 0.5]).double()
    a, b = (torch.cat((torch.diag(s), -torch.diag(s))) for s in (first, second))
    expected = float((2 / 6) * (first - second).square().sum())
    assert float(frechet_from_features(a, b, ddof=0)) == pytest.approx(expected, rel=1e-12)


def test_without_spread_it_is_the_distance_of_the_means() -> None:
    a, b = torch.zeros(8, 4), torch.full((5, 4), 1.5)
    assert float(frechet_from_features(a, b)) == 4 * 1.5**2
    assert float(frechet_from_stats(stats(a), stats(b))) == 4 * 1.5**2


@pytest.mark.parametrize(("n", "d"), [(16, 200), (2, 30), (200, 30), (30, 30)])
@pytest.mark.parametrize("mean", [0.0, 100.0])
def test_identical_sets_are_exactly_0_apart(n: int, d: int, mean: float) -> None:
    a = draw(n, d, mean=mean)
    shuffled = a[torch.randperm(n)]
    for other in (a, shuffled):
        assert float(frechet_from_features(a, other)) == 0.0
        assert float(frechet_from_stats(stats(a), stats(other))) == 0.0
    single = a.float()
    assert float(frechet_from_features(single, single.clone())) == 0.0


def test_with_fewer_clips_than_features_no_digits_are_lost() -> None:
    """Against the same sets turned into the space that they span, where every route is well conditioned."""
    a, b = draw(12, 200, seed=1), draw(15, 200, seed=2)
    basis = torch.linalg.qr(torch.cat((a, b)).T).Q
    expected = float(frechet_from_features(a @ basis, b @ basis))
    assert float(frechet_from_features(a, b)) == pytest.approx(expected, rel=1e-12)
    assert float(frechet_from_stats(stats(a), stats(b))) == pytest.approx(expected, rel=1e-9)


def test_it_is_symmetric_and_not_negative() -> None:
    a, b = draw(30, 60, seed=1), draw(90, 60, seed=2)
    assert float(frechet_from_features(a, b)) == pytest.approx(float(frechet_from_features(b, a)), rel=1e-12)
    nearly = a + 1e-9 * draw(30, 60, seed=3)
    assert float(frechet_from_features(a, nearly)) >= 0
    assert float(frechet_from_stats(stats(a), stats(nearly))) >= 0


def test_a_large_mean_beside_a_small_spread_costs_no_digits() -> None:
    a, b = draw(500, 6, seed=1, mean=100, scale=0.01), draw(500, 6, seed=2, mean=100, scale=0.02)
    expected = float(frechet_from_features(a - 100, b - 100))
    assert float(frechet_from_features(a, b)) == pytest.approx(expected, rel=1e-9)
    for keep_features in (True, False):
        metric = Frechet(keep_features=keep_features)
        for left, right in zip(a.float().split(50), b.float().split(50), strict=True):
            metric.update(left, right)
        assert float(metric.compute()) == pytest.approx(expected, rel=1e-3)  # the rounding of float32 features themselves


# Its error and its limit ----------------------------------------------------------------------------------------------------

FACTOR = 1.3
ERRORS = ("standard_error", "extrapolated_error")


def two_gaussians(n: int, d: int, seed: int, shift: float) -> tuple[Tensor, Tensor]:
    """Of deviations 1 to .1, one of them 1.3 times as wide and moved along the longest axis."""
    deviations = torch.logspace(0, -1, d, dtype=torch.float64)
    a, b = draw(n, d, seed=2 * seed) * deviations, FACTOR * draw(n, d, seed=2 * seed + 1) * deviations
    b[:, 0] += shift
    return a, b


def truth(d: int, shift: float) -> float:
    return shift**2 + (FACTOR - 1) ** 2 * float(torch.logspace(0, -1, d, dtype=torch.float64).square().sum())


def drawn(n: int, d: int, seed: int, shift: float) -> tuple[float, float]:
    """The value of fresh sets, and what a line through it and that of their halves comes to."""
    a, b = two_gaussians(n, d, seed, shift)
    value = float(frechet_from_features(a, b))
    return value, 2 * value - sum(float(frechet_from_features(a[half::2], b[half::2])) for half in (0, 1)) / 2


def check_error_and_limit(n: int, d: int, shift: float, *, draws: int, estimates: int, safe: float) -> None:
    """The error is within 15 % of the spread over fresh sets, that of the limit no less and at most ``safe`` times as large."""
    fresh = torch.tensor([drawn(n, d, seed, shift) for seed in range(draws)], dtype=torch.float64)
    found = [frechet(*two_gaussians(n, d, draws + seed, shift)) for seed in range(estimates)]
    errors = [math.sqrt(sum(getattr(one, name) ** 2 for one in found) / estimates) for name in ERRORS]
    ratios = [said / float(true) for said, true in zip(errors, fresh.std(dim=0), strict=True)]
    print(f"truth {truth(d, shift):.4f}, means {fresh.mean(dim=0).tolist()}, spread {fresh.std(dim=0).tolist()}, said {errors}")
    assert ratios[0] == pytest.approx(1, abs=0.15)
    assert 0.9 < ratios[1] < safe
    value, limit = (fresh - truth(d, shift)).mean(dim=0).abs().tolist()
    assert limit < value / 3


def check_every_limit(n: int, d: int, estimates: int) -> None:
    """Where bias is more than chance, each single limit is nearer to the truth than its value."""
    for seed in range(estimates):
        found = frechet(*two_gaussians(n, d, seed, 0.5))
        assert found.extrapolated is not None
        assert abs(found.extrapolated - truth(d, 0.5)) < abs(found.value - truth(d, 0.5))


def test_the_error_is_the_spread_over_fresh_sets_and_the_limit_is_nearer_the_truth() -> None:
    check_error_and_limit(600, 8, 0.5, draws=600, estimates=20, safe=1.15)
    check_every_limit(n=150, d=60, estimates=10)


@pytest.mark.slow
def test_they_are_so_at_full_size() -> None:
    check_error_and_limit(2048, 400, 2.0, draws=200, estimates=12, safe=1.3)
    check_every_limit(n=2048, d=400, estimates=5)


@pytest.mark.parametrize(("n", "m", "d"), [(90, 130, 12), (90, 50, 60), (50, 90, 60), (45, 50, 200)])
def test_the_error_is_that_of_leaving_out_blocks_by_hand(n: int, m: int, d: int) -> None:
    """Whichever side is the smaller, and whether or not the features are fewer than the clips."""
    sets = draw(n, d, seed=1), 1.2 * draw(m, d, seed=2) + 0.1
    places = [dealt(rows) for rows in sets]
    for sizes in map(torch.bincount, places):
        assert len(sizes) == BLOCKS
        assert sizes.max() - sizes.min() <= 1
    variance = [0.0, 0.0]
    for side in (0, 1):
        values = [[], []]
        for block in range(BLOCKS):
            keep = [torch.ones(len(rows), dtype=torch.bool) for rows in sets]
            keep[side] = places[side] != block
            half = [[(blocks % 2 == parity) & kept for blocks, kept in zip(places, keep, strict=True)] for parity in (0, 1)]
            whole = float(frechet_from_features(*(rows[kept] for rows, kept in zip(sets, keep, strict=True))))
            halves = [float(frechet_from_features(*(rows[kept] for rows, kept in zip(sets, part, strict=True)))) for part in half]
            values[0].append(whole)
            values[1].append(2 * whole - sum(halves) / 2)
        for number in (0, 1):
            variance[number] += (BLOCKS - 1) * float(np.var(values[number]))
    found = frechet(*sets)
    assert found.standard_error == pytest.approx(math.sqrt(variance[0]), rel=1e-6)
    assert found.extrapolated_error == pytest.approx(math.sqrt(variance[1]), rel=1e-6)


def test_the_limit_is_read_off_the_line_through_whole_and_halves() -> None:
    a, b = two_gaussians(200, 8, 0, 0.5)
    parts = [frechet_from_features(a[dealt(a) % 2 == half], b[dealt(b) % 2 == half]) for half in (0, 1)]
    slope, intercept = np.polyfit([1 / 200, 2 / 200], [float(frechet_from_features(a, b)), float(sum(parts)) / 2], 1)
    assert frechet(a, b).extrapolated == pytest.approx(intercept, rel=1e-9)
    assert slope > 0


def test_neither_order_nor_batches_change_what_is_said() -> None:
    a, b = two_gaussians(101, 8, 0, 0.5)
    found, other = frechet(a, b), frechet(a.flip(0), b[torch.randperm(101)])
    for name in ("value", "standard_error", "extrapolated", "extrapolated_error"):
        assert getattr(other, name) == pytest.approx(getattr(found, name), rel=1e-9)


def test_identical_sets_have_0_for_a_limit() -> None:
    a = draw(100, 30)
    found = frechet(a, a[torch.randperm(100)])
    assert (found.value, found.extrapolated) == (0, 0)


def test_warnings_are_sentences() -> None:
    few = frechet(draw(30, 40), draw(3000, 40, seed=1))
    assert few == Estimate(value=few.value, num_generated=30, num_real=3000, warnings=few.warnings)
    assert [sentence.partition(":")[0] for sentence in few.warnings[:2]] == [
        "30 generated clips do not span 40 features",
        "30 generated clips are fewer than 2048",
    ]
    assert "neither an error nor the value" in few.warnings[2]
    assert all(sentence.endswith(".") for sentence in few.warnings)
    assert frechet(draw(2048, 3), draw(2048, 3, seed=1)).warnings == ()


# The metric -----------------------------------------------------------------------------------------------------------------


class Corners(nn.Module):
    """An extractor that counts what it is asked for: the first frame's first pixels."""

    dim, min_frames = 6, 3

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, video: Tensor) -> Tensor:
        self.seen += len(video)
        return video[:, :, 0, :2, 0].flatten(1).float() + video.mean()


def video(n: int, seed: int = 0, frames: int = 4) -> Tensor:
    return torch.rand(n, 3, frames, 12, 12, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("keep_features", [True, False])
class TestMetric:
    def test_is_the_function_of_all_that_was_seen(self, keep_features: bool) -> None:
        a, b = pair(60, 5)
        metric = Frechet(keep_features=keep_features)
        metric.update(a[:0], b[:30])
        metric.update(a[:7], b[30:])
        metric.update(a[7:])
        assert float(metric.compute()) == pytest.approx(float(frechet_from_features(a, b)), rel=1e-9)
        assert metric.compute().dtype == torch.float64
        found = metric.estimate()
        assert (found.num_generated, found.num_real) == (60, 77)
        assert found.value == pytest.approx(float(metric.compute()))
        assert (found.standard_error is not None) is keep_features

    def test_ddof(self, keep_features: bool) -> None:
        a, b = pair(60, 5)
        metric = Frechet(keep_features=keep_features, ddof=0)
        metric.update(a, b)
        assert float(metric.compute()) == pytest.approx(by_scipy(a, b, ddof=0), rel=1e-9)
        assert metric.estimate().value == float(metric.compute())

    @pytest.mark.parametrize("reset_real_features", [True, False])
    def test_real_features_may_stay(self, keep_features: bool, reset_real_features: bool) -> None:
        a, b = pair(60, 5)
        metric = Frechet(keep_features=keep_features, reset_real_features=reset_real_features)
        metric.update(a, b)
        metric.reset()
        metric.update(a[:30])
        if reset_real_features:
            with pytest.raises(UserError, match="No real clips were given: call update"):
                metric.compute()
        else:
            assert float(metric.compute()) == pytest.approx(float(frechet_from_features(a[:30], b)), rel=1e-9)
            metric.reset()
            metric.update(a)
            assert float(metric.compute()) == pytest.approx(float(frechet_from_features(a, b)), rel=1e-9)

    def test_merges_with_another_and_takes_calls(self, keep_features: bool) -> None:
        a, b = pair(60, 5)
        metric, other = (Frechet(keep_features=keep_features) for _ in range(2))
        assert metric(a[:20], b) is None
        assert metric(a[20:30]) is None
        other.update(a[30:])
        metric.merge_state(other)
        assert float(metric.compute()) == pytest.approx(float(frechet_from_features(a, b)), rel=1e-9)

    def test_takes_videos_by_its_extractor(self, keep_features: bool) -> None:
        extractor = Corners()
        metric = Frechet(extractor=extractor, keep_features=keep_features)
        metric.update(video(20), video(30, seed=1))
        assert float(metric.compute()) == pytest.approx(
            float(frechet_from_features(extractor(video(20)), extractor(video(30, seed=1)))), rel=1e-6
        )
        with pytest.raises(UserError, match="Clips of 2 frames are too short for this extractor: give at least 3"):
            metric.update(video(2, frames=2))

    def test_bad_input_is_refused_and_nothing_is_lost(self, keep_features: bool) -> None:
        a, b = pair(60, 5)
        metric = Frechet(keep_features=keep_features)
        with pytest.raises(UserError, match="neither generated nor real clips"):
            metric.update(None, None)
        metric.update(a[:1])
        with pytest.raises(UserError, match="No real clips were given"):
            metric.compute()
        with pytest.raises(UserError, match="Features of 4 and of 5 numbers cannot be compared"):
            metric.update(None, b[:, :4])
        with pytest.raises(UserError, match="hold NaN"):
            metric.update(a[1:], b * torch.nan)
        metric.update(None, b)
        with pytest.raises(UserError, match=r"at least 2"):
            metric.compute()
        metric.update(a[1:])
        assert float(metric.compute()) == pytest.approx(float(frechet_from_features(a, b)), rel=1e-9)


def test_without_features_memory_does_not_grow() -> None:
    metric, kept = Frechet(keep_features=False), Frechet()
    sizes = []
    for step in range(50):
        for one in (metric, kept):
            one.update(draw(8, 5, seed=step), draw(8, 5, seed=100 + step))
        sizes.append(sum(part.numel() for part in [*metric.generated, *metric.real]))
    assert sizes == [2 * 36] * 50
    assert float(metric.compute()) == pytest.approx(float(kept.compute()), rel=1e-9)


def test_a_ddof_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match="ddof is 0 or 1 and not 2"):
        Frechet(ddof=2)


def test_sets_are_checked_by_the_functions_too() -> None:
    with pytest.raises(UserError, match="Generated features have 3 numbers and real ones 4: take all of them"):
        frechet_from_features(draw(5, 3), draw(5, 4))
    with pytest.raises(UserError, match="at least 2 clips of each kind and got 1 generated"):
        frechet(draw(1, 3), draw(5, 3))
    with pytest.raises(UserError, match="Statistics of features of 3 and of 4 numbers"):
        frechet_from_stats(stats(draw(5, 3)), stats(draw(5, 4)))


def test_a_collection_takes_pairs_and_sets_and_extracts_once() -> None:
    """Measures that keep the same features share them, from the second batch on."""
    extractors = [Corners() for _ in range(3)]
    collection = MetricCollection(
        {
            "frechet": Frechet(extractor=extractors[0]),
            "kvd": KVD(extractor=extractors[1]),
            "prdc": PRDC(extractor=extractors[2]),
            "psnr": PSNR(),
        }
    )
    generated, real = video(40), video(40, seed=1)
    for a, b in zip(generated.split(10), real.split(10), strict=True):
        collection.update(a, real=b)
    assert sorted(extractor.seen for extractor in extractors) == [20, 20, 80]
    found = collection.compute()
    assert {"frechet", "kvd", "psnr", "precision", "recall", "density", "coverage"} <= set(found)
    features = [torch.cat([extractors[0](part) for part in clips.split(10)]) for clips in (generated, real)]
    assert float(found["frechet"]) == pytest.approx(float(frechet_from_features(*features)), rel=1e-9)
    assert collection["frechet"].estimate().num_real == 40
    assert collection["kvd"].estimate().value == float(found["kvd"])
    collection.reset()
    collection.update(generated, real=real)
    assert float(collection.compute()["frechet"]) > 0


@pytest.mark.parametrize("keep_features", [True, False])
def test_what_a_sampler_repeats_does_not_count(keep_features: bool) -> None:
    a, b = pair(91, 6)
    metric = Frechet(keep_features=keep_features)
    for first in range(0, 100, 10):  # of 91 clips 10 batches, the last of which repeats nine
        padded = [torch.cat((rows[first : first + 10], rows[:10]))[:10] for rows in (a, b[:91])]
        metric.update(padded[0], real=padded[1], valid=not_padding(10, first=first, total=91))
    assert float(metric.compute()) == pytest.approx(float(frechet_from_features(a, b[:91])), rel=1e-9)
    assert (metric.estimate().num_generated, metric.estimate().num_real) == (91, 91)
    metric.update(a[:5], valid=torch.zeros(5, dtype=torch.bool))
    assert metric.estimate().num_generated == 91


# Processes ------------------------------------------------------------------------------------------------------------------

RANKS = 2


def shares(rank: int) -> tuple[Tensor, Tensor]:
    """A rank's part of two sets: unequal, and of the real one the second rank has nothing."""
    a, b = pair(91, 6)
    return (a[:60], b) if rank == 0 else (a[60:], b[:0])


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    a, b = shares(rank)
    summed, empty, lopsided = stats(a), FeatureStats(), stats(b)
    calls = []
    reduce = distributed.all_reduce
    distributed.all_reduce = lambda x, *rest, **named: (calls.append(x.numel()), reduce(x, *rest, **named))
    for one in (summed, empty, lopsided):
        one.all_reduce(6)
    results = {"stats": summed.packed(), "lopsided": lopsided.packed(), "empty": empty.n, "calls": calls[:]}
    for keep_features in (True, False):
        metric = Frechet(keep_features=keep_features)
        for part in a.split(13):
            metric.update(part)
        if len(b):
            metric.update(None, b)
        results[keep_features] = (metric.compute(), metric.estimate(), metric.compute())
    try:
        stats(a[:, : 5 + rank]).all_reduce(6)
    except UserError as error:
        results["sentence"] = str(error)
    torch.save(results, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_are_one(tmp_path: Path) -> None:
    spawn(work, (str(tmp_path),), nprocs=RANKS)
    a, b = pair(91, 6)
    expected = frechet(a, b)
    for rank in range(RANKS):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        torch.testing.assert_close(found["stats"], stats(a).packed(), rtol=1e-12, atol=1e-10)
        torch.testing.assert_close(found["lopsided"], stats(b).packed(), rtol=1e-12, atol=1e-10)
        assert found["empty"] == 0
        assert found["calls"] == [RANKS * 7 + 36] * 3  # all at once
        for keep_features in (True, False):
            value, estimate, again = found[keep_features]
            assert float(value) == float(again) == pytest.approx(expected.value, rel=1e-9)
            assert (estimate.num_generated, estimate.num_real) == (91, 108)
            assert estimate.value == pytest.approx(expected.value, rel=1e-9)
        assert found[True][1].standard_error == pytest.approx(expected.standard_error, rel=1e-6)
        assert found[True][1].extrapolated == pytest.approx(expected.extrapolated, rel=1e-6)
        assert found["sentence"].startswith("Some processes have no features of 6 numbers but others")
