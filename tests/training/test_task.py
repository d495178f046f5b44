"""One reproducible step of a tokenizer or a generator, and what is measured of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from vidgen import UserError, config
from vidgen.data.batches import eval_batches, to_video
from vidgen.latents import split_ids
from vidgen.training import guards
from vidgen.training.cache import LatentCache
from vidgen.training.task import LatentBatches, Recipe, Task, TokenizerTask, recipe_from


@pytest.fixture
def cache(tmp_path: Path) -> LatentCache:
    return tiny.latent_cache(tiny.tokenizer("kl").eval(), tmp_path / "latents")


def training(stage: str, cache: LatentCache) -> tiny.Training:
    return tiny.tokenizer_training("kl") if stage == "tokenizer" else tiny.generator_training("dit", tiny.tokenizer("kl"), cache)


def at(task: Task, step: int) -> Task:
    """``task`` as if a trainer had done ``step`` steps."""
    task.trainer = SimpleNamespace(global_step=step)  # type: ignore[assignment]
    return task


@pytest.mark.parametrize("stage", ["tokenizer", "generator"])
def test_a_step_s_randomness_is_a_function_of_seed_and_step(stage: str, cache: LatentCache) -> None:
    """Not of what was drawn before, nor of which task object does it: going on after a stop needs no generator state."""
    made = training(stage, cache)
    task, batch = made.task(), next(iter(made.loader(0)))

    def loss(task: Task, step: int) -> float:
        torch.randn(int(torch.randint(1, 9, ())))
        return float(at(task, step).training_step(batch, 0)["loss"].detach())

    first = loss(task, 3)
    torch.manual_seed(99)
    assert loss(task, 3) == loss(made.task(), 3) == first
    assert loss(task, 4) != first
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


def used(batches: list[torch.Tensor], step: int, name: str = "lfq", **quantizer: Any) -> tuple[dict[str, float], str]:
    """The health of a tokenizer whose last batches, the newest that of ``step``, were coded by those joint ids."""
    start = tiny.tokenizer("lfq", quantizer=tiny.quantizer_config(name) | quantizer)
    task = at(tiny.tokenizer_training("lfq", start=start, warmup=10).task(), step)
    assert isinstance(task, TokenizerTask)
    assert task.usage is not None
    for back, ids in zip(reversed(range(len(batches))), batches, strict=True):
        task.usage.count(split_ids(ids, task.model.spec.levels), step - back)
    return task.health()


def test_codes_are_counted_over_the_whole_codebook_in_a_sliding_window() -> None:
    """Against counting by hand: the last 32 batches of 40, all of 1024 codes."""
    rng = torch.Generator().manual_seed(0)
    batches = [torch.randint(0, 300 + 10 * i, (2, 30), generator=rng) for i in range(40)]
    figures, _ = used(batches, 39)
    tokens = torch.stack(batches[-guards.WINDOW :]).flatten().tolist()
    shares = [tokens.count(code) / len(tokens) for code in set(tokens)]
    assert figures["codebook/usage"] == pytest.approx(len(set(tokens)) / 1024)
    assert figures["codebook/dead_codes"] == 1024 - len(set(tokens))
    assert figures["codebook/perplexity"] == pytest.approx(2 ** -sum(share * np.log2(share) for share in shares))


def test_a_codebook_too_large_to_count_jointly_is_counted_by_sub_id() -> None:
    window = guards.UsageWindow((2,) * 40)
    ids = torch.zeros(2, 8, 40, dtype=torch.long)
    ids[:, :4, :10] = 1
    window.count(ids, 7)
    figures = window.figures()
    assert window.counts.shape == (guards.WINDOW, 80)
    assert figures["entropy_bits"] == pytest.approx(10)
    assert figures["dead_codes"] == 30
    assert figures["usage"] == pytest.approx((10 * 1 + 30 * 0.5) / 40)


def test_the_largest_codebook_is_counted_whole() -> None:
    window = guards.UsageWindow((2,) * 18)
    window.count(split_ids(torch.arange(2**18).view(1, -1), (2,) * 18), 0)
    assert window.figures() == {
        "usage": 1.0,
        "perplexity": pytest.approx(2**18),
        "entropy_bits": pytest.approx(18),
        "dead_codes": 0,
        "tokens": 2**18,
    }


def counted(rank: int, folder: str, shares: list[torch.Tensor]) -> None:
    """A process of two that counts its share of two batches and writes down what it then says."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    window = guards.UsageWindow((64,))
    for step, batch in enumerate(shares):
        window.count(batch.chunk(2)[rank], step)
    torch.save(window.figures(), f"{folder}/{rank}")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_count_as_one(tmp_path: Path) -> None:
    batches = [torch.randint(0, 64, (4, 9, 1)) for _ in range(2)]
    torch.multiprocessing.spawn(counted, (str(tmp_path), batches), nprocs=2)
    alone = guards.UsageWindow((64,))
    for step, batch in enumerate(batches):
        alone.count(batch, step)
    assert torch.load(tmp_path / "0") == torch.load(tmp_path / "1") == alone.figures()


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("lfq", "a larger tokenizer.quantizer.entropy_weight, or a smaller tokenizer.training.lr."),
        ("vq", "a larger tokenizer.quantizer.restart, or a smaller tokenizer.training.lr."),
        ("gumbel", "a larger tokenizer.quantizer.kl_start, or a smaller tokenizer.training.lr."),
        ("simvq", "a smaller tokenizer.training.lr."),
    ],
)
def test_a_collapsed_codebook_is_named_with_what_to_try_but_not_while_it_warms_up(name: str, remedy: str) -> None:
    one = [torch.zeros(2, 16, dtype=torch.long)]
    figures, warning = used(one, 500, name)
    vocab = round(1 / figures["codebook/usage"])
    assert figures == {"codebook/usage": 1 / vocab, "codebook/perplexity": 1, "codebook/dead_codes": vocab - 1}
    assert warning == f"the codebook has collapsed: the last 32 batches are coded by about 1.0 of {vocab} codes. Try {remedy}"
    assert used(one, 10, name)[1] == ""
    assert used([torch.arange(20).view(2, 10)], 500, name)[1] == ""


