"""An inflated image tokenizer treats every frame as the image tokenizer does, on the way in and on the way out."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from vidgen import UserError, hub
from vidgen.tokenizers.inflate import inflate

Recipe = dict[str, Any]


def tokenizer(seed: int, **options: Any) -> Any:
    """One with continuous codes, so that every difference shows."""
    stages = len(options["strides"]) + 1
    sizes = {"widths": [8, 12, 6][:stages], "encoder_depths": [1] * stages, "decoder_depths": [1] * stages}
    quantizer = {"name": "kl", "channels": 3, "weight": 0.0}
    torch.manual_seed(seed)
    config = {"name": "autoencoder", "backbone": {"name": "causal3d", **sizes, **options}, "quantizer": quantizer}
    return tiny.stirred(hub.build_tokenizer(config))


def pair(**options: Any) -> tuple[Any, Any]:
    """An image tokenizer, and a video tokenizer with its weights: 4x in time by its patch and its strides."""
    image = tokenizer(0, **options, time_kernel=1, patch=(1, 2, 2), strides=[[1, 2, 2], [1, 1, 1]])
    video = tokenizer(1, **options, patch=(2, 2, 2), strides=[[1, 2, 2], [2, 1, 1]])
    image.standardise.mean.uniform_()
    inflate(image.state_dict(), video)
    return image, video


def images(x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B*T, C, 1, H, W)."""
    return x.movedim(2, 1).flatten(0, 1).unsqueeze(2)


FORMS = [
    {"conv": conv, "stem": stem, "norm": norm, "padding": padding, "adaptive": adaptive, "encoder_kernel": kernel}
    for conv, stem, (norm, padding, adaptive, kernel) in product(
        ("factorised", "full"), ("patch", "haar"), [("channel", "zeros", False, 1), ("group", "repeat", True, 3)]
    )
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form.values())))
class TestInflated:
    def test_a_still_video_is_its_image_over_and_over(self, form: Recipe) -> None:
        image, video = pair(**form)
        still = torch.rand(2, 3, 1, 8, 12) * 2 - 1
        one, many = image.encode(still), video.encode(still.expand(-1, -1, 9, -1, -1))
        assert many.z.shape[2] == 3
        torch.testing.assert_close(many.z, one.z.expand_as(many.z), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(many.h, one.h.expand_as(many.h), rtol=1e-3, atol=1e-4)
        back = video.decode(many)
        assert back.shape[2] == 9
        torch.testing.assert_close(back, image.decode(one).expand_as(back), rtol=1e-3, atol=1e-3)

    def test_a_moving_video_is_the_images_that_end_its_cells(self, form: Recipe) -> None:
        """More than the still one shows: no weight of the image has gone to an earlier frame. In double, so to many digits."""
        image, video = (tokenizer.backbone.double() for tokenizer in pair(**form))
        moving = torch.rand(1, 3, 9, 8, 12, dtype=torch.float64) * 2 - 1
        z = video.encode(moving)
        torch.testing.assert_close(images(z), image.encode(images(moving[:, :, ::4])), rtol=1e-6, atol=1e-6)
        expected = image.decode(images(z)).transpose(0, 2)
        covered = torch.cat([expected[:, :, :1], expected[:, :, 1:].repeat_interleave(4, dim=2)], dim=2)
        torch.testing.assert_close(video.decode(z), covered, rtol=1e-6, atol=1e-6)


def test_it_goes_on_learning_from_there() -> None:
    """No weight over time is out of reach of the gradient: zeros are a start, not an end."""
    _, video = pair(conv="full")
    loss = video(torch.rand(1, 3, 9, 8, 8))[2].total
    loss.backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in video.parameters())


def test_tokenizers_that_differ_in_more_than_time_are_refused() -> None:
    still = {"time_kernel": 1, "patch": (1, 2, 2)}
    image = tokenizer(0, strides=[[1, 2, 2]], **still).state_dict()
    with pytest.raises(
        UserError, match=r"'backbone\.encoder\.stem\.0\.conv\.weight' is \[8, 12, 3, 3\], where \[8, 48, 3, 3\] would"
    ):
        inflate(image, tokenizer(0, strides=[[1, 2, 2]], patch=(2, 4, 4)))
    with pytest.raises(UserError, match=r"The image tokenizer has no 'backbone\.\S*', which the video tokenizer has"):
        inflate(image, tokenizer(0, strides=[[1, 2, 2], [2, 1, 1]], patch=(2, 2, 2)))
    deep = tokenizer(0, strides=[[1, 2, 2]], encoder_depths=[1, 2], **still).state_dict()
    with pytest.raises(UserError, match=r"The image tokenizer has 'backbone\.\S*', which the video tokenizer has not"):
        inflate(deep, tokenizer(0, strides=[[1, 2, 2]], patch=(2, 2, 2)))
    with pytest.raises(UserError, match="Only tokenizers with the causal3d backbone inflate"):
        inflate(image, tiny.tokenizer("lfq", backbone=tiny.backbone_config("vit")))
