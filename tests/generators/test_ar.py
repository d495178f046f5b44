"""What is particular to ``ar``: orders, the cache, what is known, and that what is sampled is what the likelihood says."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vidgen import Condition, Latent, UserError
from vidgen.generators.ar import AR, _Walk
from vidgen.latents import LatentSpec, Shape
from vidgen.nn.given import known_tokens
from vidgen.nn.layout import from_tokens, token_layout
from vidgen.nn.sequence import generation_order
from vidgen.samplers.guidance import GuidanceOptions

CPU = torch.device("cpu")
PLAIN = LatentSpec(channels=1, stride=(1, 1, 1), causal=True, levels=(2,))
PYRAMID = replace(PLAIN, scales=((1.0, 0.5, 0.5), (1.0, 1.0, 1.0)))
CLIPS = replace(PLAIN, scales=((0.5, 0.5, 0.5), (1.0, 1.0, 1.0)), clip=2)
REAL = replace(PLAIN, channels=3, levels=None)
SPECS = {"plain": PLAIN, "pyramid": PYRAMID, "clips": CLIPS, "continuous": REAL}
ORDERED = [*itertools.product(("plain", "pyramid", "clips"), ("raster", "frames", "columns", "snake")), ("continuous", "raster")]


def toy(spec: LatentSpec) -> Any:
    """A latent space without a quantizer: z is what the finest ids say, or h."""

    def embed(ids: Tensor, grids: tuple[Shape, ...]) -> Tensor:
        sizes, scales = [prod(grid) for grid in grids], len(spec.scales or (1,))
        finest = list(zip(ids.split(sizes, dim=1), grids, strict=True))[scales - 1 :: scales]
        return torch.cat([from_tokens(part[..., :1].double(), grid) for part, grid in finest], dim=2)

    def project(h: Tensor, *, num_frames: int | None = None, start: int = 0) -> Latent:
        return Latent(spec=spec, grids=(tuple(h.shape[2:]),), num_frames=num_frames or h.shape[2], start=start, z=h, h=h)

    return SimpleNamespace(spec=spec, h_channels=spec.channels, embed=embed, project=project)


def model(spec: LatentSpec, seed: int = 0, scale: float = 0.3, num_classes: int = 2, **options: Any) -> AR:
    """In float64, with weights that are far from their start."""
    torch.manual_seed(seed)
    recipe = tiny.generator_config("ar", width=24, depth=2, heads=2) | options
    built = tiny.hub.build_generator(recipe, space=toy(spec), num_classes=num_classes)
    return tiny.stirred(built, scale).double().eval()


def random_tokens(spec: LatentSpec, grids: tuple[Shape, ...], batch: int = 2) -> Tensor:
    count = sum(map(prod, grids))
    if spec.levels is None:
        return torch.randn(batch, count, spec.channels, dtype=torch.float64)
    return torch.stack([torch.randint(level, (batch, count)) for level in spec.levels], dim=-1)


def every_sequence(spec: LatentSpec, count: int) -> Tensor:
    assert spec.levels is not None
    cells = list(itertools.product(*map(range, spec.levels)))
    return torch.tensor(list(itertools.product(cells, repeat=count)))


def latent_of(spec: LatentSpec, tokens: Tensor, grids: tuple[Shape, ...]) -> Latent:
    if spec.levels is None:
        return toy(spec).project(from_tokens(tokens, grids[0]))
    return Latent(spec=spec, grids=grids, num_frames=grids[-1][0], z=toy(spec).embed(tokens, grids), ids=tokens)


def given(spec: LatentSpec, tokens: Tensor, grids: tuple[Shape, ...], mask: Tensor, **others: Any) -> Condition:
    return Condition(known=latent_of(spec, tokens, grids), known_mask=mask, **others)


def full_pass(ar: AR, tokens: Tensor, places: Any, told: Any, start: int = 0) -> Tensor:
    x = ar.inputs(tokens, places) + ar.where(places, start)
    return ar(x, told.c, ar.rope(places), places.mask(ar.time_window), context=told.context)


class Embedded(torch.nn.Module):
    """A head whose tokens are the indices of given embeddings (1, N, width)."""

    def __init__(self, embedded: Tensor) -> None:
        super().__init__()
        self.embedded = embedded

    def embed(self, tokens: Tensor) -> Tensor:
        return self.embedded[:, tokens[0, :, 0]]


# Orders ---------------------------------------------------------------------------------------------------------------------


def test_orders_of_a_plain_grid() -> None:
    """2 cells in time of 2x3, by hand."""
    grids = ((2, 2, 3),)
    assert generation_order(PLAIN, grids, "raster").tolist() == list(range(12))
    assert generation_order(PLAIN, grids, "frames").tolist() == list(range(12))
    assert generation_order(PLAIN, grids, "columns").tolist() == [0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11]
    assert generation_order(PLAIN, grids, "snake").tolist() == [0, 1, 2, 5, 4, 3, 9, 10, 11, 8, 7, 6]


def test_orders_of_a_pyramid() -> None:
    """Two scales of 2 cells in time, 1 and 2x1 cells in space: the first scale's ids are 0 and 1."""
    grids = ((2, 1, 1), (2, 2, 1))
    assert generation_order(PYRAMID, grids, "raster").tolist() == [0, 1, 2, 3, 4, 5]
    assert generation_order(PYRAMID, grids, "frames").tolist() == [0, 2, 3, 1, 4, 5]
    assert generation_order(PYRAMID, grids, "columns").tolist() == [0, 1, 2, 4, 3, 5]


