"""What a person sees while something long runs: a live line in a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

EVERY = 20.0
"""Seconds between plain lines."""


class Stage:
    """Progress of one stage of ``total`` steps (None: nobody knows), some of which may be done already; a context manager."""

    def __init__(self, console: Console, name: str, total: int | None, done: int = 0, unit: str = "step") -> None:
        self.console, self.name, self.total, self.unit = console, name, total, unit
        self.first, self.begin, self.said = done, time.monotonic(), time.monotonic()
        self.live: Progress | None = None
        if console.is_terminal:
            self.live = Progress(
                TextColumn("{task.description:<10}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )
            self.bar = self.live.add_task(name, total=total, completed=done, note="")

    def __enter__(self) -> Stage:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.live is not None:
            self.live.stop()

    def update(self, done: int, loss: float | None = None) -> None:
        """Says that ``done`` steps are done."""
        now = time.monotonic()
        rate = (done - self.first) / max(now - self.begin, 1e-6)
        note = f"{rate:.1f} {self.unit}s/s" + ("" if loss is None else f"  loss {loss:.4f}")
        if self.live is not None:
            self.live.update(self.bar, completed=done, note=note)
        elif now - self.said > EVERY or done == self.total:
            self.said = now
            text = f"{self.name:<10} {done}  {note}"
            if self.total is not None:
                left = max(0, self.total - done) / max(rate, 1e-9)
                text = f"{self.name:<10} {done}/{self.total}  {note}  {clock(left)} left"
            self.console.print(text, highlight=False)


def clock(seconds: float) -> str:
    """Seconds as a person says them: ``48 s``, ``3 min 20 s``, ``1 h 5 min``, ``3 days 4 h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} days {whole % 86400 // 3600} h"
