"""Optical flow without a trained network, for the measures of motion: where each pixel of a frame was in the frame before.

``blocks`` is our own: at a coarse scale square blocks are compared at every displacement within reach, and the least
difference gives the motion; from scale to scale it is corrected by a pixel, and below the pixel by least squares (Lucas and
Kanade, 1981). ``dis`` is OpenCV's dense inverse search (Kroeger et al., "Fast Optical Flow using Dense Inverse Search", 2016), on
luma of 8 bits, where ``opencv-python-headless`` is installed. Both only see what has texture: a plain area is taken to stand
still. Figures of the two differ, so that the choice is part of a convention.
"""

from __future__ import annotations

import importlib
import importlib.util
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vidgen.errors import UserError
from vidgen.metrics.frames import check_choice, check_frames, clipped, compared

FLOWS = {"blocks": "block matching, 7x7, coarse to fine", "dis": "OpenCV's dense inverse search"}
BLOCK = 7
REACH = 6  # pixels in each direction, at the coarsest scale
STEPS = 2  # of least squares, at every scale
COARSEST = 32  # pixels: frames are halved while their shorter side stays at least as long
STILLNESS = 5e-5  # what a displacement of a pixel costs: more than a camera's noise can gain by it, in squares of the range
FLAT = 1e-3  # mean squared slope below which least squares hardly moves anything, likewise


def check_flow(name: str) -> None:
    """Sees that there is a flow of that name here. Raises UserError."""
    check_choice("optical flow", name, FLOWS)
    if name == "dis" and importlib.util.find_spec("cv2") is None:
        raise UserError("flow=dis needs the package opencv-python-headless: pip install it, or use flow=blocks.")


@torch.no_grad()
def backward_flow(video: Tensor, name: str = "blocks") -> Tensor:
    """Where each pixel of every frame but the first was in the frame before.

    Args:
        video: (B, C, T, H, W) in [-1, 1], of at least two frames.
        name: ``blocks`` or ``dis``.

    Returns:
        (B, 2, T - 1, H, W) float32: pixels to the right and down, to be added to a pixel's place to find where it came from.

    Raises:
        UserError: for clips of one frame.
    """
    return _flow(video, name, forward=False)


@torch.no_grad()
def forward_flow(video: Tensor, name: str = "blocks") -> Tensor:
    """Where each pixel of every frame but the last goes in the next: as :func:`backward_flow`."""
    return _flow(video, name, forward=True)


def warp(frames: Tensor, flow: Tensor) -> Tensor:
    """Frames (N, C, H, W) seen at places moved by ``flow`` (N, 2, H, W), bilinearly; beyond the edge they go on as at it."""
    height, width = frames.shape[-2:]
    y, x = (torch.arange(size, dtype=flow.dtype, device=flow.device) for size in (height, width))
    across = 2 * (x + flow[:, 0]) / max(width - 1, 1) - 1
    down = 2 * (y[:, None] + flow[:, 1]) / max(height - 1, 1) - 1
    grid = torch.stack((across, down), dim=-1).to(frames.dtype)
    return F.grid_sample(frames, grid, padding_mode="border", align_corners=True)


def visible(flow: Tensor, back: Tensor) -> Tensor:
    """Where a flow can be trusted: (N, H, W) of booleans, for ``flow`` and ``back`` (N, 2, H, W), the flow of the way back.

    Source: Ruder et al., "Artistic style transfer for videos" (2016): a pixel is hidden where going there and back does not
    return to it, and is not looked at where motion changes from one pixel to the next. What comes from beyond the edge is hidden
    too.
    """
    again = warp(back, flow)
    there, here = flow.square().sum(dim=1), again.square().sum(dim=1)
    hidden = (flow + again).square().sum(dim=1) > 0.01 * (there + here) + 0.5
    slope = torch.zeros_like(there)
    slope[:, :, :-1] += flow.diff(dim=3).square().sum(dim=1)
    slope[:, :-1] += flow.diff(dim=2).square().sum(dim=1)
    height, width = flow.shape[-2:]
    y, x = (torch.arange(size, dtype=flow.dtype, device=flow.device) for size in (height, width))
    x, y = x + flow[:, 0], y[:, None] + flow[:, 1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return inside & ~hidden & (slope <= 0.01 * there + 0.002)


def _flow(video: Tensor, name: str, *, forward: bool) -> Tensor:
    check_flow(name)
    check_frames(video, 2, "Motion")
    method = {"blocks": _blocks, "dis": _dis}[name]
    clips = []
    for clip in video:  # one by one: every displacement that is tried takes memory
        frames = clip.transpose(0, 1)
        here, there = (frames[:-1], frames[1:]) if forward else (frames[1:], frames[:-1])
        clips.append(method(here, there).transpose(0, 1))
    return torch.stack(clips)


def _blocks(here: Tensor, there: Tensor) -> Tensor:
    """(N, C, H, W) twice -> (N, 2, H, W)."""
    scales = [(clipped(here).float() / 2, clipped(there).float() / 2)]  # of a range of 1
    while min(scales[-1][0].shape[-2:]) >= 2 * COARSEST:
        a, b = scales[-1]
        scales.append((F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)))
    a, b = scales.pop()
    flow = _refined(a, b, _searched(a, b))
    for a, b in reversed(scales):
        flow = 2 * F.interpolate(flow, size=a.shape[-2:], mode="bilinear", align_corners=False)
        flow = _refined(a, b, _corrected(a, b, flow))
    return flow


