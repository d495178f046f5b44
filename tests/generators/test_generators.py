"""The contract of a generator, held by every recipe (shrunk) on latents of every kind; each has tests of its own beside these."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from vidgen import Condition, Latent, UserError, config, hub, registry
from vidgen.protocols import Generator
from vidgen.routes import fitted, kind

CLASSES = 3
KINDS = ("kl", "lfq", "residual", "pyramid_clip")
"""Tokenizers of continuous latents, of bits, of ids in stages, and of a pyramid with clips."""


def pairs() -> list[Any]:
    """Every generator on continuous latents and bits, on ids or a pyramid in turns; its other recipes once. The rest is slow."""
    recipes, parts = tiny.distinct("generators"), sorted(registry.parts("generators"))
    fast = {(name, tokens) for name in parts for tokens in KINDS[:2]} | {(name, KINDS[2 + i % 2]) for i, name in enumerate(parts)}
    others = [name for name in recipes if name not in parts]
    fast |= {(name, next(tokens for tokens in (*KINDS[i % 2 :], *KINDS) if fits(name, tokens))) for i, name in enumerate(others)}
    return [
        pytest.param((name, tokens), id=f"{name}-{tokens}", marks=() if (name, tokens) in fast else pytest.mark.slow)
        for name in recipes
        for tokens in tiny.distinct("tokenizers")
        if fits(name, tokens)
    ]


def fits(generator: str, tokens: str) -> bool:
    """Whether the head that a recipe names is one of these latents: most leave it to the latents."""
    head = config.load("generator", generator).get("head", {}).get("name", "auto")
    return head == "auto" or (head == "flow") == (kind(config.load("tokenizer", tokens)) == "continuous")


def tokenizer_for(generator: str, tokens: str, **overrides: Any) -> Any:
    """The tokenizer as the generator needs it: with scales where it goes from coarse to fine."""
    recipe = tiny.shrunk(config.load("tokenizer", tokens)) | overrides
    part = config.load("generator", generator)["name"]
    return tiny.stirred(hub.build_tokenizer(fitted(recipe, part))).eval()


@pytest.fixture(params=pairs())
def pair(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.fixture
def tokenizer(pair: tuple[str, str]) -> Any:
    built = tokenizer_for(*pair)
    built.measure(tiny.videos(built))
    return built


@pytest.fixture
def latent(tokenizer: Any) -> Latent:
    return tiny.latent(tokenizer)


@pytest.fixture
def make(pair: tuple[str, str], tokenizer: Any, latent: Latent) -> Callable[..., Any]:
    """Builds the generator with changed options; its weights are not those of the start, where it says nothing."""

    def build(num_classes: int = CLASSES, stir: bool = True, vocabulary: tuple[str, ...] = (), **options: Any) -> Any:
        recipe = tiny.generator_config(pair[0], **options)
        built = hub.build_generator(recipe, space=tokenizer.space, num_classes=num_classes, vocabulary=vocabulary)
        built.prepare(latent)
        return tiny.stirred(built, 0.05).eval() if stir else built.eval()

    return build


@pytest.fixture
def generator(make: Callable[..., Any]) -> Any:
    return make()


@pytest.fixture
def precise(make: Callable[..., Any], tokenizer: Any, pair: tuple[str, str]) -> Any:
    """In float64, so that nothing hangs on a rounding, and guided alike in every step and in all that it predicts."""
    tokenizer.double()
    return make(**guided_alike(pair[0])).double()


def guided_alike(name: str) -> dict[str, Any]:
    """Options by which all that a generator predicts is guided, in every step: a variance never is."""
    own = {"learned_sigma": False} if "learned_sigma" in tiny.generator_config(name) else {}
    return {"guidance_schedule": "constant", **own}


@pytest.fixture
def shape(tokenizer: Any) -> tuple[int, int, int]:
    return tiny.shape_of(tokenizer)


def batches(generator: Any) -> list[int]:
    """Fills with the batch size of each pass through the trunk."""
    seen: list[int] = []
    generator.trunk.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    return seen


def same(one: Latent, other: Latent) -> bool:
    """Whether all fields are, to the bit."""
    theirs = other.tensors()
    return one.tensors().keys() == theirs.keys() and all(
        torch.equal(value, theirs[name]) for name, value in one.tensors().items()
    )


def test_it_satisfies_the_protocol(generator: Any, latent: Latent) -> None:
    assert isinstance(generator, Generator)
    assert set(generator.wants) <= {"z", "h", "logvar", "ids"}
    assert set(generator.wants) - {"logvar"} <= latent.tensors().keys()


def test_loss_is_finite_and_every_weight_learns(make: Callable[..., Any], latent: Latent) -> None:
    generator = make().train()
    losses = generator.loss(latent, tiny.labels(0, 1, 2, 0))
    assert bool(torch.isfinite(losses.total))
    losses.total.backward()
    learning = [(name, weight.grad) for name, weight in generator.named_parameters() if weight.requires_grad]
    assert [name for name, grad in learning if grad is None or not grad.any()] == []


def test_its_loss_goes_through_what_is_compiled(make: Callable[..., Any], latent: Latent) -> None:
    """``compile`` is of the call: a loss that goes around it would be as slow as before."""
    generator, calls = make().train(), []
    generator.register_forward_hook(lambda *call: calls.append(call))
    generator.loss(latent, tiny.labels(0, 1, 2, 0))
    assert len(calls) == 1


def test_sampling_is_a_function_of_the_seed_alone(generator: Any, shape: tuple[int, int, int]) -> None:
    first = generator.sample(3, shape, tiny.labels(0, 1, 2), seed=5)
    torch.manual_seed(1234)
    before = torch.random.get_rng_state()
    assert same(generator.sample(3, shape, tiny.labels(0, 1, 2), seed=5), first)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.equal(generator.sample(3, shape, tiny.labels(0, 1, 2), seed=6).z, first.z)


def test_samples_continue_one_another(generator: Any, shape: tuple[int, int, int]) -> None:
    """Sample i is a function of (seed, first + i): two batches that overlap agree where they do, and only there."""
    a = generator.sample(2, shape, tiny.labels(1, 1), seed=5, first=10)
    b = generator.sample(2, shape, tiny.labels(1, 1), seed=5, first=11)
    torch.testing.assert_close(a.z[1], b.z[0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(a.z[0], b.z[0], rtol=0.1, atol=0.1)


def test_samples_do_not_depend_on_their_batch(make: Callable[..., Any], tokenizer: Any, shape: tuple[int, int, int]) -> None:
    """In float64, to 1e-12, at any split."""
    tokenizer.double()  # whose bottleneck makes legal latents of what is drawn
    generator = make().double()
    whole = generator.sample(4, shape, tiny.labels(0, 1, 2, 0), seed=5)
    assert whole.z.dtype == torch.float64 or whole.ids is not None  # the z of ids is that of their table, if they have one
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
    assert (sample.start, sample.full_grid[0], sample.num_frames) == (3, 2, 2 * stride)
    assert tokenizer.decode(sample).shape == (2, 3, *window)
    assert not torch.equal(generator.sample(2, window, start=5).z, sample.z)  # never the same noise


def test_an_image_is_a_clip_of_one_cell(generator: Any, tokenizer: Any, latent: Latent, shape: tuple[int, int, int]) -> None:
    if not tokenizer.spec.causal:
        pytest.skip("to this tokenizer an image is no clip")
    image = generator.sample(2, (1, *shape[1:]), tiny.labels(0, 1))
    assert image.full_grid[0] == 1
    assert tokenizer.decode(image).shape == (2, 3, 1, *shape[1:])
    if tokenizer.spec.clip is None:
        assert bool(generator.loss(latent.cells(0, 1), tiny.labels(0, 1, 2, 0)).total.isfinite())


def test_it_trains_on_windows_that_start_later(generator: Any, tokenizer: Any, latent: Latent) -> None:
    if tokenizer.spec.clip is not None:
        pytest.skip("a pyramid that grows in time is cut by whole clips")
    window = latent.cells(1, 3)
    assert window.start == 1
    assert bool(torch.isfinite(generator.loss(window, tiny.labels(0, 1, 2, 0)).total))
    assert bool(torch.isfinite(generator.validation_loss(window)))


def test_guidance_scale_1_is_no_guidance_and_costs_one_forward(precise: Any, shape: tuple[int, int, int]) -> None:
    generator = precise
    seen = batches(generator)
    plain = generator.sample(2, shape, tiny.labels(0, 1), guidance_scale=1.0)
    passes = len(seen)
    assert set(seen) == {2}
    seen.clear()
    guided = generator.sample(2, shape, tiny.labels(0, 1), guidance_scale=1.0 + 1e-9)
    assert set(seen) == {4}
    assert len(seen) == passes
    torch.testing.assert_close(guided.z, plain.z, rtol=1e-6, atol=1e-6)


def test_guidance_scale_0_is_the_unconditional(precise: Any, shape: tuple[int, int, int]) -> None:
    zero = precise.sample(2, shape, tiny.labels(0, 1), guidance_scale=0.0)
    torch.testing.assert_close(zero.z, precise.sample(2, shape).z, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(zero.z, precise.sample(2, shape, tiny.labels(-1, -1)).z, rtol=1e-9, atol=1e-9)


def test_guidance_outside_of_its_interval_is_none(make: Callable[..., Any], shape: tuple[int, int, int]) -> None:
    generator = make(guidance_schedule="constant", guidance_interval=(0.001, 0.002))
    seen = batches(generator)
    outside = generator.sample(2, shape, tiny.labels(0, 1), guidance_scale=5.0)
    assert set(seen) == {2}
    assert same(outside, generator.sample(2, shape, tiny.labels(0, 1), guidance_scale=1.0))


def test_guidance_without_labels_changes_nothing(make: Callable[..., Any], shape: tuple[int, int, int]) -> None:
    generator = make(num_classes=0)
    assert same(generator.sample(1, shape, guidance_scale=4.0), generator.sample(1, shape))


def test_separate_scales_for_separate_conditions(make: Callable[..., Any], tokenizer: Any, pair: tuple[str, str]) -> None:
    """Equal scales are one, and unlike ones another law; a scale of 0 for what comes last is as if it were not told."""
    tokenizer.double()
    parts = {name: tiny.shrunk(config.load("generator/conditioning", name)) for name in ("label", "text")}
    generator = make(conditioning=parts, vocabulary=("a", "red", "ball"), **guided_alike(pair[0])).double()
    label, both = tiny.labels(0, 1), replace(tiny.labels(0, 1), text=["a red ball", "ball"])
    seen = batches(generator)

    def drawn(condition: Condition, **scale: float) -> Tensor:
        seen.clear()
        return generator.sample(2, tiny.shape_of(tokenizer, (2, 2, 2)), condition, guidance_scale=scale or 2.5, seed=1).z

    one = drawn(both)
    assert set(seen) == {4}
    assert torch.equal(drawn(both, label=2.5, text=2.5), one)
    assert set(seen) == {4}
    torch.testing.assert_close(drawn(both, label=2.5, text=2.5 + 1e-9), one, rtol=1e-6, atol=1e-6)
    assert set(seen) == {6}
    torch.testing.assert_close(drawn(both, label=2.5, text=0.0), drawn(label), rtol=1e-6, atol=1e-6)
    assert not torch.allclose(drawn(both, label=300.0, text=-200.0), one)


@pytest.mark.parametrize(("option", "word"), [("guidance_schedule", "cosin"), ("guidance_interval", (0.5, 0.2))])
def test_guidance_that_cannot_be_is_refused(make: Callable[..., Any], option: str, word: Any) -> None:
    with pytest.raises(UserError, match=option):
        make(**{option: word})


def test_what_it_was_not_trained_with_is_refused(generator: Any, shape: tuple[int, int, int]) -> None:
    with pytest.raises(UserError, match="not trained with 'text'"):
        generator.sample(1, shape, Condition(text=["a ball"]))
    with pytest.raises(UserError, match="Labels go from 0 to 2, and 3 is not one of them"):
        generator.sample(1, shape, tiny.labels(CLASSES))


def test_temperature_0_takes_all_chance_away(generator: Any, shape: tuple[int, int, int]) -> None:
    seeds = [generator.sample(1, shape, tiny.labels(1), temperature=0.0, seed=seed).z for seed in (0, 1)]
    torch.testing.assert_close(*seeds)


def given(latent: Latent, mask: list[list[bool]], **others: Any) -> Condition:
    return Condition(known=latent[: len(mask)], known_mask=torch.tensor(mask), **others)


FAR = {"label": {"dropout": 0.1}, "frames": {"spread": 1.0}}
"""Conditioning of a generator that makes windows whose cells lie apart."""


@pytest.fixture
def spread(tokenizer: Any) -> tuple[Latent, Condition]:
    """Cell 0 and others that lie apart, of pyramids that grow in time a clip that does, and the condition that says so."""
    size = tokenizer.spec.clip or 1
    places = (0, 2, 4) if size == 1 else (0, *range(1 + size, 1 + 2 * size))
    whole = tiny.latent(tokenizer, batch=2, cells=(places[-1] + 1, 4, 2))
    return whole.at(places), replace(tiny.labels(0, 1), places=places)


def test_cells_that_follow_one_another_are_a_plain_window(make: Callable[..., Any], shape: tuple[int, int, int]) -> None:
    generator = make(conditioning=FAR)
    told = tiny.labels(0, 1)
    plain = generator.sample(2, shape, told, seed=5)
    assert same(generator.sample(2, shape, replace(told, places=(0, 1, 2)), seed=5), plain)


def test_a_window_of_cells_that_lie_apart(make: Callable[..., Any], spread: tuple[Latent, Condition], tokenizer: Any) -> None:
    """Noise of its own, the same in any batch; given cells come back; and it is refused by who was not trained so."""
    tokenizer.double()
    latent, told = spread
    generator, size = make(conditioning=FAR).double(), (latent.num_frames, *tiny.shape_of(tokenizer)[1:])
    sample = generator.sample(2, size, told, seed=5)
    assert (sample.grids, sample.num_frames, sample.start) == (latent.grids, latent.num_frames, 0)
    near = generator.sample(2, size, replace(told, places=None), seed=5)
    further = replace(told, places=(0, *(place + latent.full_grid[0] for place in told.places[1:])))
    assert not any(torch.equal(sample.z, other.z) for other in (near, generator.sample(2, size, further, seed=5)))
    torch.testing.assert_close(generator.sample(1, size, told[1:], first=1, seed=5).z, sample.z[1:], rtol=0, atol=1e-12)
    mask = torch.zeros(2, latent.full_grid[0], dtype=torch.bool)
    mask[:, 0] = True
    given_first = generator.sample(2, size, replace(told, known=latent, known_mask=mask), seed=5)
    assert torch.equal(given_first.z[:, :, 0], latent.z[:, :, 0])
    assert not torch.equal(given_first.z[:, :, 1:], latent.z[:, :, 1:])
    with pytest.raises(UserError, match=r"not trained on windows whose cells lie apart: train one with .*spread=0\.5"):
        make().sample(2, size, told)
    with pytest.raises(UserError, match="of which the first is cell 0"):
        generator.sample(2, size, replace(told, places=told.places[1:]))


def test_its_loss_knows_where_cells_lie(make: Callable[..., Any], spread: tuple[Latent, Condition], tokenizer: Any) -> None:
    """And training draws such windows of whole clips by itself."""
    latent, told = spread
    generator, losses = make(conditioning={**FAR, "frames": {"spread": 0.0}}), []
    for places in (told.places, None):
        torch.manual_seed(0)
        losses.append(generator.loss(latent, replace(told, places=places)).total)
    assert not torch.equal(*losses)
    generator = make(conditioning=FAR).train()
    seen: list[int] = []
    generator.trunk.register_forward_pre_hook(lambda _, passed: seen.append(passed[0].shape[1]))
    whole = tiny.latent(tokenizer, cells=(1 + 4 * (tokenizer.spec.clip or 1), 2, 2))
    for step in range(6):
        torch.manual_seed(step)
        assert bool(generator.loss(whole, tiny.labels(0, 1, 2, 0)).total.isfinite())
    assert len(set(seen)) > 1


@pytest.mark.parametrize("mask", [[[True, False, False]] * 2, [[True, True, True]] * 2, [[False] * 3, [True, False, False]]])
def test_given_cells_come_back_to_the_bit(
    generator: Any, latent: Latent, shape: tuple[int, int, int], mask: list[list[bool]]
) -> None:
    sample = generator.sample(2, shape, given(latent, mask))
    flags = torch.tensor(mask)[:, None, :, None, None]
    for name in ("z", "h"):
        known, made = getattr(latent[:2], name), getattr(sample, name)
        if made is not None:
            assert torch.equal(torch.where(flags, known, 0), torch.where(flags, made, 0))
    if sample.ids is not None and all(map(all, mask)):
        assert torch.equal(sample.ids, latent[:2].ids)
    assert bool(sample.z.isfinite().all())


def test_what_is_generated_depends_on_what_is_given(
    make: Callable[..., Any], pair: tuple[str, str], latent: Latent, shape: tuple[int, int, int]
) -> None:
    """At one of several sizes of its weights: what is rounded to codes hides small differences, and large weights are deaf."""
    heard = {"steps": 12, "prediction": "v"}  # of predicted noise, what is left at the first steps' levels drowns all else
    generator = make(**{option: value for option, value in heard.items() if option in tiny.generator_config(pair[0])})
    mask, different = [[True, False, False]] * 4, []
    for stir in (0.0, 0.05, 0.1):
        tiny.stirred(generator, stir)
        samples = [generator.sample(4, shape, given(cells, mask), seed=2).z for cells in (latent, latent[[1, 2, 3, 0]])]
        different.append(not torch.equal(samples[0][:, :, 1:], samples[1][:, :, 1:]))
    assert any(different)


def test_given_cells_of_another_window_are_refused(generator: Any, latent: Latent, shape: tuple[int, int, int]) -> None:
    with pytest.raises(UserError, match="window"):
        generator.sample(2, (shape[0], shape[1] * 2, shape[2]), given(latent, [[True, False, False]] * 2))


@pytest.mark.parametrize("name", sorted(registry.parts("generators")))
@pytest.mark.parametrize("quantizer", [{"name": "kl", "channels": 4}, {"name": "lfq", "bits": 4}], ids=lambda one: one["name"])
def test_after_a_few_steps_the_loss_has_fallen_and_samples_are_of_their_labels(name: str, quantizer: dict[str, Any]) -> None:
    """Two clips, all of one and all of minus one, each with its own label."""
    recipe = config.load("tokenizer", "lfq", {"quantizer": quantizer["name"]})
    full = tiny.shrunk(recipe["quantizer"]) | quantizer
    tokenizer = tokenizer_for(name, "lfq", quantizer=full)
    tokenizer.measure(tiny.videos(tokenizer))
    space = tokenizer.space
    undisturbed = {"noise": 0.0} if "noise" in tiny.generator_config(name) else {}  # which keeps a loss from falling
    generator = tiny.generator(name, space, num_classes=2, conditioning={"label": {"dropout": 0.0}}, **undisturbed)
    shape = space.spec.frames(2), 2 * space.spec.stride[1], 2 * space.spec.stride[2]
    ones = torch.ones(1, space.h_channels, 2, 2, 2)
    latent, condition = space.project(torch.cat([ones, -ones] * 8)), tiny.labels(*[0, 1] * 8)
    generator.prepare(latent)
    optimizer = torch.optim.Adam(generator.parameters(), lr=5e-3)
    before = float(generator.validation_loss(latent, condition))
    for _ in range(200):
        optimizer.zero_grad()
        generator.loss(latent, condition).total.backward()
        optimizer.step()
    assert float(generator.validation_loss(latent, condition)) < 0.3 * before
    drawn = generator.sample(16, shape, condition, seed=1).z
    apart = [(drawn - latent.z[label]).square().mean(dim=(1, 2, 3, 4)) for label in (0, 1)]
    assert (apart[0] > apart[1]).long().tolist() == [0, 1] * 8


@pytest.mark.parametrize("dropout", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", sorted(registry.parts("generators")))
def test_that_fraction_of_labels_is_dropped(name: str, dropout: float) -> None:
    generator = tiny.generator(
        name, tokenizer_for(name, "kl").space, CLASSES, conditioning={"label": {"dropout": dropout}}, depth=1, width=8
    )
    label = torch.arange(4000) % CLASSES
    seen: list[Tensor] = []
    generator.conditioner.parts["label"].embedding.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    h = torch.zeros(len(label), generator.space.h_channels, 1, 2, 2)
    latent = Latent(spec=generator.space.spec, grids=((1, 2, 2),), num_frames=1, h=h, z=h)
    with torch.no_grad():
        generator.loss(latent, Condition(label=label))
    assert float((seen[0] < 0).float().mean()) == pytest.approx(dropout, abs=0.03)
    assert bool(((seen[0] < 0) | (seen[0] == label)).all())
    assert torch.equal(label, torch.arange(4000) % CLASSES)  # the caller's own labels are as they were


def test_a_copy_shares_the_space_and_saves_nothing_of_the_tokenizer(generator: Any, tokenizer: Any) -> None:
    other = copy.deepcopy(generator)
    assert other.space is generator.space
    theirs = {id(value) for value in [*tokenizer.parameters(), *tokenizer.buffers()]}
    assert not theirs & {id(value) for value in [*generator.parameters(), *generator.buffers()]}
    assert not any("space" in key or "quantizer" in key or "standardise" in key for key in generator.state_dict())


def test_weights_round_trip(make: Callable[..., Any], shape: tuple[int, int, int]) -> None:
    generator, other = make(), make(stir=False)
    other.load_state_dict(generator.state_dict())
    assert same(other.sample(1, shape), generator.sample(1, shape))


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
def test_sizes_that_it_has_not_seen(generator: Any, tokenizer: Any, cells: tuple[int, int, int]) -> None:
    latent = tiny.latent(tokenizer, cells=cells)
    assert bool(generator.loss(latent).total.isfinite())
    assert generator.sample(1, tiny.shape_of(tokenizer, cells)).full_grid == cells


@pytest.mark.parametrize("option", ["width", "depth", "heads"])
def test_sizes_below_1_are_refused(make: Callable[..., Any], option: str) -> None:
    with pytest.raises(UserError, match=rf"^{option}=0 makes no .*: give {option}=1 or more\.$"):
        make(**{option: 0})


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(registry.parts("generators")))
@pytest.mark.parametrize("tokens", tiny.distinct("tokenizers"))
def test_it_can_learn_four_clips_by_heart(name: str, tokens: str, tmp_path: Path) -> None:
    """Its samples are those clips: each is much nearer to one of them than they are to one another, and all four are drawn.

    By the whole of training, from the cache to the average that is kept.
    """
    tokenizer = tokenizer_for(name, tokens)
    tokenizer.measure(tiny.videos(tokenizer))
    own = tiny.generator_config(name)
    more = {"steps": 40} if "steps" in own else {}
    start = tiny.generator(name, tokenizer.space, width=96, depth=3, conditioning={}, **more)  # a token has up to 72 values
    cache = tiny.latent_cache(tokenizer, tmp_path / "latents", count=4, wants=start.wants)
    start.prepare(cache.read(range(4))[0])
    training = tiny.generator_training(
        name, tokenizer, cache, start=start, steps=600, batch_size=16, lr=2e-3, muon_lr=0.02, ema=0.98
    )
    average = training.run(tmp_path, log_every=100, checkpoint_every=600).average
    known = cache.read(range(4))[0]
    if known.ids is not None:  # of ids the cache keeps nothing else
        z = tokenizer.space.embed(known.ids, known.grids).flatten(1)
    else:
        z = (known.z if known.z is not None else tokenizer.space.project(known.h).z).flatten(1)
    distance = torch.cdist(average.sample(48, tiny.shape_of(tokenizer), seed=1).z.flatten(1), z)
    apart = torch.cdist(z, z)[~torch.eye(4, dtype=torch.bool)].min()
    assert float(distance.amin(1).mean()) < 0.15 * float(apart)
    assert set(distance.argmin(1).tolist()) == {0, 1, 2, 3}


@pytest.mark.slow
@pytest.mark.parametrize("tokens", KINDS[:2])
@pytest.mark.parametrize("name", registry.parts("generators"))
def test_compiled_it_gives_the_same(name: str, tokens: str) -> None:
    """As training compiles it: the network within the loss; loss, gradients and the loss of validation."""
    from torch._inductor.compile_fx import compile_fx

    tokenizer = tokenizer_for(name, tokens)
    tokenizer.measure(tiny.videos(tokenizer))
    latent, graphs = tiny.latent(tokenizer), []
    plain = tiny.generator(name, tokenizer.space, CLASSES)
    plain.prepare(latent)
    tiny.stirred(plain, 0.05)

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return compile_fx(graph, inputs)

    compiled = copy.deepcopy(plain)
    compiled.compile(backend=backend)
    for generator in (plain, compiled):
        torch.manual_seed(3)
        generator.found = generator.loss(latent, tiny.labels(0, 1, 2, -1)).total
        generator.found.backward()
    assert graphs
    torch.testing.assert_close(compiled.found, plain.found, rtol=1e-4, atol=1e-5)
    for (weight, ours), theirs in zip(compiled.named_parameters(), plain.parameters(), strict=True):
        if theirs.grad is None:
            assert ours.grad is None, weight
        else:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4)
    losses = [generator.eval().validation_loss(latent, tiny.labels(0, 1, 2, -1)) for generator in (plain, compiled)]
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)
