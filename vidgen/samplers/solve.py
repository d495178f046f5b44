"""Every sampler by its name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

from torch import Tensor

from vidgen.samplers.ode import Field, dpm2m, euler, heun
from vidgen.samplers.paths import Path
from vidgen.samplers.sde import Fresh, ddim, ddpm, euler_maruyama, sde

Solver = Literal["euler", "heun", "ddim", "dpm2m", "ddpm", "euler_maruyama", "sde"]

SOLVERS: tuple[Solver, ...] = get_args(Solver)

Network = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]
"""The velocity at x and t, and the share of the larger of DDPM's variances, or None."""


def solve(
    name: Solver, network: Network, x: Tensor, times: Tensor, path: Path, *, fresh: Fresh, churn: float, eta: float
) -> Tensor:
    """From x at ``times[0]`` to ``times[-1]`` by the sampler of that name.

    ``churn`` is of ``sde`` and ``euler_maruyama``, ``eta`` of ``ddim``, and the network's share of ``ddpm``.
    """
    if name == "ddpm":
        return ddpm(network, x, times, path, fresh=fresh)
    solvers: dict[str, Callable[[Field, Tensor, Tensor, Path], Tensor]] = {
        "euler": euler,
        "heun": heun,
        "dpm2m": dpm2m,
        "ddim": partial(ddim, fresh=fresh, eta=eta),
        "euler_maruyama": partial(euler_maruyama, fresh=fresh, churn=churn),
        "sde": partial(sde, fresh=fresh, churn=churn),
    }
    return solvers[name](lambda x, t: network(x, t)[0], x, times, path)
