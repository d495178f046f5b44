"""The playing clips of a run folder: a video that browsers play, a contact sheet, and a note of what they show."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vidgen.runs import write_json
from vidgen.viz import contact_sheet, grid, write_mp4

LARGEST = 480
"""Clips are enlarged by a whole number until a row of them is about this many pixels wide."""


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
    columns: int | None = None,
    fps: float = 8,
) -> None:
    """Writes ``name``.mp4 (the clips in a grid), ``name``.png (their frames side by side) and ``name``.json to ``folder``.

    ``clips`` is uint8 (N, T, H, W, 3).
    """
    folder.mkdir(parents=True, exist_ok=True)
    playing = grid(clips, columns)
    scale = max(1, LARGEST // playing.shape[2])
    write_mp4(folder / f"{name}.mp4", playing, fps=fps, scale=scale)
    contact_sheet(folder / f"{name}.png", clips)
    note = {"title": title, "caption": caption, "order": order, "kind": kind, "stage": stage, "step": step}
    write_json(folder / f"{name}.json", note)


def pairs(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Two sets of clips one above the other: (N, T, H, W, 3) twice -> (N, T, 2H + 1, W, 3)."""
    line = np.full((*above.shape[:2], 1, *above.shape[3:]), 255, dtype=np.uint8)
    return np.concatenate([above, line, below], axis=2)
