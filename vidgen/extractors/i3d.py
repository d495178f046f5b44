"""``i3d``: Inception-I3D, whose logits on Kinetics-400 the Frechet video distance (FVD) compares.

Sources: Carreira and Zisserman, "Quo Vadis, Action Recognition?" (2017), for the network; Unterthiner et al., "Towards Accurate
Generative Models of Video" (2018), for the feature: 400 logits, their mean over time, of frames resized to 224x224 in [-1, 1].

The weights are those of TensorFlow Hub's ``deepmind/i3d-kinetics-400/1``, of which two conversions are in use
(:data:`PUBLISHED`); other weights of this network, such as those named ``rgb_imagenet``, give other distances. The names in
TATS' file are those of public code. Those in StyleGAN-V's archive are taken from its declaration, which says that its class is
``i3dpt_jit.I3D``, and the public class ``I3D`` of ``i3dpt.py``; the archive itself was not at hand. Where names are
neither's, tensors are taken in their order, if every shape then fits, and ``vidgen doctor --fvd FILE`` tells whether the
result is the network of the published figures.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgen.download import sha256_of
from vidgen.errors import UserError
from vidgen.extractors.base import Extractor
from vidgen.extractors.frames import RESIZES, check_choices, quantised
from vidgen.extractors.weights import Published, load, weights_file
from vidgen.registry import unknown

PUBLISHED = {
    "styleganv": Published(
        file="i3d_torchscript.pt",
        url="https://github.com/JunyaoHu/common_metrics_on_video_quality/raw/main/fvd/styleganv/i3d_torchscript.pt",
        blob="93daef59c7ae0e9e8f76225521407e60cbafa6aa",
    ),
    "tats": Published(
        file="i3d_pretrained_400.pt",
        url="https://github.com/songweige/TATS/raw/main/tats/fvd/i3d_pretrained_400.pt",
        blob="a867b87ac3a9097d200598b1d48a1b890d8ec744",
    ),
}

SIZE = 224

MIXED = {
    "mixed_3b": (64, 96, 128, 16, 32, 32),
    "mixed_3c": (128, 128, 192, 32, 96, 64),
    "mixed_4b": (192, 96, 208, 16, 48, 64),
    "mixed_4c": (160, 112, 224, 24, 64, 64),
    "mixed_4d": (128, 128, 256, 24, 64, 64),
    "mixed_4e": (112, 144, 288, 32, 64, 64),
    "mixed_4f": (256, 160, 320, 32, 128, 128),
    "mixed_5b": (256, 160, 320, 32, 128, 128),
    "mixed_5c": (384, 192, 384, 48, 128, 128),
}
"""Channels of each block: of branch 0, of both layers of branches 1 and 2, and of the layer after branch 3's pooling."""

POOLED = {"mixed_3b": ((1, 3, 3), (1, 2, 2)), "mixed_4b": ((3, 3, 3), (2, 2, 2)), "mixed_5b": ((2, 2, 2), (2, 2, 2))}
"""Kernel and stride of the pooling before a block."""

RENAMED = (
    (r"^(?:[Cc]onv3d_0c_1x1|logits)\.conv3d\.", "logits."),
    (r"^[Cc]onv3d_(1a|2b|2c)_\dx\d\.", r"conv_\1."),
    (r"^Mixed_", "mixed_"),
    (r"\.branch_0\.", ".b0."),
    (r"\.branch_([12])\.0\.", r".b\1a."),
    (r"\.branch_([12])\.1\.", r".b\1b."),
    (r"\.(?:branch_3\.1|b3b)\.", ".b3."),
    (r"\.conv3d\.", ".conv."),
    (r"\.(?:bn|batch3d)\.", ".norm."),
)
"""Patterns of the names that tensors have in the published files, TATS' and StyleGAN-V's, and what they are here."""


class I3D(Extractor):
    """The 400 logits of Inception-I3D, averaged over time: 12.70 million parameters.

    Args:
        weights: which published file is meant where no ``path`` is given: ``styleganv`` or ``tats``.
        path: the file with the weights, or its URL; null looks for the published file where torch keeps downloads.
        sha256: what the file must have; null takes any.
        bn_eps: what batch normalisation adds to variances: 1e-3 in the original, 1e-5 in TATS' and VideoGPT's conversion.
        resize: to 224x224: ``tf1`` as the original, ``torch`` as most since (both squash), or ``crop``, which keeps the middle.
        quantise: to 8 bits before anything else: ``none``, ``round`` (StyleGAN-V) or ``truncate`` (TATS, cd-fvd).

    Raises:
        UserError: where the weights are missing, damaged or another network's, or an option is unknown.
    """

    dim = 400
    min_frames = 9

    def __init__(
        self,
        *,
        weights: str = "styleganv",
        path: str | None = None,
        sha256: str | None = None,
        bn_eps: float = 1e-3,
        resize: str = "torch",
        quantise: str = "round",
    ) -> None:
        super().__init__()
        check_choices(resize, quantise)
        if weights not in PUBLISHED:
            raise unknown("published file of i3d's weights", weights, PUBLISHED)
        file = weights_file("i3d", path, sha256, PUBLISHED[weights])
        with torch.device("meta"):
            self.network = Inception(bn_eps=bn_eps)
        self.network.load_state_dict(matched(load(file), self.network.state_dict(), str(file)), assign=True)
        self.resize, self.quantise = resize, quantise
        self.rule = {
            "extractor": "i3d",
            "weights": sha256_of(file),
            "feature": "400 logits, mean over time",
            "range": [-1, 1],
            "size": [SIZE, SIZE],
            "resize": resize,
            "quantise": quantise,
            "bn_eps": bn_eps,
        }
        self.freeze()

    def features(self, video: Tensor) -> Tensor:
        video = quantised(video, self.quantise)
        if video.shape[-2:] != (SIZE, SIZE):
            video = RESIZES[self.resize](video, SIZE)
        logits: Tensor = self.network(video)
        return logits


