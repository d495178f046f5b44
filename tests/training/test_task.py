"""One reproducible step of a tokenizer or a generator, and what is measured of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from vidgen import config, names
from vidgen.data.batches import eval_batches, to_video
from vidgen.training.cache import LatentCache
from vidgen.training.task import LatentBatches, Recipe, Task, TokenizerTask, recipe_from


@pytest.fixture
def cache(tmp_path: Path) -> LatentCache:
    return tiny.latent_cache(tiny.tokenizer("kl").eval(), tmp_path / "latents")


def training(stage: str, cache: LatentCache) -> tiny.Training:
    return tiny.tokenizer_training("kl") if stage == "tokenizer" else tiny.generator_training("dit", tiny.tokenizer("kl"), cache)


def at(task: Task, step: int, rank: int = 0) -> Task:
    """``task`` as if a trainer of that rank had done ``step`` steps."""
    task.trainer = SimpleNamespace(global_step=step, global_rank=rank)  # type: ignore[assignment]
    return task


@pytest.mark.parametrize("stage", ["tokenizer", "generator"])
def test_a_step_s_randomness_is_a_function_of_seed_and_step(stage: str, cache: LatentCache) -> None:
    """Not of what was drawn before, nor of which task object does it: going on after a stop needs no generator state."""
    made = training(stage, cache)
    task, batch = made.task(), next(iter(made.loader(0)))

    def loss(task: Task, step: int, rank: int = 0) -> float:
        torch.randn(int(torch.randint(1, 9, ())))
        return float(at(task, step, rank).training_step(batch, 0)["loss"].detach())

    first = loss(task, 3)
    torch.manual_seed(99)
    assert loss(task, 3) == loss(made.task(), 3) == first
    assert len({first, loss(task, 4), loss(task, 3, rank=1)}) == 3
    task.seed = 1
    assert loss(task, 3) != first


@pytest.mark.parametrize("stage", ["tokenizer", "generator"])
def test_the_average_begins_as_the_model_and_is_never_trained_itself(stage: str, cache: LatentCache) -> None:
    task = training(stage, cache).task()
    assert tiny.same_weights(task.average, task.model)
    assert not any(weight.requires_grad for weight in task.average.parameters())
    task.on_train_start()
    assert not any(module.training for module in task.average.modules())
    trained = {id(weight) for group in task.configure_optimizers()["optimizer"].param_groups for weight in group["params"]}
    assert trained == {id(weight) for weight in task.model.parameters()}


def test_the_loss_is_the_model_s_own_on_that_batch(cache: LatentCache) -> None:
    made = training("tokenizer", cache)
    task, batch = at(made.task(), 2), next(iter(made.loader(0)))
    step = task.training_step(batch, 0)
    torch.manual_seed(0)
    scalars = task.model(to_video(batch["video"]))[2].scalars
    assert step["scalars"].keys() == scalars.keys()
    assert not any(value.requires_grad for value in step["scalars"].values())
    assert torch.equal(step["scalars"]["kl"], scalars["kl"])  # has no noise in it


def test_the_quantizer_hears_how_far_training_has_come() -> None:
    made = tiny.tokenizer_training("lfq", steps=20)
    task = made.task()
    for step in (0, 5, 19):
        at(task, step).training_step(next(iter(made.loader(0))), 0)
        assert task.model.quantizer.progress == step / 20


def test_validation_psnr_is_the_mean_over_frames_by_the_average(cache: LatentCache) -> None:
    """Against numpy, clip by clip and frame by frame, on pixels of [0, 255]."""
    task = training("tokenizer", cache).task()
    assert isinstance(task, TokenizerTask)
    tiny.stirred(task.model, 1.0)  # must not matter
    task.on_train_start()
    values = []
    for batch in eval_batches(task.data, "val", task.val_clips, 1):
        back = task.average.decode(task.average.encode(to_video(batch["video"])))
        pixels = (np.clip(back[0].permute(1, 2, 3, 0).double().numpy(), -1, 1) + 1) * 127.5
        for ours, theirs in zip(pixels, batch["video"][0].double().numpy(), strict=True):
            values.append(10 * np.log10(255**2 / np.mean((ours - theirs) ** 2)))
    assert len(values) == 2 * task.data.shape[0]
    assert task.validate_now() == {"reconstruction/psnr": pytest.approx(np.mean(values), abs=1e-3)}


def test_validation_of_a_generator_is_by_the_average(cache: LatentCache) -> None:
    task = training("generator", cache).task()
    expected = float(task.average.validation_loss(*cache.read([0, 1])))
    tiny.stirred(task.model, 1.0)
    assert task.validate_now() == {"loss/validation": expected}
    task.val = None
    assert task.validate_now() == {}


def with_ids(ids: torch.Tensor, step: int) -> tuple[dict[str, float], str]:
    """The health of a tokenizer of 2**bits codes whose last batch was coded by ``ids``."""
    task = at(tiny.tokenizer_training("lfq", warmup=10).task(), step)
    assert isinstance(task, TokenizerTask)
    bits = len(task.model.spec.levels)
    task.last_ids = (ids.unsqueeze(-1) >> torch.arange(bits)) & 1
    return task.health()


def test_perplexity_of_a_batch_s_codes() -> None:
    uniform, _ = with_ids(torch.arange(32).view(2, 16), 0)
    assert uniform == {"codebook/batch_perplexity": pytest.approx(32)}
    uneven, _ = with_ids(torch.tensor([[0, 0, 0, 7]]), 0)
    assert uneven["codebook/batch_perplexity"] == pytest.approx(2 ** (0.75 * np.log2(4 / 3) + 0.25 * np.log2(4)))


def test_a_collapsed_codebook_is_named_with_what_to_try_but_not_while_it_warms_up() -> None:
    one = torch.zeros(2, 16, dtype=torch.long)
    figures, warning = with_ids(one, 500)
    assert figures == {"codebook/batch_perplexity": pytest.approx(1)}
    assert warning.startswith("the codebook has collapsed: a batch is coded by about 1.0 of ")
    assert "larger tokenizer.quantizer.entropy_weight" in warning
    assert with_ids(one, 10)[1] == ""
    assert with_ids(torch.arange(32).view(2, 16), 500)[1] == ""


def test_continuous_latents_have_no_codebook_to_lose(cache: LatentCache) -> None:
    made = training("tokenizer", cache)
    task = at(made.task(), 500)
    task.training_step(next(iter(made.loader(0))), 0)
    assert task.health() == ({}, "")
    assert training("generator", cache).task().health() == ({}, "")


@pytest.mark.parametrize("name", names("tokenizers"))
def test_every_recipe_says_how_it_is_trained(name: str) -> None:
    """Whole: a recipe that lacks an entry, or has one too many, is not built."""
    values = config.load("tokenizer", name)
    recipe = recipe_from(values)
    assert isinstance(recipe, Recipe)
    assert list(recipe.betas) == values["training"]["betas"]
    assert recipe.warmup < recipe.steps
    with pytest.raises(TypeError):
        recipe_from({"training": values["training"] | {"momentum": 0.9}})


def drawn(cache: LatentCache, **options: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    how = {"batch_size": 3, "seed": 5, "first": 0, "last": 9} | options
    return [(latent.h, condition.label) for latent, condition in LatentBatches(cache, **how)]


def test_latent_batches_are_a_function_of_seed_and_step(cache: LatentCache) -> None:
    whole, rest = drawn(cache), drawn(cache, first=4)
    assert len(rest) == 5
    for (h, label), (again, same) in zip(whole[4:], rest, strict=True):
        assert torch.equal(h, again)
        assert torch.equal(label, same)
    assert not torch.equal(whole[0][0], drawn(cache, seed=6)[0][0])


def test_any_number_of_ranks_sees_the_same_latents_in_a_step(cache: LatentCache) -> None:
    alone = drawn(cache, batch_size=6)
    ranks = [drawn(cache, batch_size=2, rank=rank, ranks=3) for rank in range(3)]
    for step, (h, label) in enumerate(alone):
        assert torch.equal(torch.cat([rank[step][0] for rank in ranks]), h)
        assert torch.equal(torch.cat([rank[step][1] for rank in ranks]), label)


def test_an_epoch_of_latents_has_each_of_them_once(cache: LatentCache) -> None:
    rows = torch.cat([h for h, _ in drawn(cache, batch_size=1, last=len(cache))]).flatten(1)
    stored = cache.read(range(len(cache)))[0].h.flatten(1)
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, stored.tolist()))
