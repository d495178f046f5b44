"""VQ against brute force, closed forms, numpy, and another implementation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vidgen import UserError
from vidgen.nn import codebook
from vidgen.nn.codebook import cells_of, draw, kmeans, nearest, pass_through, rows_of
from vidgen.quantizers.vq import VQ


def cells(rows: Tensor, batch: int = 1) -> Tensor:
    """(N, C) -> (batch, C, 1, 1, N / batch), its rows in the same order."""
    return rows.unflatten(0, (batch, -1)).movedim(-1, 1)[:, :, None, None]


def started(**options: Any) -> VQ:
    """One whose codes are as they were drawn, whatever the first batch."""
    quantizer = VQ(**{"codes": 16, "channels": 5, "restart": 0.0} | options)
    quantizer.started.fill_(True)
    return quantizer


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- search, k-means, gradients -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "codes", "channels"), [(1, 2, 1), (300, 7, 3), (1000, 129, 16)])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_the_search_is_brute_force_in_double_precision(
    rows: int, codes: int, channels: int, offset: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also far from the origin, where |e|^2 would swallow the differences, and in chunks that do not divide the rows."""
    monkeypatch.setattr(codebook, "SCORES", 64 * codes + 1)
    x, table = offset + torch.randn(rows, channels), offset + torch.randn(codes, channels)
    distance = (x.double()[:, None] - table.double()).norm(dim=2)
    ids = nearest(x, table)
    torch.testing.assert_close(distance[torch.arange(rows), ids], distance.min(dim=1).values, rtol=1e-6, atol=1e-6 * offset)
    assert (ids == distance.argmin(dim=1)).double().mean() > 0.995


def test_the_first_of_equal_codes_is_chosen() -> None:
    """Of numbers whose sums and products are exact: elsewhere a product's columns may be rounded apart."""
    kinds = torch.tensor([[1.0, -2, 3, 0], [2, 2, -1, 1], [0, 1, 1, -3], [-4, 0, 2, 2]])
    table = kinds[[0, 1, 0, 2, 1, 3, 2, 0]]
    assert nearest(table, table).tolist() == [0, 1, 0, 3, 1, 5, 3, 0]


def test_rows_are_in_the_order_of_ids() -> None:
    x = torch.arange(2 * 3 * 2 * 2 * 4.0).view(2, 3, 2, 2, 4)
    rows = rows_of(x)
    assert torch.equal(rows[1 * 16 + 1 * 8 + 0 * 4 + 3], x[1, :, 1, 0, 3])
    assert torch.equal(cells_of(rows, x), x)


def test_draws_have_the_probabilities_of_their_weights() -> None:
    weights = torch.tensor([0.0, 1.0, 3.0])
    generator = random(0)
    pairs = torch.stack([draw(weights, 2, generator) for _ in range(4000)])
    assert set(pairs.flatten().tolist()) == {1, 2}  # without replacement, and never what has no weight
    assert float((pairs[:, 0] == 2).double().mean()) == pytest.approx(0.75, abs=0.025)


def test_kmeans_finds_every_cluster() -> None:
    """24 clusters of very different sizes, 8 to 192 rows: seeds that are rows at random would miss some in nearly every run."""
    middles = 10 * torch.randn(24, 4)
    which = torch.cat([torch.full((8 * (1 + k),), k) for k in range(24)])
    rows = middles[which] + 0.01 * torch.randn(len(which), 4)
    for seed in range(5):
        centres, counts = kmeans(rows, 48, rounds=10, unit=False, generator=random(seed))
        assert (middles - centres[nearest(middles, centres)]).norm(dim=1).max() < 0.05
        assert int(counts.sum()) == len(rows)


@pytest.mark.parametrize("unit", [False, True])
def test_kmeans_ends_where_lloyd_s_iteration_stands_still(unit: bool) -> None:
    """Every centre is the mean of the rows nearest to it, on the sphere their direction."""
    rows = 5 * torch.randn(6, 3)[torch.randint(6, (400,))] + 0.1 * torch.randn(400, 3)
    rows = torch.nn.functional.normalize(rows, dim=1) if unit else rows
    centres, counts = (part.double().numpy() for part in kmeans(rows, 6, rounds=20, unit=unit, generator=random(1)))
    x = rows.double().numpy()
    ids = np.linalg.norm(x[:, None] - centres, axis=2).argmin(axis=1)
    means = np.stack([x[ids == k].mean(axis=0) for k in range(6)])
    means /= np.linalg.norm(means, axis=1, keepdims=True) if unit else 1
    np.testing.assert_allclose(centres, means, atol=1e-5)
    np.testing.assert_array_equal(counts, np.bincount(ids))


