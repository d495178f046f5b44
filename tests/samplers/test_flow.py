"""Rectified flow: its conversions, its schedules, and its solvers on flows that are known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vidgen.samplers import flow
from vidgen.samplers.guidance import guide
from vidgen.samplers.ode import SOLVERS

MEAN, STD = 1.5, 0.3


def gaussian_velocity(x: Tensor, t: Tensor) -> Tensor:
    """The exact marginal velocity E[e - x0 | x_t] for data N(MEAN, STD**2), by the conditional mean of jointly normal variables.

    x_t = (1-t) x0 + t e has mean (1-t) m and variance (1-t)**2 s**2 + t**2; cov(e - x0, x_t) = t - (1-t) s**2.
    """
    variance = (1 - t) ** 2 * STD**2 + t**2
    return -MEAN + (t - (1 - t) * STD**2) / variance * (x - (1 - t) * MEAN)


def test_time_zero_is_data_and_one_is_noise() -> None:
    x, noise = torch.randn(3, 4), torch.randn(3, 4)
    assert torch.equal(flow.interpolate(x, noise, torch.tensor(0.0)), x)
    assert torch.equal(flow.interpolate(x, noise, torch.tensor(1.0)), noise)


def test_velocity_is_the_derivative_of_the_path_and_conversions_invert_each_other() -> None:
    x, noise = torch.randn(2, 50, dtype=torch.float64)
    for level in (0.1, 0.5, 0.9):
        t = torch.tensor(level, dtype=torch.float64)
        v, x_t = flow.velocity(x, noise), flow.interpolate(x, noise, t)
        torch.testing.assert_close((flow.interpolate(x, noise, t + 0.05) - x_t) / 0.05, v)  # the path is straight
        torch.testing.assert_close(flow.data_from_velocity(x_t, v, t), x)
        torch.testing.assert_close(flow.velocity_from_data(x_t, x, t), v)


def test_below_the_floor_the_velocity_of_a_clean_point_stays_bounded() -> None:
    error = torch.tensor(0.01)
    assert flow.velocity_from_data(error, torch.tensor(0.0), torch.tensor(0.0)) == pytest.approx(0.01 / 0.05)


def test_score_of_a_gaussian() -> None:
    """Against the gradient of its log-density, which nothing here knows."""
    x = torch.linspace(-3, 3, 31, dtype=torch.float64, requires_grad=True)
    for level in (0.2, 0.5, 0.95):
        t = torch.tensor(level, dtype=torch.float64)
        density = torch.distributions.Normal((1 - t) * MEAN, ((1 - t) ** 2 * STD**2 + t**2).sqrt())
        (score,) = torch.autograd.grad(density.log_prob(x).sum(), x)
        torch.testing.assert_close(flow.score_from_velocity(x.detach(), gaussian_velocity(x.detach(), t), t), score)


def test_sit_counts_time_the_other_way() -> None:
    """SiT: x_t = t x1 + (1-t) x0 with x1 data, u = x1 - x0, score = (t u - x) / (1 - t). Here t is 1 - t and v is -u."""
    data, noise = torch.randn(2, 20, dtype=torch.float64)
    theirs = 0.3
    point, u = theirs * data + (1 - theirs) * noise, data - noise
    ours = torch.tensor(1 - theirs, dtype=torch.float64)
    torch.testing.assert_close(flow.interpolate(data, noise, ours), point)
    torch.testing.assert_close(flow.velocity(data, noise), -u)
    torch.testing.assert_close(flow.score_from_velocity(point, -u, ours), (theirs * u - point) / (1 - theirs))


def test_shift_formula_and_its_inverse() -> None:
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    for shift in (0.5, 1.0, 3.0):
        moved = flow.shift_times(t, shift)
        torch.testing.assert_close(moved, shift * t / (1 + (shift - 1) * t))
        assert (moved[0], moved[-1]) == (0, 1)
        torch.testing.assert_close(flow.shift_times(moved, 1 / shift), t)
        # What it stands for: the noise-to-data ratio t / (1 - t) is multiplied by the shift.
        torch.testing.assert_close(moved[1:-1] / (1 - moved[1:-1]), shift * t[1:-1] / (1 - t[1:-1]))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_sampling_times_go_from_noise_to_data(shift: float) -> None:
    times = flow.sampling_times(10, shift)
    assert len(times) == 11
    assert (float(times[0]), float(times[-1])) == (1.0, 0.0)
    assert bool((times.diff() < 0).all())
    torch.testing.assert_close(times, flow.shift_times(torch.linspace(1, 0, 11, dtype=torch.float64), shift))


@pytest.mark.parametrize(("mean", "std", "shift"), [(0.0, 1.0, 1.0), (-0.5, 0.7, 1.0), (0.0, 1.0, 3.0)])
def test_training_times_are_logit_normal(mean: float, std: float, shift: float) -> None:
    """The logit is normal with that mean and deviation; the shift adds its logarithm to it."""
    t = flow.logit_normal_times((200_000,), mean, std, shift, torch.device("cpu")).double()
    logit = (t / (1 - t)).log()
    assert float(logit.mean()) == pytest.approx(mean + math.log(shift), abs=0.01)
    assert float(logit.std()) == pytest.approx(std, abs=0.01)
    assert float((t < 0.5).double().mean()) == pytest.approx(
        float(torch.distributions.Normal(mean + math.log(shift), std).cdf(torch.tensor(0.0))), abs=0.005
    )


def moments(solver: str, steps: int) -> tuple[float, float]:
    """What N(0, 1) becomes: the flow of a Gaussian is affine in x, so two points tell mean and deviation exactly."""
    ends = SOLVERS[solver](gaussian_velocity, torch.tensor([0.0, 1.0], dtype=torch.float64), flow.sampling_times(steps))
    return float(ends[0]), float(ends[1] - ends[0])


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
def test_solvers_converge_to_the_data_at_their_order(solver: str, order: int) -> None:
    """Halving the step divides the error of mean and deviation by 2**order."""
    errors = []
    for steps in (64, 128, 256):
        mean, std = moments(solver, steps)
        errors.append(abs(mean - MEAN) + abs(std - STD))
    assert errors[-1] < (0.02 if order == 1 else 0.0005)
    for coarse, fine in zip(errors, errors[1:], strict=False):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_a_straight_line_takes_one_step(solver: str) -> None:
    """Of data that is one point, the velocity is constant along each path, so one step is exact."""
    point, noise = torch.randn(2, 6, dtype=torch.float64)
    for steps in (1, 7):
        end = SOLVERS[solver](lambda x, t: (x - point) / t, noise, flow.sampling_times(steps, shift=3.0))
        torch.testing.assert_close(end, point)


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_a_mixture_comes_out_in_its_proportions(solver: str) -> None:
    """Two narrow Gaussians, 30 % and 70 %: the samples fall on them in those shares, with their means and deviations."""
    weight, means, std = torch.tensor([0.3, 0.7]).double(), torch.tensor([-2.0, 1.0]).double(), 0.1

    def field(x: Tensor, t: Tensor) -> Tensor:
        variance = (1 - t) ** 2 * std**2 + t**2
        offset = x.unsqueeze(-1) - (1 - t) * means
        share = (weight.log() - offset.square() / (2 * variance)).softmax(-1)
        return (share * (-means + (t - (1 - t) * std**2) / variance * offset)).sum(-1)

    x = SOLVERS[solver](field, torch.randn(4000, dtype=torch.float64), flow.sampling_times(200))
    left = x < -0.5
    assert float(left.double().mean()) == pytest.approx(0.3, abs=0.03)
    assert float(x[left].mean()) == pytest.approx(-2, abs=0.02)
    assert float(x[~left].mean()) == pytest.approx(1, abs=0.02)
    assert float(x[~left].std()) == pytest.approx(std, abs=0.02)


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_a_solver_never_asks_at_the_end(solver: str) -> None:
    """Where a velocity made from a clean point would divide by zero."""
    asked: list[float] = []

    def field(x: Tensor, t: Tensor) -> Tensor:
        asked.append(float(t))
        return x

    SOLVERS[solver](field, torch.ones(1), flow.sampling_times(4))
    assert min(asked) > 0
    assert len(asked) == {"euler": 4, "heun": 7}[solver]


def test_guidance_algebra() -> None:
    c, u = torch.randn(2, 3, 5, 4)
    torch.testing.assert_close(guide(c, u, 1.0), c)
    assert torch.equal(guide(c, u, 0.0), u)
    torch.testing.assert_close(guide(c, u, 2.5), 2.5 * c - 1.5 * u)  # every channel, not DiT's three
