"""What was typed in, one plain resolved config out. The only place that imports hydra.

Hydra composes, with its own grammar of overrides and its own sweepers and launchers. Before it does, every override is held
against the recipes (``mistakes``), because Hydra's errors suggest little and it does not look at types.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import product
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from vidgen.cli.mistakes import check_choice, check_form, check_key, check_values, pointing_to_help
from vidgen.config import KIND_OF, SEVERAL, Choice, checked, command_groups, config_dir, load, merge, other_part
from vidgen.errors import UserError
from vidgen.registry import plugins


def compose(command: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The config of ``command`` with ``overrides``: nested plain values of the types that the recipes have.

    Beside the recipes' keys it holds ``choices``, the name chosen in each group, and ``command``, which says it all again.

    Raises:
        UserError: on an override that cannot be read, an unknown group, name or key, or a value of another type or out of range.
    """
    with pointing_to_help(command), _recipes():
        given = [_parse(text, command) for text in overrides]
        for override in given:
            _check_plain(override)
        parts = _parts(given, command_groups(command), command)
        if any("/" in override.key_or_group for override in given if override not in parts):
            _, choices = _compose(command, map(_text, parts))  # another generator than the default may have other parts
            parts += _parts([override for override in given if override not in parts], choices, command)
        base, choices = _compose(command, map(_text, parts))
        if choices.get("experiment"):  # what an experiment sets is held against the recipes too
            base, _ = _compose(command, [_choosing(group, name) for group, name in choices.items() if group != "experiment"])
        for override in given:
            if override not in parts:
                check_key(override.key_or_group, override.value(), base, command)
        swaps = [override for override in given if other_part(_at(base, override.key_or_group), override.value())]
        config, _ = _compose(command, [_text(override) for override in given if override not in swaps])
        for override in swaps:  # Hydra would add the new part's options to those of the old
            config = merge(config, checked(base, _nested(override.key_or_group, override.value())))
        config = checked(base, config)
        check_values(config)
    return {**config, "choices": choices, "command": shlex.join(["vidgen", command, *overrides])}


def sweep(command: str, overrides: Sequence[str], run: Callable[[dict[str, Any]], None]) -> None:
    """Every combination of the values in ``overrides``, by Hydra's sweeper and launcher (``hydra/launcher=...``).

    All of them are composed before the first is run. What Hydra itself writes lies under ``runs/.sweeps``.

    Raises:
        UserError: as :func:`compose`.
    """
    with pointing_to_help(command), _recipes():
        given = [_parse(text, command) for text in overrides]
        values = [_values(override) for override in given if not _is_hydras(override)]
    for combination in product(*values):
        compose(command, combination)

    def job(_: Any) -> None:
        config = compose(command, list(HydraConfig.get().overrides.task))
        print(f"vidgen: run {HydraConfig.get().job.num + 1}: {config['command']}", file=sys.stderr, flush=True)
        run(config)

    folder = f"hydra.sweep.dir=runs/.sweeps/{time.strftime('%Y-%m-%d-%H%M%S')}"
    quiet = [folder, "hydra.sweep.subdir=.", "hydra.output_subdir=null", "hydra/hydra_logging=none", "hydra/job_logging=none"]
    with _recipes():
        instance = GlobalHydra.instance().hydra
        assert instance is not None
        instance.multirun(command, job, [*quiet, *map(_text, given)], with_log_configuration=False)


@contextmanager
def _recipes() -> Iterator[None]:
    """Hydra, looking into the folder of recipes; what it dislikes in spite of our checks is one sentence too."""
    inside_a_sweep = GlobalHydra.instance().is_initialized()
    try:
        with nullcontext() if inside_a_sweep else hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
            yield
    except (HydraException, OmegaConfBaseException) as error:
        reason = " ".join(str(error).partition("Config search path")[0].split())
        raise UserError(f"This cannot be composed: {reason}.") from error


def _parts(given: Iterable[Override], groups: Container[str], command: str) -> list[Override]:
    """Those that choose a part in one of ``groups``, of names that there are."""
    parts = [override for override in given if override.key_or_group in groups]
    for override in parts:
        value: Any = override.value()
        for name in _names(value) if override.key_or_group in SEVERAL else [value]:
            check_choice(override.key_or_group, name, command)
            _offer_plugin(override.key_or_group, name)
    return parts


