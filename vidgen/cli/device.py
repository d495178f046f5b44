"""Which device the commands use, and in what precision."""

from __future__ import annotations

import torch

from vidgen.errors import UserError, did_you_mean

ACCELERATORS = ("auto", "cpu", "cuda", "mps")


def choose_device(accelerator: str) -> torch.device:
    """The device for ``accelerator``: ``auto`` is the GPU where there is one.

    Raises:
        UserError: on another word, or a device that this machine lacks.
    """
    if accelerator not in ACCELERATORS:
        known = ", ".join(ACCELERATORS)
        raise UserError(f"trainer.accelerator={accelerator} is unknown.{did_you_mean(accelerator, ACCELERATORS)} Use {known}.")
    if accelerator == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    absent = {"cuda": not torch.cuda.is_available(), "mps": not torch.backends.mps.is_available()}
    if absent.get(accelerator):
        raise UserError(f"trainer.accelerator={accelerator}, but this machine has no such device; use trainer.accelerator=auto.")
    return torch.device(accelerator)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bf16 autocast where ``precision`` is ``bf16``, else a context that changes nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