class Inception(nn.Module):
    """The network alone: videos (B, 3, T, 224, 224), T at least 9, to logits (B, 400), their mean over time.

    Args:
        bn_eps: what batch normalisation adds to variances.
    """

    def __init__(self, *, bn_eps: float) -> None:
        super().__init__()
        self.conv_1a = Unit(3, 64, 7, bn_eps=bn_eps, stride=2)
        self.conv_2b = Unit(64, 64, 1, bn_eps=bn_eps)
        self.conv_2c = Unit(64, 192, 3, bn_eps=bn_eps)
        width = 192
        for name, widths in MIXED.items():
            self.add_module(name, Mixed(width, widths, bn_eps=bn_eps))
            width = widths[0] + widths[2] + widths[4] + widths[5]
        self.logits = nn.Conv3d(width, 400, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = max_pool(self.conv_1a(x), (1, 3, 3), (1, 2, 2))
        x = self.conv_2c(self.conv_2b(x))
        for name in MIXED:
            if name in POOLED:
                x = max_pool(x, *POOLED[name])
            x = self.get_submodule(name)(x)
        logits: Tensor = self.logits(F.avg_pool3d(x, (2, 7, 7), stride=1))
        return logits.flatten(2).mean(2)


class Unit(nn.Module):
    """A convolution with batch normalisation and a ReLU, padded as TensorFlow's "SAME"."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, bn_eps: float, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, kernel, stride, bias=False)
        self.norm = nn.BatchNorm3d(outputs, eps=bn_eps)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(padded(x, self.conv.kernel_size, self.conv.stride))))


class Mixed(nn.Module):
    """Four branches side by side: 1x1; 1x1 and 3x3, twice; pooling and 1x1."""

    def __init__(self, inputs: int, widths: tuple[int, ...], *, bn_eps: float) -> None:
        super().__init__()
        self.b0 = Unit(inputs, widths[0], 1, bn_eps=bn_eps)
        self.b1a = Unit(inputs, widths[1], 1, bn_eps=bn_eps)
        self.b1b = Unit(widths[1], widths[2], 3, bn_eps=bn_eps)
        self.b2a = Unit(inputs, widths[3], 1, bn_eps=bn_eps)
        self.b2b = Unit(widths[3], widths[4], 3, bn_eps=bn_eps)
        self.b3 = Unit(inputs, widths[5], 1, bn_eps=bn_eps)

    def forward(self, x: Tensor) -> Tensor:
        pooled = max_pool(x, (3, 3, 3), (1, 1, 1))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3(pooled)], dim=1)


def padded(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Zeros around (B, C, T, H, W) so that ceil(size / stride) windows fit, the odd one behind: TensorFlow's "SAME"."""
    pads: list[int] = []
    for size, k, s in zip(x.shape[:1:-1], kernel[::-1], stride[::-1], strict=True):
        missing = max((math.ceil(size / s) - 1) * s + k - size, 0)
        pads += [missing // 2, missing - missing // 2]
    return F.pad(x, pads) if any(pads) else x


def max_pool(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    """Of what a ReLU gave, so that padding with zeros is padding with nothing."""
    return F.max_pool3d(padded(x, kernel, stride), kernel, stride)


def matched(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The tensors of a published file under our names: by their names, or else by their order and shapes.

    Raises:
        UserError: where neither fits.
    """
    state = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    count = {name: tensor for name, tensor in wanted.items() if name.endswith("num_batches_tracked")}
    wanted = {name: tensor for name, tensor in wanted.items() if name not in count}
    found = {_renamed(name): tensor for name, tensor in state.items()}
    if found.keys() != wanted.keys():
        found = dict(zip(wanted, _in_order(state), strict=False)) if len(state) == len(wanted) else {}
    if {name: tensor.shape for name, tensor in found.items()} != {name: tensor.shape for name, tensor in wanted.items()}:
        first = next((name for name in state if _renamed(name) not in wanted), "none unknown")
        raise UserError(
            f"'{source}' holds {len(state)} tensors that are not those of Inception-I3D, which has {len(wanted)} "
            f"(the first that has no place: {first}): take i3d_torchscript.pt or i3d_pretrained_400.pt."
        )
    return {name: tensor.float() for name, tensor in found.items()} | {name: torch.zeros((), dtype=torch.long) for name in count}


def _renamed(name: str) -> str:
    for pattern, ours in RENAMED:
        name = re.sub(pattern, ours, name)
    return name


def _in_order(state: Mapping[str, Tensor]) -> list[Tensor]:
    """The tensors as they come, the two of the logits, which some files have first, last; no other has 400 rows."""
    tensors = list(state.values())
    return [tensor for tensor in tensors if len(tensor) != 400] + [tensor for tensor in tensors if len(tensor) == 400]
