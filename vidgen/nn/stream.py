"""How a causal network goes through a video in chunks and still gives what it would give for the whole."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Stream:
    """What causal layers remember of the chunks before, each under itself, so that nothing depends on the order of calls.

    A backbone makes one for a call without a stream, which then remembers nothing. One stream serves one direction of one video.

    Attributes:
        first: whether the chunk in work begins the video, so that its first cell is the one-frame cell. Backbones set it.
        keep: whether anything is remembered for a chunk to come.
    """

    def __init__(self, *, first: bool = True, keep: bool = True) -> None:
        self.first, self.keep = first, keep
        self._past: dict[nn.Module, Tensor] = {}
        self._parts: dict[int, Stream] = {}

    @property
    def nbytes(self) -> int:
        """Bytes that are remembered; a causal network's do not grow with the length of the video."""
        own = sum(past.numel() * past.element_size() for past in self._past.values())
        return own + sum(part.nbytes for part in self._parts.values())

    def part(self, index: int) -> Stream:
        """The stream of a part of the video that goes through the network by itself, as a tile does; remembered with this one."""
        return self._parts.setdefault(index, Stream(keep=self.keep))

    @classmethod
    def at(cls, start: int, stream: Stream | None) -> Stream:
        """``stream`` at cell ``start`` of its video; without one, a stream that remembers nothing."""
        if stream is None:
            return cls(first=start == 0, keep=False)
        stream.first = start == 0
        return stream

    def extend(self, layer: nn.Module, x: Tensor, length: int, dim: int = 1) -> Tensor:
        """``x`` after as many as there are of the last ``length`` steps along ``dim`` that ``layer`` has seen before it.

        In a stream the last ``length`` steps of the result are remembered for the next chunk.
        """
        past = self._past.get(layer)
        x = x if past is None else torch.cat([past, x], dim=dim)
        if self.keep and length:
            start = max(0, x.shape[dim] - length)
            self._past[layer] = x.narrow(dim, start, x.shape[dim] - start).detach().clone()
        return x
