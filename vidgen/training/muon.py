"""timm's Muon, for weights that may be cut over processes: each of them makes the whole of a matrix orthogonal, as one would.

timm's own way with such weights multiplies the parts, and stops at the first: it divides them in place by a norm that no process
has. Here only a matrix's update is gathered, one at a time; its momentum stays cut.
"""

from __future__ import annotations

from typing import Any

from timm.optim import muon
from timm.optim.muon import Muon
from torch import Tensor

from vidgen.training.shards import cut_like, whole

__all__ = ["Muon"]

_orthogonal = muon.zeropower_via_newtonschulz


def _orthogonal_whole(update: Tensor, *options: Any, **named: Any) -> Tensor:
    return cut_like(_orthogonal(whole(update), *options, **named), update)


muon.zeropower_via_newtonschulz = _orthogonal_whole  # type: ignore[assignment]  # its first argument has another name
