"""Statistics of features: the same however the rows are dealt out, precise where the mean is large, and safe on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vidgen.errors import UserError
from vidgen.metrics.statistics import VERSION, FeatureStats, not_padding


def rows(n: int, d: int = 7, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=rng, dtype=torch.float64)
    return torch.randn(n, d, generator=rng, dtype=torch.float64) @ mixing + 5


def stats(*batches: Tensor) -> FeatureStats:
    made = FeatureStats()
    for batch in batches:
        made.update(batch)
    return made


def assert_same(ours: FeatureStats, other: FeatureStats) -> None:
    assert ours.n == other.n
    torch.testing.assert_close(ours.mean, other.mean, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(ours.scatter, other.scatter, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("ddof", [0, 1])
def test_covariance_is_numpys(ddof: int) -> None:
    x = rows(50)
    made = stats(*x.split(8))
    np.testing.assert_allclose(made.mean, x.numpy().mean(0), rtol=1e-13)
    np.testing.assert_allclose(made.covariance(ddof), np.cov(x.numpy(), rowvar=False, ddof=ddof), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("sizes", [(50,), (1,) * 50, (1, 49), (0, 20, 0, 30), (13, 13, 13, 11)])
def test_batches_and_their_order_make_no_difference(sizes: tuple[int, ...]) -> None:
    x, whole = rows(50), stats(rows(50))
    shuffled = x[torch.randperm(50)]
    assert_same(stats(*x.split(list(sizes))), whole)
    assert_same(stats(*shuffled.split(list(sizes))), whole)


def test_merging_is_seeing_all_in_any_order() -> None:
    parts = rows(60).split([1, 9, 30, 20])
    whole = stats(rows(60))
    for order in ((0, 1, 2, 3), (3, 1, 0, 2), (2, 3, 1, 0)):
        merged = FeatureStats()
        for number in order:
            merged.merge(stats(parts[number]))
        assert_same(merged, whole)
    left, right = stats(*parts[:2]), stats(*parts[2:])
    before = right.scatter.clone()
    left.merge(right)
    assert_same(left, whole)
    assert torch.equal(right.scatter, before)
    left.merge(FeatureStats())
    assert_same(left, whole)


def test_a_merged_one_is_its_own() -> None:
    first, other = FeatureStats(), stats(rows(5))
    first.merge(other)
    first.update(rows(5, seed=1))
    assert_same(other, stats(rows(5)))


def test_a_large_mean_beside_a_small_spread_costs_no_digits() -> None:
    """Where sums of float32 products give garbage, and those of float64 products lose half of the digits."""
    x = 100 + 0.01 * torch.randn(2000, 5, dtype=torch.float64)
    truth = np.cov(x.numpy(), rowvar=False)
    single = x.float()
    raw = (single.T @ single / 2000 - torch.outer(single.mean(0), single.mean(0))).numpy()
    assert np.abs(raw - truth).max() > truth.max()
    np.testing.assert_allclose(stats(*x.split(64)).covariance(), truth, rtol=0, atol=1e-11 * truth.max())
    rounded = np.cov(single.double().numpy(), rowvar=False)
    np.testing.assert_allclose(stats(*single.split(64)).covariance(), rounded, rtol=0, atol=1e-11 * truth.max())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_rows_are_summed_in_float64(dtype: torch.dtype) -> None:
    x = rows(40).to(dtype)
    assert_same(stats(x), stats(x.double()))


def test_what_does_not_count_is_as_if_it_were_not_there() -> None:
    x = rows(20)
    made = FeatureStats()
    made.update(x, valid=torch.arange(20) < 12)
    assert_same(made, stats(x[:12]))
    broken = x.clone()
    broken[15] = torch.nan
    made.update(broken, valid=torch.arange(20) < 12)
    assert made.n == 24
    made.update(x, valid=torch.zeros(20, dtype=torch.bool))
    assert made.n == 24


@pytest.mark.parametrize(("total", "ranks", "shuffle"), [(10, 4, False), (11, 3, True), (12, 4, True), (2, 5, False)])
def test_padding_is_what_torchs_sampler_repeats(total: int, ranks: int, shuffle: bool) -> None:
    from torch.utils.data import DistributedSampler

    seen: list[int] = []
    for rank in range(ranks):
        indices = list(DistributedSampler(range(total), num_replicas=ranks, rank=rank, shuffle=shuffle))
        for first in range(0, len(indices), 2):
            batch = torch.tensor(indices[first : first + 2])
            seen += batch[not_padding(len(batch), first=first, total=total, rank=rank, ranks=ranks)].tolist()
    assert sorted(seen) == list(range(total))


def test_memory_does_not_grow_with_the_number_of_rows() -> None:
    made = FeatureStats()
    sizes = []
    for step in range(200):
        made.update(rows(16, seed=step))
        sizes.append(sum(value.untyped_storage().nbytes() for value in vars(made).values() if isinstance(value, Tensor)))
    assert made.n == 3200
    assert sizes[0] == sizes[-1] == 8 * (7 + 49)


class TestFiles:
    def test_come_back_as_they_were(self, tmp_path: Path) -> None:
        made = stats(rows(30))
        made.save(tmp_path / "deep" / "s.npz", key="clips of x by y")
        found = FeatureStats.load(tmp_path / "deep" / "s.npz", key="clips of x by y")
        assert found.n == 30
        assert torch.equal(found.mean, made.mean)
        assert torch.equal(found.scatter, made.scatter)
        found.update(rows(5))
        assert list((tmp_path / "deep").iterdir()) == [tmp_path / "deep" / "s.npz"]

    def test_a_stop_while_writing_leaves_what_was_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "s.npz"
        stats(rows(30)).save(path, key="k")

        def stop(file: object, **_: object) -> None:
            file.write(b"half")  # type: ignore[attr-defined]
            raise KeyboardInterrupt

        monkeypatch.setattr(np, "savez", stop)
        with pytest.raises(KeyboardInterrupt):
            stats(rows(10)).save(path, key="k")
        assert FeatureStats.load(path, key="k").n == 30
        assert list(tmp_path.iterdir()) == [path]

    def test_of_something_else_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "s.npz"
        stats(rows(30)).save(path, key="train")
        with pytest.raises(UserError, match=r"s\.npz are of 'train' and not of 'test': take them anew"):
            FeatureStats.load(path, key="test")
        with pytest.raises(UserError, match=r"There are no statistics at .*other"):
            FeatureStats.load(tmp_path / "other.npz", key="test")

    def test_of_another_version_are_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("vidgen.metrics.statistics.VERSION", VERSION + 1)
        stats(rows(30)).save(tmp_path / "s.npz", key="k")
        monkeypatch.undo()
        with pytest.raises(UserError, match=f"are of version {VERSION + 1} and not {VERSION}"):
            FeatureStats.load(tmp_path / "s.npz", key="k")

    @pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "text", "other keys", "pickle", "shapes"])
    def test_that_are_broken_are_named(self, damage: str, tmp_path: Path) -> None:
        path = tmp_path / "s.npz"
        stats(rows(30)).save(path, key="k")
        whole = path.read_bytes()
        middle = len(whole) // 2
        arrays = {"version": VERSION, "key": "k", "n": 3, "mean": np.zeros(4), "scatter": np.zeros((4, 4))}
        match damage:
            case "empty":
                path.write_bytes(b"")
            case "cut":
                path.write_bytes(whole[:middle])
            case "flipped":
                path.write_bytes(whole[:middle] + bytes(255 - byte for byte in whole[middle : middle + 8]) + whole[middle + 8 :])
            case "text":
                path.write_text("mean, scatter")
            case "other keys":
                np.savez(path, mu=np.zeros(4), sigma=np.zeros((4, 4)))
            case "pickle":
                np.savez(path, **{**arrays, "mean": np.array([{}, None])})
            case "shapes":
                np.savez(path, **{**arrays, "scatter": np.zeros((4, 3))})
        with pytest.raises(UserError, match=r"s\.npz .*take (them|the statistics) anew"):
            FeatureStats.load(path, key="k")


@pytest.mark.parametrize(
    ("features", "sentence"),
    [
        (torch.zeros(3), r"Features are rows of floating-point numbers \(N, d\).*shape \(3,\)"),
        (torch.zeros(3, 7, dtype=torch.long), "not torch.int64"),
        (torch.tensor([[0.0] * 7, [torch.nan] + [0.0] * 6]), "1 of 2 rows of features hold NaN or infinity, the first at row 1"),
        (torch.full((2, 7), torch.inf), "2 of 2 rows"),
        (torch.zeros(3, 6), "Features of 6 numbers cannot join those of 7"),
    ],
)
def test_bad_rows_are_refused_and_nothing_is_lost(features: Tensor, sentence: str) -> None:
    made = stats(rows(30))
    with pytest.raises(UserError, match=sentence):
        made.update(features)
    assert_same(made, stats(rows(30)))


@pytest.mark.parametrize("count", [0, 1])
def test_a_covariance_needs_two(count: int) -> None:
    with pytest.raises(UserError, match="needs at least 2 clips"):
        stats(rows(count)).covariance()


def test_packed_is_all_of_it() -> None:
    made = stats(rows(30))
    assert made.packed().shape == (8, 8)
    assert_same(FeatureStats.unpacked(made.packed()), made)
