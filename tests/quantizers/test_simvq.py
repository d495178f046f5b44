"""SimVQ against another implementation and closed forms."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from vidgen import UserError
from vidgen.nn.codebook import rows_of
from vidgen.quantizers.simvq import SimVQ


def stirred(**options: object) -> SimVQ:
    """With a map that is not at its start."""
    quantizer = SimVQ(**{"codes": 50, "channels": 6} | options)
    with torch.no_grad():
        quantizer.map.weight.copy_(torch.randn(6, 6))
        quantizer.map.bias.copy_(torch.randn(6))
    return quantizer


def table(quantizer: SimVQ) -> Tensor:
    """All codes, by definition."""
    return (quantizer.map.weight.double() @ quantizer.table.double().T).T + quantizer.map.bias.double()


@pytest.mark.parametrize("rotation", [False, True])
def test_agrees_with_vector_quantize_pytorch(rotation: bool) -> None:
    """Ids, codes, loss, and the gradients to the encoder and to the map, at equal weights; theirs has no bias."""
    sim = pytest.importorskip("vector_quantize_pytorch").SimVQ
    theirs = sim(dim=6, codebook_size=50, channel_first=True, rotation_trick=rotation)
    ours = SimVQ(codes=50, channels=6, rotation=rotation)
    with torch.no_grad():
        ours.map.weight.copy_(theirs.code_transform.weight)
    ours.table.copy_(theirs.frozen_codebook)
    x = torch.randn(2, 6, 3, 2, 4, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    into = torch.randn(2, 6, 3, 2, 4)
    got = ours(x)
    z, ids, loss = theirs(y)
    assert torch.equal(got.ids.squeeze(-1), ids.flatten(1))
    torch.testing.assert_close(got.z, z)
    torch.testing.assert_close(sum(got.losses.values()), loss)
    ((got.z * into).sum() + sum(got.losses.values())).backward()
    ((z * into).sum() + loss).backward()
    torch.testing.assert_close(x.grad, y.grad)
    torch.testing.assert_close(ours.map.weight.grad, theirs.code_transform.weight.grad)


def test_codes_are_the_table_through_the_map_and_the_nearest_is_chosen() -> None:
    quantizer = stirred()
    x = torch.randn(2, 6, 1, 5, 4)
    code = quantizer(x)
    distance = torch.cdist(rows_of(x).double(), table(quantizer))
    assert torch.equal(code.ids.flatten(), distance.argmin(dim=1))
    torch.testing.assert_close(rows_of(code.z).double(), table(quantizer)[code.ids.flatten()], rtol=1e-5, atol=1e-5)
    assert torch.equal(code.h, x)


def test_losses_by_their_definition() -> None:
    """The commitment is on the encoder's term alone."""
    quantizer = stirred(commitment=0.1)
    x = torch.randn(2, 6, 1, 5, 4, requires_grad=True)
    code = quantizer(x)
    error = (x - code.z).detach()
    torch.testing.assert_close(sum(code.losses.values()), 1.1 * error.square().mean())
    sum(code.losses.values()).backward()
    torch.testing.assert_close(x.grad, 2 * 0.1 * error / x.numel())
    chosen = quantizer.table[code.ids.flatten()]
    torch.testing.assert_close(quantizer.map.weight.grad, -2 * rows_of(error).T @ chosen / x.numel())
    torch.testing.assert_close(quantizer.map.bias.grad, -2 * rows_of(error).sum(dim=0) / x.numel())


def test_one_chosen_code_moves_all() -> None:
    """What the linear map is for; the table itself is no parameter."""
    quantizer = stirred()
    before = table(quantizer).detach()
    frozen = quantizer.table.clone()
    optimizer = torch.optim.SGD(quantizer.parameters(), lr=1.0)
    code = quantizer(before[7].float().view(1, 6, 1, 1, 1) + 0.01)
    assert code.ids.flatten().tolist() == [7]
    sum(code.losses.values()).backward()
    optimizer.step()
    assert ((table(quantizer).detach() - before).norm(dim=1) > 0).all()
    assert torch.equal(quantizer.table, frozen)
    assert [name for name, _ in quantizer.named_parameters()] == ["map.weight", "map.bias"]


def test_many_codes_are_in_use_from_the_start_whatever_the_scale_of_the_data() -> None:
    """A table at its full size would show one or a few codes to the smallest of these."""
    for scale in (0.03, 1.0, 10.0):
        used = SimVQ(codes=1024, channels=8)(scale * torch.randn(4, 8, 4, 8, 8)).ids.unique()
        assert len(used) > 100


@pytest.mark.parametrize("training", [True, False])
def test_the_gradient_passes_straight_through(training: bool) -> None:
    """And z is the code to the bit."""
    quantizer = stirred().train(training)
    x, into = torch.randn(2, 2, 6, 1, 3, 4)
    x.requires_grad_()
    code = quantizer(x)
    assert torch.equal(code.z, quantizer.embed(code.ids, ((1, 3, 4),)))
    (slope,) = torch.autograd.grad((code.z * into).sum(), x)
    assert torch.equal(slope, into)
    assert not code.h.requires_grad


def test_embed_and_project_keep_their_law() -> None:
    quantizer = stirred()
    ids = torch.randperm(50)[:48].view(2, 24, 1)
    z = quantizer.embed(ids, ((2, 3, 4),))
    torch.testing.assert_close(rows_of(z).double(), table(quantizer)[ids.flatten()], rtol=1e-5, atol=1e-5)
    again = quantizer.project(z)
    assert torch.equal(again.ids, ids)
    assert torch.equal(again.z, z)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        h = torch.randn(2, 6, 3, 2, 2, dtype=dtype)
        code = quantizer.project(h)
        assert code.z.dtype == code.h.dtype == dtype
        assert torch.equal(quantizer.embed(code.ids, ((3, 2, 2),)).to(dtype), code.z)


def test_half_precision_input_is_quantized_in_full() -> None:
    x = torch.randn(2, 6, 2, 3, 3).bfloat16()
    quantizer = stirred()
    expected = quantizer(x.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        code = quantizer(x)
        assert torch.equal(quantizer.embed(code.ids, ((2, 3, 3),)), code.z)
        assert torch.equal(quantizer.project(x.float()).z, code.z)
    assert code.z.dtype == code.h.dtype == torch.float32
    assert torch.equal(code.z, expected.z)
    assert all(torch.equal(code.losses[name], value) for name, value in expected.losses.items())


def test_use_is_deterministic_and_saved_codes_come_back() -> None:
    quantizer = stirred().eval()
    x = torch.randn(2, 6, 1, 3, 3)
    code = quantizer(x)
    assert code.losses == {}
    assert torch.equal(quantizer(x).z, code.z)
    other = SimVQ(codes=50, channels=6).eval()  # whose table was drawn anew
    other.load_state_dict(copy.deepcopy(quantizer.state_dict()))
    assert torch.equal(other(x).z, code.z)


@pytest.mark.parametrize("options", [{"codes": 1}, {"channels": 0}])
def test_options_out_of_range_are_told(options: dict[str, int]) -> None:
    with pytest.raises(UserError, match="simvq needs codes of at least 2"):
        SimVQ(**options)
