"""The recipes in ``configs/``, composed without Hydra: for the library, for listing, and to check what a user typed.

A recipe is a yaml file of plain values. Its ``defaults`` list names the parts it is made of (``- quantizer: lfq`` takes
``<group>/quantizer/lfq.yaml``) and the recipes it starts from (``- dit``), in Hydra's own syntax, so the same files serve both.
The parts of other packages have no yaml: their recipe is their signature.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from vidgen.errors import UserError, did_you_mean
from vidgen.registry import known_kind, parts, plugins, recipe, unknown

GROUPS = {
    "tokenizers": "tokenizer",
    "backbones": "tokenizer/backbone",
    "quantizers": "tokenizer/quantizer",
    "generators": "generator",
    "heads": "generator/head",
    "conditioning": "generator/conditioning",
    "data": "data",
    "extractors": "extractor",
    "metrics": "metric",
}
"""Where each kind of part keeps its recipes."""

NULLABLE: dict[str, Any] = {
    "continue": "FILE",
    "data.fps": 10.0,
    "data.path": "FOLDER",
    "data.tokens": 200000,
    "evaluation.guidance_scale": 1.5,
    "evaluation.steps": 50,
    "extractor.path": "FILE",
    "extractor.probe": "FILE",
    "extractor.probe_sha256": "HEX",
    "extractor.sha256": "HEX",
    "fake": "CLIPS",
    "fps": 10.0,
    "frames": 129,
    "generator.conditioning.text.pretrained": "FOLDER",
    "guidance_scale": 1.5,
    "init": "RUN",
    "input": "FILE",
    "negative": "TEXT",
    "out": "FOLDER",
    "protocol.data.count": 2048,
    "protocol.data.fake_count": 2048,
    "protocol.data.fps": 10.0,
    "protocol.data.height": 64,
    "protocol.data.width": 64,
    "protocol.metric.chunk": 256,
    "real": "CLIPS",
    "rollout.overlap": 1,
    "shape": [17, 32, 32],
    "size": [32, 32],
    "steps": 50,
    "text": "TEXT",
    "tile": [256, 256],
    "tokenizer.from": "RUN",
    "tokenizer.path": "FOLDER",
}
"""For options that are null unless set, a value of the type that they may take."""

KIND_OF = {group: kind for kind, group in GROUPS.items()}

SEVERAL = ("generator/conditioning",)
"""Groups of whose recipes as many are taken as one likes, each under its own name."""

Choice = str | list[str] | None
"""What is chosen in a group: a recipe, several (each under its own name), or none."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # in C where it is there: a fifth of the time
    """Safe yaml that reads 1e-3 as a number, as Hydra does, and not as a string."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def config_dir() -> Path:
    """The folder of recipes: inside the package in a wheel, beside it in a checkout."""
    inside = Path(__file__).parent / "configs"
    return inside if inside.is_dir() else inside.parent.parent / "configs"


def names(kind: str) -> list[str]:
    """The names of ``kind``: its recipes (``lfq``, ``dit_xl``), or its parts where they have none; plug-ins included.

    Raises:
        UserError: on an unknown kind, naming the nearest and all of them.
    """
    known_kind(kind)
    return list(preset_names(GROUPS[kind])) if kind in GROUPS else sorted({*parts(kind), *plugins(kind)})


@cache
def preset_names(group: str) -> tuple[str, ...]:
    """The recipes of a group: its yaml files, and the parts that other packages add."""
    own = {path.stem for path in (config_dir() / group).glob("*.yaml")}
    return tuple(sorted(own.union(plugins(KIND_OF[group]) if group in KIND_OF else ())))


@cache
def command_groups(command: str) -> dict[str, Choice]:
    """The groups that a command's yaml is made of, those inside them too, each with its default.

    None stands for an optional group, a list for one of which several are taken.
    """
    found: dict[str, Choice] = {}
    for group, choice in _parts("", command).items():
        found[group] = choice
        if isinstance(choice, str):
            found |= {f"{group}/{part}": name for part, name in _parts(group, choice).items()}
    return found


def _parts(group: str, name: str) -> dict[str, Choice]:
    """What the defaults of a recipe choose, by key; entries without a key are other recipes."""
    entries = _read(config_dir() / group / f"{name}.yaml").get("defaults", [])
    return {_part(key): choice for entry in entries if isinstance(entry, Mapping) for key, choice in entry.items()}


def _part(key: str) -> str:
    return key.removeprefix("override ").removeprefix("optional ").strip()


@cache
def _read(path: Path) -> dict[str, Any]:
    return yaml.load(path.read_text(encoding="utf-8"), _Loader) or {}


def describe(group: str, name: str) -> str:
    """The first comment of a recipe: what it is, in one sentence; for a part of another package, which."""
    path = config_dir() / group / f"{name}.yaml"
    if not path.is_file():
        point = plugins(KIND_OF[group])[name]
        return f"From {point.dist.name}." if point.dist else "From another package."
    comments = (line.lstrip("# ") for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
    return next((comment for comment in comments if not comment.startswith("@package")), "")


def load(group: str, name: str, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The recipe ``name`` of ``group`` with its parts, as nested plain values, and ``overrides`` on top.

    An override is nested as in the yaml. A string in the place of a part swaps the part for the recipe of that name, and so does
    another ``name`` inside it: ``{"quantizer": {"name": "kl", "channels": 4}}``.

    Raises:
        UserError: on an unknown recipe or key, or a value of another type than the recipe's, naming the nearest right thing.
    """
    if name not in preset_names(group):
        raise unknown(group, name, preset_names(group))
    config = _composed(group, name)
    return merge(config, checked(config, overrides or {}, group))


