"""Tiles: exact where their halo covers what the network sees, measured where not, and the same however many share them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from threading import Barrier, Thread
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from vidgen import UserError, hub
from vidgen.latents import Latent
from vidgen.tokenizers.tiling import Parts, Share, TiledBackbone, decode_tiled, encode_tiled, seam_error, tiled

SEEN = 4
"""Cells that the decoder below sees to each side: a stem, two convolutions of a block, a head. The encoder sees one fewer."""


@pytest.fixture
def tokenizer() -> Any:
    backbone = {
        "name": "causal3d",
        "patch": [2, 2, 2],
        "widths": [8],
        "encoder_depths": [1],
        "decoder_depths": [1],
        "strides": [],
    }
    config = {"name": "autoencoder", "backbone": backbone | {"adaptive": False}, "quantizer": {"name": "lfq", "bits": 4}}
    return tiny.stirred(hub.build_tokenizer(config))


@pytest.fixture
def video() -> Tensor:
    """11 x 17 cells: no number of tiles fits."""
    return tiny.video((5, 22, 34))


def test_what_the_network_sees_is_as_said(tokenizer: Any) -> None:
    """By gradient: so the halos of the tests below are enough, and no more than enough."""
    for step, channels, side, scale, reach in (
        (tokenizer.backbone.encode, 3, 22, 1, SEEN - 1),
        (tokenizer.backbone.decode, 4, 11, 2, SEEN),
    ):
        x = torch.randn(1, channels, 1, side, side, requires_grad=True)
        y = step(x)
        (slope,) = torch.autograd.grad(y[..., y.shape[-1] // 2].square().sum(), x)
        seen = slope.abs().sum(dim=(0, 1, 2, 3)).nonzero().flatten() // (side // 11)
        assert (seen.min(), seen.max()) == (5 - reach, 5 + reach), scale


@pytest.mark.parametrize("overlap", [2 * SEEN, 2 * SEEN + 1])
def test_with_a_halo_of_what_the_network_sees_tiles_are_the_whole(tokenizer: Any, video: Tensor, overlap: int) -> None:
    whole = tokenizer.encode(video)
    tiles: dict[str, Any] = {"tile": (10, 11), "overlap": overlap, "halo": SEEN}
    latent = encode_tiled(tokenizer, video, **tiles)
    assert latent.grids == whole.grids
    assert torch.equal(latent.ids, whole.ids)
    torch.testing.assert_close(decode_tiled(tokenizer, whole, **tiles), tokenizer.decode(whole), rtol=1e-5, atol=1e-5)
    error = seam_error(tokenizer, video, **tiles)
    assert max(error.encode_max, error.decode_max) < 1e-5


def test_with_less_the_seam_is_measured(tokenizer: Any, video: Tensor) -> None:
    """Against the definition; more overlap, and more halo in the same overlap, come nearer to the whole."""
    tiles: dict[str, Any] = {"tile": (6, 6), "overlap": 2}
    error = seam_error(tokenizer, video, **tiles)
    latent = tokenizer.encode(video)
    difference = (decode_tiled(tokenizer, latent, **tiles) - tokenizer.decode(latent)).abs()
    assert (error.decode_max, error.decode_mean) == (float(difference.max()), float(difference.mean()))
    assert error.encode_max > 1e-2
    assert error.decode_max > 1e-2
    wider = seam_error(tokenizer, video, tile=(10, 10), overlap=6)
    cut = seam_error(tokenizer, video, tile=(10, 10), overlap=6, halo=2)
    assert cut.decode_mean < wider.decode_mean < error.decode_mean
    assert cut.encode_mean < wider.encode_mean < error.encode_mean


def test_a_frame_of_one_tile_is_the_whole(tokenizer: Any, video: Tensor) -> None:
    error = seam_error(tokenizer, video, tile=(40, 17), overlap=3, halo=1)
    assert max(error.encode_max, error.decode_max) < 1e-5


class Position(torch.nn.Module):
    """A backbone whose every tile is one number, or its columns' own: what blending does to it can be told by hand."""

    stride, causal = (1, 1, 2), True

    def encode(self, x: Tensor, start: int = 0, stream: object = None) -> Tensor:
        return x[..., ::2]

    def decode(self, x: Tensor, start: int = 0, stream: object = None) -> Tensor:
        return x[..., :1].expand(*x.shape[:4], 2 * x.shape[4])


