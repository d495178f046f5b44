"""Tokenizers over a video that comes in chunks: with each backbone, and with each quantizer, what the whole video gives."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from vidgen import Latent, UserError, config, names
from vidgen.nn.stream import Stream

BACKBONES, QUANTIZERS = names("backbones"), names("quantizers")
PAIRS = [("lfq", backbone) for backbone in BACKBONES] + [
    (quantizer, "causal3d") for quantizer in QUANTIZERS if quantizer != "lfq"
]
CAUSAL = [pair for pair in PAIRS if config.load("tokenizer/backbone", pair[1]).get("causal", True)]


def tokenizer_of(quantizer: str, backbone: str) -> Any:
    parts = {"backbone": tiny.backbone_config(backbone), "quantizer": tiny.shrunk(config.load("tokenizer/quantizer", quantizer))}
    built = tiny.tokenizer("lfq", **parts)
    built.measure(tiny.videos(built))
    return built.eval()


@pytest.fixture(params=CAUSAL, ids="-".join)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    built = tokenizer_of(*request.param)
    assert built.spec.causal
    return built


def cut(video: Tensor, random: Random) -> list[Tensor]:
    """A video in chunks of any number of frames, some of them smaller than a cell."""
    chunks, left = [], video.shape[2]
    while left:
        chunks.append(random.randint(1, min(left, 9)))
        left -= chunks[-1]
    return list(video.split(chunks, dim=2))


def close(parts: Tensor, whole: Tensor) -> None:
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5 * max(1.0, float(whole.abs().max())))


@pytest.mark.parametrize("short", [0, 1, 3])
def test_any_chunks_give_the_latents_and_the_frames_of_the_whole(tokenizer: Any, short: int) -> None:
    """In both directions; the length fits, or is some frames short of it."""
    frames, height, width = tiny.shape_of(tokenizer, (6, 2, 2))
    frames -= short if tokenizer.spec.stride[0] > short else 0
    video = tiny.video((frames, height, width))
    whole = tokenizer.encode(video)
    back = tokenizer.decode(whole)
    for seed in range(2):
        latents = list(tokenizer.encode_stream(cut(video, Random(seed))))
        assert len(latents) > 1
        joined = Latent.cat(latents)
        assert (joined.grids, joined.start, joined.num_frames) == (whole.grids, 0, frames)
        for name, value in whole.tensors().items():
            if name == "ids":
                assert torch.equal(joined.ids, value)
            else:
                close(getattr(joined, name), value)
        parts = list(tokenizer.decode_stream(latents))
        assert [part.shape[2] for part in parts] == [latent.num_frames for latent in latents]
        close(torch.cat(parts, dim=2), back)


def test_latents_come_as_soon_as_their_cells_are_whole(tokenizer: Any) -> None:
    """Frame by frame: the first at once, the next after each stride, the rest at the end; no latent waits for the next chunk."""
    if tokenizer.spec.clip is not None:
        pytest.skip("the cells of a clip are quantized together")
    stride = tokenizer.spec.stride[0]
    video = tiny.video(tiny.shape_of(tokenizer, (4, 1, 1)), batch=1)[:, :, : 3 + 2 * stride]
    seen = 0

    def frames() -> Any:
        nonlocal seen
        for frame in video.split(1, dim=2):
            seen += 1
            yield frame

    latents = [(seen, latent.num_frames) for latent in tokenizer.encode_stream(frames())]
    total = video.shape[2]
    expected = [(1, 1)] + [(1 + stride * cell, stride) for cell in range(1, 1 + (total - 1) // stride)]
    rest = (total - 1) % stride
    assert latents == expected + ([(total, rest)] if rest else [])


def test_memory_does_not_grow_with_the_video(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the streams of both directions remember, after two thirds of 30 cells and at the end: the widest window is 16."""
    streams: list[Stream] = []
    start = Stream.__init__

    def noted(stream: Stream, **options: Any) -> None:
        start(stream, **options)
        if stream.keep:
            streams.append(stream)

    monkeypatch.setattr(Stream, "__init__", noted)
    _, height, width = tiny.shape_of(tokenizer, (1, 1, 1))
    chunk = tiny.video((tokenizer.spec.stride[0], height, width), batch=1)
    remembered = [
        sum(stream.nbytes for stream in streams)
        for _ in tokenizer.decode_stream(tokenizer.encode_stream(chunk for _ in range(30)))
    ]
    assert len(streams) == 2
    assert remembered[len(remembered) * 2 // 3] == remembered[-1] > 0


def test_no_chunks_are_no_latents(tokenizer: Any) -> None:
    assert list(tokenizer.encode_stream([])) == []
    assert list(tokenizer.decode_stream([])) == []


def test_a_size_that_does_not_fit_is_told(tokenizer: Any) -> None:
    _, height, width = tiny.shape_of(tokenizer)
    with pytest.raises(UserError, match="is not a multiple of the tokenizer's stride"):
        next(tokenizer.encode_stream([torch.zeros(1, 3, 1, height, width + 1)]))


@pytest.mark.parametrize("name", sorted({name for _, name in PAIRS} - {name for _, name in CAUSAL}))
def test_what_sees_the_future_does_not_stream(name: str) -> None:
    tokenizer = tokenizer_of("lfq", name)
    video = tiny.video(tiny.shape_of(tokenizer, (2, 1, 1)), batch=1)
    with pytest.raises(UserError, match="Only causal tokenizers encode and decode in streams"):
        next(tokenizer.encode_stream([video]))
    with pytest.raises(UserError, match="Only causal tokenizers encode and decode in streams"):
        next(tokenizer.decode_stream([tokenizer.encode(video)]))