@pytest.mark.parametrize("cells", [(1, 1, 5), (3, 4, 3), (2, 3, 4), (3, 1, 2)])
def test_a_snake_never_jumps(cells: Shape) -> None:
    path = token_layout(PLAIN, (cells,)).positions[generation_order(PLAIN, (cells,), "snake")]
    assert path.diff(dim=0).abs().sum(dim=-1).tolist() == [1.0] * (prod(cells) - 1)


@pytest.mark.parametrize(("name", "order"), ORDERED)
def test_a_token_is_predicted_from_those_before_it_and_from_no_other(name: str, order: str) -> None:
    """By the gradient with respect to what is embedded: of all tokens before it in the order, and of none after."""
    spec, grids = SPECS[name], SPECS[name].grids((3, 2, 2))
    ar = model(spec, order=order)
    count = sum(map(prod, grids))
    embedded = torch.randn(1, count, 24, dtype=torch.float64, requires_grad=True)
    ar.head = Embedded(embedded)
    places = ar.places(grids, 0, None, CPU)
    x = full_pass(ar, torch.arange(count).view(1, -1, 1), places, ar._told(None, 1, 1, places, grids, 0))
    path = generation_order(spec, grids, order).tolist()
    assert sorted(path) == list(range(count))
    for place in range(len(path)):
        (slope,) = torch.autograd.grad(x[0, place].square().sum(), embedded, retain_graph=True)
        assert set(slope[0].abs().sum(-1).nonzero().flatten().tolist()) == set(path[:place])


# The cache ------------------------------------------------------------------------------------------------------------------


def masks(spec: LatentSpec, batch: int, cells: Shape) -> Iterator[Tensor | None]:
    """Nothing known; as much in all samples; and of each sample something else, one of them nothing."""
    yield None
    mask = torch.zeros(batch, cells[0], dtype=torch.bool)
    mask[:, 0] = True
    yield mask
    mask = torch.zeros(batch, cells[0], dtype=torch.bool)
    mask[1, 1:] = True
    if batch > 2:
        mask[2, 0] = True
    yield mask


