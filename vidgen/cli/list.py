"""``vidgen list``: every name with what it is, read from files; no part is imported but by ``--pairs``, which asks them."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from vidgen.config import GROUPS, config_dir, describe, load, names, preset_names
from vidgen.errors import UserError
from vidgen.latents import LatentSpec
from vidgen.registry import KINDS, files, parts, unknown
from vidgen.routes import fitted, pair, spec_of

FLAGS = ("--pairs", "--json")


def run(words: Sequence[str]) -> None:
    """Prints what ``words`` (``[KIND] [--pairs] [--json]``) ask for.

    Raises:
        UserError: on an unknown kind or flag.
    """
    flags, wanted = [word for word in words if word.startswith("-")], [word for word in words if not word.startswith("-")]
    for flag in flags:
        if flag not in FLAGS:
            raise UserError(f"{unknown('flag', flag, FLAGS)} See: vidgen list --help")
    if len(wanted) > 1:
        raise UserError(f"vidgen list takes one kind, not {len(wanted)}: {', '.join(wanted)}. See: vidgen list --help")
    if "--pairs" in flags:
        rows = pairs()
        print(json.dumps(rows, indent=2) if "--json" in flags else _columns(together(rows)))
        return
    tables = {title: table(title) for title in _titles(wanted)}
    print(json.dumps(tables, indent=2) if "--json" in flags else "\n\n".join(map(_text, tables, tables.values())))


def _titles(wanted: list[str]) -> list[str]:
    """What to list: one kind, by its name or its group's, or everything."""
    groups = {str(path.parent.relative_to(config_dir())) for path in config_dir().glob("*/**/*.yaml")}
    others = sorted(groups.difference(GROUPS.values()))
    if not wanted:
        return [*KINDS, *others]
    (name,) = wanted
    by_group = {group: title for title, group in GROUPS.items()}
    if name not in (*KINDS, *groups):
        raise UserError(f"{unknown('kind', name, [*KINDS, *others])} See: vidgen list --help")
    return [by_group.get(name, name)]


def table(title: str) -> dict[str, str]:
    """The names of a kind or a group, each with one sentence."""
    if title in KINDS and title not in GROUPS:
        return {name: _first_sentence(title, name) for name in names(title)}
    group = GROUPS.get(title, title)
    return {name: describe(group, name) for name in preset_names(group)}


def _first_sentence(title: str, name: str) -> str:
    """The first line of a module's docstring, without importing it."""
    if name not in parts(title):
        return "From another package."
    docstring = ast.get_docstring(ast.parse(files(title)[name].read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


def pairs() -> list[dict[str, str]]:
    """For each tokenizer and generator: the layout of the tokens, their head, and what the generator does with the latents."""
    generators = {name: load("generator", name) for name in names("generators")}
    rows = []
    for tokenizer in names("tokenizers"):
        recipe = load("tokenizer", tokenizer)
        specs: dict[str, LatentSpec] = {}
        for name, generator in generators.items():
            own = fitted(recipe, generator["name"])
            spec = specs[str(own)] if str(own) in specs else specs.setdefault(str(own), spec_of(own))
            told = asdict(pair(spec, generator))
            if own != recipe:
                told["route"] += "; fit trains the tokenizer with scales"
            rows.append({"tokenizer": tokenizer, "generator": name, **told})
    return rows


def together(rows: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """The rows of :func:`pairs` with generators that do the same with a tokenizer, such as sizes of one kind, in one row."""
    found: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        found.setdefault((row["tokenizer"], row["layout"], row["head"], row["route"]), []).append(row["generator"])
    return [
        {"tokenizer": tokenizer, "generator": ", ".join(generators), "layout": layout, "head": head, "route": route}
        for (tokenizer, layout, head, route), generators in found.items()
    ]


def _columns(rows: Sequence[Mapping[str, str]]) -> str:
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def _text(title: str, rows: Mapping[str, str]) -> str:
    width = max(map(len, rows), default=0)
    return "\n".join([title, *(f"  {name:<{width}}  {sentence}".rstrip() for name, sentence in rows.items())])