def test_blending_is_linear_between_the_halos() -> None:
    """Each tile is its first column's number; tiles of 6 cells begin at 0, 3 and, for the end, at 4."""
    z = torch.arange(10.0).expand(1, 1, 1, 1, 10)
    net = TiledBackbone(Position(), (5, 6), 4, 1, None)
    assert net._cuts(10, 6) == [slice(0, 6), slice(2, 8), slice(4, 10)]
    two = TiledBackbone(Position(), (5, 6), 4, 1, None).decode(z[..., :8])[0, 0, 0, 0]
    # Tiles at 0 and 2; cells 2 and 5 are halo, cells 3 and 4 (positions 6 to 9) go from 0 to 2.
    expected = [0.0] * 6 + [0.25, 0.75, 1.25, 1.75] + [2.0] * 6
    torch.testing.assert_close(two, torch.tensor(expected))
    sharp = TiledBackbone(Position(), (5, 6), 4, 2, None).decode(z[..., :8])[0, 0, 0, 0]
    assert sharp.tolist() == [0.0] * 8 + [2.0] * 8


@pytest.mark.parametrize(("side", "overlap", "halo"), [(6, 2, 1), (6, 0, 0), (5, 4, 2), (5, 4, 0), (7, 3, 1)])
@pytest.mark.parametrize("cells", [1, 4, 6, 9, 23])
def test_tiles_cover_everything_and_shares_sum_to_one(side: int, overlap: int, halo: int, cells: int) -> None:
    net = TiledBackbone(Position(), (side, side), overlap, halo, None)
    cuts = net._cuts(cells, side)
    assert {cut.stop - cut.start for cut in cuts} == {min(side, cells)}
    assert all(after.start - before.start <= side - overlap for before, after in zip(cuts, cuts[1:], strict=False))
    for scale in (1, 3):
        total = torch.zeros(cells * scale, dtype=torch.float64)
        for cut, share in zip(cuts, net._weights(cuts, scale, torch.device("cpu")), strict=True):
            assert bool((share >= 0).all())
            if cut.start and halo:
                assert not share[: halo * scale].any()
            total[cut.start * scale : cut.stop * scale] += share
        torch.testing.assert_close(total, torch.ones_like(total))


