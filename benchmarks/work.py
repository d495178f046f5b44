"""How much work a step of a recipe is, measured by one trial step: how many steps spend a suite's budget, and what they see.

Equal work is not equal data: a trunk that works on few tokens a clip goes through more clips for the same operations. What a
trial step says of both stands beside the figures of every run of the recipe.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from collect import portable
from lines import command_words
from records import BASELINE, Origin, Record, alone, read
from suite import Suite

from vidgen.runs import write_json

Cost = Mapping[str, Mapping[str, float]]
"""Of a step of each stage: ``flops`` (forward and backward), ``tokens`` (cells of latents), ``clips`` and ``seconds`` on this
machine; of a generator also ``trunk``, the tokens that a clip is to its transformer."""


def costs(suite: Suite) -> dict[str, Cost]:
    """What a step of every recipe of a suite costs: from the suite's file, or measured and written there.

    What stands there is never measured again, for the steps of all runs come from it; what an older file lacks is added.
    """
    recipes = {cell.recipe: " ".join(map(portable, cell.words)) for cell in suite.cells}
    known = _known(suite)
    missing = {key: recipe for recipe, key in recipes.items() if not _whole(known.get(key, {}))}
    for number, (key, recipe) in enumerate(missing.items(), start=1):
        print(f"trial step {number} of {len(missing)}: {key}", flush=True)
        before = known.get(key, {})
        known[key] = {stage: {**found, **before.get(stage, {})} for stage, found in trial(recipe.split(" ")).items()}
        path = suite.folder / "work.json"
        with alone(path):  # another process may have found the cost of others meanwhile
            write_json(path, dict(sorted({**_known(suite), key: known[key]}.items())))
    return {recipe: known[key] for recipe, key in recipes.items()}


def _known(suite: Suite) -> dict[str, Cost]:
    path = suite.folder / "work.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _whole(cost: Cost) -> bool:
    return bool(cost) and all("clips" in stage for stage in cost.values()) and "trunk" in cost.get("generator", {"trunk": 0})


def results(suite: Suite) -> list[Record]:
    """The records of a suite in its order, of generators with the tokens of the trunk and the clips that training saw.

    Where a run was done again by another recipe, as after a default has changed, the last one's alone.
    """
    known = {tuple(key.split(" ")): cost["generator"] for key, cost in _known(suite).items() if "generator" in cost}
    found: list[Record] = []
    for record in _latest(suite, read(suite.results)):
        found.append(record)
        if record.row.name == "generator/parameters":
            typed = set(command_words(record.origin.command))
            cost = known.get(max((words for words in known if typed.issuperset(words)), key=len, default=()), {})
            seen = {"generator/trunk_tokens": cost.get("trunk"), "generator/train_clips": cost.get("clips")}
            for name, value in seen.items():
                if value is not None:
                    total = value * record.row.step if name == "generator/train_clips" else value
                    found.append(replace(record, row=replace(record.row, name=name, value=total)))
    return found


def _latest(suite: Suite, records: Sequence[Record]) -> list[Record]:
    recipes = list({(*cell.words, *cell.again): None for cell in suite.cells})

    def of(origin: Origin) -> tuple[object, ...]:
        return recipe_of(origin, recipes) or origin.command, origin.run == BASELINE and origin.tokenizer, origin.seed

    keys = [of(record.origin) for record in records]
    last = {key: record.origin.config for key, record in zip(keys, records, strict=True)}
    place: dict[object, int] = {recipe: number for number, recipe in enumerate(recipes)}
    found = [(key, record) for key, record in zip(keys, records, strict=True) if record.origin.config == last[key]]
    found.sort(key=lambda one: (one[1].origin.run == BASELINE, place.get(one[0][0], len(place)), one[1].origin.seed))
    return [record for _, record in found]


def recipe_of(origin: Origin, recipes: Sequence[tuple[str, ...]]) -> tuple[str, ...] | None:
    """The words of the cell that a run is of: of those whose words were all typed, the one with the most."""
    typed = set(command_words(origin.command))
    return max((words for words in recipes if typed.issuperset(map(portable, words))), key=len, default=None)


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
        with Flops() as counter, _trunk(task) as trunk:
            task.to(plan.device).losses(clips(1)).total.backward()
        return {
            **({"trunk": float(sum(trunk))} if trunk else {}),
            "clips": float(task.recipe.batch_size),
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


@contextmanager
def _trunk(module: Any) -> Iterator[list[int]]:
    """How many tokens a clip the transformer is given, a number for each time."""
    from vidgen.nn.trunk import Trunk

    seen: list[int] = []
    trunks = [part for part in module.modules() if isinstance(part, Trunk)]
    hooks = [part.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1])) for part in trunks]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
