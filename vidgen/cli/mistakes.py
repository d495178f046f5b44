"""Sentences for what Hydra notices without helping, or not at all: unknown names, unknown keys, and values no run can have."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from functools import reduce
from typing import Any

from vidgen.config import SEVERAL, checked, command_groups, command_recipe, load, merge, preset_names
from vidgen.errors import UserError, did_you_mean, nearest
from vidgen.registry import unknown

CHOICES = {
    "stage": ("all", "tokenizer", "generator"),
    "reuse": ("auto", "never"),
    "accelerator": ("auto", "cpu", "cuda", "mps"),
    "precision": ("auto", "bf16", "fp32"),
    "optimizer": ("adamw", "muon"),
    "logger.name": ("csv", "tensorboard", "wandb"),
}
"""The words that an option may be, by its last name or its full one, in :data:`OURS`."""

RANGES = {
    "num": (1, math.inf),
    "steps": (1, math.inf),
    "batch_size": (1, math.inf),
    "evaluation.clips": (1, math.inf),
    "samples": (1, math.inf),
    "shown": (1, math.inf),
    "fps": (1, math.inf),
    "frames": (1, math.inf),
    "chunk": (0, math.inf),
    "log_every": (1, math.inf),
    "checkpoint_every": (1, math.inf),
    "workers": (0, math.inf),
    "clips": (0, math.inf),
    "images": (0, 1),
    "windows": (0, 1),
    "accumulate": (1, math.inf),
    "lr": (0, math.inf),
    "muon_lr": (0, math.inf),
    "weight_decay": (0, math.inf),
    "warmup": (0, math.inf),
    "clip_norm": (0, math.inf),
    "decay": (0, 1),
    "ema": (0, 1),
}
"""The least and the most that an option may be, likewise."""

OURS = ("", "trainer", "logger", "evaluation", "tokenizer.training", "generator.training")
"""The sections whose values are checked here; what the parts' own options may be, the parts know."""


PLAIN = re.compile(r"([a-z_][\w./]*)=([\w.-]+)")
"""Overrides of which Hydra's grammar says no more than this: a key and one word or number."""


