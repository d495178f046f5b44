"""KVD and JEDi against brute force and closed forms, and their errors against fresh draws."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from vidgen.errors import UserError
from vidgen.metrics import kernels
from vidgen.metrics.jedi import JEDi, jedi
from vidgen.metrics.kvd import KVD, kvd


def draw(n: int, d: int, *, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sets(n: int = 40, m: int = 31, d: int = 6) -> tuple[Tensor, Tensor]:
    return draw(n, d, seed=1), 0.4 + 1.3 * draw(m, d, seed=2)


def kvd_by_hand(x: Tensor, y: Tensor) -> float:
    d = x.shape[1]

    def mean(a: Tensor, b: Tensor, same: bool) -> float:
        values = [(float(p @ q) / d + 1) ** 3 for i, p in enumerate(a) for j, q in enumerate(b) if not (same and i == j)]
        return sum(values) / len(values)

    return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)


def jedi_by_hand(x: Tensor, y: Tensor) -> float:
    """With the kernel (x . y / d)^2 the distance is that of the second moments: a form without any kernel."""
    second = [rows.T @ rows / len(rows) for rows in (x, y)]
    return 100 * float((second[0] - second[1]).square().sum()) / x.shape[1] ** 2


CASES: dict[str, tuple[Any, Any, type]] = {"kvd": (kvd, kvd_by_hand, KVD), "jedi": (jedi, jedi_by_hand, JEDi)}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("tile", [1, 100, 2**22])
def test_equals_brute_force_whatever_the_tiles(name: str, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, by_hand, _ = CASES[name]
    monkeypatch.setattr(kernels, "TILE", tile)
    assert ours(*sets()).value == pytest.approx(by_hand(*sets()), rel=1e-10)


def test_equals_scikit_learns_kernel() -> None:
    pairwise = pytest.importorskip("sklearn.metrics.pairwise")
    x, y = (rows.numpy() for rows in sets())
    xx, yy, xy = (pairwise.polynomial_kernel(a, b, degree=3, gamma=1 / 6, coef0=1) for a, b in ((x, x), (y, y), (x, y)))
    n, m = len(x), len(y)
    expected = (xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1)) - 2 * xy.mean()
    assert kvd(*sets()).value == pytest.approx(expected, rel=1e-10)
    xx, yy, xy = (pairwise.polynomial_kernel(a, b, degree=2, gamma=1 / 6, coef0=0) for a, b in ((x, x), (y, y), (x, y)))
    assert jedi(*sets()).value == pytest.approx(100 * (xx.mean() + yy.mean() - 2 * xy.mean()), rel=1e-10)


def test_kvd_equals_torchmetrics_of_all_clips() -> None:
    from torchmetrics.image.kid import poly_mmd

    assert kvd(*sets(31, 31)).value == pytest.approx(float(poly_mmd(*sets(31, 31), degree=3, coef=1.0)), rel=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_the_error_is_that_of_leaving_out_rows_by_hand(name: str) -> None:
    ours, by_hand, _ = CASES[name]
    x, y = sets(9, 7)
    variance = 0.0
    for side, rows in enumerate((x, y)):
        values = []
        for i in range(len(rows)):
            rest = torch.cat((rows[:i], rows[i + 1 :]))
            values.append(by_hand(rest, y) if side == 0 else by_hand(x, rest))
        variance += (len(rows) - 1) * float(torch.tensor(values, dtype=torch.float64).var(correction=0))
    assert ours(x, y).standard_error == pytest.approx(math.sqrt(variance), rel=1e-9)


def spread(ours: Any, n: int, scale: float) -> tuple[float, float, float]:
    """Mean and deviation over fresh sets, and the error that they say."""
    found = [ours(draw(n, 8, seed=2 * i), scale * draw(n, 8, seed=2 * i + 1)) for i in range(200)]
    values = torch.tensor([one.value for one in found]).double()
    return float(values.mean()), float(values.std()), math.sqrt(sum(one.standard_error**2 for one in found) / len(found))


@pytest.mark.parametrize("name", CASES)
def test_the_error_is_the_spread_over_fresh_sets(name: str) -> None:
    _, true, said = spread(CASES[name][0], 300, 2.0)
    assert said == pytest.approx(true, rel=0.15)


def test_kvd_is_without_bias_and_its_error_on_the_safe_side() -> None:
    mean, true, said = spread(kvd, 60, 1.0)
    assert abs(mean) < 3 * true / math.sqrt(200)
    assert true < said < 2 * true


def test_jedi_is_not_negative_and_0_of_identical_sets() -> None:
    x, _ = sets()
    assert jedi(x, x.flip(0)).value == pytest.approx(0, abs=1e-10)
    assert spread(jedi, 30, 1.0)[0] > 0


@pytest.mark.parametrize("name", CASES)
def test_the_metric_is_the_function_of_all_that_was_seen(name: str) -> None:
    ours, _, cls = CASES[name]
    x, y = sets()
    metric = cls(reset_real_features=False)
    for part in x.split(7):
        metric.update(part)
    metric.update(None, y)
    assert float(metric.compute()) == pytest.approx(ours(x, y).value, rel=1e-12)
    assert metric.estimate() == ours(x, y)
    assert metric.higher_is_better is False
    metric.reset()
    metric.update(x[:10])
    assert float(metric.compute()) == pytest.approx(ours(x[:10], y).value, rel=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused(name: str) -> None:
    ours, _, cls = CASES[name]
    x, y = sets()
    with pytest.raises(UserError, match="needs at least 3 clips of each kind and got 2 real: give more"):
        ours(x, y[:2])
    with pytest.raises(UserError, match="Generated features have 6 numbers and real ones 5"):
        ours(x, y[:, :5])
    with pytest.raises(UserError, match="hold NaN or infinity, the first at row 0"):
        ours(x, y * torch.nan)
    with pytest.raises(UserError, match="No generated clips were given"):
        cls().compute()


@pytest.mark.parametrize(("name", "what"), [("kvd", "chance; see its error"), ("jedi", "bias; compare at equal numbers")])
def test_small_sets_are_told(name: str, what: str) -> None:
    ours, _, _ = CASES[name]
    few = ours(draw(40, 60), draw(2048, 60, seed=1)).warnings
    assert few == (
        "40 generated clips do not span 60 features: in what they all have in common nothing is compared.",
        f"40 generated clips are fewer than 2048: much of the figure is {what}.",
    )
    assert ours(draw(2048, 6), draw(2048, 6, seed=1)).warnings == ()
