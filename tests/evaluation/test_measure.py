"""What is measured, held against models whose results are known beforehand: the identity, a blank ground, the data itself."""

from __future__ import annotations

import contextlib
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vidgen import config
from vidgen.data.batches import to_pixels, to_video
from vidgen.data.worlds import Worlds, parse_caption
from vidgen.evaluation.measure import (
    Asked,
    Measured,
    ask,
    draw_samples,
    mean_and_error,
    measure_samples,
    measure_tokenizer,
    nearest_clips,
)
from vidgen.latents import Latent, LatentSpec

CLIPS = 6
WORLD = Worlds(frames=9, height=24, width=24, radius=(4.0, 4.5), families=("bounce", "gravity"))
RULES = {"reconstruction/psnr", "reconstruction/ssim", "reconstruction/psnr_objects", "baseline/psnr_blank"}


class Oracle(torch.nn.Module):
    """A tokenizer that gives back what it is given, but for ``spoil``; its ids are 0 and 1 in turn."""

    spec = LatentSpec(channels=1, stride=(4, 4, 4), causal=True, levels=(4,))

    def __init__(self, spoil=lambda video: video) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.spoil = spoil

    def encode(self, video: torch.Tensor) -> Latent:
        grid = self.spec.grid(tuple(video.shape[2:]))
        ids = (torch.arange(math.prod(grid)) % 2).expand(len(video), -1).unsqueeze(-1)
        return Latent(spec=self.spec, grids=(grid,), num_frames=video.shape[2], z=video, ids=ids)

    def decode(self, latent: Latent) -> torch.Tensor:
        return self.spoil(latent.z)


def measured(data: object, spoil=lambda video: video, metrics=()) -> Measured:
    return measure_tokenizer(
        Oracle(spoil),
        data,
        split="test",
        count=CLIPS,
        batch_size=4,
        shown=5,
        device=torch.device("cpu"),
        precision=contextlib.nullcontext,
        metrics=metrics,
    )


def figures(found: Measured) -> dict[str, float]:
    return {one.name: one.value for one in found.results}


def test_a_perfect_copy_is_perfect_by_every_measure():
    found = measured(WORLD)
    values = figures(found)
    assert values["reconstruction/psnr"] == values["reconstruction/psnr_objects"] == 100
    assert values["reconstruction/ssim"] == pytest.approx(1)
    for name in ("appearance_legal", "law_legal", "parse_rate", "presence"):
        assert values[f"reconstruction/{name}"] == values[f"originals/{name}"] == 1
    assert {one.n for one in found.results if one.name in RULES} == {CLIPS}
    assert np.array_equal(found.shown["originals"], found.shown["reconstructions"])
    assert found.shown["originals"].shape == (5, 9, 24, 24, 3)


def test_a_blank_ground_scores_as_the_baseline_says_and_draws_no_object():
    values = figures(measured(WORLD, spoil=lambda video: torch.full_like(video, 128 / 127.5 - 1)))
    assert values["reconstruction/psnr"] == pytest.approx(values["baseline/psnr_blank"])
    assert values["reconstruction/psnr_objects"] < values["reconstruction/psnr"] - 5
    assert values["reconstruction/presence"] == values["reconstruction/appearance_legal"] == 0


