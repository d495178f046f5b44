"""Paths from data to noise: rates, conversions, levels and weights, against derivatives, published formulae and Bayes' rule."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from worlds import GAUSSIAN, PATHS

from vidgen import UserError
from vidgen.samplers import flow
from vidgen.samplers.paths import DDPM, FLOW, PREDICTIONS, Flow, Path, build_path

EVERY = pytest.mark.parametrize("path", PATHS.values(), ids=list(PATHS))


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


@EVERY
def test_zero_is_data_and_the_end_is_noise(path: Path) -> None:
    x, noise = torch.randn(2, 5, dtype=torch.float64)
    assert torch.equal(path.interpolate(x, noise, scalar(0)), x)
    torch.testing.assert_close(path.interpolate(x, noise, scalar(1)), noise, rtol=0, atol=0.05)
    levels = torch.linspace(0, 1, 41, dtype=torch.float64)
    assert bool((path.at(levels).signal.diff() < 0).all())
    assert bool((path.clock(levels).diff() > 0).all())


@EVERY
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_the_velocity_is_the_derivative_by_the_clock(path: Path, t: float) -> None:
    x, noise = torch.randn(2, 50, dtype=torch.float64)
    ends = [scalar(t - 0.0005), scalar(t + 0.0005)]
    low, high = (path.interpolate(x, noise, end) for end in ends)
    slope = (high - low) / (path.clock(ends[1]) - path.clock(ends[0]))
    torch.testing.assert_close(slope, path.velocity(x, noise, scalar(t)), rtol=1e-3, atol=1e-3)


@EVERY
@pytest.mark.parametrize("shape", [(), (6, 1), (6, 4)])
def test_conversions_invert_each_other(path: Path, shape: tuple[int, ...]) -> None:
    x, noise = torch.randn(2, 6, 4, dtype=torch.float64)
    t = 0.1 + 0.8 * torch.rand(shape, dtype=torch.float64)
    x_t, v = path.interpolate(x, noise, t), path.velocity(x, noise, t)
    torch.testing.assert_close(path.data(x_t, v, t), x)
    torch.testing.assert_close(path.noise(x_t, v, t), noise)
    for prediction in PREDICTIONS:
        torch.testing.assert_close(path.velocity_from(prediction, path.target(prediction, x, noise, t), x_t, t), v)


@EVERY
def test_the_score_of_a_gaussian(path: Path) -> None:
    """Against the gradient of its log-density, which nothing here knows."""
    x = torch.linspace(-3, 3, 31, dtype=torch.float64, requires_grad=True)
    for level in (0.2, 0.5, 0.95):
        t = scalar(level)
        _, mean, variance = GAUSSIAN.parts(path, t)
        (score,) = torch.autograd.grad(torch.distributions.Normal(mean, variance.sqrt()).log_prob(x).sum(), x)
        found = -path.noise(x.detach(), GAUSSIAN.field(path)(x.detach(), t), t) / path.at(t).noise
        torch.testing.assert_close(found, score)


def test_below_the_floor_the_velocity_of_a_clean_point_stays_bounded() -> None:
    error = torch.tensor(0.01)
    assert FLOW.velocity_from("x", torch.tensor(0.0), error, torch.tensor(0.0)) == pytest.approx(0.01 / 0.05)


def test_the_flow_is_the_flow_s_formulae_to_the_bit() -> None:
    x, noise = torch.randn(2, 3, 4)
    t = torch.rand(3, 1)
    assert torch.equal(FLOW.interpolate(x, noise, t), flow.interpolate(x, noise, t))
    assert torch.equal(FLOW.velocity(x, noise, t), flow.velocity(x, noise))
    assert torch.equal(Flow(2.0).times(7), flow.sampling_times(7, 2.0))
    assert torch.equal(FLOW.data(x, noise, t), x - t * noise)


def test_ddpm_s_linear_schedule_by_its_definition() -> None:
    """beta from 1e-4 to 0.02 in a thousand steps, and their running product, in plain numbers."""
    path, product = DDPM("linear"), 1.0
    for k in range(1, 1001):
        product *= 1 - (1e-4 + (0.02 - 1e-4) * (k - 1) / 999)
        if k in (1, 2, 500, 1000):
            at = path.at(scalar(k / 1000))
            assert float(at.signal) == pytest.approx(math.sqrt(product), rel=1e-10)
            assert float(at.noise) == pytest.approx(math.sqrt(1 - product), rel=1e-10)


def test_ddpm_s_cosine_schedule_by_its_definition() -> None:
    def squared(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    path = DDPM("cosine")
    for k in (1, 2, 500, 990):  # the last betas are cut
        assert float(path.at(scalar(k / 1000)).signal ** 2) == pytest.approx(squared(k / 1000) / squared(0), rel=1e-9)
    assert float(path.betas.max()) == 0.999


def test_levels_in_float32_are_those_of_the_table() -> None:
    for path in (DDPM("linear"), DDPM("cosine")):
        k = torch.arange(1, path.T + 1)
        exact, rounded = path.at(k.double() / path.T), path.at(k.float() / path.T)
        torch.testing.assert_close(rounded.signal.double(), exact.signal, rtol=1e-6, atol=1e-12)
        torch.testing.assert_close(rounded.noise.double(), exact.noise, rtol=1e-6, atol=1e-12)


def test_training_levels_of_ddpm_are_its_steps_evenly() -> None:
    levels = DDPM("linear").levels((torch.arange(100_000) + 0.5) / 100_000)
    found, counts = (levels * 1000).round().long().unique(return_counts=True)
    assert found.tolist() == list(range(1, 1001))
    assert bool(((counts - 100).abs() <= 1).all())
    assert float(DDPM("linear").levels(torch.tensor(1.0))) == 1.0
    torch.testing.assert_close(Flow(3.0).levels(torch.tensor(0.5)), torch.tensor(0.75))


@pytest.mark.parametrize("steps", [1, 7, 250, 1000])
def test_respaced_levels_are_even_and_end_clean(steps: int) -> None:
    times = DDPM("linear").times(steps) * 1000
    assert len(times) == steps + 1
    assert (float(times[0]), float(times[-1])) == (1000.0, 0.0)
    torch.testing.assert_close(times, times.round())
    assert bool((times.diff() < 0).all())
    if steps > 1:
        assert float(times[-2]) == 1.0  # the first of DDPM's steps is among them
        assert float(times[:-1].diff().max() - times[:-1].diff().min()) <= 1


def test_respaced_levels_are_dit_s() -> None:
    """A place counted from 0 that grows by one stride a step and is rounded to the nearest, of two the even one."""
    for steps in range(2, 1001):
        place, places = 0.0, []
        for _ in range(steps):
            places.append(round(place))
            place += 999 / (steps - 1)
        times = DDPM("linear").times(steps)[:-1] * 1000
        assert times.round().long().tolist() == [place + 1 for place in reversed(places)], steps


def test_more_steps_than_there_are_is_refused() -> None:
    with pytest.raises(UserError, match=r"steps=1001 is more than the 1000 steps"):
        DDPM("linear").times(1001)


@pytest.mark.parametrize("name", ["flow", "linear", "cosine"])
def test_evidence_of_a_bit_is_bayes_rule(name: str) -> None:
    path, x_t = build_path(name), torch.linspace(-1.5, 1.5, 9, dtype=torch.float64)
    for level in (0.2, 0.5, 1.0):
        at = path.at(scalar(level))
        weight = {x: torch.exp(-((x_t - at.signal * x) ** 2) / (2 * at.noise**2)) for x in (-1, 1)}
        exact = (weight[1] - weight[-1]) / (weight[1] + weight[-1])
        torch.testing.assert_close(torch.tanh(path.bit_evidence(x_t, scalar(level))), exact)


@EVERY
def test_min_snr_weighs_clean_points_alike_whatever_is_predicted(path: Path) -> None:
    """The same error, told as one of data, noise and velocity, has the loss min(SNR, gamma) |error of x|^2."""
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    x, noise, wrong = torch.randn(3, 19, dtype=torch.float64)
    x_t, at = path.interpolate(x, noise, t), path.at(t)
    errors = {
        "x": wrong - x,
        "epsilon": (x_t - at.signal * wrong) / at.noise - noise,  # the noise that goes with the wrong x
        "v": path.velocity_from("x", wrong, x_t, t, floor=0.0) - path.velocity(x, noise, t),
    }
    expected = (at.signal / at.noise).square().clamp_max(5.0) * (wrong - x).square()
    for prediction in PREDICTIONS:
        torch.testing.assert_close(path.min_snr(prediction, t, 5.0) * errors[prediction].square(), expected)
    for prediction in PREDICTIONS:
        assert bool(path.min_snr(prediction, torch.tensor([0.0, 1.0]), 5.0).isfinite().all())
