"""Parallel decoding: counts, orders and masks by brute force, and its law against a small joint distribution, enumerated."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from vidgen.samplers import unmask

BY_HAND: dict[str, Callable[[float], float]] = {
    "cosine": lambda r: math.cos(math.pi * r / 2),
    "linear": lambda r: 1 - r,
    "square": lambda r: 1 - r**2,
    "cubic": lambda r: 1 - r**3,
    "sqrt": lambda r: 1 - math.sqrt(r),
    "arccos": lambda r: 2 * math.acos(r) / math.pi,
}


def chance(observed: Tensor, law: Tensor) -> float:
    """The p-value of Pearson's chi-square test of counts against a law."""
    expected = law.flatten().double() * observed.sum()
    statistic = ((observed - expected).square() / expected).sum()
    return float(torch.special.gammaincc(torch.tensor((expected.numel() - 1) / 2, dtype=torch.float64), statistic / 2))


def normal_cdf(x: float) -> float:
    return (1 + math.erf(x / math.sqrt(2))) / 2


def counts_by_hand(total: int, steps: int, schedule: str) -> list[int]:
    """One step after another: what the schedule says, but at least one token a step, and one left for each step to come."""
    masked, found = total, []
    for step in range(steps):
        wanted = math.floor(total * BY_HAND[schedule]((step + 1) / steps) + 1e-9)
        later = min(steps, total) - step - 1
        masked = max(min(wanted, masked - 1), later, 0) if masked else 0
        found.append(masked)
    return found


def test_every_schedule_is_known() -> None:
    assert unmask.SCHEDULES.keys() == BY_HAND.keys()


@pytest.mark.parametrize("name", unmask.SCHEDULES)
def test_schedules_are_their_formulae(name: str) -> None:
    r = torch.linspace(0, 1, 41, dtype=torch.float64)
    ratio = unmask.SCHEDULES[name](r)
    torch.testing.assert_close(ratio, torch.tensor([BY_HAND[name](x) for x in r.tolist()], dtype=torch.float64))
    assert bool((ratio[1:] < ratio[:-1]).all())
    assert (float(ratio[0]), float(ratio[-1])) == (1.0, pytest.approx(0.0, abs=1e-15))


@pytest.mark.parametrize("name", unmask.SCHEDULES)
def test_counts_are_exact_for_any_number_of_tokens_and_steps(name: str) -> None:
    total = torch.arange(0, 90)
    for steps in (1, 2, 3, 7, 8, 12, 40):
        remaining = unmask.masked_counts(total, steps, name)
        assert remaining.tolist() == [counts_by_hand(n, steps, name) for n in total.tolist()]
        revealed = torch.cat([total[:, None], remaining[:, :-1]], dim=1) - remaining
        assert torch.equal(revealed.sum(dim=1), total)  # every token once
        assert bool((revealed[steps:] >= 1).all())  # and no step without any


def test_published_counts_of_maskgit() -> None:
    """floor(256 cos(pi r / 2)) at eight steps, where no step is empty."""
    wanted = [math.floor(256 * math.cos(math.pi * step / 16)) for step in range(1, 8)] + [0]
    assert unmask.masked_counts(torch.tensor([256]), 8, "cosine")[0].tolist() == wanted


def test_lowest_is_exact_among_equals() -> None:
    scores = torch.tensor([[1.0, 0.0, 0.0, 0.0, 2.0], [math.inf] * 4 + [5.0]])
    assert unmask.lowest(scores, torch.tensor([2, 3])).tolist() == [
        [False, True, True, False, False],
        [True, True, False, False, True],
    ]


def test_training_masks_are_exact_and_spare_what_is_known() -> None:
    generator = torch.Generator().manual_seed(0)
    known = torch.rand(400, 30, generator=generator) < torch.linspace(0, 1.05, 400)[:, None]
    ratio = torch.rand(400, generator=generator)
    masked = unmask.draw_mask(ratio, torch.rand(400, 30, generator=generator), known)
    assert not bool((masked & known).any())
    for row, given, share in zip(masked, known, ratio, strict=True):
        unknown = 30 - int(given.sum())
        assert int(row.sum()) == min(unknown, max(1, math.floor(float(share) * unknown)))
    assert bool(known.all(dim=1).any()), "one row is given as a whole"


def test_training_masks_are_uniform_over_places() -> None:
    generator = torch.Generator().manual_seed(1)
    masked = unmask.draw_mask(torch.full((6000,), 0.5), torch.rand(6000, 4, generator=generator), torch.zeros(6000, 4).bool())
    pairs = torch.stack([masked[:, i] & masked[:, j] for i, j in itertools.combinations(range(4), 2)]).sum(dim=1)
    assert int(pairs.sum()) == 6000
    assert chance(pairs, torch.full((6,), 1 / 6)) > 0.001


