"""What the benchmarks of parts have measured, as tables: tokenizers, what learns by heart, sweeps, spoilt clips, tiles."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import compare_tokenizers
import learn
import rates
import sensitivity
import sweeps
import tiling
from lines import at, cores, every, provenance, table


def comparison() -> str:
    """Tokenizers at equal clips, steps and recipe of the backbone, with what H.264 has at each rate."""
    parts = [_compared(kind) for kind in rates.KINDS if rates.cells(kind)]
    return "\n\n".join([*parts, _compared_columns()]) if parts else "Not run yet: `python benchmarks/compare_tokenizers.py`."


def _compared(kind: str) -> str:
    found = rates.cells(kind)
    columns = [name for name in rates.COLUMNS if any(name in line.rows for line in found)]
    head = ["Tokenizer", *(rates.COLUMNS[name] for name in columns), "H.264 at that rate, dB"]
    body = [
        [f"`{line.origin.tokenizer}`", *(rates.text(line, name) for name in columns), rates.codec_at(kind, line)]
        for line in found
    ]
    steps = found[0].rows["reconstruction/psnr"][0].step
    seeds = every(str(len(line.origins)) for line in found)
    said = (
        f"{steps} steps each, {'one seed' if seeds == '1' else f'{seeds} seeds'} a row. "
        f"n is {found[0].rows['reconstruction/psnr'][0].n} clips. "
        f"{_floor(kind, steps)}{provenance(origin for line in found for origin in line.origins)}"
    )
    crfs = rates.crfs(kind)
    if crfs:
        said += (
            f" H.264 is x264 (veryslow, no macroblock tree, 4:2:0) at crf {crfs[0]} to {crfs[-1]}, read between two qualities; "
            "above the rate of the finest, > stands before what that has."
        )
    return f"**{rates.KINDS[kind]}**\n\n{table(head, body)}\n\n{said}\n\n![PSNR by rate]({rates.picture_name(kind)})"


def _floor(kind: str, steps: int) -> str:
    """What a tokenizer should be better than, and whether any is."""
    if not (floor := rates.floor(kind)):
        return ""
    what, psnr = floor
    best = max(rates.point(line)[1] for line in rates.cells(kind))
    said = f"{what[:1].upper()}{what[1:]} has {psnr:.2f} dB"
    if best > psnr:
        return f"{said}. "
    return f"{said}, which no tokenizer reaches after {steps} steps: the rows compare tokenizers and judge none. "


def _compared_columns() -> str:
    """What the columns of these tables are."""
    clips = "x".join(map(str, compare_tokenizers.world().shape))
    low, high = compare_tokenizers.SMALL
    columns = {
        "Clips": f"{clips} pixels, in batches of {compare_tokenizers.BATCH}; PSNR is a mean over frames",
        "Small objects kept": f"the share of frames in which a disc of {low:g} to {high:g} px is found within 1 px of its place",
        "Motion error": "the root mean square of the error of an object's displacement from frame to frame",
        "Label, Place, Velocity": f"what ridge regression reads from the latents: fitted on {compare_tokenizers.PROBED} clips, "
        f"scored on {compare_tokenizers.HELD} others",
        "Bits/pixel": "of continuous latents the mean divergence of the posterior from N(0, I), less than storing them takes",
        "Stored": "of continuous latents, 16 bits a channel",
        "Steps/s": "read once each, under unlike loads of the machine: they compare nothing",
    }
    return "\n".join(f"- *{name}*: {said}." for name, said in columns.items())


def learning() -> str:
    """Which pairs learn eight clips by heart: for each of the seeds, how many of the eight labels give the right clip."""
    found = {(row["tokenizer"], row["generator"]): row for row in learn.rows()}
    generators = learn.generators()
    head = ["Tokenizer", "Reconstructions, dB", *(f"`{name}`" for name in generators)]
    body = []
    for tokenizer in learn.tokenizers():
        own = [found.get((tokenizer, generator)) for generator in generators]
        levels = {f"{row['reconstruction_db']:.1f}" for row in own if row}
        body.append([f"`{tokenizer}`", " / ".join(sorted(levels)), *(_learnt(row) for row in own)])
    budgets = {name: learn.small_generator(name)["training"] for name in generators}
    each = ", ".join(f"`{name}` {budget['steps']:,} of {budget['batch_size']}" for name, budget in budgets.items())
    size = "x".join(map(str, learn.Motions.shape))
    said = (
        f"Budgets differ by the generator, in steps of so many clips: {each}; of every tokenizer {learn.TOKENIZER['steps']} of "
        f"{learn.TOKENIZER['batch_size']}. Clips are of {size}. {_taken(list(found.values()))} Rows of an older commit may have "
        "had fewer steps."
    )
    return f"{table(head, body)}\n\n{said}" if found else table(head, body)


def _taken(rows: Sequence[dict[str, Any]]) -> str:
    """Where rows that are no runs were measured and with what, in a sentence."""
    machines = every(f"{row['hardware'].get('gpu') or row['hardware']['cpu']} ({cores(row['hardware'])})" for row in rows)
    return (
        f"Measured on {machines} with torch {every(row['versions']['torch'] for row in rows)}{at(row['commit'] for row in rows)}."
    )


def _learnt(row: dict[str, Any] | None) -> str:
    if row is None:
        return "not run yet"
    right = ", ".join(map(str, row["right"]))
    return f"{'yes' if row['learnt'] else '**no**'}: {right} of 8, {row['sample_db']:.1f} dB"


def sweeping() -> str:
    """The pictures of what sampling's options do, of those that were measured."""
    measured = {point.option for point in sweeps.points()}
    shown = [
        f"![Samples by {words}]({sweeps.picture_name(option)})" for option, words in sweeps.WORDS.items() if option in measured
    ]
    counts = {point.samples for point in sweeps.points()}
    rows = [json.loads(line) for line in sweeps.RESULTS.read_text(encoding="utf-8").splitlines()] if shown else []
    said = f"{' or '.join(map(str, sorted(counts)))} samples a point. {_taken(rows) if rows else ''}".rstrip()
    missing = "; ".join(sweeps.missing())
    gaps = f"Not run yet: {missing}. `python benchmarks/sweeps.py RUN` goes on." if missing else "Every point was run."
    return "\n\n".join([*shown, f"{said} {gaps}"]) if shown else "Not run yet: `python benchmarks/sweeps.py RUN`."


