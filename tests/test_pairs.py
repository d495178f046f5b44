"""Every generator meets every tokenizer: one training step and one sample, from pixels to pixels."""

from __future__ import annotations

import pytest
import tiny
import torch

from vidgen import names
from vidgen.routes import kind


@pytest.mark.parametrize("generator_name", names("generators"))
@pytest.mark.parametrize("tokenizer_name", tiny.trained())
def test_a_step_and_a_sample(tokenizer_name: str, generator_name: str) -> None:
    tokenizer = tiny.tokenizer(tokenizer_name).eval()
    tokenizer.measure(tiny.videos(tokenizer))
    generator = tiny.generator(generator_name, tokenizer.space, num_classes=2)
    latent, condition = tiny.latent(tokenizer), tiny.labels(0, 1, 0, 1)
    generator.prepare(latent)
    optimizer = torch.optim.SGD(generator.parameters(), lr=1e-3)
    before = [weight.clone() for weight in generator.parameters()]
    generator.loss(latent, condition).total.backward()
    optimizer.step()
    assert any(not torch.equal(old, new) for old, new in zip(before, generator.parameters(), strict=True))

    shape = tiny.shape_of(tokenizer)
    video = tokenizer.decode(generator.sample(2, shape, tiny.labels(0, 1), guidance_scale=2.0, seed=3))
    assert video.shape == (2, 3, *shape)
    assert bool(torch.isfinite(video).all())


@pytest.mark.parametrize("tokenizer_name", tiny.trained())
def test_the_kind_that_the_command_line_tells_is_what_is_built(tokenizer_name: str) -> None:
    assert kind(tiny.tokenizer_config(tokenizer_name)) in (tiny.tokenizer(tokenizer_name).spec.kind, None)