def in_ranks(ranks: int, work: Any) -> list[Any]:
    """``work(share)`` of as many ranks as threads, which meet to exchange their tiles."""
    barrier, mailbox, results = Barrier(ranks), {}, {}

    def run(rank: int) -> None:
        def exchange(own: Parts) -> Parts:
            mailbox[rank] = own
            barrier.wait(60)
            every = {index: part for other in range(ranks) for index, part in mailbox[other].items()}
            barrier.wait(60)
            return every

        results[rank] = work(Share(rank=rank, ranks=ranks, exchange=exchange))

    threads = [Thread(target=run, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[rank] for rank in range(ranks)]


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("tile", [(6, 9), (20, 20)], ids=["tiles", "clips"])
def test_many_ranks_give_what_one_gives(tokenizer: Any, video: Tensor, ranks: int, tile: tuple[int, int]) -> None:
    """To the bit; with tiles as large as the frame it is the clips that are shared, and the third of three has nothing to do."""
    tiles: dict[str, Any] = {"tile": tile, "overlap": 3, "halo": 1}
    one = encode_tiled(tokenizer, video, **tiles)
    for latent in in_ranks(ranks, lambda share: encode_tiled(tokenizer, video, share=share, **tiles)):
        assert torch.equal(latent.z, one.z)
        assert torch.equal(latent.ids, one.ids)
    frames = decode_tiled(tokenizer, one, **tiles)
    for back in in_ranks(ranks, lambda share: decode_tiled(tokenizer, one, share=share, **tiles)):
        assert torch.equal(back, frames)


def test_each_rank_computes_only_its_share(tokenizer: Any, video: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []
    encode = tokenizer.backbone.encode
    monkeypatch.setattr(tokenizer.backbone, "encode", lambda *given: computed.append(1) or encode(*given))
    encode_tiled(tokenizer, video, tile=(6, 9), overlap=3)
    alone = len(computed)
    in_ranks(2, lambda share: encode_tiled(tokenizer, video, tile=(6, 9), overlap=3, share=share))
    assert alone == 2 * 3 * 3
    assert len(computed) == 2 * alone


def test_tiles_stream(tokenizer: Any, video: Tensor) -> None:
    """In chunks of any length, tile by tile, one gets what tiles of the whole length give; and ranks may share that too."""
    long = torch.cat([video, video.flip(2)], dim=2)
    tiles: dict[str, Any] = {"tile": (6, 9), "overlap": 4, "halo": 1}
    whole = encode_tiled(tokenizer, long, **tiles)

    def there_and_back(share: Share | None) -> tuple[Latent, Tensor]:
        view = tiled(tokenizer, share=share, **tiles)
        latents = list(view.encode_stream(long.split([2, 1, 4, 3], dim=2)))
        return Latent.cat(latents), torch.cat(list(view.decode_stream(latents)), dim=2)

    latent, frames = there_and_back(None)
    assert torch.equal(latent.ids, whole.ids)
    torch.testing.assert_close(frames, decode_tiled(tokenizer, whole, **tiles), rtol=1e-5, atol=1e-5)
    for shared, back in in_ranks(2, there_and_back):
        assert torch.equal(shared.z, latent.z)
        assert torch.equal(back, frames)


def test_the_tokenizer_itself_stays_whole_and_shares_its_weights(tokenizer: Any, video: Tensor) -> None:
    before = tokenizer.encode(video)
    view = tiled(tokenizer, tile=(6, 6), overlap=0)
    assert view.space.spec == tokenizer.spec
    assert torch.equal(tokenizer.encode(video).z, before.z)
    assert not isinstance(tokenizer.backbone, TiledBackbone)
    tiny.stirred(tokenizer, 1.0)
    assert not torch.equal(tokenizer.encode(video).z, before.z)
    assert torch.equal(view.encode(video[..., :12, :12]).ids, tokenizer.encode(video[..., :12, :12]).ids)


@pytest.mark.parametrize(
    ("tile", "overlap", "halo"), [((4, 8), 4, 0), ((8, 8), 3, 2), ((8, 8), -1, 0), ((8, 8), 2, -1), ((0, 8), 0, 0)]
)
def test_tiles_that_cannot_be_are_told(tokenizer: Any, tile: tuple[int, int], overlap: int, halo: int) -> None:
    with pytest.raises(UserError, match=f"Tiles of {tile[0]}x{tile[1]} cells cannot overlap by {overlap} with a halo of {halo}"):
        tiled(tokenizer, tile=tile, overlap=overlap, halo=halo)


PROCESSES = """
import os
import torch
from torch import distributed
from torch.multiprocessing import get_context
from vidgen import hub
from vidgen.tokenizers.tiling import Share, decode_tiled, encode_tiled

BACKBONE = {"name": "causal3d", "patch": (2, 2, 2), "widths": (8,), "encoder_depths": (1,), "decoder_depths": (1,), "strides": ()}
TILES = {"tile": (3, 3), "overlap": 1}

def work(rank, ranks):
    share = None
    if ranks > 1:
        distributed.init_process_group("gloo", init_method=f"file://{os.getcwd()}/store", rank=rank, world_size=ranks)
        share = Share.of_processes()
    torch.manual_seed(0)
    tokenizer = hub.build_tokenizer({"name": "autoencoder", "backbone": BACKBONE, "quantizer": {"name": "lfq", "bits": 4}})
    latent = encode_tiled(tokenizer, torch.rand(1, 3, 3, 8, 12) * 2 - 1, share=share, **TILES)
    torch.save([latent.z, decode_tiled(tokenizer, latent, share=share, **TILES)], f"{ranks}-{rank}.pt")

if __name__ == "__main__":
    work(0, 1)
    processes = [get_context("fork").Process(target=work, args=(rank, 2)) for rank in range(2)]
    [process.start() for process in processes]
    [process.join() for process in processes]
    assert [process.exitcode for process in processes] == [0, 0]
"""


def test_two_processes_exchange_their_tiles(python: Callable[[str], CompletedProcess[str]], tmp_path: Path) -> None:
    """Over ``torch.distributed``: each has the whole result, which is that of one process to the bit."""
    done = python(PROCESSES)
    assert done.returncode == 0, done.stderr
    one, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(one, first, second, strict=True))
