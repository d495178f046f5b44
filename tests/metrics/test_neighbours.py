"""What is told of nearest neighbours, against brute force and other implementations: PRDC and memorisation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from vidgen.errors import UserError
from vidgen.metrics import neighbours
from vidgen.metrics.memorisation import Memorisation, memorisation
from vidgen.metrics.prdc import PRDC, estimates, prdc
from vidgen.metrics.statistics import NORMAL_95


def draw(n: int, d: int = 5, *, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def distance(a: Tensor, b: Tensor) -> np.ndarray:
    return np.sqrt(((a.numpy()[:, None] - b.numpy()[None]) ** 2).sum(-1))


@pytest.fixture(params=[1, 200, 2**22], autouse=True)
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "TILE", request.param)


# Precision, recall, density, coverage -----------------------------------------------------------------------------------------


def prdc_by_hand(generated: Tensor, real: Tensor, k: int) -> dict[str, float]:
    def radii(rows: Tensor) -> np.ndarray:
        return np.sort(distance(rows, rows), axis=1)[:, k]

    across = distance(generated, real)
    in_real, in_generated = across < radii(real)[None], across < radii(generated)[:, None]
    return {
        "precision": in_real.any(1).mean(),
        "recall": in_generated.any(0).mean(),
        "density": in_real.sum(1).mean() / k,
        "coverage": in_real.any(0).mean(),
    }


@pytest.mark.parametrize("k", [1, 3, 5])
def test_prdc_equals_brute_force(k: int) -> None:
    generated, real = 0.7 * draw(50, seed=1) + 0.5, draw(41, seed=2)
    found = prdc(generated, real, k=k)
    expected = prdc_by_hand(generated, real, k)
    assert {name: float(value) for name, value in found.items()} == pytest.approx(expected, rel=1e-12)
    assert len(set(expected.values())) == 4  # all differ, so none can stand for another


def test_the_errors_of_prdc_are_near_the_spread_over_fresh_draws_and_on_the_safe_side() -> None:
    if neighbours.TILE < 2**22:
        pytest.skip("the distances are the same whatever the tiles, and this takes many")

    def drawn(seed: int) -> tuple[Tensor, Tensor]:
        return 0.9 * draw(160, seed=2 * seed) + 0.2, draw(200, seed=2 * seed + 1)

    fresh = [prdc(*drawn(seed)) for seed in range(60)]
    told = [estimates(*drawn(100 + seed)) for seed in range(3)]
    for name in fresh[0]:
        spread = float(torch.stack([one[name] for one in fresh]).std())
        error = float(np.mean([one[name].standard_error for one in told]))
        assert 0.8 < error / spread < 2.5, name
        assert told[0][name].value == pytest.approx(float(prdc(*drawn(100))[name]))
    assert (told[0]["recall"].num_generated, told[0]["recall"].num_real) == (160, 200)
    assert any("160 generated clips are fewer than 2048: the figures change" in warning for warning in told[0]["recall"].warnings)


def test_the_interval_of_a_share_goes_no_farther_than_a_share_can() -> None:
    found = estimates(0.1 * draw(60, seed=1), draw(80, seed=2))  # within the real ones: precise, and far from everywhere
    for name, one in found.items():
        half = NORMAL_95 * one.standard_error
        ends = max(0.0, one.value - half), one.value + half if name == "density" else min(1.0, one.value + half)
        assert one.interval == pytest.approx(ends)
    assert found["precision"].interval[1] == 1 and found["density"].interval[1] > 1 and found["recall"].interval[0] == 0


def test_few_clips_have_no_error_of_prdc() -> None:
    found = estimates(draw(39, seed=1), draw(50, seed=2))
    assert all(one.standard_error is one.interval is None for one in found.values())
    metric = PRDC()
    metric.update(draw(39, seed=1), draw(50, seed=2))
    assert metric.estimate() == estimates(draw(39, seed=1).double(), draw(50, seed=2).double())


def test_prdc_far_from_the_origin_is_the_same() -> None:
    generated, real = 0.7 * draw(50, seed=1) + 0.5, draw(41, seed=2)
    assert prdc(generated + 1e4, real + 1e4) == prdc(generated, real)


def test_prdc_tells_what_is_missing() -> None:
    """Half of the data drawn well: precise and dense, but half of it is neither recalled nor covered."""
    left, right = draw(100, seed=1) - 20, draw(100, seed=2) + 20
    found = prdc(draw(100, seed=3) - 20, torch.cat((left, right)))
    assert found["precision"] > 0.9
    assert found["recall"] == pytest.approx(0.5, abs=0.05)
    assert found["coverage"] == pytest.approx(0.5, abs=0.05)
    same = prdc(draw(100, seed=3) - 20, left)
    assert all(float(value) == pytest.approx(1, abs=0.15) for value in same.values())
    apart = prdc(left, right)
    assert all(float(value) == 0 for value in apart.values())


def test_prdc_of_identical_sets() -> None:
    real = draw(60)
    found = prdc(real, real.flip(0))
    assert (found["precision"], found["recall"], found["coverage"]) == (1, 1, 1)


def test_prdc_metric() -> None:
    generated, real = draw(50, seed=1), draw(41, seed=2)
    metric = PRDC(k=3, reset_real_features=False)
    for part in generated.split(11):
        metric.update(part)
    metric.update(None, real)
    assert metric.compute() == prdc(generated, real, k=3)
    metric.reset()
    metric.update(generated[:20])
    assert metric.compute() == prdc(generated[:20], real, k=3)
    with pytest.raises(UserError, match="needs at least 6 clips of each kind and got 5 generated: give more"):
        prdc(generated[:5], real)
    with pytest.raises(UserError, match="k is at least 1 and not 0"):
        PRDC(k=0)
    with pytest.raises(UserError, match="No generated clips were given"):
        PRDC().compute()


# Memorisation -----------------------------------------------------------------------------------------------------------------


def test_nearest_training_clips_are_those_of_brute_force() -> None:
    generated, training = draw(30, seed=1), draw(50, seed=2)
    found = memorisation(generated, training, draw(40, seed=3))
    across = distance(generated, training)
    assert found.index.tolist() == across.argmin(1).tolist()
    np.testing.assert_allclose(found.distance, across.min(1), rtol=1e-12)


def test_the_test_is_mann_and_whitneys() -> None:
    stats = pytest.importorskip("scipy.stats")
    generated, training, held_out = 0.9 * draw(60, seed=1), draw(50, seed=2), draw(40, seed=3)
    found = memorisation(generated, training, held_out)
    own, real = distance(generated, training).min(1), distance(held_out, training).min(1)
    asked = stats.mannwhitneyu(own, real, method="asymptotic", use_continuity=False)
    assert found.value == pytest.approx(1 - asked.statistic / (60 * 40), rel=1e-12)
    assert 2 * stats.norm.sf(abs(found.c_t)) == pytest.approx(asked.pvalue, rel=1e-9)
    assert found.close == np.mean(own < np.quantile(real, 0.05))


def test_ties_count_half() -> None:
    training = torch.tensor([[0.0], [10.0]])
    found = memorisation(torch.tensor([[1.0], [9.0], [3.0]]), training, torch.tensor([[1.0], [-1.0], [12.0], [13.0]]))
    assert found.value == pytest.approx((3 + 3 + 0.5) / 12)


def test_copies_are_seen_and_fresh_samples_are_not() -> None:
    training, held_out = draw(200, seed=1), draw(200, seed=2)
    fresh = memorisation(draw(200, seed=3), training, held_out)
    assert fresh.value == pytest.approx(0.5, abs=0.1)
    assert abs(fresh.c_t) < 3
    assert fresh.close < 0.12
    copies = memorisation(training[:100], training, held_out)
    assert (copies.value, copies.close) == (1, 1)
    assert copies.c_t < -10
    assert copies.distance.tolist() == [0] * 100
    assert copies.index.tolist() == list(range(100))
    some = memorisation(torch.cat((training[:50], draw(150, seed=4))), training, held_out)
    assert some.close == pytest.approx(0.25 + 0.75 * 0.05, abs=0.05)
    assert some.c_t < -3
    strays = memorisation(3 * draw(200, seed=5), training, held_out)
    assert strays.value < 0.1
    assert strays.c_t > 3


def test_without_held_out_clips_training_clips_stand_for_them() -> None:
    training = draw(50, seed=1)
    found = memorisation(draw(30, seed=2), training)
    apart = distance(training, training)
    np.fill_diagonal(apart, np.inf)
    own = distance(draw(30, seed=2), training).min(1)
    assert found.value == pytest.approx(float(np.mean(own[:, None] < apart.min(1)[None])), rel=1e-12)
    assert found.num_held_out == 50
    assert found.warnings
    twins = torch.cat((training, training[:10]))
    assert memorisation(draw(30, seed=2), twins).value < found.value


def test_memorisation_metric() -> None:
    generated, training, held_out = draw(30, seed=1), draw(50, seed=2), draw(40, seed=3)
    metric = Memorisation(reset_real_features=False)
    metric.update(None, training[:20], held_out)
    for a, b in zip(generated.split(10), training[20:].split(10), strict=True):
        metric.update(a, b)
    expected = memorisation(generated, training, held_out)
    assert float(metric.compute()) == expected.value
    assert metric.estimate().index.tolist() == expected.index.tolist()
    assert metric.estimate().num_held_out == 40
    metric.reset()
    metric.update(generated[:10])
    assert float(metric.compute()) == memorisation(generated[:10], training, held_out).value
    with pytest.raises(UserError, match="Features of 4 and of 5 numbers"):
        metric.update(None, None, held_out[:, :4])
    with pytest.raises(UserError, match="at least 2 clips of each kind and got 1 generated"):
        memorisation(generated[:1], training)