def test_the_rotation_trick_is_a_rotation() -> None:
    """By its definition: R is a rotation with R x/|x| = q/|q|, and acts as the identity where neither x nor q points."""
    x, q = torch.randn(2, 40, 6, dtype=torch.float64)
    x.requires_grad_()
    into = torch.randn(40, 6, dtype=torch.float64)
    z = pass_through(x, q, rotation=True)
    assert torch.equal(z, q)
    (slope,) = torch.autograd.grad((z * into).sum(), x)
    for row in range(40):
        u, v = (w / w.norm() for w in (x[row].detach(), q[row]))
        # The plane's own basis (u, p), in which the turn is the usual 2x2 matrix.
        p = v - (u @ v) * u
        p = p / p.norm()
        cos, sin = u @ v, p @ v
        plane = torch.stack([u, p], dim=1)
        turn = (
            torch.eye(6).double() + plane @ (torch.tensor([[cos, -sin], [sin, cos]]).double() - torch.eye(2).double()) @ plane.T
        )
        torch.testing.assert_close(turn @ u, v)
        torch.testing.assert_close(slope[row], q[row].norm() / x[row].detach().norm() * turn.T @ into[row])


@pytest.mark.parametrize("x", [[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [1e-20, 0.0]])
def test_the_rotation_trick_is_finite_where_no_rotation_is_singled_out(x: list[float]) -> None:
    row = torch.tensor([x], requires_grad=True)
    for code in ([1.0, 0.0], [0.0, 0.0]):
        z = pass_through(row, torch.tensor([code]), rotation=True)
        assert z.tolist() == [code]
        (slope,) = torch.autograd.grad(z.sum(), row)
        assert bool(slope.isfinite().all())


# --- learning -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("rotation", [False, True])
def test_averages_agree_with_vector_quantize_pytorch(normalise: bool, rotation: bool) -> None:
    """Ids, codes, loss and gradient, and the codebook with its counts, over some steps of training, then in use."""
    vq = pytest.importorskip("vector_quantize_pytorch").VectorQuantize
    theirs = vq(dim=5, codebook_size=16, decay=0.9, commitment_weight=0.25, use_cosine_sim=normalise, rotation_trick=rotation)
    ours = started(decay=0.9, normalise=normalise, rotation=rotation)
    table = theirs._codebook
    ours.codes.copy_(table.embed[0])
    ours.sums.copy_(table.embed_avg[0])
    for step in range(6):
        training = step < 5
        ours.train(training)
        theirs.train(training)
        x = torch.randn(2, 5, 3, 4, 2, requires_grad=True)
        y = x.detach().clone().requires_grad_()
        into = torch.randn(2, 5, 3, 4, 2)
        got = ours(x)
        code, ids, loss = theirs(y.movedim(1, -1).flatten(1, 3))
        code = code.unflatten(1, (3, 4, 2)).movedim(-1, 1)
        assert torch.equal(got.ids.squeeze(-1), ids)
        torch.testing.assert_close(got.z, code)
        if training:
            torch.testing.assert_close(got.losses["commitment"], loss.squeeze())
            slopes = [
                torch.autograd.grad((z * into).sum() + term, w)[0]
                for z, term, w in ((got.z, got.losses["commitment"], x), (code, loss.sum(), y))
            ]
            torch.testing.assert_close(*slopes)
        torch.testing.assert_close(ours.codes, table.embed[0])
        torch.testing.assert_close(ours.counts, table.cluster_size[0])
        torch.testing.assert_close(ours.sums, table.embed_avg[0])


def test_learning_by_gradient_agrees_with_vector_quantize_pytorch() -> None:
    """Theirs has one term mse(z, x) without stops, whose gradients are those of our two at commitment 1."""
    vq = pytest.importorskip("vector_quantize_pytorch").VectorQuantize
    theirs = vq(dim=5, codebook_size=16, learnable_codebook=True, ema_update=False, commitment_weight=1.0, rotation_trick=False)
    ours = started(learning="gradient", commitment=1.0)
    ours.codes.data.copy_(theirs._codebook.embed.data[0])
    x = torch.randn(2, 5, 1, 4, 6, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    got = ours(x)
    _, ids, loss = theirs(y.movedim(1, -1).flatten(1, 3))
    assert torch.equal(got.ids.squeeze(-1), ids)
    sum(got.losses.values()).backward()
    loss.sum().backward()
    torch.testing.assert_close(sum(got.losses.values()), 2 * loss.sum())
    torch.testing.assert_close(x.grad, y.grad)
    torch.testing.assert_close(ours.codes.grad, theirs._codebook.embed.grad[0])


def test_the_commitment_is_on_the_encoder_s_term() -> None:
    """Closed forms: 2 beta (x - z) / n for the encoder, and for a code the sum of 2 (z - x) / n, whatever beta is."""
    quantizer = started(learning="gradient", commitment=0.1)
    x = torch.randn(3, 5, 2, 2, 2, requires_grad=True)
    code = quantizer(x)
    sum(code.losses.values()).backward()
    error = (x - code.z).detach()
    torch.testing.assert_close(x.grad, 2 * 0.1 * error / x.numel())
    expected = torch.zeros(16, 5)
    for row, k in zip(rows_of(-error), code.ids.flatten().tolist(), strict=True):
        expected[k] += 2 * row / x.numel()
    torch.testing.assert_close(quantizer.codes.grad, expected)
    assert set(started()(x).losses) == {"commitment"}  # averages need no loss of their own


def test_averages_by_hand() -> None:
    """VideoGPT's formulae in numpy and double precision, but for the smoothing's constant."""
    quantizer = started(codes=4, channels=2, decay=0.7).double()
    table = quantizer.codes.numpy().copy()
    counts, sums = np.ones(4), table.copy()
    for seed in range(4):
        rows = np.random.default_rng(seed).normal(size=(10, 2))
        ids = np.array([((table - row) ** 2).sum(axis=1).argmin() for row in rows])
        assert quantizer(cells(torch.from_numpy(rows))).ids.flatten().tolist() == ids.tolist()
        counts = 0.7 * counts + 0.3 * np.array([(ids == k).sum() for k in range(4)])
        sums = 0.7 * sums + 0.3 * np.array([rows[ids == k].sum(axis=0) for k in range(4)])
        smoothed = (counts + 1e-5) / (counts.sum() + 4 * 1e-5) * counts.sum()
        table = sums / smoothed[:, None]
        np.testing.assert_allclose(quantizer.codes.numpy(), table, rtol=1e-10)


def test_the_first_batch_starts_the_codes() -> None:
    """Every cluster of the batch is a code at once; a second batch does not start them again."""
    middles = 20 + 10 * torch.randn(12, 5)
    x = cells(middles[torch.arange(600) % 12] + 0.01 * torch.randn(600, 5), batch=4)
    for learning in ("ema", "gradient"):
        quantizer = VQ(codes=32, channels=5, learning=learning)
        assert not quantizer.started
        assert (quantizer(x).z - x).abs().max() < 0.1
        assert quantizer.started
        before = quantizer.codes.detach().clone()
        quantizer(x + 1000)
        moved = (quantizer.codes.detach() - before).norm(dim=1) > 100
        assert int((~moved).sum()) >= 12  # by a share of 1 - decay of one code at most, never anew


def test_codes_that_the_first_batch_cannot_fill_are_filled_by_the_next() -> None:
    """16 cells a batch for 100 codes, which were drawn around 0 and the cells around 50."""
    quantizer = VQ(codes=100, channels=3)
    filled = []
    for _ in range(40):
        quantizer(50 + torch.randn(2, 3, 2, 2, 2))
        filled.append(int((quantizer.codes > 40).all(dim=1).sum()))
    assert filled[0] == 32  # the start and the first restarts
    assert filled[-1] == 100


@pytest.mark.parametrize("learning", ["ema", "gradient"])
@pytest.mark.parametrize("normalise", [False, True])
def test_dead_codes_restart_as_vectors_of_the_batch(learning: str, normalise: bool) -> None:
    """Codes that nothing chooses, below the share of the mean count, become different vectors of it, and no others do."""
    quantizer = started(codes=8, channels=3, learning=learning, normalise=normalise, restart=0.2, decay=0.5)
    corners = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])
    with torch.no_grad():
        quantizer.codes.copy_(torch.cat([corners, -corners]))
    x = cells(torch.rand(64, 3) + 0.01)
    quantizer(x)  # counts halve from 1, and 32 come: 0.5 where nothing chose, beside a mean of (8 * 0.5 + 32) / 8 = 4.5
    rows = torch.nn.functional.normalize(rows_of(x), dim=1) if normalise else rows_of(x)
    distance = torch.cdist(quantizer.codes.detach(), rows)
    assert (distance[4:].min(dim=1).values < 1e-3).all()
    assert len(distance[4:].argmin(dim=1).unique()) == 4
    if learning == "gradient":
        assert torch.equal(quantizer.codes.detach()[:4], corners)
    else:
        means = quantizer.sums / quantizer.counts.unsqueeze(1)
        means = torch.nn.functional.normalize(means, dim=1) if normalise else means
        torch.testing.assert_close(quantizer.codes, means, rtol=1e-3, atol=1e-3)
    assert quantizer.counts[4:].tolist() == pytest.approx([0.2 * 4.5] * 4)
    assert quantizer.counts.sum() == pytest.approx(0.5 * 4 + 0.5 * 64 + 4 * 0.2 * 4.5)


