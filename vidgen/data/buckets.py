"""Buckets: a few sizes (frames, height, width) that videos of any length and aspect are cut to, so that a batch has one size.

A video is for the bucket whose aspect is nearest to its own among those that it is long enough for; of several with that aspect
for the longest, and then the largest. It is scaled until it covers that size and cut at both sides alike: never squashed.

Sources: pictures by aspect, NovelAI, "Improvements on Stable Diffusion" (2022); videos by length too, with a batch size for each
bucket, Zheng et al., "Open-Sora" (2024). Deviations: batch sizes follow from one budget of tokens, and no clip is dropped
(`vidgen.data.batches.BatchOrder`).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from vidgen.errors import UserError
from vidgen.latents import Shape

T = TypeVar("T")
Size = tuple[int, int]
"""Height and width."""

AUTO = "auto"
MULTIPLE = 16
"""Pixels that the sides of automatic buckets are multiples of; less where they start from a smaller size, or one that is none."""
SLACK = 1.25
"""Times as many pixels, or as few, as automatic buckets may have."""
WIDEST = 4.0
"""Aspect of the widest and, upright, of the highest automatic bucket."""
SHARE = 0.05
"""Of the videos that an automatic bucket has to be the best for."""
MOST = 6
"""Sizes of automatic buckets."""


def named(shape: Shape) -> str:
    """``17x64x64``: frames, height and width as they are written."""
    return "x".join(map(str, shape))


def listed(buckets: str | Sequence[str]) -> list[Shape]:
    """The sizes that ``data.buckets`` names, in its order.

    Raises:
        UserError: where one is no size or is there twice, or where there is none.
    """
    shapes: list[Shape] = []
    for word in [buckets] if isinstance(buckets, str) else buckets:
        found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)x([1-9]\d*)", str(word))
        if found is None:
            raise UserError(
                f"data.buckets holds {word}, which is no size: write frames x height x width in pixels, such as 17x64x64, or "
                "data.buckets=auto."
            )
        frames, height, width = map(int, found.groups())
        if (frames, height, width) in shapes:
            raise UserError(f"data.buckets holds {word} twice: leave one of them out.")
        shapes.append((frames, height, width))
    if not shapes:
        raise UserError("data.buckets=[] holds no size: give some, such as [17x64x64,17x48x80], auto, or null for none.")
    return shapes


def nearest(aspect: float, frames: float, shapes: Sequence[Shape], needed: Callable[[Shape], int]) -> int | None:
    """Which of ``shapes`` a video is for; None where it is too short for all of them.

    Args:
        aspect: its width over its height, as shown.
        frames: how many it has.
        shapes: the buckets.
        needed: how many frames a video must have for a bucket.
    """

    def rank(place: int) -> tuple[float, int, int]:
        length, height, width = shapes[place]
        return _apart(aspect, height, width), -length, -height * width

    return min((place for place, shape in enumerate(shapes) if frames >= needed(shape)), key=rank, default=None)


def auto_sizes(aspects: Sequence[float], height: int, width: int) -> list[Size]:
    """A few sizes of about as many pixels as ``height`` x ``width`` that suit the ``aspects`` there are, the most used first."""
    area, step = height * width, _step(height, width)
    tall = [(side, max(step, round(area / side / step) * step)) for side in range(step, math.isqrt(area) * 2 + 1, step)]
    known = {(height, width), (width, height), *tall, *((w, h) for h, w in tall)}
    like = [(h, w) for h, w in known if area / SLACK <= h * w <= area * SLACK and 1 / WIDEST <= w / h <= WIDEST]
    sizes = sorted({(height, width), *like}, key=lambda size: (abs(math.log(size[0] * size[1] / area)), size))
    return often([_closest(aspect, sizes) for aspect in aspects])[:MOST] or [(height, width)]


def _step(height: int, width: int) -> int:
    """Pixels between one side and the next: what divides both sides, at most :data:`MULTIPLE` and a quarter of the mean side."""
    step = math.gcd(MULTIPLE, height, width)
    while step % 2 == 0 and 4 * step > math.sqrt(height * width):
        step //= 2
    return step


def _closest(aspect: float, sizes: Sequence[Size]) -> Size:
    return min(sizes, key=lambda size: _apart(aspect, *size))


def _apart(aspect: float, height: int, width: int) -> float:
    """How much of the picture a cut of that size loses, as a logarithm; rounded, so that equal shapes lose the same."""
    return round(abs(math.log(aspect * height / width)), 9)


def auto_lengths(frames: int) -> list[int]:
    """``frames`` and shorter lengths for videos that have fewer, for tokenizers of any stride up to 4 along time.

    Lengths of 1 + 8k are halved to 1 + 4k as causal tokenizers have them, and end with 1, an image; those of 8k to 4k.
    """
    lengths, first = [frames], frames % 2
    while lengths[-1] > first and (lengths[-1] - first) % 8 == 0:
        lengths.append(first + (lengths[-1] - first) // 2)
    return [*lengths, 1] if first and lengths[-1] > 1 else lengths


def often(choices: Sequence[T]) -> list[T]:
    """What is chosen by at least :data:`SHARE` of all, and in any case the most frequent choice; the most frequent first."""
    counts = Counter(choices).most_common()
    return [choice for place, (choice, count) in enumerate(counts) if place == 0 or count >= SHARE * len(choices)]


def batch_sizes(shapes: Sequence[Shape], tokens: Callable[[Shape], int], budget: int, parts: int = 1) -> tuple[int, ...]:
    """Clips of each bucket in a batch: as many as ``budget`` tokens hold, a multiple of ``parts``.

    Args:
        shapes: the buckets.
        tokens: of one clip of a shape.
        budget: tokens of a batch, at most.
        parts: equal parts that every batch goes through in.

    Raises:
        UserError: where the budget is smaller than one clip, or one for each part.
    """
    sizes = [budget // tokens(shape) // parts * parts for shape in shapes]
    if 0 in sizes:
        largest = max(shapes, key=tokens)
        least = f"{parts} clips" if parts > 1 else "one clip"
        raise UserError(
            f"A batch of {budget} tokens holds less than {least} of the bucket {named(largest)}, and one has {tokens(largest)}: "
            f"give data.tokens={parts * tokens(largest)} or more, or leave that bucket out."
        )
    return tuple(sizes)


def shared_out(count: int, sizes: Sequence[int]) -> list[int]:
    """``count`` clips shared out over buckets in proportion to their ``sizes``, rounded up, at least 1 for each."""
    return [max(1, -(-count * size // sum(sizes))) for size in sizes]
