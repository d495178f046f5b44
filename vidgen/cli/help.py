"""The help texts, made of the recipes' own words; nothing here imports a part."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vidgen.config import GROUPS, Choice, command_groups, config_dir, describe, preset_names


@dataclass(frozen=True, kw_only=True)
class Command:
    """What is said of a command beside what its recipe says."""

    usage: str
    examples: tuple[str, ...]
    output: str
    purpose: str = ""
    inner: str = ""
    sweeps: bool = True


COMMANDS = {
    "fit": Command(
        usage="vidgen fit [-m] [key=value ...]",
        examples=(
            "vidgen fit tokenizer=lfq generator=dit",
            "vidgen fit experiment=smoke",
            "vidgen fit data=folder data.path=VIDEOS tokenizer=kl tokenizer.quantizer.channels=16",
        ),
        inner="tokenizer.quantizer.bits=12",
        output="runs/<date>-<tokenizer>-<generator>/, with report.html; runs/latest leads to the newest. The same command given\n"
        "again after a stop goes on where it was.",
    ),
    "eval": Command(
        usage="vidgen eval [-m] [key=value ...]",
        examples=(
            "vidgen eval run=runs/latest evaluation.samples=64",
            "vidgen eval real=VIDEOS fake=SAMPLES",
            "vidgen eval real=worlds:test fake=runs/latest protocol=worlds out=worlds-table",
        ),
        inner="evaluation.clips=64",
        output="a report of its own in the run, eval/report.html; of 'real' and 'fake' a table that grows by a row each time,\n"
        "eval/table.md and table.tex, with every figure in results.json.",
    ),
    "sample": Command(
        usage="vidgen sample [-m] [key=value ...]",
        examples=(
            "vidgen sample",
            "vidgen sample run=runs/latest num=4 label=gravity",
            "vidgen sample frames=129 rollout.overlap=2 out=long",
            "vidgen sample frames=65 continue=VIDEO.mp4 num=4",
        ),
        output="a grid, a contact sheet and a file for each sample, in drawn/ in the run or in the folder 'out'. More frames\n"
        "than a window holds, and 'continue', need a generator that takes given cells: maskgit, var, ar, or dit trained with\n"
        "generator/conditioning=[label,frames].",
    ),
    "encode": Command(
        usage="vidgen encode input=FILE [key=value ...]",
        examples=(
            "vidgen encode input=VIDEO.mp4",
            "vidgen encode run=runs/latest input=VIDEO.mp4 out=VIDEO.latents",
            "vidgen encode input=VIDEO.mp4 'size=[128,192]' fps=10 chunk=64",
        ),
        output="one safetensors file: ids packed to their bits, or standardised values in bfloat16, and all that decode needs.",
    ),
    "decode": Command(
        usage="vidgen decode input=FILE [key=value ...]",
        examples=(
            "vidgen decode input=VIDEO.latents",
            "vidgen decode run=runs/latest input=VIDEO.latents out=back.mp4",
            "vidgen decode input=VIDEO.latents precision=fp32",
        ),
        output="an mp4 with the frame rate of the video that was encoded, without its sound.",
    ),
    "reconstruct": Command(
        usage="vidgen reconstruct input=FILE [key=value ...]",
        examples=(
            "vidgen reconstruct input=VIDEO.mp4",
            "vidgen reconstruct run=runs/latest input=VIDEO.mp4 out=back.mp4",
            "vidgen reconstruct input=VIDEO.mp4 'size=[128,192]' chunk=64",
        ),
        output="an mp4 with the frame rate of the video, without its sound, and a line with PSNR and bits per pixel.",
    ),
    "compare": Command(
        usage="vidgen compare RUN RUN ... [key=value ...]",
        examples=(
            "vidgen compare runs/2026-01-31-lfq-dit runs/2026-01-31-lfq-ar",
            "vidgen compare runs/latest runs/latest/eval out=again",
            "vidgen compare 'runs=[runs/a,runs/b]' title='Two depths'",
        ),
        sweeps=False,
        output="compare.html, which opens offline, compare.json with every figure and compare.md in 'out'; a table in the\n"
        "terminal. Runs that differ only in their seeds make a line, with the standard error. Figures that were measured by\n"
        "different rules, or on different clips, have columns of their own, and a note says what differs.",
    ),
    "data": Command(
        purpose="Looks at data before anything is trained on it, or decodes it ahead of time.",
        usage="vidgen data check|prepare PATH [key=value ...]",
        examples=(
            "vidgen data check VIDEOS",
            "vidgen data prepare VIDEOS data.buckets=auto data.fps=10 workers=4",
            "vidgen data prepare VIDEOS shards=16 out=SHARDS",
        ),
        output="check prints layout, sizes, rates, lengths, splits, classes, what is broken and what is there twice, and the\n"
        "command to train on it, and writes a contact sheet to 'out'; its exit status is 1 where something is broken or in\n"
        "two splits. prepare takes the data. words of fit and decodes or indexes what it would have to; or it writes tar\n"
        "shards. Stopped, it goes on where it was.",
    ),
    "list": Command(
        purpose="Lists every part by name, with what it is.",
        usage="vidgen list [KIND] [--pairs] [--json]",
        examples=("vidgen list", "vidgen list quantizers", "vidgen list --pairs"),
        output="a table, or with --json an object, on the standard output. KIND is a kind of part (quantizers) or a group\n"
        "(tokenizer/quantizer). --pairs shows what each generator does with the latents of each tokenizer.",
    ),
    "show": Command(
        purpose="Shows the config that a command would run with, as yaml: every option of every part chosen.",
        usage="vidgen show [COMMAND] [key=value ...]",
        examples=("vidgen show", "vidgen show tokenizer=kl", "vidgen show sample num=16"),
        output="yaml on the standard output. Nothing is run.",
    ),
    "doctor": Command(
        purpose="Looks at versions, devices, decoders, disk and compiler, and says what to do about what is missing.",
        usage="vidgen doctor [--fvd FILE [--long]]",
        examples=("vidgen doctor",),
        output="a line for each thing looked at. The exit status is 1 where something that vidgen needs is missing. --fvd FILE\n"
        "holds I3D's weights against published distances, and --long against one more, for some ten minutes.",
    ),
}


def overview() -> str:
    """What ``vidgen --help`` prints."""
    width = max(map(len, COMMANDS))
    commands = [f"{name:<{width}} {purpose(name)}" for name in COMMANDS]
    examples = ["vidgen fit tokenizer=lfq generator=dit", "vidgen list --pairs", "vidgen sample run=runs/latest num=16"]
    return _joined(
        "vidgen: any video tokenizer meets any generator, compared apples to apples.",
        "Usage: vidgen COMMAND [key=value ...]",
        _section("Commands:", commands),
        _section("Examples:", examples),
        "More: vidgen COMMAND --help, vidgen --version; --debug adds the traceback to a mistake's sentence.",
    )


def of(command: str) -> str:
    """What ``vidgen COMMAND --help`` prints."""
    about = COMMANDS[command]
    sections = [purpose(command), f"Usage: {about.usage}", _section("Examples:", about.examples)]
    if not about.purpose:
        if command_groups(command):
            sections.append(_section("Parts (key=name; * is taken unless another is named):", _groups(command)))
        sections.append(_section("Options (key=value):", _options(command)))
        sections.append(f"Options of the parts, such as {about.inner}: vidgen show {command}" if about.inner else "")
        if about.sweeps:
            sections.append(f"Several values: vidgen {command} -m seed=0,1 ... runs every combination, one after another.")
    return _joined(*sections, f"Output: {about.output}")


def purpose(command: str) -> str:
    """What a command is for, in one sentence."""
    return COMMANDS[command].purpose or describe("", command)


def _joined(*sections: str) -> str:
    return "\n\n".join(section for section in sections if section)


def _section(title: str, lines: Iterable[str]) -> str:
    return "\n".join([title, *(f"  {line}" for line in lines)])


def _groups(command: str) -> Iterator[str]:
    """The groups of a command and their names with what they are, as lines; the default is starred.

    Groups that the default recipes have no part of are there too: another generator has a head.
    """
    chosen = command_groups(command)
    others: dict[str, Choice] = {group: None for group in GROUPS.values() if group.partition("/")[0] in chosen}
    for group, default in (chosen | {group: choice for group, choice in others.items() if group not in chosen}).items():
        names = preset_names(group)
        width = max(map(len, names))
        yield f"{group}=" + ("[NAME,...]" if isinstance(default, list) else "")
        taken = default if isinstance(default, list) else [default]
        for name in names:
            yield f"  {name:<{width}} {'*' if name in taken else ' '} {describe(group, name)}".rstrip()


def _options(command: str) -> list[str]:
    """The options of the command's own yaml with their defaults and comments, as lines."""
    found, above = [], ""
    for line in (config_dir() / f"{command}.yaml").read_text(encoding="utf-8").splitlines():
        match = re.fullmatch(r"(?P<indent> *)(?P<key>\w+): *(?P<value>[^#]*?) *(?:# *(?P<comment>.*))?", line)
        if not match or match["key"] == "defaults":
            continue
        above = match["key"] if not match["indent"] and not match["value"] else above if match["indent"] else ""
        if match["value"]:
            key = f"{above}.{match['key']}" if above else match["key"]
            found.append((f"{key}={match['value']}", match["comment"] or ""))
    width = max(len(option) for option, _ in found)
    return [f"{option:<{width}}  {comment}".rstrip() for option, comment in found]
