"""What is MaskGIT's own: masks in training, steps of decoding, given cells, and revisions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import permutations
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from vidgen import Condition, Latent, UserError, config, hub
from vidgen.nn.given import covered
from vidgen.samplers import unmask

TOKENIZERS: dict[str, Callable[[], Any]] = {
    "continuous": lambda: tiny.tokenizer("kl", quantizer={"name": "kl", "channels": 4}),
    "bits": lambda: tiny.tokenizer("lfq", quantizer={"name": "lfq", "bits": 4}),
    "ids": lambda: tiny.tokenizer("vq"),
    "residual": lambda: tiny.tokenizer("residual"),
    "pyramid": lambda: tiny.tokenizer("pyramid"),
    "clips": lambda: tiny.tokenizer("pyramid_clip"),
}
CELLS = (3, 4, 2)


@cache
def made(name: str) -> tuple[Any, Latent]:
    """A tokenizer and the latents of four clips."""
    tokenizer = TOKENIZERS[name]().eval()
    tokenizer.measure(tiny.videos(tokenizer))
    return tokenizer, tiny.latent(tokenizer, cells=CELLS)


def generator(name: str, num_classes: int = 0, **options: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return tiny.stirred(tiny.generator("maskgit", made(name)[0].space, num_classes, **options), 0.05)


def shape(name: str, cells: tuple[int, int, int] = CELLS) -> tuple[int, int, int]:
    return tiny.shape_of(made(name)[0], cells)


class Seen:
    """The tokens and masks of every pass through the network."""

    def __init__(self, model: Any) -> None:
        self.tokens: list[Tensor] = []
        self.masked: list[Tensor] = []
        model.register_forward_pre_hook(self.note)

    def note(self, _: Any, given: tuple[Tensor, Tensor]) -> None:
        self.tokens.append(given[0])
        self.masked.append(given[1])

    def counts(self) -> list[int]:
        return [int(masked[0].sum()) for masked in self.masked]


def kept(layer: Any) -> list[Tensor]:
    """Fills with what the layer gives, whose gradients are kept."""
    outputs: list[Tensor] = []

    def note(_: Any, given: Any, out: Tensor) -> None:
        out.retain_grad()
        outputs.append(out)

    layer.register_forward_hook(note)
    return outputs


# Training


def test_the_loss_is_on_masked_tokens_only() -> None:
    for name in TOKENIZERS:
        model, (_, latent) = generator(name), made(name)
        tokens = model.tokens.of(latent)
        masked = torch.rand(tokens.shape[:2], generator=torch.Generator().manual_seed(1)) < 0.5
        outputs = kept(model)
        model.loss_at(tokens, masked, None, latent.grids, 0, 0.1).total.backward()
        assert torch.equal(outputs[0].grad.abs().sum(dim=-1) > 0, masked), name


def test_targets_are_the_tokens_before_masking_and_the_network_does_not_see_them() -> None:
    """Of what is masked another value changes the loss and nothing of what the network gives; of what is visible it does."""
    for name in TOKENIZERS:
        model, (_, latent) = generator(name).eval(), made(name)
        tokens = model.tokens.of(latent)
        masked = torch.rand(tokens.shape[:2], generator=torch.Generator().manual_seed(1)) < 0.5
        other = torch.where(masked.unsqueeze(-1), tokens.flip(0), tokens)
        assert not torch.equal(other, tokens)
        outputs = [model(each, masked, grids=latent.grids) for each in (tokens, other, tokens.flip(0))]
        assert torch.equal(outputs[0], outputs[1])
        assert not torch.allclose(outputs[0], outputs[2])
        losses = [model.loss_at(each, masked, None, latent.grids).total for each in (tokens, other)]
        assert not torch.allclose(*losses), name
        by_hand = model.head.loss(outputs[0], tokens)[masked].mean()
        torch.testing.assert_close(losses[0], by_hand, rtol=1e-5, atol=1e-6)


def test_training_masks_are_exactly_as_many_as_the_schedule_says() -> None:
    for schedule in unmask.SCHEDULES:
        model, latent = generator("bits", mask_schedule=schedule), made("bits")[1]
        seen = Seen(model)
        torch.manual_seed(5)
        ratio = unmask.SCHEDULES[schedule](torch.rand(len(latent)))
        torch.manual_seed(5)
        model.loss(latent)
        assert seen.masked[0].sum(dim=1).tolist() == [max(1, int(float(share) * 24)) for share in ratio]


def test_continuous_latents_have_mar_s_mask_ratios_unless_the_schedule_is_asked_for() -> None:
    latent = made("continuous")[1][[0] * 64]
    least = []
    for how in ("auto", "normal", "schedule"):
        model = generator("continuous", mask_ratio=how)
        seen = Seen(model)
        model.loss(latent)
        least.append(int(seen.masked[0].sum(dim=1).min()))
    assert min(least[:2]) >= int(0.7 * 24) > least[2]


def test_latents_are_drawn_from_their_posterior() -> None:
    latent = replace(made("continuous")[1][[0] * 256])
    assert latent.h is not None
    latent.logvar = torch.full_like(latent.h, -2.0)
    model = generator("continuous")
    assert model.wants == ("h", "logvar")
    seen = Seen(model)
    model.loss(latent)
    model.loss(replace(latent, logvar=None))
    drawn, mean = seen.tokens
    assert torch.equal(mean, latent.h.flatten(2).transpose(1, 2))
    error = drawn - mean
    assert float(error.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(error.std()) == pytest.approx(torch.tensor(-1.0).exp().item(), rel=0.02)


def test_given_cells_are_never_masked_in_training() -> None:
    latent = made("bits")[1]
    model = generator("bits")
    seen = Seen(model)
    mask = torch.tensor([[1, 0, 0], [1, 0, 1], [0, 0, 0], [1, 1, 1]]).bool()
    for _ in range(5):
        assert bool(model.loss(latent, Condition(known=latent, known_mask=mask)).total.isfinite())
    given = mask.repeat_interleave(8, dim=1)
    assert not any(bool((masked & given).any()) for masked in seen.masked)
    assert all(masked.any(dim=1).tolist() == [True, True, True, False] for masked in seen.masked)


def test_validation_loss_is_a_likelihood_that_repeats_and_is_taken_at_fixed_ratios() -> None:
    for name in ("bits", "continuous"):
        model, latent = generator(name), made(name)[1]
        seen = Seen(model)
        first = model.validation_loss(latent)
        state = torch.random.get_rng_state()
        assert torch.equal(model.validation_loss(latent), first)
        assert torch.equal(torch.random.get_rng_state(), state)
        assert model.head.training
        assert all(torch.equal(a, b) for a, b in zip(seen.masked[:5], seen.masked[5:], strict=True))
        u = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=torch.float64)
        law = torch.cos(torch.pi / 2 * u) if name == "bits" else unmask.truncated_normal(u)
        assert seen.counts()[:5] == (24 * law).floor().int().tolist()
    sharp = generator("bits", label_smoothing=0.5)
    assert torch.equal(sharp.validation_loss(made("bits")[1]), generator("bits").validation_loss(made("bits")[1]))


def test_masked_tokens_are_told_where_they_lie() -> None:
    """Rotary positions alone are relative: a network that sees masks only would say the same everywhere."""
    for name in TOKENIZERS:
        model, latent = generator(name).eval(), made(name)[1]
        tokens = torch.zeros_like(model.tokens.of(latent)[:1])
        out = model(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool), grids=latent.grids)[0]
        apart = torch.cdist(out, out) + torch.eye(len(out))
        assert float(apart.detach().min()) > 1e-3, name


# Decoding


@pytest.mark.parametrize("order", ["confidence", "random", "halton"])
def test_each_step_leaves_as_many_masked_as_the_schedule_says(order: str) -> None:
    for name in ("bits", "pyramid"):
        for schedule in ("cosine", "arccos"):
            model = generator(name, order=order, mask_schedule=schedule)
            size = made(name)[0].spec.num_tokens(shape(name))
            for steps in (1, 5, 8):
                seen = Seen(model)
                model.sample(2, shape(name), steps=steps)
                remaining = unmask.masked_counts(torch.tensor([size]), steps, schedule)[0].tolist()
                assert seen.counts() == [size, *remaining[:-1]]
                assert remaining[-1] == 0


def test_more_steps_than_tokens_are_one_token_a_step() -> None:
    model = generator("bits", order="random")
    seen = Seen(model)
    model.sample(1, shape("bits", (1, 2, 2)), steps=50)
    assert seen.counts() == [4, 3, 2, 1]


@pytest.mark.parametrize("order", ["confidence", "random", "halton"])
def test_what_is_drawn_is_fed_back_and_the_last_step_s_tokens_are_the_output(order: str) -> None:
    for name in ("ids", "residual", "pyramid", "clips"):
        model = generator(name, order=order)
        seen = Seen(model)
        sample = model.sample(3, shape(name), steps=4)
        for tokens, masked in zip(seen.tokens, seen.masked, strict=True):
            assert torch.equal(tokens[~masked], sample.ids[~masked])
        assert bool(sample.ids[seen.masked[-1]].any())  # not the zeros that masked places hold
        assert torch.equal(made(name)[0].space.embed(sample.ids, sample.grids), sample.z)


ORDERS: dict[str, dict[str, Any]] = {
    "random": {"order": "random"},
    "halton": {"order": "halton"},
    "by chance": {"order": "confidence", "choice_temperature": 1e9},
}


@pytest.mark.parametrize("order", ORDERS)
@torch.no_grad()
def test_one_token_at_a_time_is_drawn_as_the_product_of_its_own_conditionals_says(order: str) -> None:
    """One frame of 1 x 3 cells of 2 codes: 8 sequences, over every order of the tokens, and how often each is drawn."""
    quantizer = config.load("tokenizer/quantizer", "vq") | {"codes": 2}
    tokenizer = tiny.tokenizer("vq", quantizer=quantizer).eval()
    model = tiny.stirred(tiny.generator("maskgit", tokenizer.space, num_classes=2, **ORDERS[order]), 0.5).eval()
    one, count = tiny.shape_of(tokenizer, (1, 1, 3)), 4000
    grids = tokenizer.spec.grids(one)
    every = torch.cartesian_prod(*[torch.arange(2)] * 3).unsqueeze(-1)
    told = Condition(label=torch.ones(8, dtype=torch.long))

    def network(masked: list[bool]) -> Tensor:
        return model(every, torch.tensor(masked).expand(8, -1), told, grids=grids)

    logits = model.head.logits  # so that a token depends on the others, and nothing is certain
    x = network([False, False, True])[:, 2]
    logits.weight.mul_(1.5 / (x @ logits.weight.T).std(dim=0).mean())
    logits.bias.copy_(-(x @ logits.weight.T).mean(dim=0))

    def law(ranks: list[int]) -> Tensor:
        """Of every sequence, where the token of rank 0 comes first."""
        log = torch.zeros(8)
        for turn in range(3):
            log -= model.head.loss(network([rank >= turn for rank in ranks]), every)[:, ranks.index(turn)]
        return log.exp().double()

    ways = [list(ranks) for ranks in permutations(range(3))]
    if order == "halton":
        ways = unmask.halton_order(grids, 1, torch.tensor([0.1, 0.5, 0.9])).tolist()
    expected = torch.stack([law(ranks) for ranks in ways]).mean(dim=0)
    assert float(expected.sum()) == pytest.approx(1, abs=1e-5)

    def chi_square(steps: int) -> float:
        labels = torch.ones(count, dtype=torch.long)
        drawn = model.sample(count, one, Condition(label=labels), steps=steps, guidance_scale=1.0).ids
        seen = torch.bincount(drawn.flatten(1) @ torch.tensor([4, 2, 1]), minlength=8)
        return float(((seen - count * expected).square() / (count * expected)).sum())

    assert chi_square(3) < 30, "7 degrees of freedom: beyond 30 one time in 10000"
    assert chi_square(1) > 100, "all at once are another law"


def test_revisions_mask_and_draw_every_token_once_more() -> None:
    model = generator("ids", revisions=2)
    seen = Seen(model)
    once = generator("ids").sample(2, shape("ids"), steps=4, seed=3)
    twice = model.sample(2, shape("ids"), steps=4, seed=3)
    assert len(seen.masked) == 3 * 4
    for first in (4, 8):
        assert torch.equal(sum(masked.int() for masked in seen.masked[first : first + 4]), torch.ones(2, 24).int())
    assert torch.equal(seen.tokens[4], once.ids)  # the draft is that of the model without revisions
    assert float((once.ids != twice.ids).float().mean()) > 0.3


def test_the_order_is_by_confidence_where_there_is_a_likelihood() -> None:
    assert [generator(name, order="auto").order for name in ("bits", "residual", "continuous")] == [
        "confidence",
        "confidence",
        "random",
    ]
    with pytest.raises(UserError, match=r"order=confidence asks how likely a token is.*order=halton"):
        generator("continuous", order="confidence")


def spread(model: Any, **how: Any) -> float:
    """The share of tokens that differ between two seeds."""
    a, b = (model.sample(8, shape("ids"), seed=seed, **how).ids for seed in (0, 1))
    return float((a != b).float().mean())


def test_temperatures_are_no_empty_options() -> None:
    for order in ("confidence", "random", "halton"):
        model = generator("ids", order=order, steps=4)
        falling = [spread(model, temperature=temperature) for temperature in (1.0, 0.1, 0.0)]
        assert falling[0] > falling[1] + 0.05
        assert falling[2] == 0.0
    asked = {"order": "confidence", "steps": 4}
    drafts = [generator("ids", choice_temperature=choice, **asked).sample(2, shape("ids")).ids for choice in (0.0, 4.5)]
    assert not torch.equal(*drafts)


def test_truncation_keeps_the_most_likely() -> None:
    greedy = generator("ids", steps=4, order="halton").sample(2, shape("ids"), temperature=0.0, seed=1).ids
    assert torch.equal(
        generator("ids", steps=4, order="halton", top_k=1).sample(2, shape("ids"), temperature=0.0, seed=2).ids, greedy
    )
    one = generator("ids", steps=1, order="random")
    truncated = [generator("ids", steps=1, order="random", **how) for how in ({"top_k": 1}, {"top_p": 1e-6})]
    most_likely = one.sample(2, shape("ids"), temperature=0.0).ids
    assert all(torch.equal(model.sample(2, shape("ids"), seed=7).ids, most_likely) for model in truncated)
    assert not torch.equal(one.sample(2, shape("ids"), seed=7).ids, most_likely)


@pytest.mark.parametrize("order", ["auto", "random", "halton"])
def test_samples_do_not_depend_on_their_batch(order: str) -> None:
    """In float64 to 1e-12 at any batch, to the bit at an equal one; samples of one batch have noise and orders of their own."""
    for name in ("bits", "continuous", "clips"):
        tokenizer = TOKENIZERS[name]().double().eval()
        head = {"head": {"name": "flow", "steps": 3}} if name == "continuous" else {}
        model = tiny.stirred(tiny.generator("maskgit", tokenizer.space, 3, order=order, revisions=1, **head), 0.05).double()
        labels, size = tiny.labels(0, 1, 2, 0), shape(name)
        whole = model.sample(4, size, labels, seed=5, guidance_scale=2.0)
        parts = [
            model.sample(1, size, labels[:1], seed=5, guidance_scale=2.0),
            model.sample(3, size, labels[1:], seed=5, first=1, guidance_scale=2.0),
        ]
        torch.testing.assert_close(torch.cat([part.z for part in parts]), whole.z, rtol=0, atol=1e-12)
        assert torch.equal(model.sample(4, size, labels, seed=5, guidance_scale=2.0).z, whole.z)
        assert not torch.allclose(whole.z[0], whole.z[3])


def test_guidance_costs_a_second_half_of_the_batch_only_where_it_acts() -> None:
    model = generator("bits", 3, steps=6, guidance_schedule="constant", guidance_interval=(0.3, 0.7))
    seen = Seen(model)
    guided = model.sample(2, shape("bits"), tiny.labels(0, 1), guidance_scale=30.0)
    assert [len(tokens) for tokens in seen.tokens] == [2, 2, 4, 4, 2, 2]
    plain = model.sample(2, shape("bits"), tiny.labels(0, 1), guidance_scale=1.0)
    assert [len(tokens) for tokens in seen.tokens[6:]] == [2] * 6
    assert not torch.equal(guided.ids, plain.ids)
    seen.tokens.clear()
    model.sample(2, shape("bits"), guidance_scale=3.0)
    assert [len(tokens) for tokens in seen.tokens] == [2] * 6  # nothing is told, so there is nothing to lead to


def test_guidance_leads_away_from_what_is_negative() -> None:
    model = generator("bits", 3, steps=2, guidance_schedule="constant")
    told = tiny.labels(0, 1)
    away = replace(told, negative=tiny.labels(2, 2))
    same = replace(told, negative=tiny.labels(0, 1))
    samples = [model.sample(2, shape("bits"), each, guidance_scale=4.0).ids for each in (told, away, same)]
    assert not torch.equal(samples[0], samples[1])
    assert torch.equal(samples[2], model.sample(2, shape("bits"), told, guidance_scale=1.0).ids)


# Given cells

MASKS = {
    "prediction": [[1, 0, 0], [1, 1, 0]],
    "interpolation": [[1, 0, 1], [1, 0, 1]],
    "one is given as a whole": [[1, 1, 1], [0, 1, 0]],
    "everything": [[1, 1, 1], [1, 1, 1]],
}


def check_known(name: str, mask: Tensor, **options: Any) -> None:
    tokenizer, latent = made(name)[0], made(name)[1][:2]
    model = generator(name, steps=4, **options)
    seen = Seen(model)
    sample = model.sample(2, shape(name), Condition(known=latent, known_mask=mask), seed=1)
    cells = (mask if mask.ndim == 4 else mask[:, :, None, None]).expand(-1, *CELLS).unsqueeze(1)
    for field in ("z", "h"):
        if getattr(sample, field) is not None:
            given = cells.expand_as(getattr(sample, field))
            assert torch.equal(getattr(sample, field)[given], getattr(latent, field)[given])
    known = covered(cells[:, 0], latent.grids, len(tokenizer.spec.scales or (1,)))
    assert not any(bool((masked & known).any()) for masked in seen.masked)
    if sample.ids is not None:
        assert torch.equal(sample.ids[known], latent.ids[known])
    tokens = model.tokens.of(latent)
    assert all(torch.equal(each[known], tokens[known]) for each in seen.tokens)
    assert bool((sample.z != latent.z)[~cells.expand_as(sample.z)].any()) or bool(mask.all())


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
@pytest.mark.parametrize("name", TOKENIZERS)
def test_given_cells_come_back_to_the_bit_and_are_never_masked(name: str, mask: list[list[int]]) -> None:
    check_known(name, torch.tensor(mask).bool(), revisions=1)


@pytest.mark.parametrize("order", ["confidence", "halton"])
def test_parts_of_a_frame_can_be_given_too(order: str) -> None:
    mask = torch.rand(2, *CELLS, generator=torch.Generator().manual_seed(3)) < torch.tensor([0.2, 0.7]).view(-1, 1, 1, 1)
    check_known("ids", mask, order=order)
    check_known("pyramid", mask, order=order)


def test_every_generated_cell_sees_what_is_given() -> None:
    """By gradient: what the head takes at any masked token depends on every given one, and on nothing else."""
    for name in ("continuous", "clips"):
        latent, model = made(name)[1][:1], generator(name)
        first = torch.tensor([True, False, False]).view(1, 3, 1, 1).expand(1, *CELLS)
        known = covered(first, latent.grids, len(model.space.spec.scales or (1,)))
        embedded = kept(model.head.embed if name == "continuous" else model.head.table)
        out = model(model.tokens.of(latent), ~known, grids=latent.grids)
        for place in (~known[0]).nonzero()[:, 0].tolist():
            (gradient,) = torch.autograd.grad(out[0, place].square().sum(), embedded[0], retain_graph=True)
            assert torch.equal(gradient.abs().sum(dim=-1) > 0, known)


def test_a_token_of_a_coarse_scale_is_given_where_all_that_it_covers_is() -> None:
    """By brute force over intervals, in two pieces of which one grows in time."""
    grids = ((1, 1, 1), (1, 4, 2), (1, 1, 1), (2, 3, 2), (4, 4, 2))
    cells = torch.rand(6, 5, 4, 2, generator=torch.Generator().manual_seed(0)) < 0.9
    cells[0], cells[1, :, 1:] = True, True
    pieces = [(grids[:2], cells[:, :1]), (grids[2:], cells[:, 1:])]
    both = torch.cat([covered(own, piece, len(piece)) for piece, own in pieces], dim=1)
    assert torch.equal(covered(cells, (grids[0], *grids), 3), torch.cat([both[:, :1], both], dim=1))
    for piece, own in pieces:
        found = covered(own, piece, len(piece))
        by_hand = []
        for grid in piece:
            for t in range(grid[0]):
                for h in range(grid[1]):
                    for w in range(grid[2]):
                        under = own
                        for axis, place in enumerate((t, h, w)):
                            full, size = piece[-1][axis], grid[axis]
                            index = torch.arange(place * full // size, -(-(place + 1) * full // size))
                            under = under.index_select(axis + 1, index)
                        by_hand.append(under.flatten(1).all(dim=1))
        assert torch.equal(found, torch.stack(by_hand, dim=1))


def test_what_is_known_has_to_be_of_the_window() -> None:
    latent = made("bits")[1][:2]
    with pytest.raises(UserError, match=r"What is known has the cells .* give a latent of the whole window"):
        generator("bits").sample(2, shape("bits", (2, 4, 2)), Condition(known=latent))
    with pytest.raises(UserError, match=r"A mask of known cells .*\(2, 2\)"):
        generator("bits").sample(2, shape("bits"), Condition(known=latent, known_mask=torch.ones(2, 2).bool()))


# Learning


def clips(name: str) -> Latent:
    """Two latents that differ in every cell, none of which is like its neighbours."""
    space, cells = made(name)[0].space, (2, 2, 2)
    grids = space.spec.grids(shape(name, cells))
    stream = torch.Generator().manual_seed(0)
    if name == "continuous":
        return space.project(torch.randn(2, 4, *cells, generator=stream))
    ids = torch.stack([torch.randint(level, (2, 8), generator=stream) for level in space.spec.levels], dim=-1)
    return Latent(spec=space.spec, grids=grids, num_frames=shape(name, cells)[0], z=space.embed(ids, grids), ids=ids)


@pytest.mark.parametrize("name", ["continuous", "bits", "ids"])
def test_it_learns_two_labelled_clips_by_heart(name: str) -> None:
    torch.manual_seed(0)
    known = clips(name)
    options = {"head": {"name": "flow", "repeats": 4, "steps": 10}} if name == "continuous" else {}
    model = tiny.generator("maskgit", made(name)[0].space, 2, steps=4, label_smoothing=0.0, **options)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    batch, labels = known[[0, 1] * 8], tiny.labels(*[0, 1] * 8)
    before = float(model.validation_loss(batch, labels))
    for _ in range(150):
        optimizer.zero_grad()
        model.loss(batch, labels).total.backward()
        optimizer.step()
    assert float(model.validation_loss(batch, labels)) < 0.3 * before
    sample = model.eval().sample(8, shape(name, (2, 2, 2)), tiny.labels(*[0, 1] * 4), seed=3)
    if name == "continuous":
        distance = torch.cdist(sample.h.flatten(1), known.h.flatten(1))
        assert distance.argmin(dim=1).tolist() == [0, 1] * 4
        assert float(distance.amin(dim=1).max()) < 0.3 * float((known.h[0] - known.h[1]).norm())
    else:
        right = (sample.ids == known.ids[[0, 1] * 4]).all(dim=-1).float().mean(dim=1)
        assert float(right.mean()) > 0.95


# Options and recipes


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"order": "confidance"}, "maskgit knows no order 'confidance'. Did you mean 'confidence'"),
        ({"mask_schedule": "cosin"}, "maskgit knows no mask_schedule 'cosin'. Did you mean 'cosine'"),
        ({"mask_ratio": "norml"}, "maskgit knows no mask_ratio 'norml'. Did you mean 'normal'"),
        ({"guidance_schedule": "linar"}, "no guidance_schedule 'linar'. Did you mean 'linear'"),
        ({"guidance_interval": (0.5, 0.2)}, "guidance_interval"),
        ({"steps": 0}, "steps=0 makes no sample"),
        ({"revisions": -1}, "revisions, choice_temperature and top_k of at least 0"),
        ({"label_smoothing": 1.0}, "label_smoothing from 0 to below 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        generator("bits", **options)


@pytest.mark.parametrize(
    ("name", "tokenizer", "size", "trunk"),
    [
        ("maskgit_magvit", "vq", (768, 12, 12), 85),
        ("maskgit_magvit_l", "vq", (1024, 24, 16), 302),
        ("mar", "kl", (768, 24, 12), 170),
    ],
)
def test_recipes_of_the_papers_sizes_have_them(name: str, tokenizer: str, size: tuple[int, ...], trunk: float) -> None:
    """The transformer's weights without what adaLN adds to it, in millions; its published sizes."""
    recipe = config.load("generator", name)
    assert (recipe["width"], recipe["depth"], recipe["heads"]) == size
    with torch.device("meta"):
        model = hub.build_generator(recipe, space=tiny.tokenizer(tokenizer).space, num_classes=101)
    counted = sum(weight.numel() for key, weight in model.trunk.named_parameters() if "modulation" not in key)
    assert counted / 1e6 == pytest.approx(trunk, rel=0.01)