def test_mar_s_mask_ratios_are_a_truncated_normal() -> None:
    u = (torch.arange(500, dtype=torch.float64) + 0.5) / 500
    ratios = unmask.truncated_normal(u).tolist()
    low, high = normal_cdf((0.7 - 1) / 0.25), normal_cdf(0.0)
    assert [(normal_cdf((x - 1) / 0.25) - low) / (high - low) for x in ratios] == pytest.approx(u.tolist(), abs=1e-12)
    assert unmask.truncated_normal(torch.tensor([1e-7, 1 - 1e-7])).tolist() == pytest.approx([0.7, 1.0], abs=1e-5)


def mirrored(index: int, base: int) -> Fraction:
    """The textbook's loop, in exact fractions."""
    value, share = Fraction(0), Fraction(1, base)
    while index:
        value, index, share = value + (index % base) * share, index // base, share / base
    return value


@pytest.mark.parametrize("grid", [(1, 1, 1), (5, 8, 8), (3, 4, 2), (1, 16, 9), (4, 1, 1), (2, 5, 7)])
def test_halton_order_visits_every_cell_once_as_the_sequence_does(grid: tuple[int, int, int]) -> None:
    ranks = unmask.halton_ranks(grid)
    assert ranks.sort().values.tolist() == list(range(math.prod(grid)))
    seen: dict[int, int] = {}
    index = 1
    while len(seen) < math.prod(grid):
        t, h, w = (math.floor(mirrored(index, base) * size) for base, size in zip((5, 2, 3), grid, strict=True))
        seen.setdefault((t * grid[1] + h) * grid[2] + w, len(seen))
        index += 1
    assert [seen[cell] for cell in range(len(seen))] == ranks.tolist()


def discrepancy(ranks: Tensor, grid: tuple[int, int, int], count: int) -> float:
    """How far the first ``count`` cells are from even, in the worst box that has a corner in the origin."""
    first = (ranks < count).view(grid).double() / count
    even = torch.full(grid, 1 / math.prod(grid), dtype=torch.float64)
    boxes = (first - even).cumsum(0).cumsum(1).cumsum(2)
    return float(boxes.abs().max())


def test_halton_order_is_more_even_than_chance() -> None:
    grid, generator = (5, 8, 8), torch.Generator().manual_seed(0)
    for count in (10, 20, 40, 80, 160):
        halton = discrepancy(unmask.halton_ranks(grid), grid, count)
        random = [discrepancy(torch.randperm(320, generator=generator), grid, count) for _ in range(40)]
        assert halton < 0.65 * sum(random) / 40


def test_samples_have_their_own_roll_of_the_halton_order() -> None:
    u = torch.tensor([0.0, 0.26, 0.999])
    order = unmask.halton_order([(3, 2, 4)], 1, u)
    ranks = unmask.halton_ranks((3, 2, 4))
    for row, shift in zip(order, (0, 6, 23), strict=True):
        assert torch.equal(row, (ranks - shift) % 24)


def test_a_pyramid_s_halton_order_goes_from_coarse_to_fine() -> None:
    """Two pieces of two scales: the coarse tokens of both come first, and both pieces advance together."""
    grids = [(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 4, 4)]
    (order,) = unmask.halton_order(grids, 2, torch.tensor([0.4]))
    assert order.sort().values.tolist() == list(range(45))
    parts = order.split([1, 4, 8, 32])
    assert max(parts[0].max(), parts[2].max()) < min(parts[1].min(), parts[3].min())
    half = torch.cat([parts[1], parts[3]]).sort().values[18]
    assert [int((part < half).sum()) for part in (parts[1], parts[3])] == [2, 16]


def test_gumbel_noise_falls_to_nothing() -> None:
    u = torch.rand(4, 50, 600, generator=torch.Generator().manual_seed(0), dtype=torch.float64).clamp_min(1e-12)
    noise = unmask.annealed_gumbel(u, 4.5)
    assert not bool(noise[-1].any())
    for step in range(3):
        law = torch.exp(-torch.exp(-noise[step].flatten().sort().values / (4.5 * (1 - (step + 1) / 4))))
        even = (torch.arange(len(law)) + 0.5) / len(law)
        assert float((law - even).abs().max()) < 1.95 / math.sqrt(len(law))  # Kolmogorov and Smirnov at p = 0.001


