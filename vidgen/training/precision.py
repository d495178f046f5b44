"""The precision to train in, found by measuring: bf16 is ten times faster on some machines and thirty times slower on others."""

from __future__ import annotations

import time
from functools import cache
from statistics import median

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
    return "bf16" if _seconds(torch.float32, device) > 1.25 * _seconds(torch.bfloat16, device) else "fp32"


@cache
def _seconds(dtype: torch.dtype, device: torch.device) -> float:
    """Median seconds of a linear layer's product on a batch of tokens."""
    x = torch.randn(1024, 256, device=device, dtype=dtype)
    weight = torch.randn(1024, 256, device=device, dtype=dtype)
    times = []
    for _ in range(12):
        begin = time.perf_counter()
        F.linear(x, weight).sum().item()  # item waits for the device
        times.append(time.perf_counter() - begin)
    return median(times[4:])
