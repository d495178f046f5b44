"""How much work a step of a recipe is, measured by one trial step, and so how many steps spend a suite's budget."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from collect import portable
from suite import Suite

from vidgen.runs import write_json

Cost = Mapping[str, Mapping[str, float]]
"""Of a step of each stage: ``flops`` (forward and backward), ``tokens`` (cells of latents) and ``seconds`` on this machine."""


def costs(suite: Suite) -> dict[str, Cost]:
    """What a step of every recipe of a suite costs: from the suite's file, or measured and written there."""
    path = suite.folder / "work.json"
    recipes = {cell.recipe: " ".join(map(portable, cell.words)) for cell in suite.cells}
    known: dict[str, Cost] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    missing = {key: recipe for recipe, key in recipes.items() if key not in known}
    for number, (key, recipe) in enumerate(missing.items(), start=1):
        print(f"trial step {number} of {len(missing)}: {key}", flush=True)
        known[key] = trial(recipe.split(" "))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, dict(sorted(known.items())))
    return {recipe: known[key] for recipe, key in recipes.items()}


def steps(suite: Suite, cost: Cost) -> dict[str, int]:
    """Steps of each stage that spend the suite's budget."""
    found = {}
    for stage, (kind, amount) in suite.budget.items():
        if stage in cost:
            found[stage] = max(1, round(amount if kind == "steps" else amount / cost[stage][kind]))
    return found


def trial(words: Sequence[str]) -> dict[str, dict[str, float]]:
    """What a training step of each stage of ``vidgen fit WORDS`` costs."""
    import torch

    from vidgen.cli.compose import compose
    from vidgen.cli.plan import Plan
    from vidgen.data.batches import ClipBatches, to_video
    from vidgen.evaluation.flops import Flops
    from vidgen.training.cache import condition_of
    from vidgen.training.task import GeneratorTask, recipe_from, tokenizer_task

    plan = Plan(compose("fit", [*words, "resume=never"]))
    batch = next(iter(ClipBatches(plan.data, batch_size=1, seed=0, first=0, last=1)))
    clip = batch["video"].to(plan.device)
    tokenizer = plan.tokenizer.to(plan.device)
    with torch.no_grad(), plan.autocast():
        latent = tokenizer.encode(to_video(clip)).to(plan.device, torch.float32)

    def measured(task: Any, clips: Any) -> dict[str, float]:
        with Flops() as counter:
            task.to(plan.device).losses(clips(1)).total.backward()
        return {
            "flops": float(counter.total * task.recipe.batch_size),
            "tokens": float(tokenizer.spec.num_tokens(plan.data.shape) * task.recipe.batch_size),
            "seconds": plan.seconds(task, clips) / task.recipe.steps,
        }

    found = {}
    if plan.generator is not None:
        one = condition_of(batch, plan.data).to(plan.device)
        task: Any = GeneratorTask(plan.fresh_generator(tokenizer), recipe_from(plan.config["generator"]), 0, None)
        found["generator"] = measured(task, lambda n: (latent[[0] * n], one[[0] * n]))
    if plan.training("tokenizer"):
        task = tokenizer_task(tokenizer.requires_grad_(True), plan.config["tokenizer"], 0, plan.data)
        found["tokenizer"] = measured(task, lambda n: {"video": clip.expand(n, -1, -1, -1, -1)})
    return found
