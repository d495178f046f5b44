"""How alike two videos look, frame by frame: ``lpips`` with weights that the user has, or ``gradients``, which needs none.

Sources: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (2018), equation 1, with its
linear heads of version 0.1. ``gradients`` is our own and **not** LPIPS: no figure of it can be held against one of that.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgen.errors import UserError
from vidgen.registry import unknown

Distance = Callable[[Tensor, Tensor], Tensor]

SCALES = 4
CONTRAST = 0.1
"""Of a video in [-1, 1]: what differs by much less is taken for flat."""


def gradients(reconstruction: Tensor, video: Tensor) -> Tensor:
    """Mean squared error of soft edge orientations at up to four scales, each half the one before; videos (B, C, T, H, W).

    An edge's orientation is its gradient g over sqrt(|g|**2 + c**2): its direction, and hardly its contrast. So blur costs as
    much at a faint edge as at a strong one, where the squared error of pixels forgives it.
    """
    a, b = (x.transpose(1, 2).flatten(0, 1).float() for x in (reconstruction, video))
    found = []
    for _ in range(SCALES):
        found.append(F.mse_loss(_orientations(a), _orientations(b)))
        if min(a.shape[-2:]) < 4:
            break
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return torch.stack(found).mean()


def _orientations(frames: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, 2, C, H - 1, W - 1)."""
    down = frames[..., 1:, :-1] - frames[..., :-1, :-1]
    right = frames[..., :-1, 1:] - frames[..., :-1, :-1]
    slope = torch.stack([down, right], dim=1)
    return slope / (slope.square().sum(dim=1, keepdim=True) + CONTRAST**2).sqrt()


NETS: dict[str, tuple[str, str, tuple[int, ...]]] = {
    "alex": ("alexnet", "alexnet-owt-7be5be79.pth", (2, 5, 8, 10, 12)),
    "vgg": ("vgg16", "vgg16-397923af.pth", (4, 9, 16, 23, 30)),
    "squeeze": ("squeezenet1_1", "squeezenet1_1-b8a52dc0.pth", (2, 5, 8, 10, 11, 12, 13)),
}
"""Each net in torchvision: its name, its file, whose name ends in the first digits of its sha256, and where its features end."""

SMALLEST = {"alex": 31, "vgg": 16, "squeeze": 17}
"""Pixels that a frame must have in height and width, for the last of the features to be there at all."""

SOURCE = "https://download.pytorch.org/models"
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class LPIPS:
    """Learned perceptual image patch similarity. Not a module: its weights are saved with nothing.

    Args:
        net: ``alex``, ``vgg`` or ``squeeze``.
        file: torchvision's weights of that net (:data:`NETS`), which vidgen does not bring; the heads are torchmetrics'.
        option: what the user sets to the path of that file, for the sentence that asks for it.

    Attributes:
        sha256: of the file.

    Raises:
        UserError: on an unknown net, a missing file or one of another sha256, or where torchvision is not installed.
    """

    def __init__(self, *, net: str, file: str, option: str = "tokenizer.perceptual.file") -> None:
        if net not in NETS:
            raise unknown("net of LPIPS", net, NETS)
        if importlib.util.find_spec("torchvision") is None:
            raise UserError("lpips needs the package torchvision for its net: pip install torchvision, or use gradients.")
        weights, self.sha256 = _checked(net, file, option)
        import torchvision

        architecture, _, ends = NETS[net]
        model = getattr(torchvision.models, architecture)(weights=None)
        model.load_state_dict(weights)
        layers = list(model.features.children())
        for layer in layers:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False  # what a slice gave is still to be compared
        self.network = nn.ModuleList(
            nn.Sequential(*layers[first:last]) for first, last in zip((0, *ends), ends, strict=False)
        ).eval()
        self.network.requires_grad_(False)
        self.net = net
        self.constants = [torch.tensor(values).view(1, 3, 1, 1) for values in (SHIFT, SCALE)]
        self.heads = [head.view(1, -1, 1, 1) for head in _heads(net)]

    def __call__(self, reconstruction: Tensor, video: Tensor) -> Tensor:
        """Videos (B, 3, T, H, W) in [-1, 1] -> their mean distance."""
        return self.frames(reconstruction, video).mean()

    def frames(self, reconstruction: Tensor, video: Tensor) -> Tensor:
        """Videos (B, 3, T, H, W) in [-1, 1] -> the distance of each frame (B, T).

        Raises:
            UserError: for other than three channels, or frames that are too small for the net.
        """
        channels, least = video.shape[1], SMALLEST[self.net]
        if channels != 3 or min(video.shape[-2:]) < least:
            size = f"{channels} channels of {video.shape[-2]}x{video.shape[-1]}"
            raise UserError(
                f"lpips with net={self.net} needs RGB of at least {least}x{least} pixels and these videos have {size}."
            )
        self._move(video.device)
        a, b = (self._features(x.transpose(1, 2).flatten(0, 1)) for x in (reconstruction, video))
        distance = video.new_zeros(())
        for head, ours, theirs in zip(self.heads, a, b, strict=True):
            error = (_unit(ours) - _unit(theirs)).square()
            distance = distance + (error * head).sum(dim=1).mean(dim=(1, 2))
        return distance.unflatten(0, (len(video), video.shape[2]))

    def _move(self, device: torch.device) -> None:
        """Follows the videos to their device, once."""
        if self.heads[0].device != device:
            self.network.to(device)
            self.constants, self.heads = ([part.to(device) for part in parts] for parts in (self.constants, self.heads))

    def _features(self, frames: Tensor) -> list[Tensor]:
        shift, scale = (constant.to(frames.dtype) for constant in self.constants)
        x, found = (frames - shift) / scale, []
        for part in self.network:
            x = part(x)
            found.append(x)
        return found


def _unit(features: Tensor) -> Tensor:
    features = features.float()
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)


def _checked(net: str, file: str, option: str) -> tuple[dict[str, Tensor], str]:
    """The weights in ``file``, if they are torchvision's, and its sha256."""
    _, name, _ = NETS[net]
    downloads = Path(torch.hub.get_dir()) / "checkpoints"  # of torchvision
    path = Path(file).expanduser() if file else downloads / name
    digits = name.removesuffix(".pth").rpartition("-")[2]
    if not path.is_file():
        where = f"and there is no file '{file}'" if file else f"and there is none in {downloads}"
        raise UserError(
            f"lpips with net={net} needs torchvision's {name}, {where}: set {option} to its path. "
            f"It comes from {SOURCE}/{name}, and its sha256 begins with {digits}."
        )
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if not digest.startswith(digits):
        raise UserError(f"'{path}' is not torchvision's {name}: its sha256 begins with {digest[:8]}.")
    loaded: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return loaded, digest


def _heads(net: str) -> list[Tensor]:
    """The weights of each level's channels, from the file inside torchmetrics."""
    import torchmetrics

    path = Path(torchmetrics.__file__).parent / "functional" / "image" / "lpips_models" / f"{net}.pth"
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    return [loaded[key].flatten() for key in sorted(loaded)]


def build_perceptual(config: Mapping[str, Any]) -> Distance | None:
    """The distance that a ``perceptual`` block names; None for ``none`` or weight 0.

    Raises:
        UserError: on an unknown name, and as :class:`LPIPS`.
    """
    name = config["name"]
    if name == "none" or config["weight"] == 0:
        return None
    if name == "gradients":
        return gradients
    if name == "lpips":
        return LPIPS(net=config["net"], file=config["file"])
    raise unknown("perceptual loss", name, ("none", "gradients", "lpips"))
