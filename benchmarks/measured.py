"""The records of a suite as runs: what charts and claims read."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import mean

from lines import CHOSEN_BY_THE_TABLE, command_words
from records import BASELINE, Origin, Record

from vidgen.evaluation.rows import Row

LOSS = "loss/validation"
"""The generator's objective on fixed unseen latents, with fixed noise."""

SIZE = re.compile(r"generator\.(width|depth|heads|mlp_ratio|patch)=")
"""What sets the size of a generator, or of what it works on."""

STEPS = ("tokenizer.training.steps=", "generator.training.steps=")
"""What a suite's budget makes of each recipe, beside what its grid says."""


@dataclass(frozen=True)
class Run:
    """A recipe with one seed.

    Attributes:
        origin: of its records.
        rows: results by name; measured twice, the last counts.
        losses: the generator's validation loss by step.
    """

    origin: Origin
    rows: dict[str, Row] = field(default_factory=dict)
    losses: dict[int, float] = field(default_factory=dict)

    @property
    def words(self) -> tuple[str, ...]:
        """What was typed beside the parts and the seed, but for what concerns the machine."""
        rest = [word for word in self._typed if word.partition("=")[0] not in CHOSEN_BY_THE_TABLE]
        return tuple(word for word in rest if not word.startswith("trainer."))

    def typed(self, option: str) -> str:
        """What was typed for an option; empty where nothing was."""
        return next((value for key, _, value in (word.partition("=") for word in self._typed) if key == option), "")

    @cached_property
    def _typed(self) -> tuple[str, ...]:
        return tuple(word for word in command_words(self.origin.command) if "=" in word)

    @property
    def tokenizer(self) -> str:
        """The tokenizer's recipe."""
        return self.origin.tokenizer.partition(", quantizer ")[0]

    @property
    def quantizer(self) -> str:
        """The quantizer where it is not the recipe's own, as ``var`` needs it; else nothing."""
        return self.origin.tokenizer.partition(", quantizer ")[2]

    @property
    def generator(self) -> str:
        return self.origin.generator or ""

    @property
    def final_loss(self) -> float | None:
        """The generator's validation loss after its last step."""
        return self.losses[max(self.losses)] if self.losses else None

    def value(self, name: str) -> float | None:
        """A figure; None where there is none, or none that is finite."""
        row = self.rows.get(name)
        return row.value if row and math.isfinite(row.value) else None


def runs(records: Iterable[Record]) -> list[Run]:
    """The runs of a suite, in the order in which they came, without baselines."""
    found: dict[tuple[str, str | None, str, str, int], Run] = {}
    for record in records:
        origin, row = record.origin, record.row
        if origin.run == BASELINE:
            continue
        key = origin.tokenizer, origin.generator, origin.data, origin.config, origin.seed
        run = found.setdefault(key, Run(origin))
        if row.stage == "evaluation":
            run.rows[row.name] = row
        elif row.stage == "generator" and row.split == "val" and row.name == LOSS and math.isfinite(row.value):
            run.losses[row.step] = row.value
    return list(found.values())


def baselines(records: Iterable[Record]) -> list[Run]:
    """What is measured without a model, each point of a baseline by itself."""
    found: dict[tuple[str, str, str], Run] = {}
    for record in records:
        origin = record.origin
        if origin.run == BASELINE:
            run = found.setdefault((origin.tokenizer, origin.config, origin.command), Run(origin))
            run.rows[record.row.name] = record.row
    return list(found.values())


def average(found: Iterable[Run], name: str) -> float | None:
    """The mean of a figure over runs that have it; None where none has."""
    values = [value for run in found if (value := run.value(name)) is not None]
    return mean(values) if values else None


def points(found: Iterable[Run], across: str, along: str) -> list[tuple[float, float]]:
    """The two figures of each run that has both, above zero; ``LOSS`` is that at the end of training."""
    pairs = [(run.value(across), run.final_loss if along == LOSS else run.value(along)) for run in found]
    return [(x, y) for x, y in pairs if x is not None and y is not None and x > 0 and y > 0]


