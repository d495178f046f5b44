"""Corruptions are pure, are what they are called, and are measured by everything."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("vidgen.metrics.frechet")
import corruptions
import sensitivity
from corruptions import CORRUPTIONS, WORLDS, Clips, Reference, measure, spoilt

from vidgen.data.worlds import Worlds


@pytest.fixture(scope="module", params=WORLDS)
def clips(request: pytest.FixtureRequest) -> Clips:
    return Clips.of(Worlds(**WORLDS[request.param][1]), 10)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_a_function_of_clips_and_seed(clips: Clips, name: str) -> None:
    before = clips.video.copy()
    one, again = spoilt(clips, name), spoilt(clips, name)
    assert np.array_equal(one.video, again.video) and np.array_equal(one.label, again.label)
    assert np.array_equal(clips.video, before)
    assert one.video.dtype == np.uint8 and one.video.shape == clips.video.shape
    changed = not (np.array_equal(one.video, clips.video) and np.array_equal(one.label, clips.label))
    assert changed is (name != "none")
    if name not in ("none", "fresh true clips", "wrong label"):
        assert np.array_equal(one.label, clips.label) and np.array_equal(one.states, clips.states)


@pytest.mark.parametrize("family", ["bounce", "gravity", "orbit", "occlude"])
def test_laws_at_their_own_times_give_their_own_clips(family: str) -> None:
    world = Worlds(families=(family,), height=48, width=48)
    clips = Clips.of(world, 6)
    times = np.arange(17.0)
    for scene in clips.scenes:
        assert corruptions._positions(clips, scene, times) == pytest.approx(scene.position, abs=1e-6)
        # Half-way between two frames a step is half done, but where something was hit.
        half = corruptions._positions(clips, scene, times[:-1] + 0.5)
        middle = (scene.position[1:] + scene.position[:-1]) / 2
        assert np.median(np.abs(half - middle)) < 0.2


def test_steered_and_colliding_objects_keep_their_times_too() -> None:
    agent = Clips.of(Worlds(families=("agent",), height=48, width=48), 6)
    discs = Clips.of(Worlds(families=("collide",), objects=2, height=48, width=48), 6)
    for clips, near in ((agent, 1e-9), (discs, 1e-6)):
        for scene in clips.scenes:
            assert corruptions._positions(clips, scene, np.arange(17.0)) == pytest.approx(scene.position, abs=near)


def test_once_and_a_half_as_fast_is_what_the_law_shows_later() -> None:
    clips = Clips.of(Worlds(families=("bounce",), height=48, width=48), 6)
    for scene in clips.scenes:
        faster = corruptions._positions(clips, scene, 1.5 * np.arange(17))
        assert faster[::2][:6] == pytest.approx(scene.position[::3][:6], abs=1e-9)


def test_the_second_of_it_and_the_vanished_one() -> None:
    clips = Clips.of(Worlds(families=("bounce",), height=48, width=48), 6)
    ground = np.array(corruptions.GROUND)

    def area(video: np.ndarray) -> np.ndarray:
        return (np.abs(video - ground.astype(int)).sum(-1) > 60).sum((2, 3))

    assert (area(spoilt(clips, "vanished for 5 frames").video)[:, -5:] == 0).all()
    assert (area(spoilt(clips, "vanished for 5 frames").video)[:, :-5] > 20).all()
    twice = area(spoilt(clips, "a second of it").video) / area(clips.video)
    assert np.median(twice) == pytest.approx(2, abs=0.1)


def test_everything_is_measured_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results" / "corruptions.jsonl"
    path.parent.mkdir()
    monkeypatch.setattr(sensitivity, "RESULTS", path)
    world = Worlds(**WORLDS["one object"][1])
    clips = Clips.of(world, 12)
    reference = Reference.of(world, 24)
    figures = measure(clips, clips, reference)
    assert set(sensitivity.FIGURES) - set(figures) <= {"fd_motion"}
    assert figures["psnr"][0] == 100 and figures["law_legal"] == (1.0, 12, 12)
    assert figures["fd_random3d"][0] > 0 and all(value is None or math.isfinite(value) for value, _, _ in figures.values())
    json.dumps(figures, allow_nan=False)


def test_random_features_are_the_same_for_the_same_seed() -> None:
    import torch

    video = torch.rand(2, 3, 5, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    one, again = corruptions.Random3D()(video), corruptions.Random3D()(video)
    assert torch.equal(one, again) and one.shape == (2, 64)
    assert not torch.equal(one, corruptions.Random3D(seed=1)(video))
    assert torch.allclose(one[:1], corruptions.Random3D()(video[:1]), atol=1e-5)
