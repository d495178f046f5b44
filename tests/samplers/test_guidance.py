"""Guidance: its weight at every step, one scale and several, against the formulae written out."""

from __future__ import annotations

import math

import pytest
import torch

from vidgen import UserError
from vidgen.latents import Condition
from vidgen.samplers.guidance import Guidance, GuidanceOptions, guidance_weight, guide, guide_chain


@pytest.mark.parametrize("progress", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("scale", [0.0, 1.0, 4.0])
def test_the_weight_follows_its_schedule(progress: float, scale: float) -> None:
    assert guidance_weight(scale, progress) == scale
    assert guidance_weight(scale, progress, schedule="linear") == pytest.approx((1 - progress) * 1 + progress * scale)
    sine = math.sin(math.pi * progress / 2) ** 2  # half a cosine, said otherwise
    assert guidance_weight(scale, progress, schedule="cosine") == pytest.approx(1 + (scale - 1) * sine)


def test_outside_of_its_interval_there_is_no_guidance() -> None:
    found = [guidance_weight(3.0, step / 10, (0.2, 0.5)) for step in range(11)]
    assert found == [1, 1, 3, 3, 3, 3, 1, 1, 1, 1, 1]


def test_muse_and_var_ramp_linearly() -> None:
    """Their (1 + w) c - w u with w = s i / (n - 1) is a scale of 1 + w."""
    c, u, s, n = torch.randn(5), torch.randn(5), 2.5, 4
    for i in range(n):
        w = s * i / (n - 1)
        ours = guide(c, u, guidance_weight(1 + s, i / (n - 1), schedule="linear"))
        torch.testing.assert_close(ours, (1 + w) * c - w * u)


def test_several_scales_are_those_of_instructpix2pix() -> None:
    none, image, both = torch.randn(3, 7, dtype=torch.float64)
    torch.testing.assert_close(
        guide_chain([none, image, both], [1.5, 7.5]), none + 1.5 * (image - none) + 7.5 * (both - image), rtol=0, atol=0
    )
    torch.testing.assert_close(guide_chain([none, image, both], [3.0, 3.0]), guide(both, none, 3.0))
    torch.testing.assert_close(guide_chain([none, image, both], [1.0, 1.0]), both)
    assert torch.equal(guide_chain([both], []), both)


def test_the_network_sees_as_many_clips_as_it_has_to() -> None:
    """Two branches where a weight is not 1, else one: in and out of the interval."""
    told, null = (Condition(label=torch.tensor(values)) for values in ([0, 1], [-1, -1]))
    guidance = Guidance(branches=(null, told), scales=(3.0,), batch=2, options=GuidanceOptions(interval=(0.5, 1.0)))
    x = torch.randn(2, 4)
    seen = []

    def network(x: torch.Tensor, condition: Condition) -> torch.Tensor:
        assert condition.label is not None and len(condition.label) == len(x)
        seen.append(len(x))
        return x + condition.label[:, None]

    for progress in (0.0, 0.5, 1.0):
        condition, copies = guidance.at(progress)
        out = guidance.join(network(x.repeat(copies, 1), condition), progress)
        by_hand = x + torch.tensor([0.0, 1.0])[:, None]
        if progress >= 0.5:
            by_hand = (x - 1) + 3 * (by_hand - (x - 1))
        torch.testing.assert_close(out, by_hand)
    assert seen == [2, 4, 4]


@pytest.mark.parametrize(
    ("interval", "schedule", "sentence"),
    [
        ((0.5, 0.2), "constant", r"guidance_interval=\[0\.5, 0\.2\] is no part of the sampling"),
        ((0.0, 2.0), "constant", "is no part"),
        ((0.0,), "constant", "is no part"),
        ((0.0, 1.0), "cosin", "There is no guidance_schedule 'cosin'. Did you mean 'cosine'"),
    ],
)
def test_options_that_cannot_be(interval: tuple[float, ...], schedule: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        GuidanceOptions(1.0, interval, schedule)
