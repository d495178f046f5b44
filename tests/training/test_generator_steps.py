"""What a step of a generator trains on: windows and images as a function of (seed, step), and batches in parts."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from tests import tiny
from vidgen.errors import UserError
from vidgen.latents import Condition, Losses
from vidgen.nn.given import known_tokens
from vidgen.nn.parallel import counted_mean
from vidgen.training.cache import training_cells
from vidgen.training.optim import build_optimizer
from vidgen.training.task import GeneratorTask, LatentBatches, Task

STEPS = 2000


def test_windows_and_images_come_in_their_shares() -> None:
    spec = tiny.tokenizer("lfq").spec
    drawn = [training_cells(spec, 9, 3, step, windows=0.5, images=0.25) for step in range(STEPS)]
    assert drawn == [training_cells(spec, 9, 3, step, windows=0.5, images=0.25) for step in range(STEPS)]
    assert drawn != [training_cells(spec, 9, 4, step, windows=0.5, images=0.25) for step in range(STEPS)]
    shares = {"image": drawn.count((0, 1)) / STEPS, "whole": drawn.count((0, 9)) / STEPS}
    assert abs(shares["image"] - 0.25) < 0.04 and abs(shares["whole"] - 0.375) < 0.04  # 4 standard deviations
    windows = {part for part in drawn if part not in ((0, 1), (0, 9))}
    assert windows == {(first, first + n) for n in range(5, 9) for first in range(1, 10 - n)}  # all that half or more make
    assert {training_cells(spec, 9, 3, step, windows=0.0, images=0.0) for step in range(99)} == {(0, 9)}
    assert {training_cells(spec, 1, 3, step, windows=1.0, images=0.0) for step in range(99)} == {(0, 1)}


def test_windows_of_a_growing_pyramid_are_whole_clips() -> None:
    spec = tiny.tokenizer("pyramid_clip").spec
    cells = 1 + 3 * spec.clip
    for step in range(50):
        first, last = training_cells(spec, cells, 0, step, windows=1.0, images=0.0)
        assert (first - 1) % spec.clip == (last - 1) % spec.clip == 0 and last - first >= 2 * spec.clip


@pytest.mark.parametrize("name", ["lfq", "kl", "pyramid"])
def test_batches_are_those_cells_of_the_clips(name: str, tmp_path: Path) -> None:
    tokenizer = tiny.tokenizer(name)
    wants = ("h", "logvar") if name == "kl" else ("ids",)
    cache = tiny.latent_cache(tokenizer, tmp_path / "cache", wants=wants)
    how = {"batch_size": 2, "seed": 5, "first": 0, "last": 12}
    whole = list(LatentBatches(cache, **how))
    seen = set()
    for step, ((latent, told), (all_of_it, _)) in enumerate(
        zip(LatentBatches(cache, windows=0.5, images=0.4, **how), whole, strict=True)
    ):
        part = training_cells(tokenizer.spec, 3, 5, step, windows=0.5, images=0.4)
        seen.add(part)
        expected = all_of_it.cells(*part)
        assert (latent.start, latent.grids, latent.num_frames) == (part[0], expected.grids, expected.num_frames)
        assert latent.tensors().keys() >= set(wants)
        assert all(torch.equal(value, expected.tensors()[field]) for field, value in latent.tensors().items())
        assert told.label is None or len(told.label) == 2
    assert {(0, 1), (0, 3), (1, 3)} == seen
    assert set(cache.fields) == ({"h", "logvar"} if name == "kl" else {"ids"})


def test_images_need_a_causal_tokenizer() -> None:
    tokenizer = tiny.pair("kl", "causal3d")
    generator = tiny.generator("dit", tokenizer.space)
    GeneratorTask(generator, tiny.recipe(images=0.5), 0, None)
    object.__setattr__(tokenizer.spec, "causal", False)
    with pytest.raises(UserError, match=r"generator.training.images=0.5 needs a causal tokenizer"):
        GeneratorTask(generator, tiny.recipe(images=0.5), 0, None)


class Quadratic(Task):
    """A task without randomness: mean squared error of a linear map."""

    stage = "generator"

    def losses(self, batch: tuple[torch.Tensor, torch.Tensor]) -> Losses:
        x, y = batch
        loss = (self.model(x) - y).square().mean()
        return Losses(total=loss, scalars={"mse": loss})

    def validate_now(self) -> dict[str, float]:
        return {}


class Counted(Quadratic):
    """As it, over those of the values that the batch says."""

    def losses(self, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> Losses:
        x, y, counted = batch
        loss, count = counted_mean((self.model(x) - y).square(), counted)
        return Losses(total=loss, scalars={"mse": loss}, count=count)


class Listed(IterableDataset):
    """Batches in their order."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(parts: int) -> None:
    torch.manual_seed(0)
    batch, model = (torch.randn(8, 3), torch.randn(8, 2)), nn.Linear(3, 2)
    task = Quadratic(model, tiny.recipe(batch_size=8, accumulate=parts), 0)
    losses = task.step_losses(batch, 0)
    losses.total.backward()
    direct = task.losses(batch).total
    expected = torch.autograd.grad(direct, list(model.parameters()))
    assert all(torch.allclose(weight.grad, grad, atol=1e-6) for weight, grad in zip(model.parameters(), expected, strict=True))
    assert torch.allclose(losses.total, direct) and torch.allclose(losses.scalars["mse"], direct)


