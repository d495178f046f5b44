"""``vjepa``: V-JEPA's features, in which the distance JEDi is taken.

Sources: Bardes et al., "Revisiting Feature Prediction for Learning Visual Representations from Video" (2024), for the network, a
ViT-H/16 on 16 frames of 224x224, and its attentive probe trained on Something-Something v2; Luo et al., "Beyond FVD" (2025), for
the feature: what the probe pools, before its classifier, of frames normalised with ImageNet's mean and deviation.

The package ``transformers`` has V-JEPA 2, which is another network (its positions are rotations), so this one is ours. JEDi
takes frames as they come; here they are squashed to 224x224, and for clips of another length positions are stretched.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgen.download import sha256_of
from vidgen.extractors.base import Extractor
from vidgen.extractors.frames import IMAGENET_MEAN, IMAGENET_STD, normalised, resize_torch
from vidgen.extractors.transformer import MLP, Block, Tubelets, check_heads, fill, stretched, whole_tubelets
from vidgen.extractors.weights import Published, load, weights_file
from vidgen.registry import unknown

PUBLISHED = Published(file="vith16.pth.tar", url="https://dl.fbaipublicfiles.com/jepa/vith16/vith16.pth.tar")
PROBE = Published(file="ssv2-probe.pth.tar", url="https://dl.fbaipublicfiles.com/jepa/vith16/ssv2-probe.pth.tar")
SIZE, FRAMES, TUBELET = 224, 16, 2
POOLS = ("probe", "mean")


class VJEPA(Extractor):
    """What V-JEPA's encoder says of a clip, pooled by attention or averaged: 1280 features of the published network.

    Args:
        path: the file with the encoder, or its URL; null looks for the published file where torch keeps downloads.
        sha256: what it must have; null takes any.
        pool: ``probe`` as JEDi, which needs a second file, or ``mean`` of the tokens.
        probe: the file with the probe, or its URL, found as the encoder's.
        probe_sha256: what it must have; null takes any.
        width: channels of a token, and so the features.
        depth: blocks.
        heads: of each block and of the probe.
        patch: pixels of a token's side.

    Raises:
        UserError: where weights are missing, damaged or another network's, or an option is unknown.
    """

    min_frames = 16

    def __init__(
        self,
        *,
        path: str | None = None,
        sha256: str | None = None,
        pool: str = "probe",
        probe: str | None = None,
        probe_sha256: str | None = None,
        width: int = 1280,
        depth: int = 32,
        heads: int = 16,
        patch: int = 16,
    ) -> None:
        super().__init__()
        check_heads("vjepa", width, heads)
        if pool not in POOLS:
            raise unknown("pool of vjepa", pool, POOLS)
        file = weights_file("vjepa", path, sha256, PUBLISHED)
        self.grid = (FRAMES // TUBELET, SIZE // patch, SIZE // patch)
        with torch.device("meta"):
            self.encoder = Encoder(width, depth, heads, patch, tokens=self.grid[0] * self.grid[1] * self.grid[2])
        fill(self.encoder, _named(load(file), "target_encoder.", "encoder."), str(file))
        self.rule = {
            "extractor": "vjepa",
            "weights": sha256_of(file),
            "feature": f"tokens pooled by {pool}",
            "range": "ImageNet mean 0, deviation 1",
            "size": [SIZE, SIZE],
            "resize": "torch",
            "quantise": "none",
            "shape": [width, depth, heads, patch],
        }
        self.pooler: nn.Module | None = None
        if pool == "probe":
            found = weights_file("vjepa", probe, probe_sha256, PROBE, "probe")
            with torch.device("meta"):
                self.pooler = Pooler(width, heads)
            fill(self.pooler, _named(load(found), "classifier."), str(found))
            self.rule["probe"] = sha256_of(found)
        self.dim = width
        self.freeze()

    def features(self, video: Tensor) -> Tensor:
        video = normalised(resize_torch(whole_tubelets(video, TUBELET), SIZE), IMAGENET_MEAN, IMAGENET_STD)
        grid = (video.shape[2] // TUBELET, *self.grid[1:])
        tokens: Tensor = self.encoder(video, self.grid, grid)
        return tokens.mean(1) if self.pooler is None else self.pooler(tokens)


class Encoder(nn.Module):
    """Videos (B, 3, T, H, W) to tokens (B, N, width), normalised."""

    def __init__(self, width: int, depth: int, heads: int, patch: int, *, tokens: int) -> None:
        super().__init__()
        self.patch_embed = Tubelets(width, frames=TUBELET, patch=patch)
        self.register_buffer("pos_embed", torch.zeros(1, tokens, width))
        self.pos_embed: Tensor
        self.blocks = nn.ModuleList(Block(width, heads, 4 * width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, video: Tensor, known: tuple[int, int, int], grid: tuple[int, int, int]) -> Tensor:
        x = self.patch_embed(video) + stretched(self.pos_embed, known, grid)
        for block in self.blocks:
            x = block(x)
        tokens: Tensor = self.norm(x)
        return tokens


class Pooler(nn.Module):
    """One learnt query that attends to all tokens, and an MLP: (B, N, width) to (B, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.query_tokens = nn.Parameter(torch.zeros(1, 1, width))
        self.cross_attention_block = CrossBlock(width, heads)

    def forward(self, tokens: Tensor) -> Tensor:
        pooled: Tensor = self.cross_attention_block(self.query_tokens.expand(len(tokens), -1, -1), tokens)
        return pooled.squeeze(1)


class CrossBlock(nn.Module):
    """Attention from queries to tokens, without the layer after it that others have, and an MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.xattn, self.mlp = CrossAttention(width, heads), MLP(width, 4 * width)

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        query = query + self.xattn(query, self.norm1(tokens))
        return query + self.mlp(self.norm2(query))


class CrossAttention(nn.Module):
    """Queries (B, n, width) to what they find in tokens (B, N, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        q = self.q(query).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(tokens).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def _named(state: dict[str, Tensor], *parts: str) -> dict[str, Tensor]:
    """The tensors of the first of these parts that the checkpoint has, without the wrappers' names, or all where it has none."""
    part = next((part for part in parts if any(name.startswith(part) for name in state)), "")
    inner = {name.removeprefix(part): tensor for name, tensor in state.items() if name.startswith(part)}
    for wrapper in ("module.", "backbone.", "pooler."):
        inner = {name.removeprefix(wrapper): tensor for name, tensor in inner.items()}
    return inner