def test_restarts_keep_the_codebook_in_use_while_the_encoder_moves() -> None:
    """Vectors that wander off leave most codes behind; without restarts these stay unused."""
    used = {}
    for restart in (0.0, 0.1):
        torch.manual_seed(0)
        quantizer = VQ(codes=64, channels=4, restart=restart, decay=0.9)
        for step in range(100):
            quantizer(cells(torch.randn(256, 4) + 0.05 * step))
        ids = quantizer.eval()(cells(torch.randn(2048, 4) + 0.05 * 99)).ids
        used[restart] = len(ids.unique())
    assert used[0.1] > 44
    assert used[0.0] < 16


@pytest.mark.parametrize("learning", ["ema", "gradient"])
def test_going_on_after_a_stop_is_as_though_there_had_been_none(learning: str) -> None:
    """To the bit, stopped before the start, right after it, and among restarts: the start's flag is state, too."""

    def fresh() -> VQ:
        return VQ(codes=40, channels=4, learning=learning, restart=0.5, decay=0.8)

    def step(quantizer: VQ, index: int) -> Tensor:
        x = torch.randn(2, 4, 1, 3, 4, generator=random(index)) * (1 + index)
        code = quantizer(x)
        if learning == "gradient":
            (slope,) = torch.autograd.grad(code.losses["codebook"], quantizer.codes)
            quantizer.codes.data -= 5 * slope
        return code.z

    whole = fresh()
    start = copy.deepcopy(whole.state_dict())
    states = []
    zs = []
    for index in range(6):
        states.append(copy.deepcopy(whole.state_dict()))
        zs.append(step(whole, index))
    assert not start["started"]
    assert states[1]["started"]
    assert not torch.equal(states[3]["codes"], states[4]["codes"])
    for stop in (0, 1, 4):
        torch.manual_seed(123 + stop)  # a process of its own
        again = fresh()
        again.load_state_dict(states[stop])
        for index in range(stop, 6):
            assert torch.equal(step(again, index), zs[index])
        assert all(torch.equal(value, whole.state_dict()[name]) for name, value in again.state_dict().items())


