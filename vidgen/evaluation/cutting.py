"""How a clip is cut from a video by a protocol's rule: one way for files, data sets and runs, in memory that does not grow."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from vidgen import hub
from vidgen.data.folder.cache import fit
from vidgen.evaluation.protocol import DataRule

Pixels = NDArray[np.uint8]
Frame = tuple[Pixels, float]
Frames = Callable[[], Iterable[Frame]]


def cut(
    frames: Frames, rule: DataRule, stride: int, name: str, *, again: int = 0, numbers: Sequence[int] | None = None
) -> Iterator[tuple[int, Pixels]]:
    """The clips that ``rule`` takes of one video, each with its number from 1 on, in memory that does not grow with its length.

    Clips are uint8 (T, H, W, 3).

    Args:
        frames: goes through the frames, each with the width of its pixels over their height.
        rule: which to take.
        stride: every such frame.
        name: of the video, from which random starts are drawn.
        again: how often a random start was drawn of it before.
        numbers: of the clips to be cut, increasing; all where they are left out.
    """
    length = (rule.frames - 1) * stride + 1
    for number, window in enumerate(_windows(frames, rule, length, name, again), start=1):
        if (numbers is None or number in numbers) and (len(window) == length or (rule.clip == "whole" and window)):
            yield number, np.stack([sized(frame, rule, aspect) for frame, aspect in window[::stride]])


def _windows(frames: Frames, rule: DataRule, length: int, name: str, again: int) -> Iterator[list[Frame]]:
    """Frames one after another, ``length`` of them or, at the end of a video, fewer."""
    if rule.clip in ("random", "repeated"):
        drawn = hub.fingerprint(rule.seed, name, *([again] if again else []))
        yield _one_at_random(frames(), length, int(drawn[:16], 16))
    elif rule.clip == "every":
        window = deque[Frame](maxlen=length)
        for frame in frames():
            window.append(frame)
            if len(window) == length:
                yield list(window)
    else:
        before = max(0, (sum(1 for _ in frames()) - length) // 2) if rule.clip == "center" else 0
        rest = islice(frames(), before, None)
        windows = iter(lambda: list(islice(rest, length)), [])
        yield from windows if rule.clip == "all" else islice(windows, 1)


def _one_at_random(frames: Iterable[Frame], length: int, seed: int) -> list[Frame]:
    """A window of ``length`` frames, every start equally likely though their number is not known before the end."""
    drawn, window, chosen = np.random.default_rng(seed), deque[Frame](maxlen=length), list[Frame]()
    starts = 0
    for frame in frames:
        window.append(frame)
        if len(window) == length:
            starts += 1
            if drawn.random() * starts < 1:
                chosen = list(window)
    return chosen


def sized(frame: Pixels, rule: DataRule, pixel_aspect: float = 1.0) -> Pixels:
    """A frame in the rule's size: its largest centred part of that shape, or the whole, squashed."""
    if rule.height is None or rule.width is None or frame.shape[:2] == (rule.height, rule.width):
        return frame
    rows, columns = frame.shape[:2]
    squashed = (rule.width / columns) / (rule.height / rows)
    return fit(frame, rule.height, rule.width, squashed if rule.crop == "squash" else pixel_aspect)
