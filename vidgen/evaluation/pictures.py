"""The playing clips of a run folder: a video that browsers play, a contact sheet, and a note of what they show.

And sprites: all frames of a few clips in one still picture, for pages that play what they cut from it.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from vidgen.runs import write_json
from vidgen.viz import contact_sheet, grid, write_mp4

WIDE = ("pairs", "nearest")
"""Kinds that take the whole width of a report; everything else is a tile among others."""

ROWS = {False: (4, 640), True: (8, 1080)}
"""Whether wide -> clips in a row, and about how many pixels it is enlarged to."""

QUALITY = 90
"""Of a sprite: sampled worlds (3 x 3 clips of 17 x 32 x 32) are 12 kB at 37 dB; without loss 90 kB, and look the same."""

LARGEST = 16383
"""Pixels to a side that WebP can hold."""


def save_clips(
    folder: Path,
    name: str,
    clips: np.ndarray,
    *,
    title: str,
    caption: str = "",
    order: int = 0,
    kind: str = "samples",
    stage: str | None = None,
    step: int | None = None,
    fps: float = 8,
) -> None:
    """Writes ``name``.mp4 (the clips in a grid), ``name``.png (their frames side by side) and ``name``.json to ``folder``.

    Args:
        folder: made when absent.
        name: of the three files.
        clips: uint8 (N, T, H, W, 3).
        title: what they are, in a few words.
        caption: more about them.
        order: places of less come first in a report.
        kind: ``pairs`` and ``nearest`` take the width of a report, eight clips in a row; all others are tiles with rows of four.
        stage: for previews, what was being trained.
        step: for previews, after how many steps.
        fps: frames a second.
    """
    folder.mkdir(parents=True, exist_ok=True)
    columns, width = ROWS[kind in WIDE]
    playing = grid(clips, columns)
    scale = max(1, 2 * round(width / playing.shape[2] / 2))  # even, or the video's chroma would blur the edges of colours
    write_mp4(folder / f"{name}.mp4", playing, fps=fps, scale=scale)
    contact_sheet(folder / f"{name}.png", clips)
    note = {"title": title, "caption": caption, "order": order, "kind": kind, "stage": stage, "step": step}
    write_json(folder / f"{name}.json", note)


def pairs(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Two sets of clips one above the other: (N, T, H, W, 3) twice -> (N, T, 2H + 1, W, 3)."""
    line = np.full((*above.shape[:2], 1, *above.shape[3:]), 255, dtype=np.uint8)
    return np.concatenate([above, line, below], axis=2)


def sprite(clips: np.ndarray) -> bytes:
    """All frames of some clips as one still WebP picture, small enough to be kept by the hundred.

    Frame f is a grid of R x C frames without gaps, its left edge at x = f * C * W; the clip of row r and column c lies in it at
    y = r * H and x = c * W.

    Args:
        clips: uint8 (R, C, T, H, W, 3), such as a row for each label.

    Raises:
        ValueError: where their shape or type is another, or a side would be longer than WebP's 16383 pixels.
    """
    from PIL import Image

    if clips.dtype != np.uint8 or clips.ndim != 6 or clips.shape[-1] != 3 or 0 in clips.shape:
        raise ValueError(f"expected non-empty uint8 (R, C, T, H, W, 3), got {clips.dtype} {clips.shape}")
    rows, columns, frames, height, width, _ = clips.shape
    sheet = clips.transpose(0, 3, 2, 1, 4, 5).reshape(rows * height, frames * columns * width, 3)
    if max(sheet.shape) > LARGEST:
        size = f"{sheet.shape[1]}x{sheet.shape[0]}"
        raise ValueError(f"a sprite has at most {LARGEST} pixels to a side, and this one would be {size}")
    data = io.BytesIO()
    Image.fromarray(sheet).save(data, "WEBP", quality=QUALITY, method=6)
    return data.getvalue()


def cut(data: bytes, rows: int, columns: int, frames: int) -> np.ndarray:
    """The clips of a :func:`sprite` of so many rows, columns and frames: uint8 (R, C, T, H, W, 3), nearly what it was made of.

    Raises:
        ValueError: where the picture cannot be divided so.
    """
    from PIL import Image

    sheet = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    if sheet.shape[0] % rows or sheet.shape[1] % (frames * columns):
        raise ValueError(f"a sprite of {sheet.shape[1]}x{sheet.shape[0]} pixels has no {rows}x{columns} clips of {frames} frames")
    cells = sheet.reshape(rows, sheet.shape[0] // rows, frames, columns, -1, 3)
    return cells.transpose(0, 3, 2, 1, 4, 5)