RANKS = """
import os
import torch
from torch import distributed
from torch.multiprocessing import get_context
from vidgen.quantizers.vq import VQ

def train(rank, ranks, folder):
    if ranks > 1:
        distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    for normalise in (False, True):
        torch.manual_seed(0)
        quantizer = VQ(codes=60, channels=4, restart=0.3, decay=0.8, normalise=normalise).double()
        torch.manual_seed(rank)  # as in training, where every process has its own stream
        for step in range(6):
            x = torch.randn(4, 4, 1, 3, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
            quantizer(x.chunk(ranks)[rank])
        torch.save(quantizer.state_dict(), f"{folder}/{ranks}-{rank}-{normalise}.pt")

if __name__ == "__main__":
    train(0, 1, os.getcwd())
    processes = [get_context("fork").Process(target=train, args=(rank, 2, os.getcwd())) for rank in range(2)]
    [process.start() for process in processes]
    [process.join() for process in processes]
    assert [process.exitcode for process in processes] == [0, 0]
"""


def test_two_processes_learn_what_one_does(python: Callable[[str], CompletedProcess[str]], tmp_path: Path) -> None:
    """Half of each batch to each: start, averages and restarts are the whole batch's, and equal to the bit on both."""
    done = python(RANKS)
    assert done.returncode == 0, done.stderr
    for normalise in (False, True):
        one, first, second = (torch.load(tmp_path / f"{name}-{normalise}.pt") for name in ("1-0", "2-0", "2-1"))
        for name, value in one.items():
            assert torch.equal(first[name], second[name])
            torch.testing.assert_close(first[name], value, rtol=1e-9, atol=1e-9)


