"""The three files of a set of clips: what is in them, how large, and that nothing needs to be known to lay them out."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vidgen.data.decode import read
from vidgen.evaluation.pictures import LARGEST, cut, pairs, save_clips, sprite
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


def smooth(rows: int, columns: int, frames: int, height: int, width: int) -> np.ndarray:
    """Clips of which no two pixels of a place are alike, without edges that a lossy picture would move."""
    grids = np.meshgrid(*(np.arange(n) for n in (rows, columns, frames, height, width)), indexing="ij")
    r, c, f, y, x = grids
    grey = 20 + 60 * r + 25 * c + 5 * f + x + y
    return np.repeat(grey[..., None], 3, axis=-1).astype(np.uint8)


def test_frames_of_a_sprite_lie_side_by_side_and_rows_below_one_another() -> None:
    clips = smooth(3, 2, 4, 16, 32)
    sheet = np.asarray(Image.open(io.BytesIO(sprite(clips))).convert("RGB")).astype(int)
    assert sheet.shape == (3 * 16, 4 * 2 * 32, 3)
    for r, c, f in ((0, 0, 0), (2, 1, 3), (1, 0, 2)):
        left = f * 2 * 32 + c * 32
        assert np.abs(sheet[r * 16 : r * 16 + 16, left : left + 32] - clips[r, c, f]).mean() < 3


def test_what_is_cut_from_a_sprite_is_what_it_was_made_of() -> None:
    clips = smooth(2, 3, 5, 16, 16)
    back = cut(sprite(clips), rows=2, columns=3, frames=5)
    assert back.shape == clips.shape
    assert np.abs(back.astype(int) - clips).max() <= 12
    with pytest.raises(ValueError, match="has no 2x3 clips of 7 frames"):
        cut(sprite(clips), rows=2, columns=3, frames=7)


def test_a_sprite_is_a_still_picture_of_few_bytes() -> None:
    data = sprite(smooth(3, 3, 17, 32, 32))
    picture = Image.open(io.BytesIO(data))
    assert picture.format == "WEBP" and not getattr(picture, "is_animated", False)
    assert len(data) < 30_000
    assert data == sprite(smooth(3, 3, 17, 32, 32))


def test_a_sprite_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(ValueError, match="expected non-empty uint8"):
        sprite(np.zeros((2, 3, 4, 8, 8), dtype=np.uint8))
    with pytest.raises(ValueError, match="at most 16383 pixels"):
        sprite(np.zeros((1, 1, LARGEST // 64 + 1, 8, 64, 3), dtype=np.uint8))