@pytest.mark.parametrize("time_window", [0, 2])
@pytest.mark.parametrize(("name", "order"), ORDERED)
def test_with_a_cache_every_token_is_predicted_as_without(name: str, order: str, time_window: int) -> None:
    """Token by token with the cache, all at once, and as in training: the same, to 1e-10, whatever is known."""
    spec, grids = SPECS[name], SPECS[name].grids((3, 2, 2))
    try:
        ar = model(spec, order=order, time_window=time_window)
    except UserError:
        pytest.skip("this order goes back in time, so there is no window")
    tokens = random_tokens(spec, grids, 3)
    for mask in masks(spec, 3, (3, 2, 2)):
        condition = Condition(label=torch.tensor([0, 1, -1]))
        if mask is not None:
            condition = given(spec, tokens, grids, mask, label=condition.label)
        known = known_tokens(condition, spec, grids, 0)
        places = ar.places(grids, 0, known, CPU, aligned=True)
        told = ar._told(Condition.cat([ar.conditioner.without(condition), condition], 3), 2, 3, places, grids, 0)
        padded = torch.cat([tokens, torch.zeros_like(tokens[:, :1])], dim=1)
        whole = full_pass(ar, padded.repeat(2, 1, 1), _twice(places), told)
        walk = _Walk(ar, padded.clone(), places, told, places.prefix, 0)
        per_token, counted = ar.token_losses(tokens, grids, condition)
        nll = torch.zeros_like(per_token)
        for place in range(places.prefix, places.length):
            other, one = walk.features(place).chunk(2)
            there = places.there[:, place].expand(3)
            torch.testing.assert_close(one[there, 0], whole[3:][there, place], rtol=0, atol=1e-10)
            torch.testing.assert_close(other[there, 0], whole[:3][there, place], rtol=0, atol=1e-10)
            index = places.token[:, place].expand(3)
            target = padded[torch.arange(3), index].unsqueeze(1)
            walk.write(place, target)
            if spec.levels is not None:
                own = ar.head.loss(one, target)[:, 0]
                rows = torch.arange(3)[there]
                slot = (place - places.prefix) + (0 if known is None else known.sum(1)[there])
                nll[rows, slot] = own[there]
        if spec.levels is not None:
            torch.testing.assert_close(nll, per_token * counted, rtol=0, atol=1e-10)


def _twice(places: Any) -> Any:
    def double(value: Any) -> Any:
        return value.repeat(2, *[1] * (value.ndim - 1)) if isinstance(value, Tensor) and len(value) > 1 else value

    return replace(places, **{name: double(value) for name, value in vars(places).items()})