def _names(choice: Any) -> Sequence[Any]:
    """What is chosen in a group, one by one."""
    return choice if isinstance(choice, list) else [choice]


def _choosing(group: str, choice: Choice) -> str:
    """The override that makes that choice."""
    return f"{group}=[{','.join(choice)}]" if isinstance(choice, list) else f"{group}={choice or 'null'}"


def _compose(command: str, overrides: Iterable[str]) -> tuple[dict[str, Any], dict[str, Choice]]:
    """Hydra's composition as plain values, and the choice in each group: where several are chosen, the names that are there."""
    config = hydra.compose(command, list(overrides), return_hydra_config=True)
    choices = {str(group): name for group, name in config.hydra.runtime.choices.items() if not str(group).startswith("hydra/")}
    with open_dict(config):
        del config["hydra"]
    values: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    for group in set(SEVERAL).intersection(command_groups(command)):
        where, (host, _, part) = group.replace("/", "."), group.rpartition("/")
        name = choices.get(host)
        if isinstance(name, str) and part not in load(host, name):
            continue  # of a part that has none of these
        if _at(values, where) is None:  # of none of them Hydra makes nothing at all
            values = merge(values, _nested(where, {}))
        choices[group] = list(_at(values, where))
    return {str(key): value for key, value in values.items()}, choices


def _parse(text: str, command: str) -> Override:
    check_form(text, command)
    try:
        (override,) = OverridesParser.create(GlobalHydra.instance().config_loader()).parse_overrides([text])
    except HydraException as error:
        raise UserError(f"'{text}' cannot be read; if its value is a text, quote it: {_quoted(text)}.") from error
    return override


def _check_plain(override: Override) -> None:
    """Sees that an override can be part of one run."""
    text = override.input_line
    if override.is_sweep_override():
        raise UserError(f"'{text}' has several values: add -m to run each, or quote it if it is one: {_quoted(_text(override))}.")
    if _is_hydras(override):
        raise UserError(f"'{text}' is for sweeps: add -m, or leave it out.")
    if override.package is not None:
        raise UserError(f"'{text}' would put a part elsewhere, and each has its own place; leave out @{override.package}.")


def _offer_plugin(group: str, name: str | None) -> None:
    """Tells Hydra the recipe of another package's part, which has no yaml, when it is asked for and not before."""
    if name in plugins(KIND_OF.get(group, "")):
        package = f"{group.replace('/', '.')}.{name}" if group in SEVERAL else None
        ConfigStore.instance().store(name=f"{name}.yaml", group=group, node=load(group, str(name)), package=package)


def _at(config: dict[str, Any], key: str) -> Any:
    """The value at a dotted key, None where there is none."""
    here: Any = config
    for step in key.split("."):
        here = here.get(step) if isinstance(here, dict) else None
    return here


def _nested(key: str, value: Any) -> dict[str, Any]:
    """``value`` at a dotted key, as mappings in one another; Hydra's quoted texts as plain ones."""
    nested: Any = OmegaConf.to_container(OmegaConf.create(value))
    for step in reversed(key.split(".")):
        nested = {step: nested}
    return nested


def _text(override: Override) -> str:
    """Nothing can be added to a recipe, so Hydra's + and ++ mean no more than plain setting."""
    return str(override.input_line).lstrip("+")


def _quoted(text: str) -> str:
    """An override whose value is one text, as one would type it in a shell."""
    key, _, value = text.partition("=")
    return f"\"{key}='{value}'\""


def _is_hydras(override: Override) -> bool:
    return override.key_or_group.replace("/", ".").startswith("hydra.")


def _values(override: Override) -> list[str]:
    """The overrides that one with several values stands for; an interval, which only some sweepers know, by its start."""
    if not override.is_sweep_override():
        return [_text(override)]
    value = override.value()
    values = [value.start] if isinstance(value, IntervalSweep) else override.sweep_string_iterator()
    return [f"{override.get_key_element()}={item}" for item in values]
