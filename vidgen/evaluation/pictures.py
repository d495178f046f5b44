"""The playing clips of a run folder: a video that browsers play, a contact sheet, and a note of what they show."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vidgen.runs import write_json
from vidgen.viz import contact_sheet, grid, write_mp4

WIDE = ("pairs", "nearest")
"""Kinds that take the whole width of a report; everything else is a tile among others."""

ROWS = {False: (4, 640), True: (8, 1080)}
"""Whether wide -> clips in a row, and about how many pixels it is enlarged to."""


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