def command_recipe(command: str, choices: Mapping[str, str | None]) -> dict[str, Any]:
    """The config of ``command`` with these choices in its groups, as Hydra composes it; experiments are left out.

    Raises:
        UserError: on an unknown recipe.
    """
    own = {key: value for key, value in deepcopy(_read(config_dir() / f"{command}.yaml")).items() if key != "defaults"}
    recipes: dict[str, Any] = {}
    for group, default in _parts("", command).items():
        name = choices.get(group, default)
        if isinstance(name, str) and group != "experiment":
            inner = {key.rpartition("/")[2]: part for key, part in choices.items() if key.startswith(f"{group}/")}
            recipes[group] = load(group, name, inner)
    return merge(recipes, own)


def _composed(group: str, name: str) -> dict[str, Any]:
    path = config_dir() / group / f"{name}.yaml"
    if not path.is_file():
        return _plugin_recipe(group, name)
    own = deepcopy(_read(path))  # what is returned is the caller's to change
    config: dict[str, Any] = {}
    for entry in own.pop("defaults", []):
        if isinstance(entry, Mapping):
            config |= {_part(key): _chosen(f"{group}/{_part(key)}", part) for key, part in entry.items()}
        elif entry != "_self_":
            config = merge(config, load(group, entry))
    return merge(config, own)


def _chosen(group: str, choice: Any) -> dict[str, Any]:
    """The recipe of that name, or of a list of names each one's under its own."""
    return {name: load(group, name) for name in choice} if isinstance(choice, list) else load(group, choice)


def _plugin_recipe(group: str, name: str) -> dict[str, Any]:
    """The options of another package's part; what it does not say of training is as for the default of its group."""
    default = command_groups("fit").get(group)
    like = _composed(group, default) if isinstance(default, str) else {}
    return recipe(KIND_OF[group], name) | {key: like[key] for key in ("training",) if key in like}