def corrupted() -> str:
    """What each measure makes of clips that were spoilt in known ways."""
    tables = [f"**{title}**\n\n{table(head, body)}" for (_, title), (head, body) in sensitivity.bodies().items()]
    if not tables:
        return "Not run yet: `python benchmarks/corruptions.py`."
    found = sensitivity.points()
    counts = {point.world: point.clips for point in found}
    sets = sum(point.corruption == sensitivity.FRESH for point in found) // len(counts)
    said = "; ".join(f"{world}: {count} clips a row" for world, count in counts.items())
    commits = ", ".join(dict.fromkeys(f"`{row['commit']}`" for row in sensitivity.rows()))
    return "\n\n".join([*tables, f"{said}, {sets} sets of fresh ones. Measured at {commits}."])


def tiles() -> str:
    """What it costs to code frames in tiles, by backbone and overlap."""
    head, body = tiling.table()
    if not body:
        return "Not run yet: `python benchmarks/tiling.py`."
    commits = ", ".join(dict.fromkeys(f"`{row['commit']}`" for row in tiling.rows()))
    said = (
        f"{tiling.CLIPS} clips of {tiling.FRAMES}x{tiling.SIZE}x{tiling.SIZE} with {tiling.OBJECTS} objects, tiles of "
        f"{tiling.TILE[0]}x{tiling.TILE[1]} cells, {tiling.STEPS} steps of training on 17x32x32. Measured at {commits}."
    )
    return f"{table(head, body)}\n\n{said}"