def cells(found: Sequence[Run]) -> dict[tuple[str, str], list[Run]]:
    """Runs that differ in their seeds alone, by the names of tokenizer and generator; the generator is empty where there is none.

    Names hold those settings in which the runs of the suite differ, each with the part that it is of; steps where only they tell
    recipes apart, for a budget gives each pair its own.
    """
    for without in (STEPS, STEPS[1:], STEPS[:1]):
        named = _named(found, without)
        if all(len({run.origin.config for run in own}) == 1 for own in named.values()):
            return named
    return _named(found, ())


def trained(found: Sequence[Run]) -> dict[tuple[str, str], list[Run]]:
    """The same of what was trained, however it was measured: a run for each seed."""
    named: dict[tuple[str, str], dict[int, Run]] = {}
    for (tokenizer, generator), own in cells(found).items():
        measured = [setting(word) for word in own[0].words if word.startswith("evaluation.")]
        rest = ", ".join(part for part in generator.split(", ") if part not in measured)
        for run in own:
            named.setdefault((tokenizer, rest), {}).setdefault(run.origin.seed, run)
    return {key: list(own.values()) for key, own in named.items()}


def _named(found: Sequence[Run], without: tuple[str, ...]) -> dict[tuple[str, str], list[Run]]:
    shared = _shared(found)
    named: dict[tuple[str, str], list[Run]] = {}
    for run in found:
        own = [word for word in run.words if word not in shared and not word.startswith(without)]
        tokenizer = [run.tokenizer, *(setting(word) for word in own if word.startswith("tokenizer."))]
        generator = [run.generator, *(setting(word) for word in own if not word.startswith("tokenizer."))]
        named.setdefault((", ".join(tokenizer), ", ".join(word for word in generator if word)), []).append(run)
    return named


def varied(found: Sequence[Run]) -> dict[str, dict[str, list[Run]]]:
    """The options that were given three numbers or more, with their runs by what else is told of them: the pair, other options.

    Left out is what sets the size of a generator, whose runs :func:`families` has, and what a budget makes of its steps.
    """
    shared = _shared(found)
    own = {id(run): [word for word in run.words if word not in shared and not word.startswith(STEPS[1:])] for run in found}
    given: dict[str, set[float]] = {}
    for word in (word for words in own.values() for word in words if not SIZE.match(word)):
        key, _, value = word.partition("=")
        if _is_number(value):
            given.setdefault(key, set()).add(float(value))
    related: dict[str, dict[str, list[Run]]] = {}
    for key in (key for key, values in given.items() if len(values) > 2):
        for run in found:
            rest = [setting(word) for word in own[id(run)] if not word.startswith((f"{key}=", *STEPS))]
            if _is_number(run.typed(key)):
                pair = " × ".join(filter(None, [run.generator, run.tokenizer]))
                related.setdefault(key, {}).setdefault(", ".join([pair, *rest]), []).append(run)
    return related


def _shared(found: Sequence[Run]) -> set[str]:
    """What was typed for all of them."""
    return set.intersection(*(set(run.words) for run in found)) if found else set()


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def setting(word: str) -> str:
    """``generator.guidance_scale=1.0`` in words: ``guidance scale 1.0``."""
    key, _, value = word.partition("=")
    return f"{re.split('[./]', key)[-1].replace('_', ' ')} {value}"


def families(found: Iterable[Run]) -> dict[str, list[Run]]:
    """Runs that differ in the size of the generator alone, and in their seeds, by the pair; those of three sizes and more."""
    named: dict[tuple[str, ...], list[Run]] = {}
    for run in found:
        rest = [word for word in run.words if not SIZE.match(word) and not word.startswith(STEPS)]
        named.setdefault((f"{run.generator} × {run.tokenizer}", *rest), []).append(run)
    sized = [(key, own) for key, own in named.items() if len({tuple(filter(SIZE.match, run.words)) for run in own}) > 2]
    alone = len({key[0] for key, _ in sized}) == len(sized)
    return {key[0] if alone else ", ".join([key[0], *map(setting, key[1:])]): own for key, own in sized}