# A hand-made joint distribution in the place of the network: three tokens of two, three and two values, twelve sequences

VALUES = (2, 3, 2)
JOINT = torch.tensor([5, 1, 0.5, 3, 2, 2, 0.2, 4, 1, 1, 6, 0.8], dtype=torch.float64).view(VALUES) / 26.5


class Toy:
    """Draws each masked token from its exact conditional given the visible ones, by inverse CDF."""

    def __init__(self, seed: int) -> None:
        self.generator, self.calls = torch.Generator().manual_seed(seed), 0
        self.seen: list[tuple[Tensor, Tensor]] = []

    def marginals(self, tokens: Tensor, masked: Tensor) -> list[Tensor]:
        joint = JOINT.expand(len(tokens), *VALUES)
        for place, size in enumerate(VALUES):
            agrees = tokens[:, place, :] == torch.arange(size)
            allowed = (agrees | masked[:, place, None]).view(-1, *[size if i == place else 1 for i in range(3)])
            joint = joint * allowed
        joint = joint / joint.sum(dim=(1, 2, 3), keepdim=True)
        return [joint.sum(dim=tuple(axis for axis in (1, 2, 3) if axis != place + 1)) for place in range(3)]

    def __call__(self, step: int, tokens: Tensor, masked: Tensor, at: Tensor | None) -> tuple[Tensor, Tensor]:
        assert step == self.calls
        self.calls += 1
        self.seen.append((tokens.clone(), masked.clone()))
        drawn, log_probability = [], []
        for law in self.marginals(tokens, masked):
            ids = torch.multinomial(law, 1, generator=self.generator)
            drawn.append(ids)
            log_probability.append(law.gather(1, ids).log())
        ids, logp = torch.stack(drawn, dim=1), torch.cat(log_probability, dim=1)
        return (ids, logp) if at is None else (ids.gather(1, at[..., None]), logp.gather(1, at))


