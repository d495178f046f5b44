"""Draws from softmaxes against a law written down plainly: sort, cut, renormalise."""

from __future__ import annotations

import math

import pytest
import torch
from softmax_law import law
from torch import Tensor

from vidgen.samplers import discrete
from vidgen.samplers.discrete import sample_logits

EVEN = 20000
"""Even uniforms: an id is drawn as often as its interval is long, to one on either side."""


def evenly(logits: Tensor, **options: float) -> tuple[Tensor, Tensor]:
    u = (torch.arange(EVEN, dtype=torch.float64) + 0.5) / EVEN
    return sample_logits(logits.expand(EVEN, -1), u, **options)


TRUNCATIONS = [(0, 1.0), (3, 1.0), (1, 1.0), (0, 0.7), (0, 0.05), (0, 0.0), (5, 0.8), (100, 1.0), (100, 0.9), (0, 0.999)]


@pytest.mark.parametrize(("top_k", "top_p"), TRUNCATIONS)
@pytest.mark.parametrize("temperature", [1.0, 0.6, 2.5])
def test_ids_follow_the_law_and_know_their_probability(temperature: float, top_k: int, top_p: float) -> None:
    logits = 2 * torch.randn(17)
    ids, log_p = evenly(logits, temperature=temperature, top_k=top_k, top_p=top_p)
    wanted = torch.tensor(law(logits.tolist(), temperature, top_k, top_p), dtype=torch.float64)
    found = torch.bincount(ids, minlength=17) / EVEN
    assert (found - wanted).abs().max() <= 1.5 / EVEN
    assert set(ids.tolist()) <= set(wanted.nonzero().flatten().tolist())
    torch.testing.assert_close(log_p.double(), wanted[ids].log(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (40, 1.0), (0, 0.9), (0, 0.3), (40, 0.5)])
def test_work_in_pieces_and_the_search_among_the_likeliest_change_nothing(
    top_k: int, top_p: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, u = 2 * torch.randn(3, 7, 200, dtype=torch.float64), torch.rand(3, 7, dtype=torch.float64)
    monkeypatch.setattr(discrete, "LIKELY", 200)
    whole = sample_logits(logits, u, 1.0, top_k, top_p)
    monkeypatch.setattr(discrete, "CPU_CHUNK", 900)
    monkeypatch.setattr(discrete, "LIKELY", 8)  # holds the nucleus of few rows
    pieces = sample_logits(logits, u, 1.0, top_k, top_p)
    assert torch.equal(whole[0], pieces[0])
    torch.testing.assert_close(whole[1], pieces[1])
    assert whole[0].shape == whole[1].shape == u.shape
    for row, one, log_p in zip(logits.flatten(0, 1), whole[0].flatten(), whole[1].flatten(), strict=True):
        assert math.log(law(row.tolist(), 1.0, top_k, top_p)[one]) == pytest.approx(float(log_p))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("u", [0.0, 2.0**-54, 0.5, 1 - 2.0**-24, 1 - 2.0**-53])
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (3, 1.0), (0, 0.9)])
def test_what_cannot_happen_is_never_drawn(dtype: torch.dtype, u: float, top_k: int, top_p: float) -> None:
    """Whatever rounding makes of the ends of the unit interval."""
    logits = torch.full((11,), float("-inf"), dtype=dtype)
    logits[[3, 6, 7]] = torch.tensor([0.3, -0.2, 0.1], dtype=dtype)
    ids, log_p = sample_logits(logits.expand(4, 11), torch.full((4,), u, dtype=torch.float64), 1.0, top_k, top_p)
    assert set(ids.tolist()) <= {3, 6, 7}
    assert log_p.isfinite().all()
    assert log_p.dtype == dtype


def test_temperature_0_is_the_most_likely_with_its_confidence() -> None:
    logits = torch.randn(50, 9)
    ids, log_p = sample_logits(logits, torch.rand(50), 0.0, top_k=2, top_p=0.1)
    assert torch.equal(ids, logits.argmax(dim=-1))
    torch.testing.assert_close(log_p, torch.distributions.Categorical(logits=logits).log_prob(ids))


def test_a_small_temperature_comes_near_the_most_likely() -> None:
    logits = torch.randn(50, 9)
    cold, log_p = sample_logits(logits, torch.rand(50), 1e-4)
    assert torch.equal(cold, logits.argmax(dim=-1))
    torch.testing.assert_close(log_p, torch.zeros(50), atol=1e-3, rtol=0)


def test_half_precision_is_raised() -> None:
    logits = torch.randn(400, 300, dtype=torch.bfloat16)
    u = torch.rand(400)
    ids, log_p = sample_logits(logits, u)
    assert log_p.dtype == torch.float32
    assert torch.equal(ids, sample_logits(logits.float(), u)[0])
    torch.testing.assert_close(log_p, torch.distributions.Categorical(logits=logits.float()).log_prob(ids))


def test_rare_ids_of_a_large_vocabulary_are_drawn_as_often_as_they_should_be() -> None:
    """The cumulative sum of 2**14 float32 weights is good to a fraction of one id's weight."""
    u = torch.rand(200, dtype=torch.float64)
    ids, log_p = sample_logits(torch.zeros(200, 2**14), u)
    assert (ids - (u * 2**14 - 0.5)).abs().max() < 0.52
    torch.testing.assert_close(log_p, torch.full((200,), -14 * math.log(2)))
