"""The contract of a generator, held by every recipe (shrunk) on continuous latents and on bits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from vidgen import Condition, Latent, UserError, config, hub
from vidgen.protocols import Generator

CLASSES = 3


@pytest.fixture(params=tiny.distinct("tokenizers"))
def tokenizer(request: pytest.FixtureRequest) -> Any:
    built = tiny.tokenizer(request.param).eval()
    built.measure(tiny.videos(built))
    return built


@pytest.fixture(params=tiny.distinct("generators"))
def make(request: pytest.FixtureRequest, tokenizer: Any) -> Callable[..., Any]:
    """Builds the generator with changed options; its weights are not those of the start, where it says nothing."""

    def build(num_classes: int = CLASSES, stir: bool = True, **options: Any) -> Any:
        if lacking := options.keys() - tiny.generator_config(request.param).keys():
            pytest.skip(f"{request.param} has no option {lacking}")
        built = tiny.generator(request.param, tokenizer.space, num_classes, **options)
        return tiny.stirred(built, 0.05) if stir else built

    return build


@pytest.fixture
def generator(make: Callable[..., Any]) -> Any:
    return make()


@pytest.fixture
def latent(tokenizer: Any) -> Latent:
    return tiny.latent(tokenizer)


@pytest.fixture
def shape(tokenizer: Any) -> tuple[int, int, int]:
    return tiny.shape_of(tokenizer)


def forwards(generator: Any) -> list[int]:
    """Fills with the batch size of each pass through the network."""
    seen: list[int] = []
    generator.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    return seen


def test_it_satisfies_the_protocol(generator: Any) -> None:
    assert isinstance(generator, Generator)
    assert set(generator.wants) <= {"z", "h", "logvar", "ids"}


def test_loss_is_finite_and_every_weight_learns(generator: Any, latent: Latent) -> None:
    generator.prepare(latent)
    losses = generator.loss(latent, tiny.labels(0, 1, 2, 0))
    assert bool(torch.isfinite(losses.total))
    losses.total.backward()
    assert [name for name, weight in generator.named_parameters() if weight.grad is None or not weight.grad.any()] == []


def test_sampling_is_a_function_of_the_seed_alone(generator: Any, shape: tuple[int, int, int]) -> None:
    first = generator.sample(3, shape, tiny.labels(0, 1, 2), seed=5)
    torch.manual_seed(1234)
    again = generator.sample(3, shape, tiny.labels(0, 1, 2), seed=5)
    for name, value in first.tensors().items():
        assert torch.equal(value, again.tensors()[name])
    assert not torch.equal(generator.sample(3, shape, tiny.labels(0, 1, 2), seed=6).h, first.h)


def test_samples_continue_one_another(generator: Any, shape: tuple[int, int, int]) -> None:
    """Sample i is a function of (seed, first + i): two batches that overlap agree where they do, and only there."""
    a = generator.sample(2, shape, tiny.labels(1, 1), seed=5, first=10)
    b = generator.sample(2, shape, tiny.labels(1, 1), seed=5, first=11)
    torch.testing.assert_close(a.z[1], b.z[0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(a.z[0], b.z[0], rtol=0.1, atol=0.1)


@pytest.mark.parametrize("options", [{}, {"solver": "euler"}, {"solver": "heun"}, {"solver": "sde"}])
def test_samples_do_not_depend_on_their_batch(
    make: Callable[..., Any], tokenizer: Any, shape: tuple[int, int, int], options: dict[str, str]
) -> None:
    """In float64, to 1e-12, at any split."""
    tokenizer.double()  # whose bottleneck makes legal latents of what is drawn
    generator = make(**options).double()
    whole = generator.sample(4, shape, tiny.labels(0, 1, 2, 0), seed=5)
    assert whole.z.dtype == torch.float64
    parts = [
        generator.sample(1, shape, tiny.labels(0), seed=5),
        generator.sample(3, shape, tiny.labels(1, 2, 0), seed=5, first=1),
    ]
    torch.testing.assert_close(torch.cat([part.z for part in parts]), whole.z, rtol=0, atol=1e-12)


def test_a_sample_is_a_legal_latent(generator: Any, tokenizer: Any, shape: tuple[int, int, int]) -> None:
    sample = generator.sample(2, shape, tiny.labels(0, 1))
    assert sample.grids == tokenizer.spec.grids(shape)
    assert (sample.num_frames, sample.start, len(sample)) == (shape[0], 0, 2)
    assert bool(torch.isfinite(sample.z).all())
    assert not sample.z.requires_grad
    if tokenizer.spec.levels is not None:
        assert torch.equal(tokenizer.space.embed(sample.ids, sample.grids), sample.z)
    assert tokenizer.decode(sample).shape == (2, 3, *shape)


def test_lengths_that_do_not_fill_the_last_cell_are_trimmed(generator: Any, tokenizer: Any, shape: tuple[int, int, int]) -> None:
    short = (shape[0] - 1, *shape[1:])
    sample = generator.sample(1, short)
    assert sample.num_frames == shape[0] - 1
    assert tokenizer.decode(sample).shape == (1, 3, *short)


def test_a_window_that_starts_later_has_no_one_frame_cell(generator: Any, tokenizer: Any, shape: tuple[int, int, int]) -> None:
    stride = tokenizer.spec.stride[0]
    window = (2 * stride, *shape[1:])
    sample = generator.sample(2, window, start=3)
    assert (sample.start, sample.grids[-1][0], sample.num_frames) == (3, 2, 2 * stride)
    assert tokenizer.decode(sample).shape == (2, 3, *window)
    assert not torch.equal(generator.sample(2, window, start=5).h, sample.h)  # never the same noise


def test_it_trains_on_windows_that_start_later(generator: Any, tokenizer: Any, latent: Latent) -> None:
    if tokenizer.spec.clip is not None:
        pytest.skip("a pyramid that grows in time is cut by whole clips")
    window = latent.cells(1, 3)
    assert window.start == 1
    assert bool(torch.isfinite(generator.loss(window, tiny.labels(0, 1, 2, 0)).total))
    assert bool(torch.isfinite(generator.validation_loss(window)))


def test_guidance_scale_1_is_no_guidance_and_costs_one_forward(make: Callable[..., Any], shape: tuple[int, int, int]) -> None:
    generator = make()
    seen = forwards(generator)
    plain = generator.sample(2, shape, tiny.labels(0, 1), guidance_scale=1.0)
    steps = len(seen)
    assert sum(seen) == 2 * steps
    seen.clear()
    guided = generator.sample(2, shape, tiny.labels(0, 1), guidance_scale=1.0 + 1e-9)
    assert sum(seen) == 2 * 2 * steps
    torch.testing.assert_close(guided.z, plain.z, rtol=1e-4, atol=1e-4)


def test_guidance_scale_0_is_the_unconditional(generator: Any, shape: tuple[int, int, int]) -> None:
    zero = generator.sample(2, shape, tiny.labels(0, 1), guidance_scale=0.0)
    torch.testing.assert_close(zero.z, generator.sample(2, shape).z, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(zero.z, generator.sample(2, shape, tiny.labels(-1, -1)).z, rtol=1e-4, atol=1e-4)


def test_guidance_without_labels_changes_nothing(make: Callable[..., Any], shape: tuple[int, int, int]) -> None:
    generator = make(num_classes=0)
    assert torch.equal(generator.sample(1, shape, guidance_scale=4.0).z, generator.sample(1, shape).z)


def test_temperature_0_takes_all_chance_away(generator: Any, shape: tuple[int, int, int]) -> None:
    seeds = [generator.sample(1, shape, tiny.labels(1), temperature=0.0, seed=seed).h for seed in (0, 1)]
    torch.testing.assert_close(*seeds)


def test_steps_may_be_chosen_in_the_call(generator: Any, shape: tuple[int, int, int]) -> None:
    counts = []
    seen = forwards(generator)
    for steps in (1, 4):
        seen.clear()
        generator.sample(1, shape, steps=steps)
        counts.append(len(seen))
    assert counts[0] < counts[1]


@pytest.mark.parametrize("name", tiny.distinct("generators"))
@pytest.mark.parametrize("quantizer", [{"name": "kl", "channels": 4}, {"name": "lfq", "bits": 4}], ids=lambda one: one["name"])
def test_after_a_few_steps_the_loss_has_fallen_and_samples_are_of_their_labels(name: str, quantizer: dict[str, Any]) -> None:
    """Two clips, all of one and all of minus one, each with its own label."""
    space = tiny.tokenizer("kl", quantizer=quantizer).space
    generator = tiny.generator(name, space, num_classes=2, label_dropout=0.0, steps=8)
    shape = space.spec.frames(2), 2 * space.spec.stride[1], 2 * space.spec.stride[2]
    ones = torch.ones(1, space.h_channels, 2, 2, 2)
    latent, condition = space.project(torch.cat([ones, -ones] * 8)), tiny.labels(*[0, 1] * 8)
    optimizer = torch.optim.Adam(generator.parameters(), lr=5e-3)
    before = float(generator.validation_loss(latent, condition))
    for _ in range(200):
        optimizer.zero_grad()
        generator.loss(latent, condition).total.backward()
        optimizer.step()
    assert float(generator.validation_loss(latent, condition)) < 0.3 * before
    drawn = generator.sample(16, shape, condition, seed=1).h.mean(dim=(1, 2, 3, 4))
    assert (drawn > 0).tolist() == [True, False] * 8


@pytest.mark.parametrize("dropout", [0.0, 0.3, 1.0])
def test_that_fraction_of_labels_is_dropped(make: Callable[..., Any], dropout: float) -> None:
    generator = make(label_dropout=dropout)
    label = torch.arange(20_000) % CLASSES
    seen: list[Tensor] = []
    generator.label.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    h = torch.zeros(len(label), generator.space.h_channels, 1, 2, 2)
    latent = Latent(spec=generator.space.spec, grids=((1, 2, 2),), num_frames=1, h=h)
    with torch.no_grad():
        generator.loss(latent, Condition(label=label))
    assert float((seen[0] < 0).float().mean()) == pytest.approx(dropout, abs=0.015)
    assert bool(((seen[0] < 0) | (seen[0] == label)).all())
    assert torch.equal(label, torch.arange(20_000) % CLASSES)  # the caller's own labels are as they were


def test_a_copy_shares_the_space_and_saves_nothing_of_the_tokenizer(generator: Any, tokenizer: Any) -> None:
    other = copy.deepcopy(generator)
    assert other.space is generator.space
    theirs = {id(value) for value in [*tokenizer.parameters(), *tokenizer.buffers()]}
    assert not theirs & {id(value) for value in [*generator.parameters(), *generator.buffers()]}
    assert not any("space" in key or "quantizer" in key or "standardise" in key for key in generator.state_dict())


def test_weights_round_trip(make: Callable[..., Any], shape: tuple[int, int, int]) -> None:
    generator, other = make(), make(stir=False)
    other.load_state_dict(generator.state_dict())
    assert torch.equal(other.sample(1, shape).z, generator.sample(1, shape).z)


def test_validation_loss_is_the_same_every_time(generator: Any, latent: Latent) -> None:
    """It neither reads nor moves the global generator."""
    condition = tiny.labels(0, 1, 2, 0)
    first = generator.validation_loss(latent, condition)
    torch.manual_seed(77)
    before = torch.random.get_rng_state()
    assert torch.equal(generator.validation_loss(latent, condition), first)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not first.requires_grad


@pytest.mark.parametrize("cells", [(1, 3, 2), (3, 2, 1)])
def test_a_grid_that_the_patch_does_not_divide_is_filled_and_cut(
    make: Callable[..., Any], tokenizer: Any, cells: tuple[int, int, int]
) -> None:
    generator = make(patch=(2, 2, 2))
    latent = tiny.latent(tokenizer, cells=cells)
    assert generator(latent.h, torch.rand(len(latent))).shape == latent.h.shape
    assert generator.loss(latent).total.isfinite()
    assert generator.sample(1, tiny.shape_of(tokenizer, cells), start=3).grids[-1][1:] == cells[1:]


@pytest.mark.parametrize("options", [{"solver": "eular"}, {"prediction": "V"}])
def test_words_that_it_does_not_know_are_refused_at_once(make: Callable[..., Any], options: dict[str, str]) -> None:
    ((option, word),) = options.items()
    with pytest.raises(UserError, match=f"no {option} '{word}'. Did you mean"):
        make(**options)


@pytest.mark.parametrize(("name", "millions"), [("dit_s", 33), ("dit_b", 130), ("dit_l", 458), ("dit_xl", 675)])
def test_recipes_of_the_paper_s_size_have_it(name: str, millions: float) -> None:
    """With the paper's four channels and 1000 classes, without memory for their weights."""
    with torch.device("meta"):
        space = tiny.tokenizer("kl", quantizer={"name": "kl", "channels": 4}).space
        generator = hub.build_generator(config.load("generator", name), space=space, num_classes=1000)
    assert sum(weight.numel() for weight in generator.parameters()) / 1e6 == pytest.approx(millions, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", tiny.distinct("generators"))
@pytest.mark.parametrize("tokens", tiny.distinct("tokenizers"))
def test_it_can_learn_four_clips_by_heart(name: str, tokens: str, tmp_path: Path) -> None:
    """Its samples are those clips: each is much nearer to one of them than they are to one another, and all four are drawn.

    By the whole of training, from the cache to the average that is kept.
    """
    tokenizer = tiny.tokenizer(tokens).eval()
    tokenizer.measure(tiny.videos(tokenizer))
    cache = tiny.latent_cache(tokenizer, tmp_path / "latents", count=4)
    start = tiny.generator(name, tokenizer.space, width=96, depth=3, steps=40, label_dropout=0.0)  # a token has up to 72 values
    training = tiny.generator_training(
        name, tokenizer, cache, start=start, steps=600, batch_size=16, lr=2e-3, muon_lr=0.02, ema=0.98
    )
    average = training.run(tmp_path, log_every=100, checkpoint_every=600).average
    known = cache.read(range(4))[0].h.flatten(1)
    distance = torch.cdist(average.sample(48, tiny.shape_of(tokenizer), seed=1).h.flatten(1), known)
    apart = torch.cdist(known, known)[~torch.eye(4, dtype=torch.bool)].min()
    assert float(distance.amin(1).mean()) < 0.15 * float(apart)
    assert set(distance.argmin(1).tolist()) == {0, 1, 2, 3}


@pytest.mark.slow
def test_compiled_it_gives_the_same(make: Callable[..., Any], latent: Latent) -> None:
    generator = make()
    compiled = torch.compile(generator)
    t, condition = torch.rand(len(latent)), tiny.labels(0, 1, 2, -1)
    torch.testing.assert_close(compiled(latent.h, t, condition), generator(latent.h, t, condition), rtol=1e-4, atol=1e-4)
