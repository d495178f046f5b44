"""Every sampler on every path, against flows and marginals that are known in closed form, with its order of convergence."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from worlds import GAUSSIAN, PATHS, Mixture, even_times, moments

from vidgen.samplers.ode import dpm2m, euler, heun
from vidgen.samplers.paths import FLOW, Flow, Path
from vidgen.samplers.sde import ddim, ddpm, euler_maruyama, sde

EVERY = pytest.mark.parametrize("path", PATHS.values(), ids=list(PATHS))


def plain_ddim(field: Any, x: Tensor, times: Tensor, path: Path) -> Tensor:
    return ddim(field, x, times, path, fresh=lambda step: pytest.fail("no noise is asked for"), eta=0.0)


ODE = {"euler": (euler, 1), "ddim": (plain_ddim, 1), "heun": (heun, 2), "dpm2m": (dpm2m, 2)}

SDE: dict[str, Callable[..., Tensor]] = {
    "sde, little churn": lambda *given, fresh: sde(*given, fresh=fresh, churn=0.5),
    "sde, much churn": lambda *given, fresh: sde(*given, fresh=fresh, churn=3.0),
    "ddim, eta 0.7": lambda *given, fresh: ddim(*given, fresh=fresh, eta=0.7),
    "ddim, eta 1": lambda *given, fresh: ddim(*given, fresh=fresh, eta=1.0),
    "ddpm": lambda field, *given, fresh: ddpm(lambda x, t: (field(x, t), None), *given, fresh=fresh),
    "euler_maruyama": lambda *given, fresh: euler_maruyama(*given, fresh=fresh, churn=1.0),
}


def orders(errors: Sequence[float]) -> list[float]:
    return [math.log2(coarse / fine) for coarse, fine in zip(errors, errors[1:], strict=False)]


@EVERY
@pytest.mark.parametrize("data", [GAUSSIAN, Mixture()], ids=["gaussian", "mixture"])
@pytest.mark.parametrize("solver", ODE)
def test_deterministic_samplers_converge_at_their_order(solver: str, data: Mixture, path: Path) -> None:
    """To where the flow takes each point: halving the step divides the error by 2**order."""
    step, order = ODE[solver]
    x, errors = torch.linspace(-2, 2, 9, dtype=torch.float64), []
    for steps in (64, 128, 256):
        times = even_times(path, steps)
        exact = data.carried(path, x, times[0], times[-1])
        errors.append(float((step(data.field(path), x, times, path) - exact).abs().mean()))
    assert errors[-1] < (0.02 if order == 1 else 0.001)
    assert orders(errors) == pytest.approx([order] * 2, abs=0.3)


@pytest.mark.parametrize("solver", ODE)
def test_from_noise_to_clean_data_at_their_order(solver: str) -> None:
    """All the way, where the logarithm of the signal's ratio has no ends, on the flow's own levels."""
    step, order = ODE[solver]
    x, field = torch.linspace(-2, 2, 9, dtype=torch.float64), GAUSSIAN.field(FLOW)
    exact = GAUSSIAN.carried(FLOW, x, torch.tensor(1.0).double(), torch.tensor(0.0).double())
    errors = [float((step(field, x, FLOW.times(steps), FLOW) - exact).abs().mean()) for steps in (64, 128, 256)]
    if solver == "dpm2m":  # the two steps at either end are of first order each, and so are those just after the beginning
        assert all(1.5 < found < 2.1 for found in orders(errors))
    else:
        assert orders(errors) == pytest.approx([order] * 2, abs=0.1)


@EVERY
@pytest.mark.parametrize("sampler", SDE)
def test_stochastic_samplers_converge_to_the_marginal_at_first_order(sampler: str, path: Path) -> None:
    """Mean and deviation of what they make of a Gaussian, exactly: their steps are affine, so nothing is drawn."""
    errors = []
    for steps in (100, 200, 400):
        times = even_times(path, steps)
        (_, first, before), (_, mean, variance) = (GAUSSIAN.parts(path, t) for t in (times[0], times[-1]))
        run = lambda x, fresh, times=times: SDE[sampler](GAUSSIAN.field(path), x, times, path, fresh=fresh)  # noqa: E731
        found, spread = moments(run, steps, float(first), float(before.sqrt()))
        errors.append(abs(found - float(mean)) + abs(spread - float(variance.sqrt())))
    assert errors[-1] < 0.02
    assert orders(errors) == pytest.approx([1, 1], abs=0.25)


@EVERY
@pytest.mark.parametrize("sampler", [*SDE, *ODE])
def test_a_mixture_comes_out_in_its_proportions(sampler: str, path: Path) -> None:
    """Two narrow Gaussians, 30 % and 70 %: samples fall on them in those shares, with their means and deviations."""
    data, draws = Mixture(std=0.15), torch.Generator().manual_seed(0)
    x, times = torch.randn(4000, dtype=torch.float64, generator=draws), path.times(250)

    def fresh(step: int) -> Tensor:
        return torch.randn(4000, dtype=torch.float64, generator=draws)

    if sampler in SDE:
        x = SDE[sampler](data.field(path), x, times, path, fresh=fresh)
    else:
        x = ODE[sampler][0](data.field(path), x, times, path)
    left = x < -0.5
    assert float(left.double().mean()) == pytest.approx(0.3, abs=0.03)
    assert float(x[left].mean()) == pytest.approx(-2, abs=0.03)
    assert float(x[~left].mean()) == pytest.approx(1, abs=0.03)
    assert float(x[~left].std()) == pytest.approx(0.15, abs=0.025)


@pytest.mark.parametrize("solver", ODE)
@pytest.mark.parametrize("steps", [1, 7])
def test_a_straight_line_takes_one_step(solver: str, steps: int) -> None:
    """Of data that is one point, the flow's velocity is constant along each line, so one step is exact."""
    point, noise = torch.randn(2, 6, dtype=torch.float64)
    end = ODE[solver][0](lambda x, t: (x - point) / t, noise, Flow(3.0).times(steps), FLOW)
    torch.testing.assert_close(end, point)