@pytest.mark.parametrize("parts", [2, 4])
def test_a_part_counts_by_what_is_counted_in_it(parts: int) -> None:
    """As masked tokens are, of which every clip has another number; and one part may have none."""
    torch.manual_seed(0)
    counted = torch.rand(8, 2) < torch.tensor([0.0, 0.0, 0.9, 0.2, 0.5, 1.0, 0.1, 0.7]).unsqueeze(1)
    batch, model = (torch.randn(8, 3), torch.randn(8, 2), counted), nn.Linear(3, 2)
    task = Counted(model, tiny.recipe(batch_size=8, accumulate=parts), 0)
    losses = task.step_losses(batch, 0)
    losses.total.backward()
    error = (model(batch[0]) - batch[1]).square()[counted].mean()
    expected = torch.autograd.grad(error, list(model.parameters()))
    assert all(torch.allclose(weight.grad, grad, atol=1e-6) for weight, grad in zip(model.parameters(), expected, strict=True))
    assert torch.allclose(losses.total, error) and torch.allclose(losses.scalars["mse"], error)


@pytest.mark.parametrize("name", ["maskgit", "var", "ar", "dit"])
def test_a_generator_says_what_its_loss_is_the_mean_of(name: str, tmp_path: Path) -> None:
    """Clips of which more and fewer cells are given: the mean over all is that of the parts by their counts."""
    tokenizer = tiny.tokenizer("pyramid" if name == "var" else "kl" if name == "dit" else "lfq")
    torch.manual_seed(0)
    model = tiny.stirred(tiny.generator(name, tokenizer.space, conditioning={"frames": {}}), 0.05).eval()
    latent = tokenizer.encode(torch.rand(4, 3, 9, 16, 16) * 2 - 1)
    given = torch.tensor([[True, False, False], [True, True, False], [False] * 3, [True, True, False]])

    def loss(some: slice) -> Losses:
        part, told = latent[some], Condition(known=latent[some], known_mask=given[some])
        if name == "maskgit":
            tokens = model.tokens.of(part, None)
            masked = ~known_tokens(told, model.spec, part.grids, 0)
            return model.loss_at(tokens, masked, told, part.grids)
        if name == "dit":
            noise = torch.randn(4, *part.h.shape[1:], generator=torch.Generator().manual_seed(0))[some]
            return model.loss_at(part.h, torch.full((len(part),), 0.4), noise, told)
        return model._loss(part, model.tokens.of(part), told) if name == "ar" else model._loss(part, told, 0.0, 0.0)

    whole, parts = loss(slice(0, 4)), [loss(slice(0, 1)), loss(slice(1, 4))]
    counts = torch.stack([part.count for part in parts])
    assert torch.allclose(whole.count, counts.sum())
    assert counts[0] * 3 != counts[1]
    assert torch.allclose(whole.total, (torch.stack([part.total for part in parts]) * counts).sum() / counts.sum(), rtol=1e-5)


