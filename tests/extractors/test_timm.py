"""``timm``: a small network of the package on every frame, with weights from a file."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from vidgen import UserError
from vidgen.extractors.timm import Timm

MODELS = ("test_vit", "test_resnet")


def file_of(model: str, folder: Path) -> tuple[str, Any]:
    """As on the Hugging Face Hub: with a classifier."""
    import timm

    torch.manual_seed(0)
    network = timm.create_model(model, pretrained=False).eval()
    save_file(network.state_dict(), folder / f"{model}.safetensors")
    return str(folder / f"{model}.safetensors"), network


@pytest.mark.parametrize("model", MODELS)
@torch.no_grad()
def test_it_is_timm_s_network_on_every_frame(model: str, tmp_path: Path) -> None:
    path, network = file_of(model, tmp_path)
    extractor = Timm(model=model, path=path)
    size = network.default_cfg["input_size"][1:]
    video = torch.rand(2, 3, 3, *size) * 2 - 1
    frames = video.transpose(1, 2).flatten(0, 1)
    shift, scale = (torch.tensor(network.default_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    found = network.forward_head(network.forward_features(((frames + 1) / 2 - shift) / scale), pre_logits=True)
    torch.testing.assert_close(extractor(video), found.unflatten(0, (2, 3)).mean(1), rtol=1e-4, atol=1e-5)
    assert extractor.dim == found.shape[1]
    assert not any(weight.requires_grad or weight.is_meta for weight in extractor.parameters())
    squashed = F.interpolate(frames, (50, 30), mode="bilinear", antialias=True).unflatten(0, (2, 3)).transpose(1, 2)
    assert extractor(squashed[:, :, :1]).shape == (2, extractor.dim)


def test_the_file_of_that_name_does_not_hide_the_package() -> None:
    import timm

    assert timm.__file__ == importlib.util.find_spec("timm").origin
    assert hasattr(timm, "create_model")


def test_mistakes_are_told(tmp_path: Path) -> None:
    path, _ = file_of("test_vit", tmp_path)
    for options, sentence in (
        ({"model": "test_vitt", "path": path}, "timm has no network called 'test_vitt'. Did you mean 'test_vit'?"),
        ({"model": "test_resnet", "path": path}, f"'{path}' has no tensor 'conv1.0.weight', which this network needs"),
        (
            {"model": "test_vit", "path": "x.pt"},
            "extractor=timm needs the weights test_vit.safetensors, and there is no file",
        ),
    ):
        with pytest.raises(UserError) as error:
            Timm(**options)
        assert str(error.value).startswith(sentence)


def test_the_rule_names_the_model(tmp_path: Path) -> None:
    rules = [Timm(model=model, path=file_of(model, tmp_path)[0]).rule for model in MODELS]
    assert [rule["model"] for rule in rules] == list(MODELS)
    assert rules[0]["weights"] != rules[1]["weights"]
