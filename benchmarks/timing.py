"""What is compared with what, how fast and in how much memory: measured in pairs, one row a line of ``benchmarks/results``.

The two sides of a comparison take turns, so that whatever else the machine does slows both; what is told is the median of the
pairs' ratios with their quartiles, and never a time by itself. Rows keep the load that they were measured under.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from vidgen.errors import UserError
from vidgen.runs import environment

SCHEMA = 1
NO_SLOWER = "no slower"
NOISE = 0.03
"""By so much a median ratio may be below 1 and be called no slower: two runs of one side differ by as much."""

ROOT = Path(__file__).parent.parent
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True, kw_only=True)
class Timing:
    """A line of a table.

    Attributes:
        subject: the part that is measured, with what sets the row apart.
        measure: what is measured of it.
        against: what it is compared with; empty where it stands alone.
        ours: its own figure, the median, in ``unit``.
        theirs: that of the other side.
        unit: of both, such as ``ms`` or ``frames/s``.
        ratio: how many times better ours is, the median over the pairs; below 1 it is worse.
        quartiles: the first and the third of those ratios.
        pairs: how often both were measured.
        wanted: what the project asks of the row, in words; empty for nothing.
        met: whether it was so by the rule of its day; None where nothing is asked.
        settings: sizes and options that both sides share.
        load: processes that wanted the processor in the minute before, from the system.
        code: hash of the code that was measured.
        hardware: processor, cores, memory, and the GPU where there is one.
        versions: of Python and of the packages that matter.
        commit: of the checkout.
    """

    subject: str
    measure: str
    against: str
    ours: float
    theirs: float | None
    unit: str
    ratio: float | None
    quartiles: tuple[float, float] | None
    pairs: int
    wanted: str
    met: bool | None
    settings: str
    load: float
    code: str
    hardware: dict[str, Any]
    versions: dict[str, str]
    commit: str | None

    @property
    def holds(self) -> bool | None:
        """Whether what is wanted is so; of ``no slower`` by the median of the ratios, whatever rule a row was measured under."""
        return no_slower(self.ratio) if self.wanted == NO_SLOWER and self.ratio is not None else self.met

    @property
    def key(self) -> tuple[str, str, str]:
        """What a later measurement of the same takes the place of; a GPU's and a processor's stay beside each other."""
        return self.subject, self.measure, self.hardware.get("gpu", "")

    def to_json(self) -> str:
        """One line, without its end."""
        return json.dumps({"schema": SCHEMA, **vars(self)}, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> Timing:
        """The row that :meth:`to_json` wrote as ``line``. Raises ValueError where it is none of this schema."""
        values = json.loads(line)
        if not isinstance(values, dict) or values.pop("schema", None) != SCHEMA:
            raise ValueError(f"it is not of schema {SCHEMA}")
        if set(values) != {field.name for field in fields(cls)}:
            raise ValueError("its keys are others")
        quartiles = values.pop("quartiles")
        return cls(**values, quartiles=quartiles and (quartiles[0], quartiles[1]))


@dataclass(frozen=True)
class Pairs:
    """Seconds of two sides that took turns."""

    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """How many times faster ours was, pair by pair."""
        return [theirs / ours for ours, theirs in zip(self.ours, self.theirs, strict=True)]

    @property
    def ratio(self) -> float:
        """The median ratio."""
        return median(self.ratios)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third quartile of the ratios."""
        first, _, third = quantiles(self.ratios, n=4, method="inclusive")
        return first, third


def paired(ours: Callable[[], object], theirs: Callable[[], object], *, pairs: int, least: float = 0.02) -> Pairs:
    """Times two calls in turn, ``pairs`` times, after two of each that do not count.

    A side that is quicker than ``least`` seconds is called several times a turn; who goes first changes from pair to pair.
    """
    sides = (ours, theirs)
    taken: tuple[list[float], list[float]] = ([], [])
    for side in sides:
        side()
    calls = [max(1, round(least / _seconds(side, 1))) for side in sides]
    for turn in range(pairs):
        for side in (0, 1) if turn % 2 == 0 else (1, 0):
            taken[side].append(_seconds(sides[side], calls[side]))
    return Pairs(tuple(taken[0]), tuple(taken[1]))


def _seconds(call: Callable[[], object], times: int) -> float:
    begin = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - begin) / times


def compared(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    *,
    subject: str,
    measure: str,
    against: str,
    settings: str,
    version: str,
    pairs: int,
    rate: tuple[float, str] | None = None,
    least: float | None = None,
) -> Timing:
    """Times two calls in turn and says how many times faster the first is.

    Args:
        ours: a call of what is measured.
        theirs: the same work, done by the other side.
        subject: as in :class:`Timing`, and so are the words that follow.
        measure: what both do.
        against: what the other side is.
        settings: what both share.
        version: hash of the code.
        pairs: how often both are called.
        rate: how many of what a call is worth, such as (136, "frames/s"); milliseconds a call without.
        least: the median ratio that is asked for. 1 asks for no difference to the other side's advantage beyond noise.
    """
    found = paired(ours, theirs, pairs=pairs)
    amount, unit = rate or (0.0, "ms")
    figures = [amount / median(side) if rate else 1e3 * median(side) for side in (found.ours, found.theirs)]
    wanted = "" if least is None else NO_SLOWER if least == 1 else f"at least {least:g} times as fast"
    return Timing(
        subject=subject,
        measure=measure,
        against=against,
        ours=figures[0],
        theirs=figures[1],
        unit=unit,
        ratio=found.ratio,
        quartiles=found.quartiles,
        pairs=pairs,
        wanted=wanted,
        met=None if least is None else no_slower(found.ratio) if least == 1 else found.ratio >= least,
        settings=settings,
        code=version,
        **provenance(),
    )