def test_parts_are_of_one_size() -> None:
    with pytest.raises(UserError, match=r"accumulate' is 3, and does not divide batch_size=8"):
        Quadratic(nn.Linear(1, 1), tiny.recipe(batch_size=8, accumulate=3), 0)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_training_in_parts_on_windows_apart_or_not_and_images_resumes_to_the_bit(optimizer: str, tmp_path: Path) -> None:
    tokenizer = tiny.tokenizer("lfq")
    cache = tiny.latent_cache(tokenizer, tmp_path / "cache")
    changes = {"windows": 0.5, "images": 0.3, "accumulate": 2, "no_decay": ("embed",), "steps": 6, "optimizer": optimizer}
    far = {"label": {"dropout": 0.1}, "frames": {"spread": 0.5}}
    start = tiny.stirred(tiny.generator("dit", tokenizer.space, num_classes=3, conditioning=far), 0.05)
    training = tiny.generator_training("dit", tokenizer, cache, start=start, **changes)
    whole = training.run(tmp_path / "whole")

    class Enough(Exception):
        pass

    def stop(step: int, split: str, values: object) -> None:
        if step == 4:
            raise Enough

    with pytest.raises(Enough):
        training.run(tmp_path / "resumed", tiny.Seen().hooks(log=stop))
    again = training.run(tmp_path / "resumed")
    assert tiny.same_weights(whole, again)


def test_training_in_parts_is_training_on_whole_batches(tmp_path: Path) -> None:
    """Over several steps, so that a gradient left over from a step before, or taken away too early, would show."""
    torch.manual_seed(0)
    batches, start = [(torch.randn(8, 3), torch.randn(8, 2)) for _ in range(6)], nn.Linear(3, 2)

    def trained(parts: int) -> nn.Module:
        how = tiny.recipe(batch_size=8, accumulate=parts, steps=6, optimizer="adamw", lr=0.1, warmup=0)
        training = tiny.Training(
            lambda: Quadratic(deepcopy(start), how, 0), lambda first: DataLoader(Listed(batches[first:]), batch_size=None)
        )
        return training.run(tmp_path / str(parts)).model

    whole, parts = trained(1), trained(4)
    assert not torch.allclose(whole.weight, start.weight, atol=1e-2)
    assert torch.allclose(whole.weight, parts.weight, atol=1e-5)


def test_weights_decay_in_groups() -> None:
    model = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(2, 2)]), "embed": nn.Embedding(3, 2), "out": nn.Linear(2, 2)})

    def decays(optimizer: str, no_decay: tuple[str, ...]) -> dict[str, float]:
        made = build_optimizer(
            model, optimizer=optimizer, lr=1.0, muon_lr=1.0, weight_decay=0.1, betas=(0.9, 0.9), no_decay=no_decay
        )
        by_id = {id(weight): group["weight_decay"] for group in made.param_groups for weight in group["params"]}
        assert sum(len(group["params"]) for group in made.param_groups) == len(by_id)
        return {name: by_id[id(weight)] for name, weight in model.named_parameters()}

    for optimizer in ("adamw", "muon"):
        plain = {"blocks.0.weight": 0.1, "embed.weight": 0.1, "out.weight": 0.1, "blocks.0.bias": 0.0, "out.bias": 0.0}
        assert decays(optimizer, ()) == plain
        assert decays(optimizer, ("embed", "blocks.0")) == plain | {"embed.weight": 0.0, "blocks.0.weight": 0.0}
