"""Names to parts: a name is a file, so listing imports nothing and no part can be registered but never imported.

``lfq`` is ``vidgen/quantizers/lfq.py``, its class ``LFQ`` (the file's name, whatever the case), ``configs/.../lfq.yaml`` and a
word on the command line. Other packages add parts by entry points: group ``vidgen.quantizers``, name ``acme``, value the class.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from vidgen.errors import UserError, did_you_mean

KINDS = ("tokenizers", "backbones", "quantizers", "generators", "heads", "conditioning", "data", "extractors", "metrics")

GIVEN = {
    "backbones": ("latent_out", "latent_in"),
    "generators": ("space", "num_classes", "num_actions", "vocabulary"),
    "heads": ("space", "width"),
    "conditioning": ("width", "space", "num_classes", "num_actions", "vocabulary"),
    "metrics": ("extractor", "ddof", "keep_features", "reset_real_features"),
}
"""Options that are filled in by whoever builds the part, so that no recipe has them."""

_ROOT = Path(__file__).parent


@cache
def plugins(kind: str) -> dict[str, EntryPoint]:
    """What other packages add to ``kind``, by name, not yet imported. Names of our own files are not theirs to change."""
    return {point.name: point for point in entry_points(group=f"vidgen.{kind}") if point.name not in files(kind)}


@cache
def files(kind: str) -> dict[str, Path]:
    """The files of ``kind``, by name: a module, or a package's ``__init__.py``."""
    found = {path.stem: path for path in (_ROOT / kind).glob("*.py")}
    found |= {path.parent.name: path for path in (_ROOT / kind).glob("*/__init__.py")}
    return {name: found[name] for name in sorted(found) if not name.startswith("_")}


@cache
def parts(kind: str) -> dict[str, str]:
    """Our own parts of ``kind`` with the names of their classes: the files that define a class called like themselves."""
    found = {}
    for name, path in files(kind).items():
        wanted = rf"^class ({name.replace('_', '')})\b"
        if match := re.search(wanted, path.read_text(encoding="utf-8"), re.MULTILINE | re.IGNORECASE):
            found[name] = match[1]
    return found


@cache
def constant(kind: str, name: str, constant: str) -> Any:
    """The plain value that the file of our own part ``name`` gives to ``constant``, read without importing it; else None."""
    if name not in parts(kind):
        return None
    for node in ast.parse(files(kind)[name].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and [target.id for target in node.targets if isinstance(target, ast.Name)] == [constant]:
            return ast.literal_eval(node.value)
    return None


def find(kind: str, name: str) -> type:
    """The class called ``name``, imported now and not before.

    Raises:
        UserError: on an unknown kind or name, naming the nearest and all of them, or a plug-in that cannot be imported.
    """
    known_kind(kind)
    if name in parts(kind):
        cls: type = getattr(importlib.import_module(f"vidgen.{kind}.{name}"), parts(kind)[name])
        return cls
    if name in plugins(kind):
        return _load(plugins(kind)[name])
    raise unknown(kind.rstrip("s"), name, sorted({*parts(kind), *plugins(kind)}))


def _load(point: EntryPoint) -> type:
    try:
        cls: type = point.load()
    except (ImportError, AttributeError) as error:
        package = point.dist.name if point.dist else "another package"
        raise UserError(f"The plug-in '{point.name}' of {package} cannot be imported from '{point.value}': {error}.") from error
    return cls


def known_kind(kind: str) -> None:
    """Sees that ``kind`` is one of :data:`KINDS`.

    Raises:
        UserError: naming the nearest and all of them.
    """
    if kind not in KINDS:
        raise unknown("kind of part", kind, KINDS)


def unknown(what: str, name: object, known: Iterable[str]) -> UserError:
    """The sentence for a name that is not among ``known``: the nearest, then all of them."""
    known = list(known)
    return UserError(f"There is no {what} called '{name}'.{did_you_mean(str(name), known)} There are: {', '.join(known)}.")


def options(cls: type) -> dict[str, inspect.Parameter]:
    """The keyword arguments of a part's constructor, by name: its schema."""
    parameters = inspect.signature(cls).parameters
    return {name: parameter for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}


def taken(kind: str, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``given`` that the part takes: not every generator knows of actions, and not every condition of labels."""
    own = options(find(kind, name))
    return {key: value for key, value in given.items() if key in own}


def recipe(kind: str, name: str) -> dict[str, Any]:
    """The recipe that a part's signature implies, for plug-ins, which bring no yaml: every option at its default, else None."""
    own = {key: value for key, value in options(find(kind, name)).items() if key not in GIVEN.get(kind, ())}
    return {"name": name} | {key: None if value.default is value.empty else value.default for key, value in own.items()}


def build(kind: str, config: Mapping[str, Any], **given: Any) -> Any:
    """Builds the part ``config["name"]`` with the rest of ``config`` as options, and ``given`` by the caller.

    Raises:
        UserError: on an unknown name, or an option that the part does not have, naming the nearest and all of them.
    """
    chosen = {key: value for key, value in config.items() if key != "name"}
    cls = find(kind, config["name"])
    own = [name for name in options(cls) if name not in given]
    for key in chosen:
        if key not in own:
            raise UserError(
                f"'{config['name']}' has no option '{key}'.{did_you_mean(key, own)} Its options are {', '.join(own)}."
            )
    return cls(**{key: _frozen(value) for key, value in chosen.items()}, **given)


def _frozen(value: Any) -> Any:
    """Lists as tuples, so that options are values and not shared mutable state."""
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value
