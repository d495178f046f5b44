"""Latents on disk: what comes back is what was encoded, in as few bytes as that takes, whole or not at all."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from vidgen import Latent, LatentSpec, UserError
from vidgen.data.batches import Order, collate, to_video
from vidgen.training import cache as cache_module
from vidgen.training.cache import LatentCache, pack_ids, stored_fields, unpack_ids

COUNT, SEED = 11, 3


@pytest.fixture(params=["kl", "lfq"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    built = tiny.tokenizer(request.param).eval()
    built.measure(tiny.videos(built))
    return built


def encoded(tokenizer: Any) -> tuple[Latent, torch.Tensor]:
    """The first clips of the shuffled order, in one batch, without a cache; of 7 clips, so that a second epoch begins."""
    data = tiny.Clips(tiny.shape_of(tokenizer))
    order = Order(data.size("train"), SEED)
    batch = collate([data.clip("train", *order(position)) for position in range(COUNT)])
    return tokenizer.encode(to_video(batch["video"])), batch["label"]


@pytest.mark.parametrize("levels", [(2,) * 10, (2,) * 18, (1024,), (1000, 7), (8, 5, 5, 5), (2, 3), (1,)])
def test_ids_are_packed_to_their_bits(levels: tuple[int, ...]) -> None:
    """Round trip at any level, in sum(ceil(log2 level)) bits a token."""
    tokens = 13
    ids = np.stack([np.random.default_rng(0).integers(0, level, (5, tokens)) for level in levels], axis=-1)
    packed = pack_ids(ids, levels)
    bits = sum(max(1, math.ceil(math.log2(level))) for level in levels)
    assert packed.shape == (5, -(-tokens * bits // 8))
    assert packed.dtype == np.uint8
    back = unpack_ids(packed, tokens, levels)
    assert back.dtype == np.int64
    assert np.array_equal(back, ids)


def test_bits_of_a_byte_are_in_their_order() -> None:
    """The first sub-id of the first token is the highest bit of the first byte."""
    assert pack_ids(np.array([[[1, 0, 0], [0, 0, 1]]]), (2, 2, 2)).tolist() == [[0b10000100]]
    assert pack_ids(np.array([[[5, 1]]]), (8, 2)).tolist() == [[0b10110000]]


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_what_is_read_is_what_was_encoded(tokenizer: Any, tmp_path: Path, batch_size: int) -> None:
    cache = tiny.latent_cache(tokenizer, tmp_path / "latents", batch_size=batch_size)
    expected, label = encoded(tokenizer)
    assert len(cache) == COUNT
    for rows in (list(range(COUNT)), [7, 2, 2], [10]):
        latent, condition = cache.read(rows)
        assert torch.equal(condition.label, label[rows])
        assert (latent.spec, latent.grids, latent.num_frames) == (expected.spec, expected.grids, expected.num_frames)
        if tokenizer.spec.kind == "bits":
            assert torch.equal(latent.ids, expected.ids[rows])
            assert torch.equal(latent.h, expected.h[rows])
        else:  # rounded to bfloat16, which keeps 8 significant bits; a batch of another size may round otherwise
            assert torch.equal(latent.h, latent.h.bfloat16().float())
            torch.testing.assert_close(latent.h, expected.h[rows], rtol=2**-8, atol=1e-4)


def test_files_hold_what_they_must_and_no_more(tokenizer: Any, tmp_path: Path) -> None:
    """Packed bits, or two bytes a channel; nothing that is a function of the ids."""
    tiny.latent_cache(tokenizer, tmp_path / "latents")
    cells = math.prod(tokenizer.spec.grid(tiny.shape_of(tokenizer)))
    name, size = (
        ("ids", -(-cells * len(tokenizer.spec.levels or ()) // 8))
        if tokenizer.spec.levels
        else ("h", 2 * cells * tokenizer.spec.channels)
    )
    (shard,) = (tmp_path / "latents").glob("shard-*")
    assert {file.name for file in (tmp_path / "latents").iterdir()} == {shard.name, "meta.json"}
    assert {file.name for file in shard.iterdir()} == {f"{name}.npy", "label.npy", "checksums.json"}
    assert np.load(shard / f"{name}.npy", mmap_mode="r").nbytes == COUNT * size


def test_a_generator_that_wants_the_variance_gets_it(tmp_path: Path) -> None:
    tokenizer = tiny.tokenizer("kl").eval()
    latent, _ = tiny.latent_cache(tokenizer, tmp_path / "latents", wants=("h", "logvar")).read(range(COUNT))
    torch.testing.assert_close(latent.logvar, encoded(tokenizer)[0].logvar, rtol=2**-8, atol=1e-4)


def test_what_is_stored_for_each_kind() -> None:
    """Never z, nor the h of bits, which are functions of the ids; the ids beside h, for a rounded h would not give them back."""
    specs = {levels: LatentSpec(channels=4, stride=(4, 4, 4), causal=True, levels=levels) for levels in (None, (2, 2), (512,))}
    assert stored_fields(specs[(2, 2)], ("h",)) == ["ids"]
    assert stored_fields(specs[(512,)], ("ids",)) == ["ids"]
    assert stored_fields(specs[(512,)], ("h",)) == ["ids", "h"]
    assert stored_fields(specs[None], ("h",)) == ["h"]
    assert stored_fields(specs[None], ("h", "logvar")) == ["h", "logvar"]


def test_data_without_labels_gives_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tiny.tokenizer("lfq").eval()
    plain = tiny.Clips(tiny.shape_of(tokenizer), classes=0)
    monkeypatch.setattr(tiny, "Clips", lambda shape: plain)
    assert tiny.latent_cache(tokenizer, tmp_path / "latents").read([0, 1])[1].label is None


def test_a_cache_that_is_there_is_opened_and_nothing_is_encoded(tokenizer: Any, tmp_path: Path) -> None:
    first = tiny.latent_cache(tokenizer, tmp_path / "latents").read([3])[0]

    def never(items: Iterator[int], total: int) -> Iterator[int]:
        raise AssertionError("encoded again")

    again = tiny.latent_cache(tokenizer, tmp_path / "latents", progress=never).read([3])[0]
    assert all(torch.equal(value, again.tensors()[name]) for name, value in first.tensors().items())


@pytest.mark.parametrize("rows", [list(range(COUNT)), [10, 0, 5, 5, 9, 3], [8]])
def test_shards_are_read_as_one(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[int]) -> None:
    whole = tiny.latent_cache(tokenizer, tmp_path / "whole", batch_size=2)
    monkeypatch.setattr(cache_module, "SHARD", 5)  # of two batches of two
    cut = tiny.latent_cache(tokenizer, tmp_path / "cut", batch_size=2)
    assert len(list((tmp_path / "cut").glob("shard-*"))) == 3
    (one, told), (other, known) = cut.read(rows), whole.read(rows)
    assert all(torch.equal(value, other.tensors()[name]) for name, value in one.tensors().items())
    assert torch.equal(told.label, known.label)


def test_a_damaged_shard_is_named_before_any_of_it_is_used(tokenizer: Any, tmp_path: Path) -> None:
    cache = tiny.latent_cache(tokenizer, tmp_path / "latents")
    (shard,) = (tmp_path / "latents").glob("shard-*")
    file = shard / f"{cache.fields[0]}.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"{file.name} is not what was written: remove the folder"):
        LatentCache(tmp_path / "latents", tokenizer.space).read([0])


def contents(cache: Path) -> dict[str, bytes]:
    return {str(file.relative_to(cache)): file.read_bytes() for file in cache.rglob("*") if file.is_file()}


def interrupting(error: type[BaseException]) -> Callable[[Iterator[int], int], Iterator[int]]:
    def progress(items: Iterator[int], total: int) -> Iterator[int]:
        yield next(items)
        yield next(items)
        raise error

    return progress


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_build_that_breaks_off_leaves_nothing(tokenizer: Any, tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error):
        tiny.latent_cache(tokenizer, tmp_path / "latents", progress=interrupting(error))
    assert list(tmp_path.iterdir()) == []
    tiny.latent_cache(tokenizer, tmp_path / "latents")
    tiny.latent_cache(tokenizer, tmp_path / "whole")
    assert contents(tmp_path / "latents") == contents(tmp_path / "whole")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_build_goes_on_from_its_finished_shards(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    monkeypatch.setattr(cache_module, "SHARD", 4)
    tiny.latent_cache(tokenizer, tmp_path / "whole", batch_size=2)
    counted: list[int] = []

    def some(items: Iterator[int], total: int) -> Iterator[int]:
        for done, item in enumerate(items):
            if done == 3:  # in the midst of the second shard
                raise error
            yield item

    def count(items: Iterator[int], total: int) -> Iterator[int]:
        for item in items:
            counted.append(item)
            yield item
        assert len(counted) == total

    with pytest.raises(error):
        tiny.latent_cache(tokenizer, tmp_path / "latents", batch_size=2, progress=some)
    assert not (tmp_path / "latents").exists()
    tiny.latent_cache(tokenizer, tmp_path / "latents", batch_size=2, progress=count)
    assert counted == [4, 6, 8, 10]
    assert contents(tmp_path / "latents") == contents(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latents", "whole"]


def killing(items: Iterator[int], total: int) -> Iterator[int]:
    yield next(items)
    yield next(items)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_build_leaves_nothing_half(tmp_path: Path) -> None:
    """The next one starts anew and is whole."""
    tokenizer = tiny.tokenizer("lfq").eval()
    child = os.fork()
    if child == 0:
        tiny.latent_cache(tokenizer, tmp_path / "latents", progress=killing)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not (tmp_path / "latents").exists()
    assert len(tiny.latent_cache(tokenizer, tmp_path / "latents")) == COUNT
    tiny.latent_cache(tokenizer, tmp_path / "whole")
    assert contents(tmp_path / "latents") == contents(tmp_path / "whole")


def test_whoever_is_slower_takes_the_other_s_cache(tmp_path: Path) -> None:
    """Two processes may build the same one at a time."""
    tokenizer = tiny.tokenizer("lfq").eval()

    def overtaken(items: Iterator[int], total: int) -> Iterator[int]:
        yield next(items)
        tiny.latent_cache(tokenizer, tmp_path / "latents" / ".." / "other")
        (tmp_path / "other").rename(tmp_path / "latents")
        yield from items

    cache = tiny.latent_cache(tokenizer, tmp_path / "latents", progress=overtaken)
    assert len(cache) == COUNT
    assert [path.name for path in tmp_path.iterdir()] == ["latents"]


def test_the_cache_says_what_is_in_it(tokenizer: Any, tmp_path: Path) -> None:
    tiny.latent_cache(tokenizer, tmp_path / "latents")
    meta = json.loads((tmp_path / "latents" / "meta.json").read_text())
    assert LatentSpec.from_dict(meta["spec"]) == tokenizer.spec
    assert LatentCache(tmp_path / "latents", tokenizer.space).grids == tokenizer.spec.grids(tiny.shape_of(tokenizer))
