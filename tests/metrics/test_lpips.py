"""LPIPS as a metric: against torchmetrics' network with the same random backbone, and what it says without its weights."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from vidgen.errors import UserError
from vidgen.losses import perceptual
from vidgen.metrics.lpips import LPIPS, lpips

needs_torchvision = pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed")


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Random weights of a net in a file that passes for torchvision's."""
    import torchvision

    def make(net: str) -> tuple[Path, Any]:
        name, file, ends = perceptual.NETS[net]
        torch.manual_seed(0)
        backbone = getattr(torchvision.models, name)(weights=None)
        path = tmp_path / "weights.pth"
        torch.save(backbone.state_dict(), path)
        digits = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        monkeypatch.setitem(perceptual.NETS, net, (name, f"{file.rpartition('-')[0]}-{digits}.pth", ends))
        return path, backbone

    return make


def theirs_of(net: str, backbone: Any) -> Any:
    from torchmetrics.functional.image.lpips import _LPIPS

    theirs = _LPIPS(pretrained=True, net=net, pnet_rand=True, use_dropout=True)
    features = dict(backbone.features.named_parameters())
    for full, weight in theirs.net.named_parameters():
        weight.data.copy_(features[full.removeprefix("slices.").partition(".")[2]])
    return theirs


@needs_torchvision
@pytest.mark.parametrize("net", ["squeeze", *(pytest.param(net, marks=pytest.mark.slow) for net in ("alex", "vgg"))])
def test_each_frame_is_torchmetrics_own(net: str, weights: Any) -> None:
    path, backbone = weights(net)
    theirs = theirs_of(net, backbone)
    metric = LPIPS(net=net, file=str(path))
    video, real = (torch.rand(2, 3, 3, 48, 64) * 2 - 1 for _ in range(2))
    expected = [theirs(video[:, :, t], real[:, :, t]).flatten() for t in range(3)]
    found = lpips(video, real, metric.network)
    assert found.dtype == torch.float64 and (found > 0).all()
    torch.testing.assert_close(found, torch.stack(expected, dim=1).double(), rtol=1e-4, atol=1e-8)
    metric.update(video[:1], real=real[:1])
    metric.update(video[1:], real=real[1:])
    assert metric.compute().item() == pytest.approx(found.mean().item(), rel=1e-6)
    assert lpips(real, real, metric.network).abs().max() == 0
    assert metric.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert metric.convention == f"LPIPS 0.1, {net}, weights {metric.sha256[:8]}, mean over frames"
    assert not metric.state_dict()  # nothing of the net is saved with it


@needs_torchvision
@pytest.mark.parametrize(("net", "file"), [(net, file) for net, (_, file, _) in perceptual.NETS.items()])
def test_absent_weights_are_one_sentence(net: str, file: str) -> None:
    with pytest.raises(UserError) as error:
        LPIPS(net=net, file="nowhere.pth")
    digits = file.removesuffix(".pth").rpartition("-")[2]
    assert str(error.value) == (
        f"lpips with net={net} needs torchvision's {file}, and there is no file 'nowhere.pth': set the metric's option file to "
        f"its path. It comes from https://download.pytorch.org/models/{file}, and its sha256 begins with {digits}."
    )
