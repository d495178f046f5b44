"""Both sides of every comparison of ``benchmarks/speed.py`` do the same work, and its rows are those of one run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial

import decoding
import pytest
import quantizers
import speed
import timing
import torch
import training
from speed import Peer, Sizes

from vidgen import UserError
from vidgen.data import decode

torch.set_num_threads(1)
pytest.importorskip("diffusers")

TINY = Sizes(
    features=(2, 32, 3, 4, 6), latents=(2, 3, 2, 4, 4), videos=(1, 3, 2, 16, 12), large=(1, 3, 2, 176, 176), distance=(12, 60)
)
STEPS = 10  # which 1000 is a multiple of: elsewhere diffusers' DDIM steps to other levels than it lists
PEERS = list(speed.peers(TINY, STEPS))


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: f"{peer.subject}, {peer.against}")
def test_both_sides_come_to_the_same_where_that_is_claimed(peer: Peer) -> None:
    ours, theirs = (side() for side in peer.sides())
    assert [part.shape for part in ours] == [part.shape for part in theirs]
    assert all(bool(part.isfinite().all()) and bool(part.any()) for part in (*ours, *theirs))
    apart = max(float((mine - other).abs().max() / other.abs().max()) for mine, other in zip(ours, theirs, strict=True))
    if peer.near is None:
        assert 1e-5 < apart < 1, "as near as another function may be"
    else:
        assert apart < peer.near


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: f"{peer.subject}, {peer.against}")
def test_calling_again_gives_the_same(peer: Peer) -> None:
    """A scheduler that went on where it had stopped, or gradients that add up, would measure something else."""
    for side in peer.sides():
        first = [part.clone() for part in side()]
        assert all(torch.equal(*parts) for parts in zip(first, side(), strict=True))


def test_the_block_with_another_norm_is_the_same_on_one_frame_and_only_theirs_sees_the_future() -> None:
    sides = speed.conv_sides(speed.cogvideox_block, (2, 32, 1, 4, 6))
    for mine, other in zip(*(side() for side in sides), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4)
    ours, theirs = speed.cogvideox_block(32)
    x = torch.randn(1, 32, 4, 4, 4)
    later = torch.cat([x[:, :, :3], x[:, :, 3:] + 1], dim=2)
    seen = speed.Ours(ours)(x.movedim(1, -1)) - speed.Ours(ours)(later.movedim(1, -1))
    assert not seen[:, :3].any()
    assert bool((theirs(x)[0] - theirs(later)[0])[:, :, 0].any())


def test_two_functions_are_not_timed() -> None:
    peer = next(peer for peer in PEERS if peer.subject == "DDIM")
    ours, theirs = peer.sides()
    wrong = replace(peer, sides=lambda: (lambda: tuple(part + 0.1 for part in ours()), theirs))
    with pytest.raises(UserError, match=r"^'DDIM' and that of diffusers' DDIMScheduler differ by up to .*: nothing is timed\.$"):
        speed.speed(wrong)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The sizes of the benchmarks that are called, made small, and few pairs."""
    monkeypatch.setattr(speed, "PAIRS", 2)
    monkeypatch.setattr(timing, "paired", partial(timing.paired, least=1e-4))
    monkeypatch.setattr(timing, "provenance", cache(timing.provenance))
    monkeypatch.setattr(decode, "parent_process", decode.parent_process)  # which decoding.py changes for its process
    monkeypatch.setattr(quantizers, "GRID", (1, 8, 8))
    monkeypatch.setattr(training, "SMALL", (training.Size(32, 1, 2, 2, (1, 2, 2)), training.Size(32, 1, 2, 2, (2, 2, 2))))
    monkeypatch.setattr(decoding, "MADE", {"short": (2, 40)})
    monkeypatch.setattr(decoding, "GIVEN", {})
    monkeypatch.setattr(decoding, "SIDE", 64)
    for kept in (decoding.scratch, decoding.footage, decoding.frames):
        kept.cache_clear()
    yield
    for kept in (decoding.scratch, decoding.footage, decoding.frames):
        kept.cache_clear()


@pytest.mark.usefixtures("small")
def test_every_case_makes_its_row_and_asks_nothing() -> None:
    pytest.importorskip("vector_quantize_pytorch")
    pytest.importorskip("scipy")
    every = list(speed.cases(TINY, STEPS))
    assert len({(case.subject, case.measure) for case in every}) == len(every)
    for case in every:
        row = case.work()
        assert (row.subject, row.measure, row.wanted, row.met) == (case.subject, case.measure, "", None)
        assert row.code == timing.code(*speed.CODE)
        if row.ratio is None:
            assert "torchcodec was not measured" in row.against
        else:
            assert row.pairs == 2
            assert row.ratio > 0


def test_every_public_peer_is_there() -> None:
    every = list(speed.cases())
    assert {module.__name__ for _, module, _ in speed.elsewhere(TINY.distance)} == {
        "quantizers",
        "training",
        "frechet",
        "decoding",
    }
    subjects = "; ".join(case.subject for case in every) + "; ".join(peer.against for peer in PEERS)
    for word in ("timm", "torchcodec", "PyAV", "Frechet", "diffusers", "torchmetrics", "quantizer: lfq"):
        assert word in subjects
    assert (quantizers.PAIRS, training.PAIRS) == (15, 15), "what they measure by themselves stays as it is"
