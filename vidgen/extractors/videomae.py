"""``videomae``: VideoMAE-v2's features, which see motion better than I3D's logits do.

Sources: Wang et al., "VideoMAE V2" (2023), for the network, a ViT-g fine-tuned on Something-Something v2; Ge et al., "On the
Content Bias in Frechet Video Distance" (2024) and its package ``cd-fvd`` for the convention: frames squashed to 224x224, values
within [0, 1] and **not** normalised by mean and deviation, and the normalised mean of the last tokens, before the classifier.

The classes that the package ``transformers`` has for VideoMAE read other files than the published one, so the network is ours.
Of clips that are not of 16 frames the table of positions is stretched; ``cd-fvd`` stretches it by a little more.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vidgen.download import sha256_of
from vidgen.extractors.base import Extractor
from vidgen.extractors.frames import quantised, resize_torch
from vidgen.extractors.transformer import (
    Block,
    Tubelets,
    check_heads,
    fill,
    sinusoids,
    stretched,
    whole_tubelets,
)
from vidgen.extractors.weights import Published, load, weights_file

PUBLISHED = Published(
    file="vit_g_hybrid_pt_1200e_ssv2_ft.pth",
    url="https://pjlab-gvm-data.oss-cn-shanghai.aliyuncs.com/internvideo/videomaev2/vit_g_hybrid_pt_1200e_ssv2_ft.pth",
)
SIZE, FRAMES, TUBELET = 224, 16, 2


class VideoMAE(Extractor):
    """The mean of the last tokens of VideoMAE's encoder, normalised: 1408 features of the published network.

    Args:
        path: the file with the weights, or its URL; null looks for the published file where torch keeps downloads.
        sha256: what the file must have; null takes any.
        width: channels of a token, and so the features.
        depth: blocks.
        heads: of each block.
        hidden: channels inside a block's MLP.
        patch: pixels of a token's side.

    Raises:
        UserError: where the weights are missing, damaged or another network's.
    """

    min_frames = 16

    def __init__(
        self,
        *,
        path: str | None = None,
        sha256: str | None = None,
        width: int = 1408,
        depth: int = 40,
        heads: int = 16,
        hidden: int = 6144,
        patch: int = 14,
    ) -> None:
        super().__init__()
        check_heads("videomae", width, heads)
        file = weights_file("videomae", path, sha256, PUBLISHED)
        with torch.device("meta"):
            self.network = VideoTransformer(width, depth, heads, hidden, patch)
        fill(self.network, _named(load(file)), str(file))
        self.grid = (FRAMES // TUBELET, SIZE // patch, SIZE // patch)
        self.register_buffer("positions", sinusoids(self.grid[0] * self.grid[1] * self.grid[2], width), persistent=False)
        self.positions: Tensor
        self.dim = width
        self.rule = {
            "extractor": "videomae",
            "weights": sha256_of(file),
            "feature": "normalised mean of tokens",
            "range": [0, 1],
            "size": [SIZE, SIZE],
            "resize": "torch",
            "quantise": "truncate",
            "shape": [width, depth, heads, hidden, patch],
        }
        self.freeze()

    def features(self, video: Tensor) -> Tensor:
        video = resize_torch(quantised(whole_tubelets(video, TUBELET), "truncate"), SIZE)
        grid = (video.shape[2] // TUBELET, *self.grid[1:])
        features: Tensor = self.network((video + 1) / 2, stretched(self.positions, self.grid, grid))
        return features


class VideoTransformer(nn.Module):
    """Videos (B, 3, T, H, W) and the positions of their tokens to (B, width)."""

    def __init__(self, width: int, depth: int, heads: int, hidden: int, patch: int) -> None:
        super().__init__()
        self.patch_embed = Tubelets(width, frames=TUBELET, patch=patch)
        self.blocks = nn.ModuleList(Block(width, heads, hidden) for _ in range(depth))
        self.fc_norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, video: Tensor, positions: Tensor) -> Tensor:
        x = self.patch_embed(video) + positions
        for block in self.blocks:
            x = block(x)
        pooled: Tensor = self.fc_norm(x.mean(1))
        return pooled


def _named(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without the wrapper's names, and with one bias for queries, keys and values, of which keys have none."""
    inner = {name.removeprefix("model.").removeprefix("module."): tensor for name, tensor in state.items()}
    for name in [name for name in inner if name.endswith(".attn.q_bias")]:
        start = name.removesuffix("q_bias")
        query, value = inner[name], inner[f"{start}v_bias"]
        inner[f"{start}qkv.bias"] = torch.cat([query, torch.zeros_like(query), value])
    return inner