def test_the_codebook_is_counted_over_all_clips():
    found = measured(WORLD)
    values = figures(found)
    tokens = CLIPS * 3 * 6 * 6
    assert (values["codebook/usage"], values["codebook/tokens"]) == (0.5, tokens)
    assert values["codebook/perplexity"] == pytest.approx(2)
    assert found.histogram == {"counts_sorted": [tokens // 2, tokens // 2], "vocab_size": 4}
    assert values["tokenizer/bits_per_pixel"] == pytest.approx(2 * 3 * 36 / (9 * 24 * 24))
    assert next(one.protocol for one in found.results if one.name == "codebook/usage").startswith(f"{tokens} joint ids")


class Gaussian(Oracle):
    """Its latents were standardised by a mean of 1 and a deviation of 2; before that, means are 3 and the variance is 1."""

    spec = LatentSpec(channels=2, stride=(4, 4, 4), causal=True)
    standardise = SimpleNamespace(inverse=lambda h: h * 2 + 1, std=torch.tensor([2.0, 2.0]))

    def encode(self, video: torch.Tensor) -> Latent:
        grid = self.spec.grid(tuple(video.shape[2:]))
        h = torch.ones(len(video), 2, *grid)
        latent = Latent(
            spec=self.spec, grids=(grid,), num_frames=video.shape[2], z=h, h=h, logvar=torch.full_like(h, -math.log(4))
        )
        latent.video = video
        return latent

    def decode(self, latent: Latent) -> torch.Tensor:
        return latent.video


def test_the_rate_of_a_gaussian_is_its_divergence():
    """Whatever the latents were standardised by: that costs 4.5 nats a channel."""
    found = measure_tokenizer(
        Gaussian(),
        WORLD,
        split="test",
        count=CLIPS,
        batch_size=4,
        shown=1,
        device=torch.device("cpu"),
        precision=contextlib.nullcontext,
    )
    (rate,) = [one for one in found.results if one.name == "tokenizer/bits_per_pixel"]
    assert rate.value == pytest.approx(2 * 3 * 36 * 4.5 / math.log(2) / (9 * 24 * 24))
    assert "divergence" in rate.protocol


class Footage:
    """Data without a ground: the baselines are the clip's mean frame, its last frame, and the frame before each."""

    shape, class_names, fingerprint = (5, 12, 12), (), "footage"

    def __init__(self, still: bool) -> None:
        self.still = still

    def size(self, split: str) -> int:
        return CLIPS

    def clip(self, split: str, index: int, epoch: int = 0) -> dict[str, object]:
        frames = np.random.default_rng([ord(split[1]), index]).integers(0, 256, (5, 12, 12, 3), dtype=np.uint8)
        return {"video": frames[:1].repeat(5, axis=0) if self.still else frames, "label": -1, "source": f"{split}{index}"}


def test_footage_is_held_against_still_frames_and_the_frame_before():
    still, moving = figures(measured(Footage(still=True))), figures(measured(Footage(still=False)))
    assert still["baseline/psnr_mean_frame"] == pytest.approx(100) == still["baseline/psnr_last_frame"]
    assert still["baseline/psnr_frame_before"] == pytest.approx(100)
    # Of independent uniform pixels the mean of five errs by 4/5 of their variance, another frame by twice the variance; the last
    # frame is itself one time in five, which counts as the cap.
    variance = (256**2 - 1) / 12 / 255**2
    assert moving["baseline/psnr_mean_frame"] == pytest.approx(-10 * math.log10(variance * 4 / 5), abs=0.2)
    other = -10 * math.log10(2 * variance)
    assert moving["baseline/psnr_last_frame"] == pytest.approx((4 * other + 100) / 5, abs=0.2)
    assert moving["baseline/psnr_frame_before"] == pytest.approx(other, abs=0.2)
    assert not any(name.startswith("originals/") for name in moving)


def test_the_test_split_is_what_is_measured():
    shown = measured(Footage(still=False)).shown["originals"]
    assert np.array_equal(shown[2], Footage(still=False).clip("test", 2)["video"])


def clips_of(world: Worlds, count: int) -> tuple[np.ndarray, np.ndarray]:
    clips = [world.clip("test", index) for index in range(count)]
    return np.stack([clip["video"] for clip in clips]), np.array([clip["label"] for clip in clips])


def test_samples_are_judged_in_all_and_by_label():
    pixels, labels = clips_of(WORLD, 8)
    wrong = labels.copy()
    wrong[labels == 1] = 0  # the falling ones are asked to bounce
    values = {one.name: (one.value, one.n) for one in measure_samples(pixels, Asked(labels=labels), WORLD)}
    assert values["samples/law_legal"] == (1, 8)
    assert values["samples/law_legal/gravity"] == (1, (labels == 1).sum())
    values = {one.name: (one.value, one.n) for one in measure_samples(pixels, Asked(labels=wrong), WORLD)}
    assert values["samples/law_legal"][0] <= (labels == 0).mean()
    assert "samples/law_legal/gravity" not in values
    assert values["samples/appearance_legal"] == (1, 8)


def test_what_failed_is_counted_by_its_reason():
    pixels, labels = clips_of(WORLD, 8)
    spoilt = pixels.copy()
    spoilt[0, 5:] = 255 - spoilt[0, 5:]  # of the opposite colour
    spoilt[1:3] = 128  # empty
    values = {one.name: one.value for one in measure_samples(spoilt, Asked(labels=labels), WORLD)}
    failed = {name: value for name, value in values.items() if name.startswith("samples/failed")}
    assert failed["samples/failed"] == 3 / 8
    parts = [value for name, value in failed.items() if name != "samples/failed"]
    assert sum(parts) == pytest.approx(3 / 8)
    assert parts[0] == max(parts) == 2 / 8
    assert failed["samples/failed/changes_colour"] == 1 / 8
    clean = {one.name for one in measure_samples(pixels, Asked(labels=labels), WORLD)}
    assert not [name for name in clean if name.startswith("samples/failed/")]


def test_samples_of_an_agent_without_its_actions_are_left_out():
    world = Worlds(frames=9, height=24, width=24, radius=(4.0, 4.5), families=("agent", "bounce"))
    pixels, labels = clips_of(world, 8)
    values = {one.name: one.n for one in measure_samples(pixels, Asked(labels=labels), world)}
    assert values["samples/law_legal"] == (labels == 1).sum()
    assert "samples/law_legal/agent" not in values
    assert measure_samples(pixels[labels == 0], Asked(labels=labels[labels == 0]), world) == []


def test_other_data_has_no_judge():
    pixels = np.zeros((2, 5, 12, 12, 3), np.uint8)
    assert measure_samples(pixels, Asked(labels=np.full(2, -1)), Footage(still=True)) == []


def test_the_nearest_clip_is_the_one_that_was_copied():
    data = Footage(still=False)
    rng = np.random.default_rng(0)
    copies = np.stack([data.clip("train", index)["video"] for index in (4, 1)])
    noisy = np.clip(copies + rng.normal(0, 6, copies.shape), 0, 255).round().astype(np.uint8)
    near, decibel, sources = nearest_clips(noisy, data)
    assert sources == ["train4", "train1"]
    assert np.array_equal(near, copies)
    error = ((noisy / 255.0 - copies / 255.0) ** 2).mean(axis=(1, 2, 3, 4))
    assert decibel == pytest.approx(-10 * np.log10(error))


def test_a_nearest_clip_that_is_of_no_file_is_told_by_its_number():
    world = Worlds(frames=5, height=16, width=16, radius=(3.0, 3.5))
    copies = np.stack([world.clip("train", index)["video"] for index in (7, 2)])
    assert nearest_clips(copies, world, most=10)[2] == ["training clip 7", "training clip 2"]


def test_samples_are_drawn_in_batches_that_continue_one_another():
    asked = []

    def sample(num, shape, label=None, *, first, seed, steps):
        asked.append((num, first, seed, steps, None if label is None else label.tolist()))
        return torch.zeros(num, 3, *shape)

    options = {"shape": (2, 4, 4), "seed": 7, "precision": contextlib.nullcontext, "options": {"steps": 3}}
    model = SimpleNamespace(sample=sample)
    drawn = list(draw_samples(model, asked=Asked(labels=np.array([0, 1, 2, 0, 1])), batch_size=2, **options))
    assert asked == [(2, 0, 7, 3, [0, 1]), (2, 2, 7, 3, [2, 0]), (1, 4, 7, 3, [1])]
    assert [batch.shape for batch in drawn] == [(2, 2, 4, 4, 3)] * 2 + [(1, 2, 4, 4, 3)]
    asked.clear()
    next(draw_samples(model, asked=Asked(labels=np.full(4, -1)), batch_size=2, **options))
    assert asked == [(2, 0, 7, 3, None)]  # and no more than was taken


def test_pixels_survive_the_way_to_video_and_back():
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16, 1).expand(-1, -1, -1, -1, 3)
    assert np.array_equal(to_pixels(to_video(every)), every.numpy())


def test_the_interval_of_a_mean_shrinks_with_the_root_of_n():
    values = np.random.default_rng(0).normal(3, 2, 10_000)
    mean, (low, high) = mean_and_error(values)
    assert mean == pytest.approx(3, abs=0.1)
    assert high - low == pytest.approx(2 * 1.96 * 2 / 100, rel=0.05)
    assert math.isinf(mean_and_error(values[:1])[1][1])


def test_a_metric_with_a_recipe_is_measured(monkeypatch: pytest.MonkeyPatch):
    """How CONTRIBUTING.md adds one, by a recipe and a class; here both stand in for files."""

    class Shift:
        unit, higher_is_better = "px", False

        def __init__(self, *, factor: float = 1.0) -> None:
            self.factor, self.seen = factor, []

        def to(self, device: torch.device) -> Shift:
            return self

        def update(self, video: torch.Tensor, real: torch.Tensor) -> None:
            self.seen += (video - real).mean(dim=(1, 2, 3, 4)).tolist()

        def compute(self) -> torch.Tensor:
            return self.factor * torch.tensor(self.seen).mean()

    from vidgen.evaluation import further, measure, rows

    recipe = {"name": "shift", "factor": 10.0}
    monkeypatch.setattr(rows, "preset_names", lambda group: ("shift",) if group == "metric" else config.preset_names(group))
    for module in (further, measure, rows):
        monkeypatch.setattr(module, "load", lambda group, name: dict(recipe))
    for module in (further, rows):
        monkeypatch.setattr(module, "find", lambda kind, name: Shift)
    monkeypatch.setattr(further, "build", lambda kind, config: Shift(factor=config["factor"]))
    monkeypatch.setattr(rows, "describe", lambda group, name: "How far values are off.")
    found = measured(WORLD, spoil=lambda video: video + 0.02, metrics=["shift"]).results
    (one,) = [one for one in found if one.name == "reconstruction/shift"]
    assert one.value == pytest.approx(0.2, rel=0.1)
    assert (one.n, one.protocol) == (CLIPS, "factor=10.0")
    what = rows.measure("reconstruction/shift")
    assert (what.label, what.unit, what.better, what.meaning) == ("Shift", "px", "lower", "How far values are off.")


def test_samples_are_asked_for_what_the_model_knows():
    """By labels alone in turn; with captions or actions as unseen clips have them."""
    world = Worlds(families=("bounce", "agent"), shapes=("circle", "square"))
    clips = [world.clip("test", index) for index in range(6)]

    def asked(*names):
        return ask(SimpleNamespace(generator=SimpleNamespace(conditioner=SimpleNamespace(names=names))), world, 6)

    by_label = asked("label")
    assert by_label.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert by_label.some(2, 4)["label"].tolist() == [0, 1] and by_label.some(2, 4).keys() == {"label"}
    assert asked().some(0, 6) == {}
    text = asked("text")
    assert text.some(1, 3) == {"text": [clips[1]["caption"], clips[2]["caption"]]}
    assert text.labels.tolist() == [clip["label"] for clip in clips]
    every = asked("label", "text", "action").some(0, 6)
    assert every["label"].tolist() == [clip["label"] for clip in clips]
    assert np.array_equal(every["action"].numpy(), np.stack([clip["actions"] for clip in clips]))


@pytest.mark.parametrize("objects", [1, 2])
def test_following_captions_is_read_from_the_pixels(objects):
    """The clips themselves follow their captions; with the captions of others, as often as those say the same by chance."""
    families = ("bounce", "gravity", "agent")
    world = Worlds(families=families, shapes=("circle", "square"), objects=objects, height=48, width=48, radius=(4, 9))
    clips = [world.clip("val", index) for index in range(24)]
    pixels = np.stack([clip["video"] for clip in clips])
    labels, actions = np.array([clip["label"] for clip in clips]), np.stack([clip["actions"] for clip in clips])

    def shares(texts):
        found = measure_samples(pixels, Asked(labels=labels, texts=texts, actions=actions), world)
        return {one.name: one.value for one in found if "follows" in one.name}

    texts = [clip["caption"] for clip in clips]
    own = shares(texts)
    assert own.keys() == {f"samples/follows_{name}" for name in ("color", "shape", "size", "objects", "motion", "caption")}
    assert min(own.values()) > 0.9
    names = [parse_caption(text) for text in texts]
    others = shares(texts[1:] + texts[:1])
    same = [sorted(one["colors"]) == sorted(next_["colors"]) for one, next_ in zip(names, names[1:] + names[:1], strict=True)]
    assert others["samples/follows_color"] == pytest.approx(np.mean(same), abs=0.05)
    assert others["samples/follows_objects"] < 0.3
