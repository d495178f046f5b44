"""The precision to train in, found by measuring: bf16 is ten times faster on some machines and thirty times slower on others."""

from __future__ import annotations

import time
from functools import cache

import torch
from torch.nn import functional as F

from vidgen.errors import UserError, did_you_mean

CHOICES = ("auto", "bf16", "fp32")


def choose(precision: str, device: torch.device) -> str:
    """``bf16`` or ``fp32``; ``auto`` takes bf16 where a product of a transformer's shape is at least a quarter faster in it.

    Raises:
        UserError: on any other word.
    """
    if precision not in CHOICES:
        raise UserError(
            f"trainer.precision='{precision}' is unknown.{did_you_mean(precision, CHOICES)} Use {', '.join(CHOICES)}."
        )
    if precision != "auto":
        return precision
    full, half = _seconds(device)
    return "bf16" if full > 1.25 * half else "fp32"


@cache
def _seconds(device: torch.device, repeats: int = 32) -> tuple[float, float]:
    """Seconds of a linear layer's product on a batch of tokens in fp32 and in bf16.

    The two take turns and the quickest of each counts: whatever else the machine is busy with only ever adds time.
    """
    operands = [torch.randn(2, 1024, 256, device=device, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    times: list[list[float]] = [[], []]
    for _ in range(repeats):
        for (x, weight), taken in zip(operands, times, strict=True):
            begin = time.perf_counter()
            F.linear(x, weight).sum().item()  # item waits for the device
            taken.append(time.perf_counter() - begin)
    return min(times[0]), min(times[1])
