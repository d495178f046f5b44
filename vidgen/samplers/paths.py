"""Paths from data to noise behind one face: x_t = a x + s e with e ~ N(0, I), where t = 0 is data and t = 1 is noise.

A path says its signal a, its noise s, and how fast both change by its own *clock*: the variable in which a step of an ODE solver
is natural, t itself for rectified flow, the angle whose cosine is a for DDPM. The velocity is the derivative by that clock, along
the line of one clip and one noise: v = a' x + s' e. On both paths a s' - s a' = 1, so that x = s' x_t - s v and e = a v - a' x_t,
whatever the path: every conversion, loss and sampler is written once. DDPM's v is that of Salimans and Ho, "Progressive
Distillation" (2022).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from vidgen.errors import UserError
from vidgen.samplers import flow

Prediction = Literal["v", "x", "epsilon"]
"""What a network may emit: the velocity, the clean latent, or the noise."""

PREDICTIONS: tuple[Prediction, ...] = ("v", "x", "epsilon")


class Coefficients(NamedTuple):
    """Of a path at some noise levels: x_t = signal x + noise e and v = signal_rate x + noise_rate e."""

    signal: Tensor
    noise: Tensor
    signal_rate: Tensor
    noise_rate: Tensor

    def data_of(self, x_t: Tensor, v: Tensor) -> Tensor:
        """The clean point that a velocity at ``x_t`` implies."""
        return self.noise_rate * x_t - self.noise * v

    def noise_of(self, x_t: Tensor, v: Tensor) -> Tensor:
        """The noise that it implies; minus itself over the noise's share is the score."""
        return self.signal * v - self.signal_rate * x_t


