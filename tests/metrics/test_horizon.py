"""Measures of predictions and of what steers them: horizon curves, controllability, class accuracy."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vidgen.errors import UserError
from vidgen.metrics.class_accuracy import ClassAccuracy, class_accuracy
from vidgen.metrics.controllability import Controllability, controllability
from vidgen.metrics.horizon import Horizon, horizon
from vidgen.metrics.motion_consistency import MotionConsistency
from vidgen.metrics.psnr import PSNR, psnr
from vidgen.metrics.ssim import SSIM, ssim
from vidgen.metrics.statistics import NORMAL_95


def drifting(clips: int = 5, frames: int = 6) -> tuple[Tensor, Tensor]:
    """Predictions that are exact for two frames and then drift away, by another speed in each clip."""
    generator = torch.Generator().manual_seed(0)
    real = torch.rand(clips, 3, frames, 12, 12, generator=generator) - 0.5
    steps = torch.arange(frames).clamp(min=1) - 1
    speed = 0.02 + 0.02 * torch.arange(clips)
    return real + speed.view(-1, 1, 1, 1, 1) * steps.view(1, 1, -1, 1, 1), real


def test_the_curve_of_a_drift_is_its_closed_form() -> None:
    video, real = drifting()
    metric = Horizon(measure=PSNR(), context=2, frames=6)
    metric.update(video, real)
    speed = 0.02 + 0.02 * torch.arange(5, dtype=torch.float64)
    expected = [(20 * torch.log10(2 / (speed * step))).mean().item() for step in (1, 2, 3, 4)]
    assert metric.curve().tolist() == pytest.approx(expected, abs=1e-4)
    assert metric.compute().item() == pytest.approx(sum(expected) / 4, abs=1e-4)
    assert expected == sorted(expected, reverse=True)


@pytest.mark.parametrize(("measure", "score"), [(PSNR(), psnr), (SSIM(), ssim)])
def test_the_curve_is_the_measure_of_each_frame_and_the_context_counts_for_nothing(measure: object, score: object) -> None:
    video, real = drifting()
    expected = score(video, real)[:, 2:].mean(dim=0)
    spoilt = video.clone()
    spoilt[:, :, :2] = 1
    torch.testing.assert_close(horizon(spoilt, real, measure=measure, context=2), expected)
    assert measure.update_count == 0  # it is only asked


def test_intervals_of_the_curve_are_the_normal_ones_over_clips() -> None:
    video, real = drifting()
    metric = Horizon(measure=PSNR(), context=2, frames=6)
    for part in (slice(0, 1), slice(1, 5)):
        metric.update(video[part], real[part])
    found, scores = metric.estimate(), psnr(video, real)[:, 2:]
    half = NORMAL_95 * scores.std(dim=0) / math.sqrt(5)
    assert found["frame"] == [2, 3, 4, 5]
    assert found["mean"] == pytest.approx(scores.mean(dim=0).tolist())
    assert found["low"] == pytest.approx((scores.mean(dim=0) - half).tolist())
    assert found["high"] == pytest.approx((scores.mean(dim=0) + half).tolist())
    assert found["value"] == pytest.approx(scores.mean().item())


def test_one_clip_has_a_curve_and_no_interval() -> None:
    video, real = drifting(clips=1)
    metric = Horizon(measure=SSIM(), context=0, frames=6)
    metric.update(video, real)
    assert metric.estimate()["low"] == metric.estimate()["high"] == [None] * 6
    assert metric.higher_is_better and metric.unit == ""
    assert metric.convention == "frames from 0 on of 6; 11x11 Gaussian, sigma 1.5, valid window, RGB"


def test_horizons_that_cannot_be_are_told() -> None:
    with pytest.raises(UserError, match="context=6 of frames=6 leaves none"):
        Horizon(measure=PSNR(), context=6, frames=6)
    with pytest.raises(UserError, match="single frames, and PSNR has none here"):
        Horizon(measure=PSNR(over="set"), context=2, frames=6)
    video, real = drifting()
    with pytest.raises(UserError, match="is of clips of 5 frames and these have 6: build it with frames=6"):
        Horizon(measure=PSNR(), context=2, frames=5).update(video, real)
    with pytest.raises(UserError, match="MotionConsistency has none"):
        Horizon(measure=MotionConsistency(), context=2, frames=6).update(video, real)


# Controllability


def test_controllability_is_the_difference_in_db_at_one_frame() -> None:
    real = torch.zeros(3, 3, 6, 8, 8)
    true, random = real.clone(), real.clone()
    true[:, :, 4], random[:, :, 4] = 0.02, 0.2
    true[:, :, 5] = 1  # is not looked at
    found = controllability(true, real, random)
    assert found.tolist() == pytest.approx([20, 20, 20], abs=1e-4)
    assert controllability(true, real, true).abs().max() == 0
    assert controllability(true, real, random, frame=5).max() < 0
    metric = Controllability()
    metric.update(true[:1], real[:1], random[:1])
    metric.update(true[1:], real=real[1:], random=random[1:])
    assert metric.compute().item() == pytest.approx(20, abs=1e-4)
    assert metric.interval() == pytest.approx((20, 20), abs=1e-4)


def test_controllability_needs_the_frame() -> None:
    clips = torch.zeros(1, 3, 4, 8, 8)
    with pytest.raises(UserError, match="Controllability at frame 4 needs clips of at least 5 frames and these have 4"):
        controllability(clips, clips, clips)


# Class accuracy


def brightness(video: Tensor) -> Tensor:
    """Class 1 of bright clips, as scores."""
    mean = video.mean(dim=(1, 2, 3, 4))
    return torch.stack([-mean, mean], dim=1)


def test_class_accuracy_counts_clips_that_have_a_label() -> None:
    video = torch.tensor([1.0, 1, -1, -1, 1]).view(5, 1, 1, 1, 1).expand(5, 3, 2, 4, 4)
    label = torch.tensor([1, 0, 0, 0, -1])
    metric = ClassAccuracy(classifier=brightness, convention="by brightness")
    metric.update(video[:2], label=label[:2])
    metric.update(video[2:], real=video[2:], label=label[2:])
    assert metric.compute().item() == 0.75
    found = metric.estimate()
    assert (found["value"], found["clips"]) == (0.75, 4)
    assert found["interval"][0] < 0.75 < found["interval"][1]
    assert class_accuracy(torch.tensor([0, -1, 1]), torch.tensor([0, 0, -1])).tolist() == [True, False]


def test_class_accuracy_of_nothing_is_no_number() -> None:
    metric = ClassAccuracy(classifier=brightness, convention="by brightness")
    metric.update(torch.zeros(1, 3, 1, 2, 2), label=torch.tensor([-1]))
    assert metric.compute().isnan()
    assert metric.estimate()["interval"] is None


def test_a_classifier_that_gives_something_else_is_told() -> None:
    metric = ClassAccuracy(classifier=lambda video: video.mean(), convention="by nothing")
    with pytest.raises(ValueError, match=r"gives scores \(B, K\) or classes \(B,\) for labels \(B,\); got \(\) for \(2,\)"):
        metric.update(torch.zeros(2, 3, 1, 2, 2), label=torch.tensor([0, 1]))