def merge(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """``extra`` over ``base``, mapping by mapping, but for a part of another name, which takes the place of the whole.

    None in the place of a mapping takes it away. Neither is changed.
    """
    merged = dict(base)
    for key, value in extra.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping) and not other_part(old, value)
        if value is None and isinstance(old, Mapping):
            del merged[key]
        else:
            merged[key] = merge(merged[key], value) if both else value
    return merged


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value by its full key, ``generator.training.steps``."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def other_part(default: Any, value: Any) -> bool:
    """Whether ``value`` names another part than ``default`` does."""
    named = isinstance(default, Mapping) and "name" in default and isinstance(value, Mapping)
    return named and value.get("name", default["name"]) != default["name"]


def _home(where: str, key: str) -> str | None:
    """The group that the part at ``key`` of ``where`` is from: its own below that of ``where``, or that of its kind."""
    own = f"{where.replace('.', '/')}/{key}".lstrip("/")
    return own if preset_names(own) else next((group for group in KIND_OF if group.rpartition("/")[2] == key), None)


def checked(base: Mapping[str, Any], extra: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """``extra`` with every value in the type of ``base``'s: 1e4 for a whole number is 10000, 1 for a number is 1.0.

    A part (a mapping with a ``name``) may be swapped for another of its kind, by its name or by a mapping with that ``name`` and
    changes of its recipe. Of parts that are taken together a list of names takes those and no others, a mapping adds to them,
    and None takes one away. A value that is None in ``base`` may become what :data:`NULLABLE` says, else anything; no other
    may become None.

    Raises:
        UserError: on a key that ``base`` lacks or a value of another type, naming the key in full and what is right.
    """
    values: dict[str, Any] = {}
    group = where.replace(".", "/")
    for key, value in extra.items():
        if group in SEVERAL and (value is None or key not in base):
            values[key] = None if value is None else load(group, key, value)
            continue
        if key not in base:
            subject = f"'{where}' has" if where else "There is"
            raise UserError(f"{subject} no option '{key}'.{did_you_mean(key, base)} The options are {', '.join(base)}.")
        default, full = base[key], f"{where}.{key}" if where else key
        if full.replace(".", "/") in SEVERAL and isinstance(value, list | tuple):
            value = dict.fromkeys(default) | {name: {} for name in value}
        home = _home(where, key) if isinstance(default, Mapping) and "name" in default else None
        if home and (value is None or isinstance(value, str)):
            value = {"name": value}
        if home and other_part(default, value):
            rest = {option: chosen for option, chosen in value.items() if option != "name"}
            values[key] = load(home, value["name"], rest)
            continue
        kind = NULLABLE.get(full) if default is None and value is not None else default
        if isinstance(default, Mapping) and isinstance(value, Mapping):
            values[key] = checked(default, value, full)
            continue
        try:
            values[key] = _typed(kind, value)
        except TypeError:
            wanted = f"{_type_name(kind)} ({_shown(default)} by default)"
            raise UserError(f"'{full}' is {wanted}, and {_shown(value)} is not.") from None
    return values


def _typed(default: Any, value: Any) -> Any:
    """``value`` in the type of ``default``; TypeError where it has another."""
    if default is None:
        return value
    if isinstance(default, list | tuple) and isinstance(value, list | tuple):
        return [_typed(default[0], item) for item in value] if default else list(value)
    if type(value) is type(default):
        return value
    if type(default) is float and type(value) is int:
        return float(value)
    if type(default) is int and type(value) is float and value.is_integer():
        return int(value)
    raise TypeError


_TYPE_NAMES: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a word",
    list: "a list",
    tuple: "a list",
    dict: "a group of options",
}


def _type_name(value: Any) -> str:
    name = _TYPE_NAMES.get(type(value), type(value).__name__)
    inner = _TYPE_NAMES.get(type(value[0]), "") if isinstance(value, list | tuple) and value else ""
    return f"{name} of {inner.removeprefix('a ')}s" if inner.startswith("a ") else name


def _shown(value: Any) -> str:
    """A value as one would type it."""
    if isinstance(value, Mapping):
        return "{...}"
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")