@pytest.mark.parametrize("name", [*ODE, *SDE])
def test_a_sampler_never_asks_at_the_end(name: str) -> None:
    """Where a velocity made from a clean point would divide by zero; heun alone asks twice a step."""
    asked: list[float] = []

    def field(x: Tensor, t: Tensor) -> Tensor:
        asked.append(float(t))
        return x

    sampler = ODE[name][0] if name in ODE else SDE[name]
    more = {} if name in ODE else {"fresh": lambda step: torch.ones(1)}
    sampler(field, torch.ones(1), FLOW.times(4), FLOW, **more)
    assert min(asked) > 0
    assert len(asked) == (7 if name == "heun" else 4)


@EVERY
@pytest.mark.parametrize("name", [*ODE, *SDE])
def test_levels_of_their_own_are_each_a_sampling_of_its_own(name: str, path: Path) -> None:
    """Rows at three levels, one finished, one not yet begun and one that waits in between: as if each were alone."""
    times = path.times(6)
    forced = torch.stack([times, times.new_zeros(7), torch.cat([times[:1].expand(3), times[:4]]), times[2].expand(7)], dim=1)
    x = torch.linspace(-1, 1, 20, dtype=torch.float64).view(4, 5)
    field = Mixture().field(path)

    noise = torch.randn(6, 4, 5, dtype=torch.float64)

    def run(x: Tensor, times: Tensor, row: int | slice = slice(None), after: int = 0) -> Tensor:
        if name in ODE:
            return ODE[name][0](field, x, times, path)
        return SDE[name](field, x, times, path, fresh=lambda step: noise[step + after, row])

    together = run(x, forced.unsqueeze(-1))
    assert bool(together.isfinite().all())
    assert torch.equal(together[1], x[1])
    assert torch.equal(together[3], x[3])
    torch.testing.assert_close(together[0], run(x[0], times, 0))
    torch.testing.assert_close(together[2], run(x[2], times[:4], 2, after=3))  # the noise is that of the steps it takes


# The stochastic ones against one another


def noise(step: int) -> Tensor:
    return torch.randn(40_000, dtype=torch.float64, generator=torch.Generator().manual_seed(step + 1))


@EVERY
def test_without_churn_or_eta_it_is_ddim_and_on_the_flow_eulers_method(path: Path) -> None:
    times, field, x = path.times(20), GAUSSIAN.field(path), noise(-1)[:50]
    found = sde(field, x, times, path, fresh=lambda step: noise(step)[:50], churn=0.0)
    torch.testing.assert_close(found, plain_ddim(field, x, times, path), rtol=0, atol=1e-12)
    still = euler_maruyama(field, x, times[:-1], path, fresh=lambda step: noise(step)[:50], churn=0.0)
    torch.testing.assert_close(still, euler(field, x, times[:-1], path), rtol=0, atol=1e-12)
    if path is FLOW:
        torch.testing.assert_close(found, euler(field, x, times), rtol=0, atol=1e-12)