def no_slower(ratio: float) -> bool:
    """Whether a median ratio is at least 1 but for noise."""
    return ratio >= 1 - NOISE


def alone(work: Callable[..., Any], *given: Any) -> Any:
    """``work(*given)`` in a process of its own, so that nothing that was done before counts towards its memory.

    glibc is told to give blocks of 64 KiB and more back as soon as they are free: the peak is then of what is in use, and not of
    what the allocator keeps for later, which differs from run to run.
    """
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "65536")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *given).result()


def memory() -> tuple[float, float]:
    """MiB of memory that this process holds, and the most that it has held since :func:`forget_peak`.

    Raises:
        UserError: where the system does not tell (it is Linux that does).
    """
    if not STATUS.exists():
        raise UserError("Peak memory is read from /proc/self/status, which this system has not: leave these rows out.")
    found = {key: value for key, _, value in (line.partition(":") for line in STATUS.read_text().splitlines())}
    now, most = (int(found[key].split()[0]) / 1024 for key in ("VmRSS", "VmHWM"))
    return now, most


def forget_peak() -> None:
    """From here on :func:`memory` tells the peak since now."""
    CLEAR.write_text("5")


def code(*paths: str) -> str:
    """A hash of the Python files and recipes below ``paths``, from the checkout's root."""
    digest = hashlib.sha256()
    for path in paths:
        place = ROOT / path
        for file in sorted([place] if place.is_file() else [*place.rglob("*.py"), *place.rglob("*.yaml")]):
            digest.update(str(file.relative_to(ROOT)).encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def provenance() -> dict[str, Any]:
    """What a row says of the machine: its ``load`` just now, ``hardware``, ``versions`` and ``commit``."""
    found = environment()
    return {"load": round(os.getloadavg()[0], 1), **{key: found[key] for key in ("hardware", "versions", "commit")}}


def read(path: Path) -> list[Timing]:
    """All rows of a file, in the order written; none where there is no file.

    Raises:
        UserError: where a line is not a row, naming file and line.
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.exists() else [], start=1):
        try:
            rows.append(Timing.from_json(line))
        except (ValueError, TypeError) as error:
            raise UserError(f"Line {number} of {path} is not a timing ({error}): mend or remove that line.") from error
    return rows


def keep(path: Path, fresh: Iterable[Timing]) -> None:
    """Puts rows into a file, each in the place of one of the same key; a kill leaves the file as it was."""
    rows = {row.key: row for row in [*read(path), *fresh]}
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.partial")
    beside.write_text("".join(f"{row.to_json()}\n" for row in rows.values()), encoding="utf-8")
    beside.replace(path)


@dataclass(frozen=True)
class Case:
    """A row to be: what it is of, and what measures it."""

    subject: str
    measure: str
    work: Callable[[], Timing]


def run(path: Path, cases: Iterable[Case], version: str, arguments: Sequence[str] | None = None) -> int:
    """The command line of a benchmark: measures what has no row of this ``version`` of the code yet, and keeps each row at once.

    Returns 1 where a row is not as it is wanted.
    """
    parser = argparse.ArgumentParser(epilog="Then: python benchmarks/render.py")
    parser.add_argument("--again", action="store_true", help="measure everything anew")
    parser.add_argument("--only", help="measure the subjects that contain this word")
    parser.add_argument("--list", action="store_true", help="say what would be measured, and measure nothing")
    given = parser.parse_args(arguments)
    known = {row.key for row in read(path) if row.code == version and not given.again}
    place = environment()["hardware"].get("gpu", "")
    missed = 0
    for case in cases:
        if given.only and given.only not in case.subject:
            continue
        if given.list or (case.subject, case.measure, place) in known:
            print(f"{case.subject}, {case.measure}: {'to do' if (case.subject, case.measure, place) not in known else 'there'}")
            continue
        try:
            row = case.work()
        except ModuleNotFoundError as error:
            print(f"{case.subject}, {case.measure}: left out, for it needs {error.name}", file=sys.stderr)
            continue
        keep(path, [row])
        missed += row.holds is False
        compared = f", {row.ratio:.2f} times as good as {row.against}" if row.ratio else ""
        wanted = "" if row.holds is None else f"; {row.wanted}: {'yes' if row.holds else 'NO'}"
        print(f"{row.subject}, {row.measure}: {row.ours:.4g} {row.unit}{compared}{wanted} (load {row.load})", flush=True)
    print("Then: python benchmarks/render.py")
    return 1 if missed else 0
