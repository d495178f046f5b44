"""Augmentation of training clips: what each change does, and that it is one change for a clip."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vidgen import UserError
from vidgen.data.folder.augment import Augment

NONE = {"mirror": 0.0, "zoom": 0.0, "light": 0.0}


def changed(frames: np.ndarray, seed: int = 0, **options: float) -> np.ndarray:
    return Augment(**{**NONE, **options})(frames, np.random.default_rng(seed))


@pytest.fixture
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(60, 200, (5, 12, 16, 3), dtype=np.uint8)


def test_without_options_nothing_changes(frames: np.ndarray) -> None:
    assert not Augment(**NONE).active
    assert np.array_equal(changed(frames), frames)


def test_mirroring_exchanges_left_and_right_of_whole_clips_as_often_as_asked(frames: np.ndarray) -> None:
    assert np.array_equal(changed(frames, mirror=1.0), frames[:, :, ::-1])
    mirrored = [bool((changed(frames, seed, mirror=0.3) == frames[:, :, ::-1]).all()) for seed in range(400)]
    assert 0.2 < np.mean(mirrored) < 0.4


def test_a_closer_view_is_a_part_of_the_frame_at_full_size() -> None:
    """Of a ramp over the width the view is a flatter ramp within it, the same in every frame, its slope 1 - zoom or more."""
    ramp = np.broadcast_to(np.linspace(20, 220, 64)[None, None, :, None], (3, 8, 64, 3)).round().astype(np.uint8)
    slopes = []
    for seed in range(60):
        view = changed(ramp, seed, zoom=0.5)
        assert view.shape == ramp.shape
        assert np.array_equal(view[0], view[2])
        row = view[0, 4, :, 0].astype(float)
        assert row.min() >= 20
        assert row.max() <= 220
        slopes.append(np.polyfit(np.arange(8, 56), row[8:56], 1)[0] / (200 / 63))
    assert 0.48 < min(slopes) < 0.6
    assert 0.9 < max(slopes) < 1.02


@pytest.mark.parametrize("shape", [(5, 12, 16, 3), (1, 7, 5, 3), (3, 16, 9, 3)])
def test_no_frame_sees_into_another(shape: tuple[int, ...]) -> None:
    """Of noise, the whole change is to the bit what Pillow makes of every frame by itself."""
    noise = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    height, width = shape[1:3]
    for seed in range(20):
        flip, side, left, top = np.random.default_rng(seed).random(4)
        share = 1 - 0.5 * side
        x, y = left * (1 - share) * width, top * (1 - share) * height
        box = (x, y, x + share * width, y + share * height)
        views = [Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC, box=box) for frame in noise]
        expected = np.stack([np.asarray(view) for view in views])[:, :, :: -1 if flip < 0.5 else 1]
        got = changed(noise, seed, zoom=0.5, mirror=0.5)
        assert np.array_equal(got, expected)
        assert got.flags.writeable
        assert got.flags.c_contiguous


def test_light_is_an_affine_change_of_each_colour(frames: np.ndarray) -> None:
    """Every value of a colour goes to mean + contrast * (value - mean) + brightness, with the same two numbers in all frames."""
    contrasts, brightnesses = [], []
    for seed in range(200):
        relit = changed(frames, seed, light=0.1)
        for channel in range(3):
            before, after = frames[..., channel].astype(float).ravel(), relit[..., channel].astype(float).ravel()
            inside = (after > 0) & (after < 255)
            slope, offset = np.polyfit(before[inside] - before.mean(), after[inside], 1)
            assert np.abs(slope * (before - before.mean()) + offset - after)[inside].max() < 1
            contrasts.append(np.log(slope))
            brightnesses.append((offset - before.mean()) / 127.5)
    spread = 0.1 * np.sqrt(1.25)  # the whole clip's and half of it for each colour
    assert np.std(contrasts) == pytest.approx(spread, rel=0.15)
    assert np.std(brightnesses) == pytest.approx(spread, rel=0.15)


def test_the_same_draws_give_the_same_clip(frames: np.ndarray) -> None:
    options = {"mirror": 0.5, "zoom": 0.3, "light": 0.1}
    assert np.array_equal(changed(frames, 7, **options), changed(frames, 7, **options))
    assert not np.array_equal(changed(frames, 7, **options), changed(frames, 8, **options))


@pytest.mark.parametrize(("name", "value"), [("mirror", 1.5), ("zoom", -0.1), ("zoom", 1.0), ("light", 2.0)])
def test_values_out_of_range_are_one_sentence(name: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"^data\.{name}={value} is out of range"):
        Augment(**{**NONE, name: value})