@EVERY
def test_eta_1_churn_1_and_ddpm_are_one_sampler(path: Path) -> None:
    field, x, times = Mixture().field(path), noise(-1)[:100], path.times(20)
    fresh = lambda step: noise(step)[:100]  # noqa: E731
    one = ddim(field, x, times, path, fresh=fresh, eta=1.0)
    torch.testing.assert_close(sde(field, x, times, path, fresh=fresh, churn=1.0), one)
    # Its noise of one step is that of the predicted noise and of the fresh together: the same law, another draw.
    run = lambda x, fresh, sampler: SDE[sampler](GAUSSIAN.field(path), x, times, path, fresh=fresh)  # noqa: E731
    ancestral, implicit = (
        moments(lambda x, fresh, sampler=sampler: run(x, fresh, sampler), 20, 0.0, 1.0) for sampler in ("ddpm", "ddim, eta 1")
    )
    assert ancestral == pytest.approx(implicit, rel=1e-9)


@EVERY
@pytest.mark.parametrize("sampler", ["ddpm", "ddim, eta 1", "sde"])
def test_one_step_is_ddpms_posterior(sampler: str, path: Path) -> None:
    """q(x_s | x_t, x_0) by Bayes' rule, for a network that knows the data: mean and variance of one ancestral step."""
    data, (t, s) = 0.3, (torch.tensor(level, dtype=torch.float64) for level in (0.8, 0.5))
    now, then = path.at(t), path.at(s)
    run = SDE[sampler] if sampler != "sde" else lambda *given, fresh: sde(*given, fresh=fresh, churn=1.0)
    knows = lambda x, t: path.velocity_from("x", torch.full_like(x, data), x, t)  # noqa: E731
    mean, std = moments(lambda x, fresh: run(knows, x, torch.stack([t, s]), path, fresh=fresh), 1, 1.1, 0.0)
    ratio = now.signal / then.signal  # x_t = ratio * x_s + noise of this variance:
    step = now.noise**2 - ratio**2 * then.noise**2
    precision = 1 / then.noise**2 + ratio**2 / step
    assert mean == pytest.approx(float((then.signal * data / then.noise**2 + ratio * 1.1 / step) / precision), rel=1e-9)
    assert std**2 == pytest.approx(float(1 / precision), rel=1e-9)


def test_a_learned_variance_is_between_the_two() -> None:
    """The network's share of the logarithm: 0 is the posterior's variance, 1 the step's own, a half their geometric mean."""
    path, t, s = PATHS["linear"], torch.tensor(0.5, dtype=torch.float64), torch.tensor(0.499, dtype=torch.float64)
    beta = float(path.betas[499])  # type: ignore[attr-defined]
    posterior = beta * float((path.at(s).noise / path.at(t).noise) ** 2)
    for share, variance in ((0.0, posterior), (1.0, beta), (0.5, math.sqrt(posterior * beta))):
        run = lambda x, fresh, share=share: ddpm(  # noqa: E731
            lambda x, t: (x, torch.full_like(x, share)), x, torch.stack([t, s]), path, fresh=fresh
        )
        assert moments(run, 1, 0.0, 0.0)[1] ** 2 == pytest.approx(variance, rel=1e-7)


@pytest.mark.parametrize("churn", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("steps", [1, 30])
def test_noise_is_forgotten_at_the_rate_of_churn_whatever_the_steps(churn: float, steps: int) -> None:
    """From t = 0.9 to t = 0.5 the signal-to-noise ratio grows from 1/81 to 1, so noise keeps a share of 81^-churn in variance."""
    times, data = torch.linspace(0.9, 0.5, steps + 1, dtype=torch.float64), 0.3
    run = lambda x, fresh: sde(lambda x, t: (x - data) / t, x, times, fresh=fresh, churn=churn)  # noqa: E731
    kept = moments(run, steps, 0.09, 0.9)[1], moments(lambda x, fresh: run(x, lambda step: 0 * x), steps, 0.09, 0.9)[1]
    assert kept[0] == pytest.approx(0.5, rel=1e-9)
    assert (kept[1] / kept[0]) ** 2 == pytest.approx(81**-churn, rel=1e-9)
