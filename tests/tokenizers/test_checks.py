"""What is no video in [-1, 1] is told in one sentence, wherever a tokenizer is given one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from vidgen import UserError

WAYS: dict[str, Callable[[Any, Tensor], Any]] = {
    "forward": lambda tokenizer, video: tokenizer(video),
    "encode": lambda tokenizer, video: tokenizer.encode(video),
    "stream": lambda tokenizer, video: list(tokenizer.encode_stream([video])),
}


@pytest.fixture(scope="module")
def shared() -> Any:
    return tiny.tokenizer("kl")


@pytest.fixture
def tokenizer(shared: Any) -> Any:
    shared._looked = False
    return shared


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda video: (video + 1) * 127.5, "A tokenizer takes videos in [-1, 1], and this one has values up to 255; "),
        (lambda video: video * torch.nan, "A tokenizer takes videos in [-1, 1], and this one has values up to nan; "),
        (lambda video: (video * 127).to(torch.uint8), "A tokenizer takes float videos in [-1, 1], and this one is uint8; turn "),
        (
            lambda video: video[0],
            "A tokenizer takes videos (batch, channels, frames, height, width), and this has the shape (3, ",
        ),
    ],
)
def test_it_is_told(tokenizer: Any, way: str, spoil: Callable[[Tensor], Tensor], sentence: str) -> None:
    video = tiny.video(tiny.shape_of(tokenizer))
    video[0, 0, 0, 0, 0] = 1.0
    with pytest.raises(UserError) as error:
        WAYS[way](tokenizer, spoil(video))
    assert str(error.value).startswith(sentence)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_videos_and_noisy_ones_are_taken(tokenizer: Any, way: str, noise: float) -> None:
    video = tiny.video(tiny.shape_of(tokenizer))
    WAYS[way](tokenizer, video + noise * torch.randn_like(video))


def test_training_looks_at_the_values_of_its_first_batch_only(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    monkeypatch.setattr("vidgen.tokenizers.autoencoder.check_range", lambda video: looked.append(1))
    for _ in range(3):
        tokenizer(tiny.video(tiny.shape_of(tokenizer)))
    assert looked == [1]