def test_a_window_is_a_shorter_cache() -> None:
    """Of 6 cells in time no more than 2 are held, and one block sees nothing of cells before those."""
    spec, grids = PLAIN, PLAIN.grids((6, 2, 2))
    ar = model(spec, time_window=2, depth=1)
    places = ar.places(grids, 0, None, CPU, aligned=True)
    told = ar._told(None, 1, 1, places, grids, 0)
    walk = _Walk(ar, random_tokens(spec, ((6, 2, 3),), 1)[:, :25], places, told, 0, 0)
    longest = max((walk.features(place), walk.cache.length)[1] for place in range(24))
    assert longest == walk.cache.blocks[0].shape[3] == 8
    embedded = torch.randn(1, 24, 24, dtype=torch.float64, requires_grad=True)
    ar.head = Embedded(embedded)
    x = full_pass(ar, torch.arange(24).view(1, -1, 1), places, told)
    for place in (9, 15, 23):
        (slope,) = torch.autograd.grad(x[0, place].square().sum(), embedded, retain_graph=True)
        oldest = 4 * (place // 4 - 1)  # its own place is of the cell before; what goes in there is the token before it
        assert slope[0].abs().sum(-1).nonzero().flatten().tolist() == list(range(oldest - 1, place))


class Reads(TorchDispatchMode):
    """Counts how often a value goes from the device to Python, where Python has to wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["plain", "pyramid", "continuous"])
def test_python_never_waits_for_a_token(name: str) -> None:
    """What it reads from the device does not grow with the number of tokens."""
    ar, counts = model(SPECS[name]), []
    for shape in ((1, 1, 2), (2, 2, 2)):
        with Reads() as reads:
            ar.sample(2, shape, tiny.labels(0, 1), guidance_scale=2.0)
        counts.append(reads.count)
    assert counts[0] == counts[1]


# Likelihood and samples -----------------------------------------------------------------------------------------------------

HEADS = {
    "categorical": replace(PLAIN, levels=(2,)),
    "factored": replace(PLAIN, levels=(2, 3)),
    "depth": replace(PLAIN, levels=(2, 2), stages=2),
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("order", ["raster", "columns"])
def test_the_likelihoods_of_all_sequences_sum_to_one(head: str, order: str) -> None:
    """Through the whole model, and given any of the cells as well."""
    spec = HEADS[head]
    grids = ((2, 2, 1),) if head == "categorical" else ((1, 2, 1),)
    ar = model(spec, order=order, head=tiny.config.load("generator/head", head))
    sequences = every_sequence(spec, prod(grids[0]))
    label = torch.ones(len(sequences), dtype=torch.long)
    with torch.no_grad():
        losses, counted = ar.token_losses(sequences, grids, Condition(label=label))
    assert float((-(losses * counted).sum(1)).exp().sum()) == pytest.approx(1, abs=1e-10)
    mask = torch.zeros(len(sequences), *grids[0], dtype=torch.bool)
    mask[:, -1, 0] = True
    with torch.no_grad():
        losses, counted = ar.token_losses(sequences, grids, given(spec, sequences, grids, mask, label=label))
    assert counted.sum(1).tolist() == [prod(grids[0]) - 1] * len(sequences)
    whole = (-(losses * counted).sum(1)).exp().sum()
    assert float(whole) == pytest.approx(len(every_sequence(spec, 1)), abs=1e-10)  # 1 for each value of what is given


def frequencies(drawn: Tensor, sequences: Tensor) -> Tensor:
    return (drawn.unsqueeze(1) == sequences).flatten(2).all(-1).double().mean(0)


def as_often(found: Tensor, expected: Tensor, number: int) -> bool:
    """Whether each is within four standard deviations."""
    return bool(((found - expected).abs() < 4 * (expected * (1 - expected) / number).sqrt() + 1e-9).all())


@pytest.mark.parametrize("order", ["raster", "snake"])
def test_samples_are_as_frequent_as_the_likelihood_says(order: str) -> None:
    ar, grids, number = model(PLAIN, order=order, scale=0.5), ((1, 2, 2),), 4000
    sequences = every_sequence(PLAIN, 4)
    label = torch.zeros(len(sequences), dtype=torch.long)
    with torch.no_grad():
        losses, _ = ar.token_losses(sequences, grids, Condition(label=label))
    expected = (-losses.sum(1)).exp()
    drawn = ar.sample(number, grids[0], Condition(label=torch.zeros(number, dtype=torch.long)), guidance_scale=1.0).ids
    assert float(expected.max()) > 3 * float(expected.min())
    assert as_often(frequencies(drawn, sequences), expected, number)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("cell", [0, 1])
def test_what_follows_known_cells_is_as_frequent_as_its_likelihood_given_them(cell: int, trained: bool) -> None:
    """As a prefix, and where nothing is trained with one and the known come first in order, as the model's own past."""
    ar, grids, number = model(PLAIN, scale=0.5), ((2, 1, 2),), 4000
    ar.draws_known = trained
    sequences = every_sequence(PLAIN, 4)
    mask = torch.zeros(len(sequences), 2, dtype=torch.bool)
    mask[:, cell] = True
    own = cell == 0 and not trained
    losses, counted = ar.token_losses(sequences, grids, None if own else given(PLAIN, sequences, grids, mask))
    expected = (-(losses * counted).sum(1)).exp()
    fixed = torch.tensor([[1], [0]])
    fits = (sequences[:, 2 * cell : 2 * cell + 2] == fixed).flatten(1).all(-1)
    expected = expected * fits / (expected * fits).sum()
    tokens = torch.zeros(number, 4, 1, dtype=torch.long)
    tokens[:, 2 * cell : 2 * cell + 2] = fixed
    drawn = ar.sample(number, grids[0], given(PLAIN, tokens, grids, mask[:1].expand(number, -1))).ids
    assert as_often(frequencies(drawn, sequences), expected, number)


def test_temperature_and_truncation_are_those_of_the_options() -> None:
    ar, grids = model(replace(PLAIN, levels=(6,)), scale=0.5), ((1, 1, 1),)
    logits = -ar.token_losses(torch.arange(6).view(6, 1, 1), grids)[0][:, 0]
    drawn = ar.sample(2000, grids[0], temperature=2.0).ids[:, 0, 0]
    assert as_often(drawn.bincount(minlength=6) / 2000, (logits / 2).softmax(0), 2000)
    ar.top_k = 2
    assert set(ar.sample(200, grids[0]).ids.flatten().tolist()) == set(logits.topk(2).indices.tolist())
    ar.top_k, ar.top_p = 0, 1e-6
    assert set(ar.sample(20, grids[0]).ids.flatten().tolist()) == {int(logits.argmax())}


# Known cells ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("name", SPECS)
def test_known_cells_come_back_to_the_bit(name: str, trained: bool) -> None:
    """Of each sample other ones, of one none and of one all; and samples do not depend on their batch."""
    spec, shape = SPECS[name], (3, 2, 2)
    grids = spec.grids(shape)
    ar = model(spec)
    ar.draws_known = trained
    tokens = random_tokens(spec, grids, 4)
    mask = torch.tensor([[0, 0, 0], [0, 1, 1], [1, 0, 0], [1, 1, 1]]).bool()
    condition = given(spec, tokens, grids, mask, label=torch.tensor([0, 1, 0, 1]))
    sample = ar.sample(4, shape, condition, guidance_scale=1.5, seed=3)
    known = known_tokens(condition, spec, grids, 0)
    cells = mask.view(4, 1, 3, 1, 1).expand_as(sample.z)
    assert torch.equal(sample.z[cells], condition.known.z[cells])
    if spec.levels is None:
        assert torch.equal(sample.h[cells], condition.known.h[cells])
    else:
        assert torch.equal(sample.ids[known], tokens[known])
        assert not torch.equal(sample.ids[0], tokens[0])
    for i in range(4):
        alone = ar.sample(1, shape, condition[i : i + 1], guidance_scale=1.5, seed=3, first=i)
        torch.testing.assert_close(alone.z[0], sample.z[i], rtol=0, atol=1e-12)


def test_every_token_sees_all_that_is_known() -> None:
    """By gradient, of single cells here and there; and known ones see one another, but nothing that is not known."""
    grids = ((2, 2, 2),)
    ar = model(PLAIN)
    mask = torch.tensor([0, 1, 0, 0, 0, 0, 1, 0]).bool().view(1, 2, 2, 2)
    condition = given(PLAIN, random_tokens(PLAIN, grids, 1), grids, mask)
    places = ar.places(grids, 0, known_tokens(condition, PLAIN, grids, 0), CPU)
    embedded = torch.randn(1, 8, 24, dtype=torch.float64, requires_grad=True)
    ar.head = Embedded(embedded)
    x = full_pass(ar, torch.arange(8).view(1, -1, 1), places, ar._told(None, 1, 1, places, grids, 0))
    path = [1, 6, 0, 2, 3, 4, 5, 7]
    assert places.token[0].tolist() == path
    for place in range(8):
        (slope,) = torch.autograd.grad(x[0, place].square().sum(), embedded, retain_graph=True)
        seen = {1, 6} | set(path[2:place])
        assert set(slope[0].abs().sum(-1).nonzero().flatten().tolist()) == seen


def test_only_what_is_not_known_is_learnt() -> None:
    """The loss is the mean over it."""
    grids, spec = ((2, 2, 2),), PLAIN
    ar = model(spec)
    tokens = random_tokens(spec, grids, 2)
    mask = torch.tensor([[1, 0], [0, 0]]).bool()
    condition = given(spec, tokens, grids, mask)
    losses, counted = ar.token_losses(tokens, grids, condition)
    assert counted.tolist() == [[False] * 4 + [True] * 4, [True] * 8]
    expected = losses[counted].mean().detach()
    assert float(ar.validation_loss(latent_of(spec, tokens, grids), condition)) == pytest.approx(float(expected))


@pytest.mark.parametrize("name", SPECS)
def test_masks_that_do_not_fit_are_refused(name: str) -> None:
    spec, size = SPECS[name], (3, 2, 2)
    grids = spec.grids(size)
    with pytest.raises(UserError, match=r"is \(B, 3\) or \(B, 3, 2, 2\) here, and this one is \(2, 2\)"):
        condition = given(spec, random_tokens(spec, grids), grids, torch.zeros(2, 3, dtype=torch.bool))
        model(spec).sample(2, size, replace(condition, known_mask=torch.zeros(2, 2, dtype=torch.bool)))


@pytest.mark.parametrize("name", ["pyramid", "clips"])
def test_a_token_of_a_coarse_scale_is_known_where_all_its_cells_are(name: str) -> None:
    """The first cell of the last clip's two is known: of that clip the finest tokens alone, of a pyramid all that lie in it."""
    spec, size = SPECS[name], (3, 2, 2)
    grids = spec.grids(size)
    tokens = random_tokens(spec, grids)
    mask = torch.tensor([[False, True, False], [False, False, False]])
    condition = given(spec, tokens, grids, mask)
    known = known_tokens(condition, spec, grids, 0)
    pieces = [grids[(index // len(spec.scales) + 1) * len(spec.scales) - 1] for index in range(len(grids))]
    spans = torch.cat([torch.full((prod(grid),), piece[0] // grid[0]) for grid, piece in zip(grids, pieces, strict=True)])
    assert torch.equal(known[0], (token_layout(spec, grids).cell == 1) & (spans == 1))
    sample = model(spec).sample(2, size, condition)
    assert torch.equal(sample.ids[known], tokens[known])
    assert torch.equal(sample.z[0, :, 1], condition.known.z[0, :, 1])


# What it is told ------------------------------------------------------------------------------------------------------------


def test_guidance_leads_from_the_one_prediction_past_the_other() -> None:
    """What the head is given are the predictions with and without the label, or with the negative one, and the scale."""
    ar, grids = model(PLAIN), ((1, 1, 2),)
    seen: list[tuple[Tensor, list[float]]] = []
    sample = ar.head.sample

    def spied(x: Tensor, scales: Sequence[Tensor], *rest: Any) -> Any:
        seen.append((x, [float(scale) for scale in scales]))
        return sample(x, scales, *rest)

    ar.head.sample = spied  # type: ignore[method-assign]
    condition = tiny.labels(0, 1)
    places = ar.places(grids, 0, None, CPU)
    tokens = ar.sample(2, grids[0], condition, guidance_scale=3.0).ids

    def predicted(told: Condition | None) -> Tensor:
        return full_pass(ar, tokens, places, ar._told(told, 1, 2, places, grids, 0))

    for place, (x, scales) in enumerate(seen):
        assert scales == [3.0]
        torch.testing.assert_close(x[2:, 0], predicted(condition)[:, place], rtol=0, atol=1e-10)
        torch.testing.assert_close(x[:2, 0], predicted(None)[:, place], rtol=0, atol=1e-10)
    seen.clear()
    tokens = ar.sample(2, grids[0], replace(condition, negative=tiny.labels(1, 1)), guidance_scale=3.0).ids
    torch.testing.assert_close(seen[1][0][:2, 0], predicted(tiny.labels(1, 1))[:, 1], rtol=0, atol=1e-10)
    seen.clear()
    ar.sample(2, grids[0], condition, guidance_scale=1.0)
    assert [(len(x), scales) for x, scales in seen] == [(2, [])] * 2
    seen.clear()
    ar.conditioner.guidance = GuidanceOptions(1.0, (0.3, 1.0), "linear")
    ar.sample(2, (1, 1, 5), condition, guidance_scale=3.0)
    assert [scales for _, scales in seen] == [[1.0], [1.0], [2.0], [2.5], [3.0]]


@pytest.mark.parametrize("known", [False, True])
def test_a_pass_a_token(known: bool) -> None:
    """One of the whole batch, or of twice as many with guidance; and one for all that is known."""
    ar, grids = model(PLAIN), ((2, 2, 2),)
    mask = torch.tensor([[0, 1], [0, 1]]).bool()
    tokens = random_tokens(PLAIN, grids)
    condition = given(PLAIN, tokens, grids, mask, label=torch.tensor([0, 1])) if known else tiny.labels(0, 1)
    seen: list[tuple[int, int]] = []
    ar.register_forward_pre_hook(lambda _, passed: seen.append(tuple(passed[0].shape[:2])))
    for scale, batch in ((1.0, 2), (2.0, 4)):
        seen.clear()
        ar.sample(2, grids[0], condition, guidance_scale=scale)
        assert seen == ([(batch, 4)] + [(batch, 1)] * 4 if known else [(batch, 1)] * 8)


def test_what_a_cell_is_told_reaches_its_tokens_and_what_follows() -> None:
    ar, grids = model(PLAIN, order="columns"), ((3, 1, 2),)
    c = torch.randn(1, 3, 24, dtype=torch.float64, requires_grad=True)
    ar.conditioner.told = lambda *given: (c, None)  # type: ignore[method-assign]
    places = ar.places(grids, 0, None, CPU)
    x = full_pass(ar, random_tokens(PLAIN, grids, 1), places, ar._told(None, 1, 1, places, grids, 0))
    for place in range(6):
        (slope,) = torch.autograd.grad(x[0, place].square().sum(), c, retain_graph=True)
        assert slope[0].abs().sum(-1).nonzero().flatten().tolist() == list(range(min(place, 2) + 1))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"order": "snail"}, "no order 'snail'. Did you mean 'snake'"),
        ({"top_p": 0.0}, "top_p is above 0"),
        ({"time_window": 2, "order": "columns"}, "which columns has not"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        model(PLAIN, **options)


def test_windows_of_pyramids_need_frames_first() -> None:
    with pytest.raises(UserError, match="use frames"):
        model(PYRAMID, time_window=2)
    with pytest.raises(UserError, match="a pyramid that grows in time has not"):
        model(CLIPS, time_window=2, order="frames")


def test_there_is_no_choice_of_steps() -> None:
    with pytest.raises(UserError, match="leave steps out"):
        model(PLAIN).sample(1, (1, 1, 1), steps=3)


# Learning -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tokens", "order"), [("lfq", "raster"), ("vq", "snake"), ("kl", "raster"), ("pyramid_lfq", "frames")])
def test_it_learns_two_clips_by_heart(tokens: str, order: str) -> None:
    """Each with its label, so that a sample is the right one: the same ids, or nearly the same values."""
    tokenizer = tiny.tokenizer(tokens).eval()
    tokenizer.measure(tiny.videos(tokenizer))
    latent = tiny.latent(tokenizer, 2, (2, 2, 2))
    latent.logvar = None
    torch.manual_seed(0)
    ar = tiny.generator("ar", tokenizer.space, 2, width=48, order=order, conditioning={"label": {"dropout": 0.0}})
    optimizer = torch.optim.Adam(ar.parameters(), lr=5e-3)
    for _ in range(120 if tokens == "kl" else 50):
        optimizer.zero_grad()
        ar.loss(latent, tiny.labels(0, 1)).total.backward()
        optimizer.step()
    sample = ar.sample(6, tiny.shape_of(tokenizer, (2, 2, 2)), tiny.labels(0, 1, 0, 1, 0, 1), guidance_scale=1.0)
    if latent.ids is not None:
        assert torch.equal(sample.ids, latent.ids.repeat(3, 1, 1))
    else:
        far = (sample.h - latent.h.repeat(3, 1, 1, 1, 1)).square().mean(dim=(1, 2, 3, 4)).sqrt()
        apart = (latent.h[0] - latent.h[1]).square().mean().sqrt()
        assert float(far.max()) < 0.2 * float(apart)
