"""Rectified flow: its convention and its noise levels; and the algebra of guidance."""

from __future__ import annotations

import math

import pytest
import torch

from vidgen.samplers import flow
from vidgen.samplers.guidance import guide
from vidgen.samplers.paths import FLOW


def test_time_zero_is_data_and_one_is_noise() -> None:
    x, noise = torch.randn(3, 4), torch.randn(3, 4)
    assert torch.equal(flow.interpolate(x, noise, torch.tensor(0.0)), x)
    assert torch.equal(flow.interpolate(x, noise, torch.tensor(1.0)), noise)


def test_velocity_is_the_derivative_of_the_path() -> None:
    x, noise = torch.randn(2, 50, dtype=torch.float64)
    for level in (0.1, 0.5, 0.9):
        t = torch.tensor(level, dtype=torch.float64)
        v, x_t = flow.velocity(x, noise), flow.interpolate(x, noise, t)
        torch.testing.assert_close((flow.interpolate(x, noise, t + 0.05) - x_t) / 0.05, v)  # the path is straight


def test_sit_counts_time_the_other_way() -> None:
    """SiT: x_t = t x1 + (1-t) x0 with x1 data, u = x1 - x0, score = (t u - x) / (1 - t). Here t is 1 - t and v is -u."""
    data, noise = torch.randn(2, 20, dtype=torch.float64)
    theirs = 0.3
    point, u = theirs * data + (1 - theirs) * noise, data - noise
    ours = torch.tensor(1 - theirs, dtype=torch.float64)
    torch.testing.assert_close(flow.interpolate(data, noise, ours), point)
    torch.testing.assert_close(flow.velocity(data, noise), -u)
    torch.testing.assert_close(-FLOW.noise(point, -u, ours) / ours, (theirs * u - point) / (1 - theirs))


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
    t = flow.shift_times(flow.logit_normal((200_000,), mean, std, torch.device("cpu")), shift).double()
    logit = (t / (1 - t)).log()
    assert float(logit.mean()) == pytest.approx(mean + math.log(shift), abs=0.01)
    assert float(logit.std()) == pytest.approx(std, abs=0.01)
    assert float((t < 0.5).double().mean()) == pytest.approx(
        float(torch.distributions.Normal(mean + math.log(shift), std).cdf(torch.tensor(0.0))), abs=0.005
    )


def test_guidance_algebra() -> None:
    c, u = torch.randn(2, 3, 5, 4)
    torch.testing.assert_close(guide(c, u, 1.0), c)
    assert torch.equal(guide(c, u, 0.0), u)
    torch.testing.assert_close(guide(c, u, 2.5), 2.5 * c - 1.5 * u)  # every channel, not DiT's three