def start(num: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(num, 3, 1, dtype=torch.long), torch.zeros(num, 3, dtype=torch.bool)


def orders(name: str, num: int) -> Tensor:
    u = torch.rand(num, 3, generator=torch.Generator().manual_seed(9))
    return u.argsort(dim=1).argsort(dim=1) if name == "random" else unmask.halton_order([(3, 1, 1)], 1, u[:, 0])


def disagreement(tokens: Tensor) -> float:
    """The p-value of the drawn sequences against the joint distribution."""
    index = (tokens[:, 0, 0] * 3 + tokens[:, 1, 0]) * 2 + tokens[:, 2, 0]
    return chance(torch.bincount(index, minlength=12), JOINT)


@pytest.mark.parametrize("order", ["random", "halton"])
def test_one_token_at_a_time_is_exact_sampling(order: str) -> None:
    tokens, known = start(20_000)
    remaining = unmask.masked_counts((~known).sum(1), 3, "cosine")
    drawn = unmask.in_order(Toy(0), tokens, known, remaining, orders(order, len(tokens)))
    assert disagreement(drawn) > 0.001


def test_all_tokens_at_once_are_the_product_of_the_marginals() -> None:
    tokens, known = start(20_000)
    remaining = unmask.masked_counts((~known).sum(1), 1, "cosine")
    drawn = unmask.in_order(Toy(1), tokens, known, remaining, orders("random", len(tokens)))
    assert disagreement(drawn) < 1e-12
    for place, size in enumerate(VALUES):
        law = JOINT.sum(dim=tuple(axis for axis in range(3) if axis != place))
        assert chance(torch.bincount(drawn[:, place, 0], minlength=size), law) > 0.001


def test_revisions_bring_a_poor_draft_to_the_joint_distribution() -> None:
    """Each pass, a token at a time given all others, is a Gibbs sweep, whose law is the joint one, wherever it starts."""
    tokens, known = start(20_000)
    remaining, toy = unmask.masked_counts((~known).sum(1), 3, "linear"), Toy(2)
    for sweep in range(12):
        order = torch.rand(len(tokens), 3, generator=torch.Generator().manual_seed(sweep)).argsort(dim=1)
        tokens = unmask.in_order(toy, tokens, known, remaining, order, first=3 * sweep, revise=True)
    assert disagreement(tokens) > 0.001
    assert all(bool((masked.sum(dim=1) == 1).all()) for _, masked in toy.seen)


def test_confidence_with_much_noise_is_exact_and_without_any_prefers_the_likely() -> None:
    tokens, known = start(20_000)
    remaining = unmask.masked_counts((~known).sum(1), 3, "cosine")
    u = torch.rand(3, len(tokens), 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    noisy = unmask.by_confidence(Toy(3), tokens, known, remaining, unmask.annealed_gumbel(u, 1e9))
    assert disagreement(noisy) > 0.001
    sure = unmask.by_confidence(Toy(3), tokens, known, remaining, unmask.annealed_gumbel(u, 0.0))
    mean = [float(JOINT[tuple(each[:, :, 0].unbind(1))].log().mean()) for each in (noisy, sure)]
    assert mean[1] > mean[0] + 0.05


def decode(order: str, toy: Toy, tokens: Tensor, known: Tensor, steps: int) -> Tensor:
    remaining = unmask.masked_counts((~known).sum(1), steps, "cosine")
    if order == "confidence":
        u = torch.rand(steps, *known.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        return unmask.by_confidence(toy, tokens, known, remaining, unmask.annealed_gumbel(u, 4.5))
    return unmask.in_order(toy, tokens, known, remaining, orders(order, len(tokens)))


@pytest.mark.parametrize("order", ["confidence", "random", "halton"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_each_step_reveals_its_count_feeds_back_what_was_drawn_and_keeps_what_is_known(order: str, steps: int) -> None:
    tokens = torch.tensor([[1, 2, 1], [0, 1, 0], [1, 0, 0], [0, 0, 1]]).unsqueeze(-1)
    known = torch.tensor([[0, 0, 0], [0, 1, 0], [1, 0, 1], [1, 1, 1]]).bool()
    toy = Toy(5)
    drawn = decode(order, toy, tokens.clone(), known, steps)
    assert torch.equal(drawn[known], tokens[known])
    assert toy.calls == steps
    remaining = unmask.masked_counts((~known).sum(1), steps, "cosine")
    for step, (fed, masked) in enumerate(toy.seen):
        assert masked.sum(dim=1).tolist() == ((~known).sum(1) if step == 0 else remaining[:, step - 1]).tolist()
        assert not bool((masked & known).any())
        assert torch.equal(fed[~masked], drawn[~masked])  # visible tokens are those of the end, and never change again


@pytest.mark.parametrize("order", ["confidence", "random"])
def test_of_fewer_tokens_than_steps_each_has_a_step_and_no_call_is_wasted(order: str) -> None:
    tokens, known, toy = torch.zeros(2, 3, 1, dtype=torch.long), torch.tensor([[0, 0, 0], [1, 0, 1]]).bool(), Toy(5)
    decode(order, toy, tokens, known, 12)
    assert toy.calls == 3


@pytest.mark.parametrize("order", ["confidence", "random"])
def test_it_does_as_the_plain_loop_of_the_paper(order: str) -> None:
    """Against a loop over samples and tokens, with the same tokens drawn and the same noise."""
    places, steps, generator = 17, 5, torch.Generator().manual_seed(6)
    offered = torch.randint(50, (steps, 3, places, 1), generator=generator)
    logp = torch.randn(steps, 3, places, generator=generator)
    u = torch.rand(steps, 3, places, generator=generator)
    known = torch.rand(3, places, generator=generator) < torch.tensor([0.0, 0.2, 0.5])[:, None]
    ranks = torch.rand(3, places, generator=generator).argsort(dim=1)

    def draw(step: int, tokens: Tensor, masked: Tensor, at: Tensor | None) -> tuple[Tensor, Tensor]:
        return (offered[step], logp[step]) if at is None else (offered[step].gather(1, at[..., None]), logp[step].gather(1, at))

    tokens, remaining = torch.full((3, places, 1), -7), unmask.masked_counts((~known).sum(1), steps, "cosine")
    if order == "confidence":
        found = unmask.by_confidence(draw, tokens, known, remaining, unmask.annealed_gumbel(u, 4.5))
    else:
        found = unmask.in_order(draw, tokens, known, remaining, ranks)
    for row in range(3):
        values, open_places = [-7] * places, [place for place in range(places) if not known[row, place]]
        total = len(open_places)
        for step in range(steps):
            temperature = 4.5 * (1 - (step + 1) / steps)
            sure = {p: float(logp[step, row, p]) - temperature * math.log(-math.log(float(u[step, row, p]))) for p in open_places}
            if order == "random":
                sure = {place: -float(ranks[row, place]) for place in open_places}
            keep = len(open_places) - counts_by_hand(total, steps, "cosine")[step]
            for place in sorted(open_places, key=lambda one: -sure[one])[:keep]:
                values[place] = int(offered[step, row, place])
                open_places.remove(place)
        assert found[row, :, 0].tolist() == values