def test_of_a_stack_it_is_the_inner_quantizer_that_is_to_be_changed() -> None:
    _, warning = used([torch.zeros(2, 16, dtype=torch.long)], 500, "residual")
    assert warning.endswith("Try a larger tokenizer.quantizer.quantizer.restart, or a smaller tokenizer.training.lr.")


def test_two_codes_of_two_are_no_collapse() -> None:
    assert used([torch.tensor([[0, 1, 1, 0]])], 500, bits=1)[1] == ""
    assert used([torch.tensor([[0, 0, 0, 0]])], 500, bits=1)[1] != ""


def test_a_codebook_that_is_used_is_none_however_often_one_code_is() -> None:
    """A ground that fills most of every picture: a perplexity below 2.5 of a codebook of which every code is there."""
    ids = torch.cat([torch.zeros(1, 4096, dtype=torch.long), torch.arange(1024).unsqueeze(0)], dim=1)
    often = torch.cat([ids, torch.zeros(1, 60_000, dtype=torch.long)], dim=1)
    figures, warning = used([often], 500, "lfq")
    assert figures["codebook/perplexity"] < 2.5
    assert warning == ""


def test_continuous_latents_have_no_codebook_to_lose(cache: LatentCache) -> None:
    made = training("tokenizer", cache)
    task = at(made.task(), 500)
    task.training_step(next(iter(made.loader(0))), 0)
    assert task.health() == ({}, "")
    assert training("generator", cache).task().health() == ({}, "")


# Images among videos


def shapes_seen(seed: int, steps: int = 40, **changes: Any) -> list[tuple[int, ...]]:
    """The shapes of the videos that the model is given, step by step."""
    made = tiny.tokenizer_training("kl", seed=seed, steps=steps, **changes)
    task, batch, seen = made.task(), next(iter(made.loader(0))), []
    task.model.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
    for step in range(steps):
        at(task, step).training_step(batch, 0)
    return seen


def test_a_share_of_the_steps_drawn_by_seed_and_step_is_of_images() -> None:
    """As many as have the clips' cells, so that a step has as many tokens."""
    clips, images = (2, 3, 9, 16, 8), (6, 3, 1, 16, 8)
    seen = shapes_seen(0, images=0.3)
    assert set(seen) == {clips, images}
    assert 4 <= seen.count(images) <= 20
    assert shapes_seen(0, images=0.3) == seen
    assert shapes_seen(1, images=0.3) != seen
    assert set(shapes_seen(0, 3)) == {clips}
    assert set(shapes_seen(0, 3, images=1.0)) == {images}