class Path(ABC):
    """What all paths share, from their :meth:`at`; noise levels broadcast against ``x``."""

    @abstractmethod
    def at(self, t: Tensor) -> Coefficients:
        """Signal, noise and their rates at noise levels in [0, 1], in the dtype of ``t``."""

    @abstractmethod
    def clock(self, t: Tensor) -> Tensor:
        """The variable by which the velocity is a derivative; it grows with ``t``."""

    @abstractmethod
    def levels(self, u: Tensor) -> Tensor:
        """Training noise levels for numbers in (0, 1): the nearest that the path is defined by."""

    @abstractmethod
    def times(self, steps: int, device: torch.device | None = None) -> Tensor:
        """``steps`` + 1 noise levels from 1 to 0 that a sampler visits, in float64, so that their ends are exact."""

    def interpolate(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The point at noise level ``t`` between data and noise."""
        at = self.at(t)
        return at.signal * x + at.noise * noise

    def velocity(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The velocity there."""
        at = self.at(t)
        return at.signal_rate * x + at.noise_rate * noise

    def data(self, x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
        """The clean point that a velocity at ``x_t`` implies."""
        return self.at(t).data_of(x_t, v)

    def noise(self, x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
        """The noise that a velocity at ``x_t`` implies."""
        return self.at(t).noise_of(x_t, v)

    def velocity_from(self, prediction: Prediction, out: Tensor, x_t: Tensor, t: Tensor, floor: float = 0.05) -> Tensor:
        """The velocity at ``x_t`` that a predicted clean point or noise implies.

        Of a clean point the noise stays above ``floor`` in the division, so that errors do not blow up near data.
        """
        at = self.at(t)
        if prediction == "x":
            return (at.noise_rate * x_t - out) / at.noise.clamp_min(floor)
        return (out + at.signal_rate * x_t) / at.signal if prediction == "epsilon" else out

    def target(self, prediction: Prediction, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What a network with that prediction is to emit."""
        return {"x": x, "epsilon": noise}[prediction] if prediction != "v" else self.velocity(x, noise, t)

    def bit_evidence(self, x_t: Tensor, t: Tensor, floor: float = 0.05) -> Tensor:
        """What a noisy bit says of itself: its tanh is E[x | x_t] for x = +-1 with equal odds, by Bayes' rule.

        Half the log-odds of +1 against -1: a x_t / s^2, with s at least ``floor``. What other bits say is added to it.
        """
        at = self.at(t)
        return at.signal * x_t / at.noise.clamp_min(floor).square()

    def min_snr(self, prediction: Prediction, t: Tensor, gamma: float) -> Tensor:
        """Weights of squared errors of that prediction by which those of clean points weigh min(SNR, ``gamma``).

        Source: Hang et al., "Efficient Diffusion Training via Min-SNR Weighting" (2023), with SNR = a^2 / s^2; an error of x is
        -s times that of v, and one of the noise a times.
        """
        at = self.at(t)
        signal, noise = at.signal.square(), at.noise.square()
        of_data = {"x": torch.ones_like(noise), "v": noise, "epsilon": noise / signal.clamp_min(1e-12)}[prediction]
        return of_data * (signal / noise.clamp_min(1e-12)).clamp_max(gamma)


@dataclass(frozen=True)
class Flow(Path):
    """Rectified flow: a = 1 - t, s = t, v = e - x. ``shift`` moves its levels towards noise; see :mod:`vidgen.samplers.flow`."""

    shift: float = 1.0

    def at(self, t: Tensor) -> Coefficients:
        """1 - t, t, -1, 1."""
        one = torch.ones_like(t)
        return Coefficients(1 - t, t, -one, one)

    def clock(self, t: Tensor) -> Tensor:
        """``t`` itself: the lines are straight in it."""
        return t

    def levels(self, u: Tensor) -> Tensor:
        """Shifted."""
        return flow.shift_times(u, self.shift)

    def times(self, steps: int, device: torch.device | None = None) -> Tensor:
        """Even before the shift."""
        return flow.sampling_times(steps, self.shift, device)


@dataclass(frozen=True)
class DDPM(Path):
    """The discrete path of Ho et al., "Denoising Diffusion Probabilistic Models" (2020): T small steps of variance beta.

    a^2 is the running product of 1 - beta and s^2 = 1 - a^2. Level t = k / T is after k steps: k = 1 is the paper's first and
    DiT's index 0, so that t = 0 is clean, as on every path. Between two levels log a^2 is linear.

    Attributes:
        schedule: ``linear``: beta from 1e-4 to 0.02 for a T of 1000, and in proportion for another; ``cosine``: Nichol and
            Dhariwal, "Improved DDPM" (2021), a^2 = cos^2 of ((t + 0.008) / 1.008 pi / 2) over its value at 0, beta at most 0.999.
        T: its steps.
    """

    schedule: Literal["linear", "cosine"] = "linear"
    T: int = 1000

    @property
    def betas(self) -> Tensor:
        """(T,) variances of the steps, float64."""
        if self.schedule == "linear":
            return torch.linspace(0.1 / self.T, 20 / self.T, self.T, dtype=torch.float64)
        angle = (torch.linspace(0, 1, self.T + 1, dtype=torch.float64) + 0.008) / 1.008 * math.pi / 2
        product = angle.cos().square()
        return (1 - product[1:] / product[:-1]).clamp_max(0.999)

    def _log_at(self, t: Tensor) -> Tensor:
        place = t.double() * self.T
        place = torch.where((place - place.round()).abs() < 1e-3, place.round(), place)  # levels of the table, rounded to float32
        below = place.floor().clamp(0, self.T - 1)
        low, high = (_log_signal(self, t.device)[(below + side).long()] for side in (0, 1))
        return torch.lerp(low, high, place - below)

    def at(self, t: Tensor) -> Coefficients:
        """Cosine and sine of an angle, and their derivatives by it."""
        log = self._log_at(t)
        signal, noise = (log / 2).exp().to(t.dtype), (-torch.expm1(log)).sqrt().to(t.dtype)
        return Coefficients(signal, noise, -noise, signal)

    def clock(self, t: Tensor) -> Tensor:
        """The angle."""
        log = self._log_at(t)
        return torch.atan2((-torch.expm1(log)).sqrt(), (log / 2).exp()).to(t.dtype)

    def levels(self, u: Tensor) -> Tensor:
        """k / T with k from 1 to T."""
        return ((u * self.T).floor() + 1).clamp_max(self.T) / self.T

    def times(self, steps: int, device: torch.device | None = None) -> Tensor:
        """DiT's respacing: as many of the T levels, evenly and both ends among them (of one step the noisiest), and then 0.

        Raises:
            UserError: where there are not as many.
        """
        if steps > self.T:
            raise UserError(f"steps={steps} is more than the {self.T} steps that the path has: give steps={self.T} or fewer.")
        gaps = [(self.T - 1) / max(1, steps - 1)] * (steps - 1)
        places = [round(place) for place in accumulate(gaps, initial=0.0 if steps > 1 else self.T - 1)]  # of ties the even one
        return torch.tensor([*(place + 1 for place in reversed(places)), 0], dtype=torch.float64, device=device) / self.T


@lru_cache(maxsize=64)
def _log_signal(path: DDPM, device: torch.device) -> Tensor:
    """(T + 1,) log a^2 after each number of steps."""
    with torch.inference_mode(False):  # what is made in sampling is used in training too
        return torch.cat([torch.zeros(1, dtype=torch.float64), torch.log1p(-path.betas).cumsum(0)]).to(device)


FLOW = Flow()
PATHS = ("flow", "linear", "cosine")


def build_path(name: str, shift: float = 1.0) -> Path:
    """The path of that name; ``shift`` is of the flow."""
    return Flow(shift) if name == "flow" else DDPM(name)  # type: ignore[arg-type]
