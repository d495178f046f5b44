"""The three files of a set of clips: what is in them, how large, and that nothing needs to be known to lay them out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vidgen.data.decode import read
from vidgen.evaluation.pictures import pairs, save_clips
from vidgen.viz import GAP


def flat(num: int, size: int, value: int = 200) -> np.ndarray:
    """Clips of one grey each, one step brighter than the one before."""
    shades = (value + np.arange(num)).astype(np.uint8)
    return np.broadcast_to(shades[:, None, None, None, None], (num, 3, size, size, 3)).copy()


@pytest.mark.parametrize(("kind", "num", "columns"), [("samples", 6, 4), ("samples", 3, 3), ("pairs", 9, 8), ("nearest", 8, 8)])
def test_wide_kinds_have_longer_rows(tmp_path: Path, kind: str, num: int, columns: int) -> None:
    save_clips(tmp_path / "new", "them", flat(num, 32), title="Them", kind=kind)
    video = read(tmp_path / "new" / "them.mp4")
    rows = -(-num // columns)
    scale = video.shape[2] // (columns * (32 + GAP) - GAP)
    assert video.shape[:3] == (3, (rows * (32 + GAP) - GAP) * scale, (columns * (32 + GAP) - GAP) * scale)
    assert scale % 2 == 0  # chroma has half the resolution
    last = video[0, (rows - 1) * (32 + GAP) * scale + 8, ((num - 1) % columns) * (32 + GAP) * scale + 8]
    assert np.abs(last.astype(int) - (200 + num - 1)).max() <= 3


def test_clips_that_are_large_already_stay_as_they_are(tmp_path: Path) -> None:
    save_clips(tmp_path, "large", flat(4, 256), title="Large")
    assert read(tmp_path / "large.mp4").shape[1:3] == (256, 4 * (256 + GAP) - GAP)


def test_the_sheet_shows_every_frame_and_the_note_says_what_it_is(tmp_path: Path) -> None:
    clips = flat(2, 32)
    clips[1, 2] = 7
    save_clips(tmp_path, "two", clips, title="Two", caption="Of them.", order=3, kind="preview", stage="tokenizer", step=40)
    sheet = np.asarray(Image.open(tmp_path / "two.png"))
    assert (sheet[-5, -5] == 7).all()
    note = json.loads((tmp_path / "two.json").read_text())
    assert note == {"title": "Two", "caption": "Of them.", "order": 3, "kind": "preview", "stage": "tokenizer", "step": 40}


def test_pairs_stand_above_one_another() -> None:
    above, below = flat(2, 8), flat(2, 8, value=50)
    both = pairs(above, below)
    assert both.shape == (2, 3, 17, 8, 3)
    assert np.array_equal(both[:, :, :8], above)
    assert np.array_equal(both[:, :, 9:], below)
    assert (both[:, :, 8] == 255).all()
