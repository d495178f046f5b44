"""VideoMAE-v2 and V-JEPA as small random networks, against torch's own layers and ``transformers``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgen import UserError
from vidgen.extractors.frames import quantised
from vidgen.extractors.transformer import Block, sinusoids
from vidgen.extractors.videomae import VideoMAE, VideoTransformer
from vidgen.extractors.vjepa import VJEPA, Encoder, Pooler

MAE: dict[str, Any] = {"width": 32, "depth": 2, "heads": 4, "hidden": 48, "patch": 56}
JEPA: dict[str, Any] = {"width": 32, "depth": 2, "heads": 4, "patch": 56}


QKV = ("query", "key", "value")


def video(frames: int = 16, size: int = 224, count: int = 1) -> Tensor:
    return torch.rand(count, 3, frames, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def randomised(network: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for weight in network.state_dict().values():
        nn.init.normal_(weight, std=0.2)
    return network


def mae_file(folder: Path) -> tuple[str, nn.Module]:
    """As the published file: inside ``module``, biases of queries and values by themselves, with a classifier."""
    network = randomised(VideoTransformer(*MAE.values()))
    state = {}
    for name, tensor in network.state_dict().items():
        if name.endswith("qkv.bias"):
            query, key, value = tensor.chunk(3)
            key.zero_()  # VideoMAE's keys have none
            state |= {name.replace("qkv.bias", "q_bias"): query.clone(), name.replace("qkv.bias", "v_bias"): value.clone()}
        else:
            state[name] = tensor
    torch.save({"module": {**state, "head.weight": torch.zeros(3, 32)}, "epoch": 1}, folder / "mae.pth")
    return str(folder / "mae.pth"), network


def jepa_files(folder: Path) -> tuple[dict[str, str], nn.Module, nn.Module]:
    """As the published files: the encoder twice, and the probe with a layer that is not used and a classifier."""
    encoder = randomised(Encoder(*JEPA.values(), tokens=8 * 4 * 4))
    pooler = randomised(Pooler(32, 4))
    named = {f"module.backbone.{name}": tensor for name, tensor in encoder.state_dict().items()}
    torch.save(
        {"encoder": {name: 0 * tensor for name, tensor in named.items()}, "target_encoder": named, "epoch": 3}, folder / "jepa.pt"
    )
    probe = {f"module.pooler.{name}": tensor for name, tensor in pooler.state_dict().items()}
    probe |= {"module.pooler.cross_attention_block.xattn.proj.weight": torch.ones(32, 32), "module.linear.bias": torch.ones(3)}
    torch.save({"classifier": probe, "epoch": 3}, folder / "probe.pt")
    return {"path": str(folder / "jepa.pt"), "probe": str(folder / "probe.pt")}, encoder, pooler


def layer_of_torch(block: Block, width: int, heads: int, hidden: int) -> nn.Module:
    """The same block as torch has it."""
    layer = nn.TransformerEncoderLayer(
        width, heads, hidden, dropout=0.0, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    names = {
        "self_attn.in_proj_weight": "attn.qkv.weight",
        "self_attn.in_proj_bias": "attn.qkv.bias",
        "self_attn.out_proj.weight": "attn.proj.weight",
        "self_attn.out_proj.bias": "attn.proj.bias",
        **{f"linear{i}.{part}": f"mlp.fc{i}.{part}" for i in (1, 2) for part in ("weight", "bias")},
        **{f"norm{i}.{part}": f"norm{i}.{part}" for i in (1, 2) for part in ("weight", "bias")},
    }
    state = block.state_dict()
    layer.load_state_dict({theirs: state[ours] for theirs, ours in names.items()})
    return layer.eval()


def tokens_by_hand(network: Any, clip: Tensor) -> Tensor:
    """Every tubelet flattened and multiplied: (B, N, width), time slowest."""
    kernel = network.patch_embed.proj.weight
    patch = kernel.shape[-1]
    found = []
    for t in range(0, clip.shape[2], 2):
        for y in range(0, clip.shape[3], patch):
            for x in range(0, clip.shape[4], patch):
                cut = clip[:, :, t : t + 2, y : y + patch, x : x + patch].flatten(1)
                found.append(cut @ kernel.flatten(1).T + network.patch_embed.proj.bias)
    return torch.stack(found, 1)


def by_hand(network: Any, clip: Tensor, positions: Tensor, hidden: int) -> Tensor:
    x = tokens_by_hand(network, clip) + positions
    for block in network.blocks:
        x = layer_of_torch(block, 32, 4, hidden)(x)
    return x


@torch.no_grad()
def test_videomae_is_torch_s_layers_on_values_in_0_and_1(tmp_path: Path) -> None:
    file, network = mae_file(tmp_path)
    extractor = VideoMAE(path=file, **MAE)
    clip = quantised(video(), "truncate")
    last = by_hand(network, (clip + 1) / 2, sinusoids(8 * 4 * 4, 32), 48)
    expected = F.layer_norm(last.mean(1), (32,), network.fc_norm.weight, network.fc_norm.bias, 1e-6)
    torch.testing.assert_close(extractor(clip), expected, rtol=1e-4, atol=1e-4)
    assert extractor.dim == 32
    assert extractor.rule["range"] == [0, 1]


@torch.no_grad()
def test_videomae_is_that_of_transformers(tmp_path: Path) -> None:
    import transformers

    file, network = mae_file(tmp_path)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "patch_size": 56}
    theirs = transformers.VideoMAEModel(transformers.VideoMAEConfig(**sizes, layer_norm_eps=1e-6)).eval()
    state = network.state_dict()
    found = {f"embeddings.patch_embeddings.projection.{part}": state[f"patch_embed.proj.{part}"] for part in ("weight", "bias")}
    for i in range(2):
        ours, layer = f"blocks.{i}.", f"encoder.layer.{i}."
        for part in ("weight", "bias"):
            thirds = state[f"{ours}attn.qkv.{part}"].chunk(3)
            found |= {f"{layer}attention.attention.{name}.{part}": third for name, third in zip(QKV, thirds, strict=True)}
        pairs = {"attention.output.dense": "attn.proj", "intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2"}
        pairs |= {"layernorm_before": "norm1", "layernorm_after": "norm2"}
        found |= {
            f"{layer}{name}.{part}": state[f"{ours}{own}.{part}"] for name, own in pairs.items() for part in ("weight", "bias")
        }
    missing = theirs.load_state_dict(found, strict=False)
    assert set(missing.unexpected_keys) <= {f"encoder.layer.{i}.attention.attention.key.bias" for i in range(2)}  # zero
    assert all(name.startswith("layernorm.") for name in missing.missing_keys), missing.missing_keys
    clip = quantised(video(), "truncate")
    last = theirs(((clip + 1) / 2).transpose(1, 2), output_hidden_states=True).hidden_states[-1]
    expected = F.layer_norm(last.mean(1), (32,), network.fc_norm.weight, network.fc_norm.bias, 1e-6)
    torch.testing.assert_close(VideoMAE(path=file, **MAE)(clip), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_vjepa_is_torch_s_layers_and_its_probe_torch_s_attention(tmp_path: Path) -> None:
    files, encoder, pooler = jepa_files(tmp_path)
    clip = video()
    shift, scale = (torch.tensor(values).view(3, 1, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    last = by_hand(encoder, ((clip + 1) / 2 - shift) / scale, encoder.pos_embed, 128)
    tokens = F.layer_norm(last, (32,), encoder.norm.weight, encoder.norm.bias, 1e-6)
    torch.testing.assert_close(VJEPA(**files, pool="mean", **JEPA)(clip), tokens.mean(1), rtol=1e-4, atol=1e-4)
    block = pooler.cross_attention_block
    attention = nn.MultiheadAttention(32, 4, batch_first=True)
    attention.in_proj_weight.copy_(torch.cat([block.xattn.q.weight, block.xattn.kv.weight]))
    attention.in_proj_bias.copy_(torch.cat([block.xattn.q.bias, block.xattn.kv.bias]))
    attention.out_proj.weight.copy_(torch.eye(32))
    attention.out_proj.bias.zero_()
    keys = F.layer_norm(tokens, (32,), block.norm1.weight, block.norm1.bias)
    query = pooler.query_tokens + attention(pooler.query_tokens, keys, keys)[0]
    inner = F.gelu(block.mlp.fc1(F.layer_norm(query, (32,), block.norm2.weight, block.norm2.bias)))
    expected = (query + block.mlp.fc2(inner))[:, 0]
    torch.testing.assert_close(VJEPA(**files, **JEPA)(clip), expected, rtol=1e-4, atol=1e-4)


def test_positions_are_those_of_the_formula() -> None:
    table = sinusoids(5, 6)
    for place in range(5):
        for channel in range(6):
            angle = place / 10000 ** (2 * (channel // 2) / 6)
            assert float(table[0, place, channel]) == pytest.approx((math.cos if channel % 2 else math.sin)(angle), abs=1e-6)


@pytest.mark.parametrize("name", ["videomae", "vjepa"])
def test_other_sizes_lengths_and_batches_are_taken(name: str, tmp_path: Path) -> None:
    extractor: Any = (
        VideoMAE(path=mae_file(tmp_path)[0], **MAE) if name == "videomae" else VJEPA(**jepa_files(tmp_path)[0], **JEPA)
    )
    clips = video(frames=21, size=40, count=2)
    both = extractor(clips)
    assert both.shape == (2, 32)
    torch.testing.assert_close(extractor(clips[1:]), both[1:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(extractor(clips[:, :, :20]), both)  # the last frame fills no tubelet
    assert float((extractor(clips[:, :, :16]) - both).abs().max()) > 1e-4
    assert not any(weight.requires_grad for weight in extractor.parameters())
    with pytest.raises(UserError, match=f"^The {name} extractor needs clips of 16 frames or more, and these have 15: "):
        extractor(clips[:, :, :15])


def test_published_sizes_are_those_of_the_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    """ViT-g has 1.01 thousand million parameters and ViT-H 0.63."""
    with torch.device("meta"):
        mae = VideoTransformer(1408, 40, 16, 6144, 14)
        jepa = Encoder(1280, 32, 16, 16, tokens=1568)
    assert sum(weight.numel() for weight in mae.parameters()) == pytest.approx(1.01e9, rel=0.01)
    assert sum(weight.numel() for weight in jepa.parameters()) == pytest.approx(0.632e9, rel=0.01)


def test_mistakes_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    mae, (jepa, _, _) = mae_file(tmp_path)[0], jepa_files(tmp_path)
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        (VideoMAE, {}, "extractor=videomae needs the weights vit_g_hybrid_pt_1200e_ssv2_ft.pth, which vidgen does not bring: "),
        (
            VideoMAE,
            {"path": mae},
            f"'{mae}' holds 'patch_embed.proj.weight' of the shape (32, 3, 2, 56, 56), and this network's is ",
        ),
        (
            VideoMAE,
            {"path": jepa["path"], **MAE},
            f"'{jepa['path']}' has no tensor 'patch_embed.proj.weight', which this network ",
        ),
        (VideoMAE, {"width": 30, "heads": 4}, "The videomae extractor's width 30 does not split into 4 heads."),
        (VJEPA, {"pool": "max"}, "There is no pool of vjepa called 'max'."),
        (
            VJEPA,
            {"path": jepa["path"], **JEPA},
            "extractor=vjepa needs the weights ssv2-probe.pth.tar, which vidgen does not bring: ",
        ),
    ]
    for cls, options, sentence in wrong:
        with pytest.raises(UserError) as error:
            cls(**options)
        assert str(error.value).startswith(sentence)


def test_the_rule_holds_both_hashes(tmp_path: Path) -> None:
    rule = VJEPA(**jepa_files(tmp_path)[0], **JEPA).rule
    assert len(rule["weights"]) == len(rule["probe"]) == 64
    assert "probe" not in VJEPA(path=jepa_files(tmp_path)[0]["path"], pool="mean", **JEPA).rule
