"""What was typed in, one plain resolved config out, or one sentence. The only place that imports hydra.

Hydra composes, with its own grammar of overrides and its own sweepers and launchers. Before it does, every override is held
against the recipes here, because its own errors neither suggest anything nor look at types.
"""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from vidgen.config import KIND_OF, checked, command_groups, config_dir, load, preset_names
from vidgen.errors import UserError, nearest
from vidgen.registry import plugins, unknown


def compose(command: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The config of ``command`` with ``overrides``: nested plain values of the types that the recipes have.

    Beside the recipes' keys it holds ``choices``, the name chosen in each group, and ``command``, which says it all again.

    Raises:
        UserError: on an override that cannot be read, an unknown group, name or key, or a value of another type.
    """
    with _recipes():
        given = [_parse(text, command) for text in overrides]
        for override in given:
            if override.is_sweep_override():
                raise UserError(
                    f"'{override.input_line}' is several values: put -m before it to run each in turn, "
                    f"or quote it if it is one value ({_quoted(override)})."
                )
        groups, values = _split(given, command)
        base, choices = _compose(command, groups)
        if choices.get("experiment"):  # an experiment is held against the recipes like any override
            base, _ = _compose(command, [f"{group}={name}" for group, name in choices.items() if name and group != "experiment"])
        for override in values:
            _check_key(override, base, command)
        config, _ = _compose(command, [_plain(override) for override in given])
    typed = shlex.join(["vidgen", command, *overrides])
    return {**checked(base, config), "choices": choices, "command": typed}


def sweep(command: str, overrides: Sequence[str], run: Callable[[dict[str, Any]], None]) -> None:
    """Every combination of the values in ``overrides``, by Hydra's sweeper and launcher (``hydra/launcher=...``).

    All of them are composed before the first is run. What Hydra itself writes lies under ``runs/.sweeps``.

    Raises:
        UserError: as :func:`compose`.
    """
    with _recipes():
        given = [_parse(text, command) for text in overrides]
        own = [override for override in given if _top(override) != "hydra"]
        combinations = [list(values) for values in product(*(_values(override) for override in own))]
    for values in combinations:
        compose(command, values)
    print(f"vidgen: {len(combinations)} runs", file=sys.stderr)

    def job(_: Any) -> None:
        config = compose(command, list(HydraConfig.get().overrides.task))
        print(f"vidgen: {config['command']}", file=sys.stderr)
        run(config)

    folder = f"hydra.sweep.dir=runs/.sweeps/{time.strftime('%Y%m%d-%H%M%S')}"
    quiet = [folder, "hydra.output_subdir=null", "hydra/hydra_logging=none", "hydra/job_logging=none"]
    with _recipes():
        instance = GlobalHydra.instance().hydra
        assert instance is not None
        instance.multirun(command, job, [*quiet, *(_plain(override) for override in given)], with_log_configuration=False)


@contextmanager
def _recipes() -> Iterator[None]:
    """Hydra, looking into the folder of recipes."""
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        yield


def _compose(command: str, overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, str | None]]:
    """Hydra's composition as plain values, and the choice in each group."""
    try:
        config = hydra.compose(command, list(overrides), return_hydra_config=True)
        chosen = OmegaConf.to_container(config.hydra.runtime.choices)
        with open_dict(config):
            del config["hydra"]
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"This does not compose: {' '.join(str(error).split())}. See: vidgen {command} --help") from error
    assert isinstance(values, dict) and isinstance(chosen, dict)
    return values, {str(group): name for group, name in chosen.items() if not str(group).startswith("hydra/")}


