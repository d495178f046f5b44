"""Our samplers and diffusers' schedulers, led by the same network: the same trajectory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from vidgen.samplers.ode import dpm2m, euler
from vidgen.samplers.paths import FLOW, PREDICTIONS, Flow, Path, build_path
from vidgen.samplers.sde import ddim, ddpm

diffusers = pytest.importorskip("diffusers")

SHAPE = (2, 3, 4)
THEIRS = {"v": "v_prediction", "x": "sample", "epsilon": "epsilon"}
SCHEDULE = {"linear": "linear", "cosine": "squaredcos_cap_v2"}


def network(x: Tensor, t: float) -> Tensor:
    """Any bounded function that bends: what is compared is what is made of it."""
    return torch.tanh(1.3 * x + 0.4) - 0.5 * x.roll(1, -1) * (0.2 + t)


def field(path: Path, prediction: Any) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, t: path.velocity_from(prediction, network(x, float(t)), x, t, floor=1e-6)


def options(path: str, prediction: str, **more: Any) -> dict[str, Any]:
    return {
        "num_train_timesteps": 1000,
        "beta_schedule": SCHEDULE[path],
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "prediction_type": THEIRS[prediction],
        "timestep_spacing": "trailing",
        **more,
    }


def levels(scheduler: Any) -> Tensor:
    """Ours count the first noisy one 1 and clean data 0; theirs count it 0."""
    return torch.cat([(scheduler.timesteps.double() + 1) / 1000, torch.zeros(1, dtype=torch.float64)])


def start() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_match_euler(shift: float) -> None:
    times, x = Flow(shift).times(9), start()
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=times[:-1].tolist())
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, float(t) / 1000), t, x).prev_sample
    torch.testing.assert_close(euler(field(FLOW, "v"), start(), times), x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("path", SCHEDULE)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_ddim(path: str, prediction: str, eta: float) -> None:
    scheduler = diffusers.DDIMScheduler(clip_sample=False, **options(path, prediction))
    scheduler.set_timesteps(20)
    noises = torch.randn(20, *SHAPE, generator=torch.Generator().manual_seed(1))
    ours = build_path(path)
    times, x = levels(scheduler), start()
    for step, t in enumerate(scheduler.timesteps):
        x = scheduler.step(network(x, float(times[step])), t, x, eta=eta, variance_noise=noises[step]).prev_sample
    found = ddim(field(ours, prediction), start(), times, ours, fresh=lambda step: noises[step], eta=eta)
    torch.testing.assert_close(found, x, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("path", SCHEDULE)
@pytest.mark.parametrize("variance", ["fixed_small", "learned_range"])
def test_ddpm_respaced(path: str, variance: str) -> None:
    """250 of 1000 steps; with a learned variance the network's second half is its share, from -1 to 1."""
    scheduler = diffusers.DDPMScheduler(clip_sample=False, variance_type=variance, **options(path, "v"))
    scheduler.set_timesteps(250)
    learned, ours = variance == "learned_range", build_path(path)
    times, x, draws = levels(scheduler), start(), torch.Generator().manual_seed(2)
    spread = lambda x: torch.sin(x)  # noqa: E731
    for step, t in enumerate(scheduler.timesteps):
        out = network(x, float(times[step]))
        x = scheduler.step(torch.cat([out, spread(x)], dim=1) if learned else out, t, x, generator=draws).prev_sample
    draws = torch.Generator().manual_seed(2)

    def ours_field(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        return field(ours, "v")(x, t), (spread(x) + 1) / 2 if learned else None

    found = ddpm(ours_field, start(), times, ours, fresh=lambda step: torch.randn(SHAPE, generator=draws))
    torch.testing.assert_close(found, x, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("path", SCHEDULE)
@pytest.mark.parametrize("prediction", ["v", "x"])
def test_dpm_solver_2m(path: str, prediction: str) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++", solver_order=2, solver_type="midpoint", lower_order_final=True, **options(path, prediction)
    )
    scheduler.set_timesteps(12)
    times, x, ours = levels(scheduler), start(), build_path(path)
    for step, t in enumerate(scheduler.timesteps):
        x = scheduler.step(network(x, float(times[step])), t, x).prev_sample
    torch.testing.assert_close(dpm2m(field(ours, prediction), start(), times, ours), x, rtol=2e-3, atol=2e-3)


def test_dpm_solver_2m_on_the_flow() -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        lower_order_final=True,
    )
    scheduler.set_timesteps(12)
    times, x = scheduler.sigmas.double(), start()
    for step, t in enumerate(scheduler.timesteps):
        x = scheduler.step(network(x, float(times[step])), t, x).prev_sample
    torch.testing.assert_close(dpm2m(field(FLOW, "v"), start(), times), x, rtol=1e-4, atol=1e-4)
