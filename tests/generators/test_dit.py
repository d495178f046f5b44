"""What is particular to ``dit``: nothing is said before training, and what a noisy bit says of itself is Bayes' rule."""

from __future__ import annotations

import math
from typing import Any

import pytest
import tiny
import torch

from vidgen import UserError
from vidgen.samplers import flow


def fresh(tokens: str, **options: Any) -> Any:
    return tiny.generator("dit", tiny.tokenizer(tokens).space, 3, **options)


@pytest.mark.parametrize("tokens", ["kl", "lfq"])
def test_its_velocity_is_exactly_zero_before_training(tokens: str) -> None:
    dit = fresh(tokens, prediction="v")
    x = torch.randn(2, dit.space.h_channels, 3, 4, 2)
    assert not dit(x, torch.tensor([0.3, 0.9]), tiny.labels(0, 1)).any()


def test_its_clean_latent_is_exactly_zero_before_training() -> None:
    dit, t = fresh("kl", prediction="x"), torch.tensor([0.3, 0.9])
    x = torch.randn(2, dit.space.h_channels, 3, 4, 2)
    assert torch.equal(dit(x, t), x / t.view(2, 1, 1, 1, 1))


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9, 1.0])
def test_before_training_each_bit_is_what_it_says_itself(t: float) -> None:
    """The posterior mean of a bit under N(x_t; (1 - t) x, t^2) and equal odds, from the two densities."""
    dit = fresh("lfq", prediction="x")
    x_t = torch.linspace(-1.5, 1.5, dit.space.h_channels * 8, dtype=torch.float64).view(1, -1, 2, 2, 2)
    found = flow.data_from_velocity(x_t, dit.double()(x_t, torch.tensor([t], dtype=torch.float64)), torch.tensor(t))
    density = {x: torch.exp(-((x_t - (1 - t) * x) ** 2) / (2 * t**2)) for x in (-1, 1)}
    expected = (density[1] - density[-1]) / (density[1] + density[-1])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


def test_context_adds_to_the_log_odds() -> None:
    """Two channels that always agree: the context's part for one is what the other says of itself."""
    t = torch.tensor(0.6, dtype=torch.float64)
    a, b = torch.tensor(0.8, dtype=torch.float64), torch.tensor(-0.3, dtype=torch.float64)
    weight = {s: math.exp(-float((a - 0.4 * s) ** 2 + (b - 0.4 * s) ** 2) / (2 * 0.36)) for s in (-1, 1)}
    exact = (weight[1] - weight[-1]) / (weight[1] + weight[-1])
    assert torch.tanh(flow.bit_evidence(a, t) + flow.bit_evidence(b, t)).item() == pytest.approx(exact)


@pytest.mark.parametrize(
    ("patch", "nearest"),
    [
        ((2, 2), "[1, 2, 2]"),
        ((2,), "[1, 1, 2]"),
        ((1, 0, 2), "[1, 1, 2]"),
        ((1, 2, -2), "[1, 2, 1]"),
        ((1, 1, 2, 4), "[1, 2, 4]"),
    ],
)
def test_a_patch_that_makes_no_tokens_is_refused(patch: tuple[int, ...], nearest: str) -> None:
    with pytest.raises(UserError) as error:
        fresh("kl", patch=patch)
    assert str(error.value) == (
        f"dit's patch={list(patch)} is not [frames,height,width] of at least 1 each; the nearest is patch={nearest}."
    )


@pytest.mark.parametrize("option", ["width", "depth", "heads", "steps"])
def test_sizes_below_1_are_refused(option: str) -> None:
    with pytest.raises(UserError, match=rf"^{option}=0 makes no .*: give {option}=1 or more\.$"):
        fresh("kl", **{option: 0})
