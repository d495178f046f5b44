"""The heads of ids against the enumeration of every token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from head_spaces import WIDTH, built, every, features, shaken, space, uniforms
from softmax_law import law
from torch import Tensor, nn
from torch.nn import functional as F

from vidgen.heads import build_head
from vidgen.latents import joint_ids
from vidgen.protocols import Head

HEADS: dict[str, tuple[str, tuple[int, ...], int]] = {
    "categorical of one id": ("categorical", (7,), 1),
    "categorical of levels": ("categorical", (3, 4, 2), 1),
    "factored levels": ("factored", (3, 4, 4, 2), 1),
    "bits": ("factored", (2,) * 5, 1),
    "factored stages": ("factored", (4, 4, 4), 3),
    "depth of stages": ("depth", (4, 4, 4), 3),
    "depth of residual bits": ("depth", (2,) * 6, 2),
    "depth of levels": ("depth", (3, 4, 2), 1),
    "depth of one id": ("depth", (5,), 1),
}


@pytest.fixture(params=HEADS)
def head(request: pytest.FixtureRequest) -> Any:
    return built(*HEADS[request.param])


def nll(head: Any, x: Tensor, tokens: Tensor) -> Tensor:
    """The loss of each of the tokens (V, L) after one and the same x (WIDTH)."""
    return head.loss(x.expand(1, len(tokens), WIDTH), tokens[None]).squeeze(0)


def softmaxes(head: Any, x: Tensor, token: Sequence[int]) -> list[Tensor]:
    """The logits of each softmax that the token passes through, one after another, by the head's own layers."""
    if hasattr(head, "steps"):
        state, logits = head.input(x), []
        for step, levels in enumerate(head.steps):
            y = state + head.stage[step]
            for block in head.blocks:
                y = y + block.last(F.silu(block.first(block.norm(y))))
            logits += list(head.logits[step](head.norm(y)).split(levels))
            if step < len(head.before):
                first = len(head.steps[0]) * step
                state = state + head.before[step](torch.tensor(token[first : first + len(levels)])[None])[0]
        return logits
    return list(head.logits(x).split([head.vocabulary] if hasattr(head, "vocabulary") else head.levels))


def guided(head: Any, branches: Tensor, scales: Sequence[float], token: Sequence[int]) -> list[Tensor]:
    """The guided logits of those softmaxes, by InstructPix2Pix's equation 3; ``branches`` (1 + K, WIDTH), all conditions last."""
    logits = zip(*(softmaxes(head, x, token) for x in branches), strict=True)
    return [each[0] + sum(s * (more - less) for s, more, less in zip(scales, each[1:], each, strict=False)) for each in logits]