def _parse(text: str, command: str) -> Override:
    see = f" See: vidgen {command} --help"
    if text.startswith("-"):
        key, _, value = text.lstrip("-").partition("=")
        raise UserError(f"'{text}' is not a flag; options are written without dashes: {key}={value or '...'}.{see}")
    if text.startswith("~"):
        raise UserError(f"'{text}' would take an option away, and every recipe needs all of its own; set it instead.{see}")
    if "=" not in text:
        groups = [group for group in command_groups(command) if text in preset_names(group)]
        meant = f" Did you mean {groups[0]}={text}?" if groups else ""
        raise UserError(f"'{text}' is not of the form key=value.{meant}{see}")
    try:
        loader = GlobalHydra.instance().config_loader()
        (override,) = OverridesParser.create(loader).parse_overrides([text])
    except HydraException as error:
        key, value = text.split("=", 1)
        quoted = shlex.quote(f"{key}='{value}'")
        raise UserError(f"'{text}' cannot be read; if its value is a text, quote it: {quoted}.{see}") from error
    return override


def _plain(override: Override) -> str:
    """Nothing can be added to a recipe, so Hydra's + and ++ mean no more than plain setting."""
    return str(override.input_line).lstrip("+")


def _quoted(override: Override) -> str:
    key, _, value = _plain(override).partition("=")
    return shlex.quote(f"{key}='{value}'")


def _top(override: Override) -> str:
    return re.split("[./]", override.key_or_group)[0]


def _values(override: Override) -> list[str]:
    """The overrides that one with several values stands for; an interval, which only some sweepers know, by its start."""
    if not override.is_sweep_override():
        return [_plain(override)]
    if override.is_discrete_sweep():
        return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
    return [f"{override.get_key_element()}={override.value().start}"]


def _split(given: Sequence[Override], command: str) -> tuple[list[str], list[Override]]:
    """The overrides that choose from groups, checked, and those that set values."""
    groups = command_groups(command)
    chosen, values = [], []
    for override in given:
        group = override.key_or_group
        if _top(override) == "hydra":
            raise UserError(f"'{override.input_line}' is for sweeps: give -m too, or leave it out. See: vidgen {command} --help")
        if group not in groups:
            values.append(override)
            continue
        name = override.value()
        if name not in preset_names(group) and not (name is None and groups[group] is None):
            raise UserError(f"{unknown(group, name, preset_names(group))} See: vidgen list {group}")
        if name in plugins(KIND_OF.get(group, "")):
            ConfigStore.instance().store(name=f"{name}.yaml", group=group, node=load(group, str(name)))
        chosen.append(_plain(override))
    return chosen, values


def _check_key(override: Override, base: Mapping[str, Any], command: str) -> None:
    """Sees that an override's key is in ``base``, and not a whole part of it."""
    key, see = override.key_or_group, f"See: vidgen show {command}"
    here: Any = base
    steps = key.split(".")
    for depth, step in enumerate(steps):
        where = ".".join(steps[:depth])
        if not isinstance(here, Mapping):
            raise UserError(f"'{where}' is a value without options of its own, so '{key}' cannot be set; set '{where}'. {see}")
        if step not in here:
            subject = f"'{where}' has" if where else f"vidgen {command} has"
            raise UserError(f"{subject} no option '{step}'.{_meant(key, base, command)} The options are {', '.join(here)}. {see}")
        here = here[step]
    group = key.replace(".", "/")
    if isinstance(here, Mapping) and not isinstance(override.value(), Mapping):
        swap = f"; to choose another, write {group}={override.value()}" if preset_names(group) else ""
        raise UserError(f"'{key}' is a group of options and not one value{swap}. {see}")


def _meant(key: str, base: Mapping[str, Any], command: str) -> str:
    """The full names most like ``key``: the same last word elsewhere, the nearest beside it, the nearest anywhere."""
    known = [*_keys(base), *(group for group in command_groups(command) if "/" in group)]
    last = {full: re.split("[./]", full)[-1] for full in known}
    step, top = re.split("[./]", key)[-1], re.split("[./]", key)[0]
    beside = [full for full in known if full.rpartition(".")[0] == key.rpartition(".")[0]]
    word = step if step in last.values() else None
    close = nearest(key, beside) if word is None else None
    if close is None:
        word = word or nearest(step, last.values())
        same = [full for full in known if last[full] == word]
        close = " or ".join([full for full in same if full.startswith(f"{top}.")] or same[:3])
    return f" Did you mean {close}?" if close else ""


def _keys(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{key}.")
