"""The law of a truncated softmax, written down plainly: sort, cut, renormalise."""

from __future__ import annotations

import math


def law(logits: list[float], temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> list[float]:
    """The probabilities of the tempered and truncated softmax."""
    largest = max(logits)
    weights = [math.exp((logit - largest) / temperature) for logit in logits]
    ranked = sorted(range(len(logits)), key=lambda i: -weights[i])
    kept = ranked[: top_k or None]
    mass, nucleus, total = 0.0, [], sum(weights[i] for i in kept)
    for i in kept:
        if not nucleus or mass < top_p:
            nucleus.append(i)
        mass += weights[i] / total
    total = sum(weights[i] for i in nucleus)
    return [weights[i] / total if i in nucleus else 0.0 for i in range(len(logits))]