# --- the contract -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("learning", ["ema", "gradient"])
def test_the_gradient_passes_straight_through(learning: str) -> None:
    """And z is the code to the bit, in training as in use."""
    quantizer = started(learning=learning)
    x, into = torch.randn(2, 2, 5, 1, 3, 4)
    for training in (True, False):
        quantizer.train(training)
        table = quantizer.codes.detach().clone()
        x = x.detach().requires_grad_()
        code = quantizer(x)
        assert torch.equal(rows_of(code.z), table[code.ids.flatten()])
        (slope,) = torch.autograd.grad((code.z * into).sum(), x)
        assert torch.equal(slope, into)
        assert torch.equal(code.h, x.detach())
        assert not code.h.requires_grad


@pytest.mark.parametrize("learning", ["ema", "gradient"])
@pytest.mark.parametrize("normalise", [False, True])
def test_embed_and_project_keep_their_law(learning: str, normalise: bool) -> None:
    """All ids: codes are exact, projecting one gives it back, and whatever is projected is what its ids embed to."""
    quantizer = started(codes=60, learning=learning, normalise=normalise)
    with torch.no_grad():
        quantizer.codes.mul_(3)  # as an optimizer leaves them; on the sphere only the direction counts
    table = quantizer.codes.detach()
    table = table / table.norm(dim=1, keepdim=True) if normalise else table
    ids = torch.randperm(60).view(1, 60, 1)
    z = quantizer.embed(ids, ((3, 4, 5),))
    assert z.shape == (1, 5, 3, 4, 5)
    torch.testing.assert_close(rows_of(z), table[ids.flatten()], rtol=1e-6 if normalise else 0, atol=0)
    again = quantizer.project(z)
    assert torch.equal(again.ids, ids)
    assert torch.equal(again.z, z)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        h = torch.randn(2, 5, 3, 2, 2, dtype=dtype)
        code = quantizer.project(h)
        assert code.z.dtype == code.h.dtype == dtype
        assert torch.equal(quantizer.embed(code.ids, ((3, 2, 2),)).to(dtype), code.z)
    unit = h.float() / h.float().norm(dim=1, keepdim=True)
    assert torch.equal(quantizer.project(unit if normalise else h.float()).ids, quantizer.eval()(h).ids)


def test_the_nearest_on_the_sphere_has_the_largest_cosine() -> None:
    quantizer = started(codes=50, normalise=True).eval()
    x = 100 ** torch.randn(1, 5, 2, 3, 4)
    code = quantizer(x)
    cosine = torch.nn.functional.cosine_similarity(rows_of(x)[:, None].double(), quantizer.codes.double(), dim=2)
    assert torch.equal(code.ids.flatten(), cosine.argmax(dim=1))
    torch.testing.assert_close(code.z.norm(dim=1), torch.ones(1, 2, 3, 4))
    assert torch.equal(code.h, x)


@pytest.mark.parametrize("learning", ["ema", "gradient"])
def test_use_is_deterministic_and_changes_nothing(learning: str) -> None:
    quantizer = VQ(codes=30, channels=4, learning=learning).eval()
    before = copy.deepcopy(quantizer.state_dict())
    x = torch.randn(2, 4, 1, 3, 3)
    code = quantizer(x)
    assert torch.equal(quantizer(x).z, code.z)
    assert code.losses == {}
    quantizer.project(x)
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())


@pytest.mark.parametrize("learning", ["ema", "gradient"])
def test_half_precision_input_is_quantized_in_full(learning: str) -> None:
    x = torch.randn(2, 4, 2, 4, 4).bfloat16()
    plain, half = (copy.deepcopy(quantizer) for quantizer in [VQ(codes=30, channels=4, learning=learning)] * 2)
    for _ in range(3):
        expected = plain(x.float())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            code = half(x)
        assert code.z.dtype == code.h.dtype == torch.float32
        assert code.ids.min() >= 0
        assert code.ids.max() < 30
        assert torch.equal(code.z, expected.z)
        assert all(torch.equal(code.losses[name], value) for name, value in expected.losses.items())
    assert torch.equal(plain.codes, half.codes)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"codes": 1}, "vq needs codes of at least 2"),
        ({"channels": 0}, "vq needs codes of at least 2"),
        ({"learning": "gradiant"}, "Did you mean 'gradient'"),
        ({"decay": 1.0}, "decay and restart"),
        ({"restart": -0.1}, "decay and restart"),
    ],
)
def test_options_out_of_range_are_told(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        VQ(**options)