def enumerated(
    head: Any, branches: Tensor, scales: Sequence[float], temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> dict[tuple[int, ...], float]:
    """The probability of every token under the guided, tempered and truncated law."""
    found = {}
    for token in map(tuple, every(head.levels).tolist()):
        chosen = [int(joint_ids(torch.tensor(token), head.levels))] if hasattr(head, "vocabulary") else token
        laws = [law(logits.tolist(), temperature, top_k, top_p) for logits in guided(head, branches, scales, token)]
        found[token] = math.prod(one[i] for one, i in zip(laws, chosen, strict=True))
    return found


@torch.no_grad()
def test_probabilities_sum_to_1_and_are_those_of_its_softmaxes(head: Any) -> None:
    x = features()
    tokens = every(head.levels)
    losses = nll(head, x, tokens)
    assert float(losses.neg().exp().sum()) == pytest.approx(1, abs=1e-12)
    wanted = enumerated(head, x[None], ())
    probabilities = torch.tensor([wanted[token] for token in map(tuple, tokens.tolist())], dtype=torch.float64)
    torch.testing.assert_close(losses.neg().exp(), probabilities)
    assert losses.std() > 0.1


LAWS = [
    ((), 1.0, 0, 1.0),
    ((2.5,), 1.0, 0, 1.0),
    ((), 0.5, 0, 1.0),
    ((0.0,), 1.0, 2, 1.0),
    ((3.0,), 1.5, 0, 0.6),
    ((2.0,), 0.8, 3, 0.8),
    ((1.5, 3.0), 1.0, 0, 1.0),
    ((2.5, 0.5, 1.0), 0.8, 3, 0.8),
]


@torch.no_grad()
@pytest.mark.parametrize(("scales", "temperature", "top_k", "top_p"), LAWS)
def test_samples_follow_the_law_and_know_their_probability(
    head: Any, scales: tuple[float, ...], temperature: float, top_k: int, top_p: float
) -> None:
    """Every log-probability by enumeration, and frequencies by chi-square, five standard deviations wide."""
    branches, num = features(1 + len(scales)), 4000
    wanted = enumerated(head, branches, scales, temperature, top_k, top_p)
    assert sum(wanted.values()) == pytest.approx(1)
    size = (2, num // 2)
    x = branches[:, None, None].expand(-1, *size, -1).flatten(0, 1)
    ids, log_p = head.sample(x, scales, temperature, uniforms(head, *size), top_k, top_p)
    assert ids.shape == (*size, len(head.levels))
    assert ids.dtype == torch.int64
    assert log_p.shape == size
    drawn = [tuple(token) for token in ids.flatten(0, 1).tolist()]
    torch.testing.assert_close(log_p.flatten().exp(), torch.tensor([wanted[token] for token in drawn], dtype=torch.float64))
    counts = {token: drawn.count(token) for token in wanted}
    expected = {token: num * p for token, p in wanted.items()}
    common = [token for token in wanted if expected[token] >= 5]
    rare = num - sum(counts[token] for token in common), max(0.0, num - sum(expected[token] for token in common))
    cells = [(counts[token], expected[token]) for token in common] + ([rare] if rare[1] >= 5 else [])
    chi = sum((count - mean) ** 2 / mean for count, mean in cells)
    assert chi <= len(cells) + 5 * math.sqrt(2 * len(cells))
    assert rare[0] <= rare[1] + 5 * math.sqrt(rare[1]) + 5


@torch.no_grad()
def test_a_sample_is_a_function_of_its_own_noise(head: Any) -> None:
    """And not of the batch it is in, nor of its noise's precision."""
    x, noise = features(6, 5), uniforms(head, 3, 5)
    ids, log_p = head.sample(x, (2.0,), 1.0, noise)
    for i in range(3):
        one, its = head.sample(x[i::3], (2.0,), 1.0, noise[i : i + 1])
        assert torch.equal(one[0], ids[i])
        torch.testing.assert_close(its[0], log_p[i], rtol=1e-12, atol=1e-12)
    assert torch.equal(head.sample(x, (2.0,), 1.0, noise.float())[0], ids)


@torch.no_grad()
@pytest.mark.parametrize("one", [1.0, torch.ones(1, 1)], ids=["number", "tensor"])
def test_guidance_1_is_the_last_branch(head: Any, one: float | Tensor) -> None:
    """To rounding: a product with more rows may add up in another order."""
    x, noise = features(6, 6), uniforms(head, 2, 6)
    for branches, scales in ((x[2:], (one,)), (x, (one, one)), (torch.cat([x[:2], x[:2], x[4:]]), (7.0, one))):
        ids, log_p = head.sample(x[4:], (), 1.0, noise)
        again, its = head.sample(branches, scales, 1.0, noise)
        assert torch.equal(again, ids)
        torch.testing.assert_close(its, log_p, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_equal_scales_are_one_scale(head: Any) -> None:
    x, noise = features(6, 5), uniforms(head, 2, 5)
    ids, log_p = head.sample(torch.cat([x[:2], x[4:]]), (2.5,), 1.0, noise)
    again, its = head.sample(x, (2.5, 2.5), 1.0, noise)
    assert torch.equal(again, ids)
    torch.testing.assert_close(its, log_p, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(head.sample(x, (2.5, 0.5), 1.0, noise)[1], log_p)


@torch.no_grad()
def test_all_branches_are_one_batch(head: Any) -> None:
    rows: list[int] = []
    for layer in head.modules():
        if isinstance(layer, nn.Linear) and layer is not head.embed:
            layer.register_forward_hook(lambda _, given, __: rows.append(given[0].shape[0]))
    head.sample(features(2, 6), (), 1.0, uniforms(head, 2, 6))
    calls = len(rows)
    head.sample(features(6, 6), (2.0, 3.0), 1.0, uniforms(head, 2, 6))
    assert len(rows) == 2 * calls


@torch.no_grad()
def test_scales_by_token_are_those_of_each(head: Any) -> None:
    x, noise = features(6, 3), uniforms(head, 2, 3)
    scales = torch.tensor([[[1.0, 2.5, 0.0]], [[0.5, 3.0, 1.0]]])
    ids, log_p = head.sample(x, tuple(scales), 1.0, noise)
    for place in range(3):
        at = slice(place, place + 1)
        one, its = head.sample(x[:, at], scales[:, 0, place].tolist(), 1.0, noise[:, at])
        assert torch.equal(one, ids[:, at])
        torch.testing.assert_close(its, log_p[:, at])
    by_sample = head.sample(x, (torch.tensor([[1.0], [2.5]]), 2.0), 1.0, noise)[0]
    assert torch.equal(by_sample[1:], head.sample(x[1::2], (2.5, 2.0), 1.0, noise[1:])[0])


@torch.no_grad()
def test_temperature_0_takes_the_most_likely(head: Any) -> None:
    branches, scales = features(3), (2.0, 0.5)
    ids, log_p = head.sample(branches[:, None], scales, 0.0, uniforms(head, 1, 1))
    token = tuple(ids[0, 0].tolist())
    chosen = ids[0, 0].tolist() if not hasattr(head, "vocabulary") else [int(joint_ids(ids[0, 0], head.levels))]
    assert chosen == [int(logits.argmax()) for logits in guided(head, branches, scales, token)]
    assert float(log_p.exp()) == pytest.approx(enumerated(head, branches, scales)[token])


def test_losses_and_samples_agree(head: Any) -> None:
    x = features(2, 4)
    ids, log_p = head.sample(x, (), 1.0, uniforms(head, 2, 4))
    torch.testing.assert_close(head.loss(x, ids), -log_p)


def test_label_smoothing_is_that_of_cross_entropy(head: Any) -> None:
    x, tokens = features(), every(head.levels)
    losses = head.loss(x.expand(1, len(tokens), -1), tokens[None], 0.1)[0]
    for token, loss in zip(tokens, losses, strict=True):
        targets = joint_ids(token, head.levels)[None] if hasattr(head, "vocabulary") else token
        pairs = zip(softmaxes(head, x, token.tolist()), targets, strict=True)
        torch.testing.assert_close(loss, sum(F.cross_entropy(logits, one, label_smoothing=0.1) for logits, one in pairs))


def test_gradients_reach_every_weight(head: Any) -> None:
    x, tokens = features(2, 50).requires_grad_(), torch.stack([torch.randint(n, (2, 50)) for n in head.levels], dim=-1)
    (head.loss(x, tokens).mean() + head.embed(tokens).square().mean()).backward()
    assert x.grad is not None
    assert (x.grad.abs().amax(dim=-1) > 0).all()
    unmoved = [name for name, weight in head.named_parameters() if weight.grad is None or not weight.grad.abs().sum() > 0]
    assert not unmoved


@torch.no_grad()
def test_a_fresh_head_is_all_but_uniform(head: Any) -> None:
    name = type(head).__name__.lower()
    stages = len(getattr(head, "steps", [()])) if name == "depth" else 1
    fresh = build_head({"name": name}, space=space(head.levels, stages), width=64)
    tokens = every(head.levels)
    losses = fresh.loss(torch.randn(1, len(tokens), 64), tokens[None])
    torch.testing.assert_close(losses, torch.full_like(losses, math.log(len(tokens))), atol=1.0, rtol=0)
    assert fresh.embed(tokens).std() == pytest.approx(0.02, rel=0.3)


def test_losses_are_float32_under_autocast(head: Any) -> None:
    head = head.float()
    x, tokens = features(2, 30).float(), torch.stack([torch.randint(n, (2, 30)) for n in head.levels], dim=-1)
    exact = head.loss(x, tokens)
    with torch.autocast("cpu", torch.bfloat16):
        loss = head.loss(x.bfloat16(), tokens)
        ids, log_p = head.sample(torch.cat([x.flip(0), x]).bfloat16(), (2.0,), 1.0, uniforms(head, 2, 30))
    assert loss.dtype == log_p.dtype == torch.float32
    torch.testing.assert_close(loss, exact, atol=0.1, rtol=0.05)
    assert all((ids[..., i] < level).all() for i, level in enumerate(head.levels))


def test_it_is_a_head(head: Any) -> None:
    assert isinstance(head, Head)
    assert head.likelihood
    assert head.draws == (1 if hasattr(head, "vocabulary") else len(head.levels))


# What is peculiar to one of them


@torch.no_grad()
def test_joint_ids_have_their_first_sub_id_most_significant() -> None:
    """The order of ``latents.joint_ids``: the logit of (a, b, c) of levels (3, 4, 2) is the 8 a + 2 b + c-th."""
    head = built("categorical", (3, 4, 2))
    x, tokens = features(), every((3, 4, 2))
    log_p = head.logits(x).log_softmax(dim=-1)
    for token, loss in zip(tokens.tolist(), nll(head, x, tokens), strict=True):
        a, b, c = token
        assert float(loss) == pytest.approx(-float(log_p[8 * a + 2 * b + c]))
        torch.testing.assert_close(head.embed(torch.tensor([[token]]))[0, 0], head.table.weight[8 * a + 2 * b + c])


def test_bits_are_the_product_of_their_logistics() -> None:
    head = built("factored", (2,) * 5)
    x, tokens = features(), every((2,) * 5)
    logits = (x @ head.logits.weight.T + head.logits.bias).view(5, 2)
    one = 1 / (1 + torch.exp(logits[:, 0] - logits[:, 1]))
    wanted = torch.where(tokens == 1, one, 1 - one).prod(dim=1)
    torch.testing.assert_close(nll(head, x, tokens).neg().exp(), wanted)


@pytest.mark.parametrize(("levels", "table"), [((3, 4, 4), True), ((2, 2, 2, 2), False), ((2, 3), True)])
def test_embeddings_are_sums_of_one_vector_a_sub_id(levels: tuple[int, ...], table: bool) -> None:
    head = built("factored", levels)
    zero = head.embed(torch.zeros(1, 1, len(levels), dtype=torch.long))
    for token in every(levels):
        alone = torch.zeros(len(levels), 1, len(levels), dtype=torch.long)
        alone[range(len(levels)), 0, range(len(levels))] = token
        wanted = zero[0, 0] + (head.embed(alone)[:, 0] - zero[0, 0]).sum(dim=0)
        torch.testing.assert_close(head.embed(token[None, None])[0, 0], wanted)
    assert isinstance(head.embed, nn.EmbeddingBag) is table
    assert len(torch.unique(head.embed(every(levels)[None])[0], dim=0)) == math.prod(levels)


def test_a_stage_sees_those_before_it_and_no_other() -> None:
    """Tokens that share their first stages share the probabilities of these; what comes first changes what comes after."""
    head = built("depth", (4, 4, 4), 3)
    table = nll(head, features(), every((4, 4, 4))).neg().exp().view(4, 4, 4)
    second = table.sum(dim=2) / table.sum(dim=(1, 2))[:, None]
    assert (second.std(dim=0) > 1e-3).all()
    torch.testing.assert_close(second.sum(dim=1), torch.ones(4).double())


@pytest.mark.parametrize(
    ("name", "learns"), [("categorical", True), ("depth", True), ("factored", False)], ids=["categorical", "depth", "factored"]
)
def test_what_factored_heads_lose_is_the_correlation_of_sub_ids(name: str, learns: bool) -> None:
    """Two bits that are always equal: one bit of entropy for a head that sees it, two for one that cannot."""
    head = build_head({"name": name}, space=space((2, 2)), width=WIDTH)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.005)
    x = torch.randn(1, 64, WIDTH)
    for _ in range(200):
        tokens = torch.randint(2, (1, 64, 1)).expand(1, 64, 2)
        loss = head.loss(x[:, :1].expand(1, 64, WIDTH), tokens).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() == pytest.approx(math.log(2) if learns else 2 * math.log(2), abs=0.1)


@pytest.mark.parametrize("name", ["factored", "categorical"])
def test_large_vocabularies_run(name: str) -> None:
    """2**18 words by 18 bits, and 2**14 by one softmax; the draw takes no more than the logits do, nor in higher precision."""
    levels = (2,) * (18 if name == "factored" else 14)
    head = shaken(build_head({"name": name}, space=space(levels), width=WIDTH), 0.1)
    x, tokens = torch.randn(2, 16, WIDTH), torch.randint(2, (2, 16, len(levels)))
    assert (head.loss(x, tokens) > 0).all()
    ids, log_p = head.sample(torch.cat([x.flip(0), x]), (1.5,), 1.0, uniforms(head, 2, 16), top_k=900, top_p=0.96)
    assert ids.shape == tokens.shape
    assert log_p.dtype == torch.float32


def test_a_head_of_bits_is_as_large_as_infinity_says() -> None:
    """d x 2 logits: 64 bits on a width of 2048 are 0.26 million weights (and as many biases as logits), not 2**64."""
    head = build_head({"name": "factored"}, space=space((2,) * 64), width=2048)
    assert sum(weight.numel() for weight in head.logits.parameters()) == 2 * 64 * (2048 + 1)
    assert head.draws == 64
