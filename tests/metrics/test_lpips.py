"""LPIPS as a metric: against torchmetrics' network with the same random backbone, and what it says without its weights."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vidgen.cli import main
from vidgen.cli.between import read_results
from vidgen.data.batches import to_video
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
        f"lpips with net={net} needs torchvision's {file}, and there is no file 'nowhere.pth': set lpips=FILE of 'vidgen "
        f"eval', in Python file=, to its path. It comes from https://download.pytorch.org/models/{file}, and its sha256 begins "
        f"with {digits}. Without it there is no LPIPS; leave lpips_{net} out for the other measures."
    )


@needs_torchvision
def test_a_folder_may_hold_the_files_of_several_nets(weights: Any) -> None:
    path, _ = weights("squeeze")
    path.rename(path.parent / perceptual.NETS["squeeze"][1])
    assert LPIPS(net="squeeze", file=str(path.parent)).sha256.startswith(perceptual.NETS["squeeze"][1][-12:-4])
    with pytest.raises(UserError, match=r"needs torchvision's alexnet-.*, and there is no file"):
        LPIPS(net="alex", file=str(path.parent))


@needs_torchvision
def test_on_the_command_line_the_file_is_lpips_and_its_hash_is_the_protocols(
    weights: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = weights("squeeze")
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("real", "fake")):
        np.save(f"{name}.npy", np.random.default_rng(seed).integers(0, 256, (2, 2, 32, 32, 3), dtype=np.uint8))
    measures = ["protocol.data.frames=2", "protocol.metric.measures=[lpips_squeeze]", "out=found"]
    assert main(["eval", "real=real.npy", "fake=fake.npy", *measures, f"lpips={path}"]) == 0
    (found,) = read_results(tmp_path / "found")
    metric = LPIPS(net="squeeze", file=str(path))
    videos = (to_video(torch.from_numpy(np.load(f"{name}.npy"))) for name in ("fake", "real"))
    assert found.results[0].value == pytest.approx(lpips(*videos, metric.network).mean().item(), rel=1e-5)
    recipe = found.protocol.metric.measures["lpips_squeeze"]
    assert recipe["file"] == metric.sha256
    assert str(path) not in (tmp_path / "found" / "results.json").read_text()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert main(["eval", "real=real.npy", "fake=fake.npy", *measures]) == 2
    said = capsys.readouterr().err
    assert f"and there is none in {tmp_path / 'torch' / 'hub' / 'checkpoints'}: set lpips=FILE" in said
    assert "leave lpips_squeeze out for the other measures" in said