def _searched(a: Tensor, b: Tensor) -> Tensor:
    """The best of all whole displacements within reach."""
    height, width = a.shape[-2:]
    padded = F.pad(b, (REACH,) * 4, mode="replicate")
    still = a.new_zeros(len(a), 2, height, width)
    best, least = still, _cost(a, b, still)
    for down, right in product(range(2 * REACH + 1), repeat=2):
        tried = still.new_tensor([right - REACH, down - REACH]).view(1, 2, 1, 1)
        best, least = _better(best, least, tried, _cost(a, padded[..., down : down + height, right : right + width], tried))
    return best


def _corrected(a: Tensor, b: Tensor, flow: Tensor) -> Tensor:
    """The best of ``flow`` and its neighbours of a pixel, or none at all, which the ground beside a moving thing has."""
    best = torch.zeros_like(flow)
    least = _cost(a, b, best)
    for step in product((-1, 0, 1), repeat=2):
        tried = flow + flow.new_tensor(step).view(1, 2, 1, 1)
        best, least = _better(best, least, tried, _cost(a, warp(b, tried), tried))
    return best


def _better(best: Tensor, least: Tensor, tried: Tensor, cost: Tensor) -> tuple[Tensor, Tensor]:
    better = cost < least
    return torch.where(better, tried, best), torch.where(better, cost, least)


def _refined(a: Tensor, b: Tensor, flow: Tensor) -> Tensor:
    """Below the pixel: the motion of each block that explains its differences best, to first order, by at most a pixel a step.

    Where the flow differs inside of a block, each of its pixels is linearised about its own.
    """
    for _ in range(STEPS):
        moved = warp(b, flow)
        right, down = (F.pad(moved, pad, mode="replicate") for pad in ((1, 1, 0, 0), (0, 0, 1, 1)))
        x, y = (right[..., 2:] - right[..., :-2]) / 2, (down[..., 2:, :] - down[..., :-2, :]) / 2
        ahead = a - moved + x * flow[:, :1] + y * flow[:, 1:]
        xx, xy, yy, xa, ya = (_mean(one) for one in (x * x, x * y, y * y, x * ahead, y * ahead))
        xx, yy, xa, ya = xx + FLAT, yy + FLAT, xa + FLAT * flow[:, :1], ya + FLAT * flow[:, 1:]
        solved = torch.cat((yy * xa - xy * ya, xx * ya - xy * xa), dim=1) / (xx * yy - xy * xy)
        flow = flow + (solved - flow).clamp(-1, 1)
    return flow


def _cost(a: Tensor, moved: Tensor, flow: Tensor) -> Tensor:
    """(N, 1, H, W): the squared difference of the blocks, and what the displacement itself costs."""
    return _mean((a - moved).square()) + STILLNESS * flow.square().sum(dim=1, keepdim=True).sqrt()


def _mean(values: Tensor) -> Tensor:
    """Of (N, C, H, W) over the channels and the block around each pixel: (N, 1, H, W)."""
    return F.avg_pool2d(values.mean(dim=1, keepdim=True), BLOCK, stride=1, padding=BLOCK // 2, count_include_pad=False)


def _dis(here: Tensor, there: Tensor) -> Tensor:
    """(N, C, H, W) twice -> (N, 2, H, W), by OpenCV."""
    cv2: Any = importlib.import_module("cv2")  # without types that mypy could read

    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [_grey(frames) for frames in (here, there)]
    found = [search.calc(a, b, None) for a, b in zip(*grey, strict=True)]
    return torch.from_numpy(np.stack(found)).movedim(-1, 1).to(here.device)


def _grey(frames: Tensor) -> np.ndarray:
    """(N, C, H, W) in [-1, 1] -> luma, uint8 (N, H, W)."""
    luma = compared(frames.unsqueeze(2), color="luma", eight_bit=True)[:, 0, 0]
    return luma.add(1).mul(127.5).round().byte().contiguous().cpu().numpy()
