"""Suites and their records, made up."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable
from itertools import product
from typing import Any

from records import Origin, Record
from suite import Cell, Suite

from vidgen.evaluation.rows import Row

PROTOCOL = "run@0123abcd, 128 real clips"
COMMON = ("data=worlds", "evaluation.samples=128")


def suite(
    *extra: tuple[str, ...],
    tokenizers: tuple[str, ...] = ("kl", "lfq"),
    generators: tuple[str, ...] = ("dit", "ar"),
    seeds: tuple[int, ...] = (0, 1, 2),
    again: tuple[tuple[str, ...], ...] = ((),),
    **changes: Any,
) -> Suite:
    own = [*((f"tokenizer={one}", f"generator={two}") for one, two in product(tokenizers, generators)), *extra]
    cells = tuple(Cell((*COMMON, *words), seed, other, words) for seed in seeds for words in own for other in again)
    budget = {"tokenizer": ("steps", 600.0), "generator": ("steps", 1200.0)}
    return Suite(
        **{"name": "tiny", "title": "Which is best?", "words": "Equal steps.", "budget": budget, "cells": cells, **changes}
    )


def value(words: tuple[str, ...], key: str) -> str:
    """What the words say of a key; empty for nothing."""
    return next((word.partition("=")[2] for word in words if word.partition("=")[0] == key), "")


def origin(words: tuple[str, ...], seed: int, **changes: Any) -> Origin:
    """That of a cell's run, as ``run.py`` starts it."""
    typed = ["vidgen", "fit", *words, "tokenizer.training.steps=600", f"seed={seed}", "runs=runs"]
    values = {
        "run": f"run-{len(words)}-{seed}",
        "command": shlex.join(typed),
        "tokenizer": value(words, "tokenizer"),
        "generator": value(words, "generator") or None,
        "data": "worlds",
        "config": hashlib.sha256(" ".join(words).encode()).hexdigest()[:16],
        "seed": seed,
        "precision": "bf16",
        "hardware": {"cpu": "A processor", "cores": 2, "memory_gib": 8.0},
        "versions": {"python": "3.11.9", "torch": "2.15.0"},
        "commit": "0123456789ab",
    }
    return Origin(**{**values, **changes})


def row(name: str, value: float, **changes: Any) -> Row:
    step = 600 if name.startswith("reconstruction/") else 1200
    values = {"stage": "evaluation", "split": "test", "step": step, "seconds": 90.0, "name": name, "value": value}
    counted = {} if "parameters" in name or "train_" in name else {"n": 128}
    rule = {"protocol": PROTOCOL} if "motion_fd" in name else {}
    return Row(**{**values, **counted, **rule, **changes})


def record(words: tuple[str, ...], seed: int, name: str, value: float, **of_row: Any) -> Record:
    return Record(origin=origin(words, seed), row=row(name, value, **of_row))


def five_and_seed(words: tuple[str, ...], seed: int) -> float:
    return 5.0 + seed


def all_records(
    of: Suite,
    figure: Callable[[tuple[str, ...], int], float] = five_and_seed,
    names: tuple[str, ...] = ("samples/motion_fd",),
) -> list[Record]:
    """A figure of every name for every cell."""
    words = {cell: (*cell.words, *cell.again) for cell in of.cells}
    return [record(words[cell], cell.seed, name, figure(words[cell], cell.seed)) for cell in of.cells for name in names]


def baseline(tokenizer: str, name: str, value: float, **of_row: Any) -> Record:
    changes = {"run": "baseline", "command": "", "tokenizer": tokenizer, "generator": None, "config": "baseline"}
    return Record(origin=origin((), 0, **changes), row=row(name, value, **of_row))