def test_the_images_are_frames_of_the_clips() -> None:
    made = tiny.tokenizer_training("kl", images=1.0)
    task, batch, seen = at(made.task(), 0), next(iter(made.loader(0))), []
    task.model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    task.training_step(batch, 0)
    video = to_video(batch["video"])
    for index, image in enumerate(seen[0]):
        frames = video[index // 3].transpose(0, 1)
        assert any(torch.equal(image[:, 0], frame) for frame in frames)


def test_images_need_a_causal_backbone_and_a_share() -> None:
    start = tiny.tokenizer("kl")
    start.spec = replace(start.spec, causal=False)
    with pytest.raises(UserError, match=r"^tokenizer\.training\.images=0\.5 needs a causal backbone"):
        tiny.tokenizer_training("kl", start=start, images=0.5).task()
    with pytest.raises(UserError, match=r"^'tokenizer\.training\.images' is between 0 and 1, and 2 is not\."):
        tiny.tokenizer_training("kl", images=2.0).task()


def test_a_tokenizer_takes_its_batch_whole() -> None:
    with pytest.raises(UserError, match=r"^tokenizer\.training\.accumulate=2, and a tokenizer learns from each batch as a whole"):
        tiny.tokenizer_training("lfq", accumulate=2, batch_size=4).task()


# Perception and the adversary


def test_a_perceptual_loss_is_added_with_its_weight(cache: LatentCache) -> None:
    start = tiny.tokenizer("kl")
    plain = tiny.tokenizer_training("kl", start=start)
    seeing = tiny.tokenizer_training("kl", start=start, perceptual={"name": "gradients", "weight": 3.0})
    batch = next(iter(plain.loader(0)))
    without, found = (at(made.task(), 1).training_step(batch, 0) for made in (plain, seeing))
    torch.testing.assert_close(found["loss"], without["loss"] + 3 * found["scalars"]["perceptual"])
    assert found["scalars"]["perceptual"] > 0


def test_the_adversary_starts_at_that_very_step_of_the_tokenizer(tmp_path: Path) -> None:
    """Counted in the tokenizer's steps, not in both optimizers': nothing of it moves before, and it moves once a step after."""
    seen = tiny.Seen()
    made = tiny.tokenizer_training("kl", adversary=tiny.ADVERSARY | {"start": 5})
    task = made.task()
    assert isinstance(task, TokenizerTask)
    weight = next(task.adversary.parameters())
    moved, before = [], weight.detach().clone()

    def log(step: int, split: str, values: Any) -> None:
        nonlocal before
        seen.rows.append((step, split, dict(values)))
        if split == "train":
            moved.append(not torch.equal(weight, before))
            before = weight.detach().clone()

    made.run(tmp_path, seen.hooks(log=log), task=task)
    assert moved == [False] * 5 + [True] * 3
    rows = [values for _, split, values in seen.rows if split == "train"]
    assert [("loss/adversarial" in row, "loss/r1" in row) for row in rows] == [(False, False)] * 5 + [
        (True, True),
        (True, False),
        (True, True),
    ]
    saved = torch.load(tmp_path / "tokenizer.ckpt", weights_only=True)
    assert saved["global_step"] == 8
    assert {float(state["step"]) for state in saved["adversary_optimizer"]["state"].values()} == {3.0}


def test_before_its_start_an_adversary_changes_nothing(tmp_path: Path) -> None:
    start = tiny.tokenizer("lfq")
    plain = tiny.tokenizer_training("lfq", start=start).run(tmp_path / "plain")
    waiting, heard = (
        tiny.tokenizer_training("lfq", start=start, adversary=tiny.ADVERSARY | {"start": step}).run(tmp_path / str(step))
        for step in (8, 7)
    )
    assert tiny.same_weights(plain.model, waiting.model)
    assert not tiny.same_weights(plain.model, heard.model)


def test_of_an_adversary_nothing_is_in_the_model() -> None:
    plain, made = tiny.tokenizer_training("kl").task(), tiny.tokenizer_training("kl", adversary=tiny.ADVERSARY).task()
    for part in ("model", "average"):
        assert getattr(made, part).state_dict().keys() == getattr(plain, part).state_dict().keys()
    assert tiny.tokenizer_training("kl", adversary=tiny.ADVERSARY | {"weight": 0.0}).task().adversary is None


def test_the_discriminator_follows_the_schedule_and_the_largest_norm(tmp_path: Path) -> None:
    """Its first step: AdamW's first moment is (1 - beta) of the clipped gradient, and its rate the schedule's."""
    made = tiny.tokenizer_training("kl", steps=1, warmup=4, clip_norm=1e-3, adversary=tiny.ADVERSARY)
    made.run(tmp_path)
    saved = torch.load(tmp_path / "tokenizer.ckpt", weights_only=True)["adversary_optimizer"]
    norm = torch.stack([state["exp_avg"].norm() for state in saved["state"].values()]).norm() / (1 - 0.5)
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)
    assert saved["param_groups"][0]["lr"] == pytest.approx(tiny.ADVERSARY["lr"] / 4)


def test_what_is_compiled_cannot_be_looked_into() -> None:
    with pytest.raises(UserError, match=r"^tokenizer\.adversary\.adaptive=true looks at the decoder's last layer"):
        tiny.tokenizer_training("kl", adversary=tiny.ADVERSARY).task().compile_model()


@pytest.mark.parametrize("name", tiny.trained())
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
