"""Each distance against its formula, written out in numpy, pixel by pixel where that is short."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from vidgen import UserError, tokenizer
from vidgen.losses import reconstruction as losses


@pytest.fixture(params=[(2, 3, 5, 4, 6), (1, 3, 1, 3, 5), (2, 1, 4, 2, 2)], ids=str)
def pair(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor]:
    return torch.randn(request.param, dtype=torch.float64), torch.randn(request.param, dtype=torch.float64)


def arrays(pair: tuple[Tensor, Tensor]) -> tuple[np.ndarray, np.ndarray]:
    return pair[0].numpy(), pair[1].numpy()


def test_pointwise_distances(pair: tuple[Tensor, Tensor]) -> None:
    a, b = arrays(pair)
    assert float(losses.l1(*pair)) == pytest.approx(np.mean(np.abs(a - b)))
    assert float(losses.mse(*pair)) == pytest.approx(np.mean((a - b) ** 2))
    assert float(losses.charbonnier(*pair)) == pytest.approx(np.mean(np.hypot(a - b, 1e-3)) - 1e-3)


def test_temporal_compares_changes_and_not_frames(pair: tuple[Tensor, Tensor]) -> None:
    a, b = arrays(pair)
    ours, theirs = a[:, :, 1:] - a[:, :, :-1], b[:, :, 1:] - b[:, :, :-1]
    expected = np.mean(np.abs(ours - theirs)) if ours.size else 0.0
    assert float(losses.temporal(*pair)) == pytest.approx(expected)
    assert float(losses.temporal(pair[0], pair[0] + 3)) == pytest.approx(0, abs=1e-12)


def test_wavelet_against_explicit_products_with_the_haar_basis(pair: tuple[Tensor, Tensor]) -> None:
    """The eight coefficients of every 2x2x2 block are its products with +-1 patterns over sqrt(8)."""
    d = pair[0].numpy() - pair[1].numpy()
    for axis in (2, 3, 4):
        if d.shape[axis] % 2:
            d = np.concatenate([np.take(d, [0], axis), d], axis)
    total, count = 0.0, 0
    signs = list(itertools.product((1, -1), repeat=3))
    for t, y, x in itertools.product(*(range(0, size, 2) for size in d.shape[2:])):
        block = d[:, :, t : t + 2, y : y + 2, x : x + 2]
        for st, sy, sx in signs:
            pattern = np.einsum("i,j,k->ijk", [1, st], [1, sy], [1, sx]) / np.sqrt(8)
            total += np.abs((block * pattern).sum(axis=(2, 3, 4))).sum()
            count += block.shape[0] * block.shape[1]
    assert float(losses.wavelet(*pair)) == pytest.approx(total / count)


@pytest.mark.parametrize("name", losses.RECONSTRUCTION)
def test_a_distance_is_zero_at_itself_and_its_slope_is_a_number_there(name: str, pair: tuple[Tensor, Tensor]) -> None:
    video = pair[0]
    again = video.clone().requires_grad_()
    distance = losses.RECONSTRUCTION[name](again, video)
    distance.backward()
    assert float(distance.detach()) == pytest.approx(0, abs=1e-12)
    assert again.grad.isfinite().all()


def test_what_has_no_weight_is_not_computed(pair: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(a: Tensor, b: Tensor) -> Tensor:
        raise AssertionError("computed")

    monkeypatch.setitem(losses.RECONSTRUCTION, "wavelet", refuse)
    found = losses.reconstruction_losses(*pair, {"l1": 0.5, "wavelet": 0.0, "temporal": 1e-9})
    assert found.keys() == {"l1", "temporal"}
    assert torch.equal(found["l1"], losses.l1(*pair))


def test_a_tokenizer_s_total_is_the_weighted_sum() -> None:
    backbone = {"widths": [8], "encoder_depths": [1], "decoder_depths": [1]}
    weights = {"l1": 0.0, "mse": 5.0, "charbonnier": 0.5, "temporal": 0.25, "wavelet": 2.0}
    built = tokenizer("kl", backbone=backbone, loss=weights)
    video = torch.rand(1, 3, 5, 8, 8) * 2 - 1
    _, _, found = built(video)
    assert found.scalars.keys() == {"mse", "charbonnier", "temporal", "wavelet", "kl"}
    expected = sum(weights.get(name, 1.0) * value for name, value in found.scalars.items())
    torch.testing.assert_close(found.total, expected)


def test_an_unknown_loss_is_told() -> None:
    with pytest.raises(UserError, match=r"^'tokenizer\.loss' has no option 'l2'\. Did you mean 'l1'\?"):
        tokenizer("kl", loss={"l2": 1.0})
    with pytest.raises(UserError, match=r"^There is no reconstruction loss called 'wavelets'\. Did you mean 'wavelet'\?"):
        losses.check_names(["l1", "wavelets"])
