"""What a stream remembers, and for whom."""

from __future__ import annotations

import torch
from torch import nn

from vidgen.nn.stream import Stream


def test_a_layer_gets_its_own_last_steps_whatever_the_order_of_calls() -> None:
    one, other, stream = nn.Identity(), nn.Identity(), Stream()
    x, y = torch.arange(6.0).view(1, 6, 1), -torch.arange(6.0).view(1, 6, 1)
    assert torch.equal(stream.extend(one, x[:, :1], 2), x[:, :1])
    assert torch.equal(stream.extend(other, y[:, :3], 1), y[:, :3])
    assert torch.equal(stream.extend(one, x[:, 1:4], 2), x[:, :4])  # as many as there are
    assert torch.equal(stream.extend(other, y[:, 3:], 1), y[:, 2:])
    assert torch.equal(stream.extend(one, x[:, 4:], 2), x[:, 2:])


def test_steps_may_lie_along_any_dimension() -> None:
    layer, stream = nn.Identity(), Stream()
    x = torch.randn(2, 3, 7)
    stream.extend(layer, x[..., :4], 3, dim=-1)
    assert torch.equal(stream.extend(layer, x[..., 4:], 3, dim=-1), x[..., 1:])


def test_what_is_remembered_is_a_copy() -> None:
    """Else a chunk, or a large tensor that it is a view of, would stay alive, or be changed under the stream."""
    layer, stream = nn.Identity(), Stream()
    x = torch.ones(1, 100, 1)
    stream.extend(layer, x, 2)
    x.zero_()
    assert stream.nbytes == 2 * 4
    assert torch.equal(stream.extend(layer, torch.ones(1, 1, 1), 2), torch.ones(1, 3, 1))


def test_without_a_stream_nothing_is_remembered() -> None:
    layer, stream = nn.Identity(), Stream.at(0, None)
    stream.extend(layer, torch.ones(1, 4, 1), 2)
    assert stream.nbytes == 0
    assert stream.extend(layer, torch.ones(1, 1, 1), 2).shape == (1, 1, 1)


def test_the_first_chunk_is_the_one_at_cell_0() -> None:
    stream = Stream()
    assert Stream.at(0, stream) is stream
    assert stream.first
    assert not Stream.at(3, stream).first
    assert Stream.at(0, None).first
    assert not Stream.at(2, None).first


def test_parts_remember_apart_and_are_counted() -> None:
    layer, stream = nn.Identity(), Stream()
    for index in (0, 1):
        stream.part(index).extend(layer, torch.full((1, 2, 1), float(index)), 2)
    assert stream.nbytes == 2 * 2 * 4
    assert stream.part(1).extend(layer, torch.full((1, 1, 1), 5.0), 2).flatten().tolist() == [1, 1, 5]
    assert stream.part(0).extend(layer, torch.full((1, 1, 1), 5.0), 2).flatten().tolist() == [0, 0, 5]
