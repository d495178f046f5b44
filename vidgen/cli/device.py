"""Which device the commands use, and in what precision."""

from __future__ import annotations

import torch

from vidgen.errors import UserError
from vidgen.training import ranks


def choose_device(accelerator: str) -> torch.device:
    """The device for ``accelerator`` (auto, cpu, cuda, mps): ``auto`` is the GPU where there is one.

    Of several processes on a machine each has its own GPU.

    Raises:
        UserError: on a device that this machine lacks.
    """
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    absent = {"cuda": not torch.cuda.is_available(), "mps": not torch.backends.mps.is_available()}
    if absent.get(accelerator):
        raise UserError(f"accelerator={accelerator}, but this machine has no such device that torch can use; leave it at auto.")
    if accelerator == "cuda" and ranks.count() > 1:
        torch.cuda.set_device(ranks.local_index())
    return torch.device(accelerator)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bf16 autocast where ``precision`` is ``bf16``, else a context that changes nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
