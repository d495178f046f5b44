"""LPIPS against another implementation with the same random weights; ``gradients`` by what it must and must not see."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from vidgen import UserError
from vidgen.losses import perceptual
from vidgen.losses.perceptual import build_perceptual, gradients

needs_torchvision = pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed")


def lpips_of(net: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """LPIPS on random weights in a file that passes for torchvision's, and torchmetrics' on the same."""
    import torchvision
    from torchmetrics.functional.image.lpips import _LPIPS

    name, file, ends = perceptual.NETS[net]
    torch.manual_seed(0)
    backbone = getattr(torchvision.models, name)(weights=None)
    path = folder / "weights.pth"
    torch.save(backbone.state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(perceptual.NETS, net, (name, f"{file.rpartition('-')[0]}-{digest[:8]}.pth", ends))
    theirs = _LPIPS(pretrained=True, net=net, pnet_rand=True, use_dropout=True)
    features = dict(backbone.features.named_parameters())
    for full, weight in theirs.net.named_parameters():
        weight.data.copy_(features[full.removeprefix("slices.").partition(".")[2]])
    return build_perceptual({"name": "lpips", "weight": 1.0, "net": net, "file": str(path)}), theirs


@needs_torchvision
@pytest.mark.parametrize("net", ["squeeze", *(pytest.param(net, marks=pytest.mark.slow) for net in ("alex", "vgg"))])
def test_lpips_is_torchmetrics_own(net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the heads that it ships and one and the same random backbone; the mean over the frames of two clips."""
    ours, theirs = lpips_of(net, tmp_path, monkeypatch)
    a, b = (torch.rand(2, 3, 2, 64, 64) * 2 - 1 for _ in range(2))
    a.requires_grad_()
    found = ours(a, b)
    frames = [x.transpose(1, 2).flatten(0, 1) for x in (a, b)]
    expected = theirs(*frames).mean()
    assert float(found.detach()) > 0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
    slopes = [torch.autograd.grad(value, a, retain_graph=True)[0] for value in (found, expected)]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-3, atol=1e-8)
    assert float(ours(b, b)) == 0


@needs_torchvision
@pytest.mark.parametrize("net", ["squeeze", *(pytest.param(net, marks=pytest.mark.slow) for net in ("alex", "vgg"))])
def test_frames_may_be_as_small_as_is_said(net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the net itself has no features of smaller ones."""
    ours, _ = lpips_of(net, tmp_path, monkeypatch)
    least = perceptual.SMALLEST[net]
    assert ours(*torch.rand(2, 1, 3, 1, least, least)).isfinite()
    with pytest.raises(UserError, match=f"needs RGB of at least {least}x{least} pixels and these videos have 3 channels of "):
        ours(*torch.rand(2, 1, 3, 1, least - 1, least))
    with pytest.raises(UserError, match="these videos have 1 channels of "):
        ours(*torch.rand(2, 1, 1, 1, least, least))
    with pytest.raises(RuntimeError):
        ours._features(torch.rand(1, 3, least - 1, least - 1))


@needs_torchvision
def test_lpips_is_saved_with_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = lpips_of("squeeze", tmp_path, monkeypatch)
    task = tiny.tokenizer_training("kl").task()
    before = task.state_dict().keys()
    task.perceptual = (ours, 1.0)
    assert task.state_dict().keys() == before


def mistake(**options: Any) -> str:
    with pytest.raises(UserError) as error:
        build_perceptual({"name": "lpips", "weight": 1.0, "net": "vgg", "file": ""} | options)
    return str(error.value)


@needs_torchvision
def test_a_file_that_is_missing_or_another_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    other = tmp_path / "other.pth"
    other.write_bytes(b"nonsense")
    wanted = "lpips with net=vgg needs torchvision's vgg16-397923af.pth, and "
    source = "It comes from https://download.pytorch.org/models/vgg16-397923af.pth, and its sha256 begins with 397923af."
    assert (
        mistake()
        == f"{wanted}there is none in {tmp_path / 'hub' / 'checkpoints'}: set tokenizer.perceptual.file to its path. {source}"
    )
    assert "and there is no file 'nowhere.pth'" in mistake(file="nowhere.pth")
    digest = hashlib.sha256(b"nonsense").hexdigest()[:8]
    assert mistake(file=str(other)) == f"'{other}' is not torchvision's vgg16-397923af.pth: its sha256 begins with {digest}."
    found = tmp_path / "hub" / "checkpoints" / "vgg16-397923af.pth"
    found.parent.mkdir(parents=True)
    found.write_bytes(b"nonsense")
    assert mistake() == f"'{found}' is not torchvision's vgg16-397923af.pth: its sha256 begins with {digest}."


def test_words_that_name_nothing_are_told() -> None:
    assert mistake(net="vg").startswith("There is no net of LPIPS called 'vg'. Did you mean 'vgg'?")
    assert mistake(name="lpip").startswith("There is no perceptual loss called 'lpip'. Did you mean 'lpips'?")


def test_without_torchvision_it_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert mistake() == "lpips needs the package torchvision for its net: pip install torchvision, or use gradients."


def test_none_and_no_weight_build_nothing() -> None:
    assert build_perceptual({"name": "none"}) is None
    assert build_perceptual({"name": "gradients", "weight": 0.0}) is None
    assert build_perceptual({"name": "gradients", "weight": 0.1}) is gradients


def edge(contrast: float) -> torch.Tensor:
    """A vertical edge in the middle of 16 columns."""
    video = torch.zeros(1, 3, 2, 16, 16)
    video[..., 8:] = contrast
    return video


def test_gradients_by_hand_at_one_scale() -> None:
    """2x2 frames have one gradient: against numbers."""
    a, b = torch.zeros(1, 1, 1, 2, 2), torch.zeros(1, 1, 1, 2, 2)
    a[..., 1, 0], b[..., 0, 1] = 0.3, 0.4
    down, right = 0.3 / (0.09 + 0.01) ** 0.5, 0.4 / (0.16 + 0.01) ** 0.5
    assert float(gradients(a, b)) == pytest.approx((down**2 + right**2) / 2, rel=1e-5)


def test_gradients_sees_edges_more_than_brightness() -> None:
    video = edge(0.8)
    blurred = video.clone()
    blurred[..., 6:10] = torch.tensor([0.2, 0.35, 0.5, 0.65]) * 0.8
    assert float(gradients(video, video)) == 0
    assert float(gradients(video + 0.1, video)) < 1e-10
    assert float(gradients(blurred, video)) > 3 * float(gradients(0.9 * video, video))


def test_gradients_take_frames_of_any_size() -> None:
    for shape in ((1, 3, 1, 2, 2), (2, 3, 3, 5, 9), (1, 3, 2, 64, 48)):
        video = torch.rand(shape).requires_grad_()
        distance = gradients(video, torch.rand(shape))
        distance.backward()
        assert float(distance.detach()) > 0
        assert video.grad.isfinite().all()
