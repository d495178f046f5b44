"""What a tokenizer is given by mistake, told in one sentence before it makes a strange error or, worse, none."""

from __future__ import annotations

import torch
from torch import Tensor

from vidgen.errors import UserError

BEYOND = 10.0
"""No video in [-1, 1] has a value of this size, whatever noise was added to it; one of 0 to 255 has."""


def check_form(video: Tensor) -> None:
    """Sees that ``video`` is a float tensor of five axes; looks at none of its values.

    Raises:
        UserError: naming what it is and how to make it one.
    """
    if video.ndim != 5:
        raise UserError(
            f"A tokenizer takes videos (batch, channels, frames, height, width), and this has the shape {tuple(video.shape)}; "
            "add the axis that is missing, such as video[None] for a batch of one, or frames of length 1 for images."
        )
    if not video.is_floating_point():
        raise UserError(
            f"A tokenizer takes float videos in [-1, 1], and this one is {str(video.dtype).removeprefix('torch.')}; turn pixels "
            "of 0 to 255 into them by video.float() / 127.5 - 1."
        )


def check_range(video: Tensor) -> None:
    """Sees that the values of ``video`` can be those of a video in [-1, 1]; a GPU is waited for, and compiled code does not look.

    Raises:
        UserError: where they are of another range, or not numbers.
    """
    if torch.compiler.is_compiling():
        return
    largest = float(video.detach().abs().max()) if video.numel() else 0.0
    if not largest < BEYOND:  # which not a number is not either
        raise UserError(
            f"A tokenizer takes videos in [-1, 1], and this one has values up to {largest:g}; turn pixels of 0 to 255 into them "
            "by video.float() / 127.5 - 1."
        )