@contextmanager
def pointing_to_help(command: str) -> Iterator[None]:
    """Adds to a sentence where help is."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error} See: vidgen {command} --help") from error


def look(command: str, words: Sequence[str]) -> None:
    """Finds the commonest mistakes in plain overrides before Hydra is imported, for that takes longer than an answer should.

    Raises:
        UserError: as composing would, of the first mistake that it sees; what it does not see, composing will.
    """
    plain = [match.groups() for word in words if (match := PLAIN.fullmatch(word))]
    groups = command_groups(command)
    choices = {key: None if value == "null" else value for key, value in plain if key in groups}
    keys = [word.partition("=")[0] for word in words]  # of lists too, which are not plain
    if any(key.startswith("hydra") or ("/" in key and key not in groups) or key in SEVERAL for key in keys):
        return  # Hydra's own, a part that only another one has, or one of several
    with pointing_to_help(command):
        for group, name in choices.items():
            check_choice(group, name, command)
        if choices.get("experiment"):
            return  # which may choose other parts than the default
        base = command_recipe(command, choices)
        for key, value in ((key, _value(text)) for key, text in plain if key not in groups):
            check_key(key, value, base, command)
            if value is not None:
                check_values(merge(base, checked(base, _nested(key, value))))


def _value(text: str) -> Any:
    """A plain override's value in the type that Hydra's grammar gives it."""
    if text in ("null", "true", "false"):
        return {"null": None, "true": True, "false": False}[text]
    for number in (int, float):
        with suppress(ValueError):
            return number(text)
    return text


def _nested(key: str, value: Any) -> Any:
    for step in reversed(key.split(".")):
        value = {step: value}
    return value


def check_form(text: str, command: str) -> None:
    """Sees that an override is ``key=value``, of whatever key and value.

    Raises:
        UserError: on a flag, a deletion or a bare word, naming what was probably meant.
    """
    if text.startswith("-"):
        key, _, value = text.lstrip("-").partition("=")
        raise UserError(f"'{text}' is not a flag of this command; options have no dashes: {key}={value or '...'}.")
    if text.startswith("~"):
        raise UserError(f"'{text}' would take an option away, and every recipe needs all of its own; set it instead.")
    if "=" not in text:
        groups = [group for group in command_groups(command) if text in preset_names(group)]
        raise UserError(f"'{text}' is not of the form key=value.{f' Did you mean {groups[0]}={text}?' if groups else ''}")


def check_choice(group: str, name: object, command: str) -> None:
    """Sees that a group has a recipe of that name; None is right where the group is optional.

    Raises:
        UserError: naming the nearest and all of them.
    """
    optional = command_groups(command).get(group, "") is None
    if name not in preset_names(group) and not (name is None and optional):
        raise unknown(group, "null" if name is None else name, preset_names(group))


def check_key(key: str, value: object, base: Mapping[str, Any], command: str) -> None:
    """Sees that ``key`` is in ``base``, and that it does not put one value in the place of a whole part.

    Raises:
        UserError: naming the nearest key, and those beside it.
    """
    here: Any = base
    steps = key.split(".")
    for depth, step in enumerate(steps):
        where = ".".join(steps[:depth])
        if not isinstance(here, Mapping):
            raise UserError(f"'{where}' is one value, so there is no '{key}'; set '{where}' whole.")
        if step not in here:
            meant = _meant(key, base, command)
            raise UserError(f"'{where or command}' has no option '{step}'.{meant} The options are {', '.join(here)}.")
        here = here[step]
    if isinstance(here, Mapping) and isinstance(value, Mapping):
        where, _, last = key.rpartition(".")
        checked({last: here}, {last: value}, where)
    elif isinstance(here, Mapping):
        group = key.replace(".", "/")
        inner = f"{key}={{name:{value}}}" if "name" in here else ""
        way = f"{group}={value}" if group in command_groups(command) else inner
        swap = f"; to choose another part, write {way}" if way else ""
        raise UserError(f"'{key}' is a group of options and not one value{swap}.")


def check_values(config: Mapping[str, Any]) -> None:
    """Sees that words are among :data:`CHOICES` and numbers within :data:`RANGES`.

    Raises:
        UserError: naming the option in full and what it may be.
    """
    for section in OURS:
        values = reduce(lambda inside, key: inside.get(key, {}), section.split(".") if section else [], config)
        for key, value in values.items():
            full = f"{section}.{key}".lstrip(".")
            choices = CHOICES.get(full) or CHOICES.get(key)
            least, most = RANGES.get(full) or RANGES.get(key) or (-math.inf, math.inf)
            if choices and value not in choices:
                raise UserError(
                    f"'{full}' is one of {', '.join(choices)}, and {value} is not.{did_you_mean(str(value), choices)}"
                )
            if isinstance(value, int | float) and not least <= value <= most:
                limits = f"at least {least}" if most == math.inf else f"between {least} and {most}"
                raise UserError(f"'{full}' is {limits}, and {value} is not.")


def _meant(key: str, base: Mapping[str, Any], command: str) -> str:
    """What an unknown key may have meant: an option of another part, the nearest beside it, the nearest last word anywhere."""
    for group in command_groups(command):
        option = key.replace("/", ".").removeprefix(f"{group.replace('/', '.')}.")
        others = [name for name in preset_names(group) if option != key and option in load(group, name)]
        if others:
            return f" {group}={others[0]} has it."
    words = {name: re.split("[./]", name)[-1] for name in _names(base, command)}
    word, parent, top = re.split("[./]", key)[-1], key.rpartition(".")[0], key.partition(".")[0]
    beside = {last: name for name, last in words.items() if name.rpartition(".")[0] == parent}
    if word not in words.values() and (match := nearest(word, beside)):
        return f" Did you mean {beside[match]}?"
    matches = get_close_matches(word, words.values(), n=1, cutoff=0.75)
    found = [name for name, last in words.items() if last in matches]
    found = [name for name in found if name.startswith(f"{top}.")] or found
    return f" Did you mean {' or '.join(found[:3])}?" if found else ""


def _names(base: Mapping[str, Any], command: str) -> list[str]:
    """All that can be set: keys with dots, and parts with slashes."""
    groups = command_groups(command)
    keys = [key for key in _keys(base) if "." not in key or key.replace(".", "/") not in groups]
    return [*keys, *(group for group in groups if "/" in group)]


def _keys(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{key}.")
