"""``motion``: the file in the package, what it takes, and that it sees broken motion better than what has learnt nothing."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from vidgen import UserError, config, registry
from vidgen.data.batches import to_video
from vidgen.data.worlds import Worlds
from vidgen.extractors.motion import WEIGHTS, Motion, MotionNetwork

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_motion", ROOT / "benchmarks" / "train_motion.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_default_extractor_is_built_by_name_and_needs_no_file() -> None:
    extractor = registry.build("extractors", config.load("extractor", "motion"))
    assert isinstance(extractor, Motion)
    assert WEIGHTS.stat().st_size < 2e6
    assert extractor.rule["weights"] == hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()


@pytest.mark.parametrize("shape", [(4, 32, 32), (17, 32, 32), (9, 17, 40), (5, 8, 8), (6, 130, 96), (33, 24, 24)])
def test_clips_of_any_size_and_length_are_taken(shape: tuple[int, int, int]) -> None:
    features = Motion()(torch.rand(2, 3, *shape) * 2 - 1)
    assert features.shape == (2, 128)
    assert features.isfinite().all()


def test_clips_that_are_too_short_are_told() -> None:
    with pytest.raises(UserError, match=r"^The motion extractor needs clips of 4 frames or more, and these have 3: "):
        Motion()(torch.zeros(1, 3, 3, 32, 32))


def test_it_is_frozen_and_indifferent_to_the_batch() -> None:
    extractor = Motion().train()
    assert not any(module.training for module in extractor.modules())
    video = (torch.rand(3, 3, 8, 32, 32) * 4 - 2).requires_grad_()
    features = extractor(video)
    assert not features.requires_grad
    torch.testing.assert_close(extractor(video[1:2]), features[1:2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(extractor(video.clamp(-1, 1)), features)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(extractor(video), features)


def test_large_clips_are_reduced_with_their_aspect() -> None:
    """A clip of twice the size has nearly the features of its half, and one below the limit is left alone."""
    data = Worlds(height=64, width=96)
    small = to_video(torch.from_numpy(data.clip("test", 0)["video"]).unsqueeze(0))
    large = small.repeat_interleave(2, -1).repeat_interleave(2, -2)
    extractor = Motion()
    features = extractor(small)
    torch.testing.assert_close(features, extractor.network(small))
    other = extractor(to_video(torch.from_numpy(data.clip("test", 1)["video"]).unsqueeze(0)))
    assert float((extractor(large) - features).norm()) < 0.3 * float((other - features).norm())


def test_broken_motion_is_seen_and_by_an_untaught_network_hardly(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frechet distances of broken clips over that of whole ones."""
    monkeypatch.setattr(script, "CLIPS", 48)
    world = Worlds()
    torch.manual_seed(0)
    untaught = Motion()
    untaught.network.load_state_dict(MotionNetwork().state_dict())
    whole = [script._clips(world, script.whole, start) for start in (0, 48)]
    ratios = {}
    for way in (script.jitter_1px, script.stutter):  # that it was taught, and that it was not
        broken = script._clips(world, way, 48)
        for extractor in (Motion(), untaught):
            first, second, third = (script._features(extractor, clips) for clips in (*whole, broken))
            ratios[way.__name__, extractor is untaught] = script.frechet(first, third) / script.frechet(first, second)
    for way in ("jitter_1px", "stutter"):
        assert ratios[way, False] > 10
        assert ratios[way, False] > 5 * ratios[way, True]


def test_batches_of_training_are_functions_of_seed_and_step(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "BATCH", 4)
    one, again, other = script.batch(0, 3), script.batch(0, 3), script.batch(0, 4)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert one.video.shape != other.video.shape or not torch.equal(one.video, other.video)


@pytest.mark.slow
def test_the_file_is_what_the_script_starts_to_make(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training twice for a few steps gives the same weights."""
    monkeypatch.setattr(script, "STEPS", 3)
    one, again = script.train().state_dict(), script.train().state_dict()
    assert all(torch.equal(one[name], again[name]) for name in one)
