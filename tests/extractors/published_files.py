"""Files of random weights as their authors name them, for extractors whose real weights are not here."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from vidgen.extractors.i3d import Inception

OURS_TO_TATS = (
    (r"^conv_1a\.", "Conv3d_1a_7x7."),
    (r"^conv_2b\.", "Conv3d_2b_1x1."),
    (r"^conv_2c\.", "Conv3d_2c_3x3."),
    (r"^mixed_", "Mixed_"),
    (r"\.b3\.", ".b3b."),
    (r"\.conv\.", ".conv3d."),
    (r"\.norm\.", ".bn."),
    (r"^logits\.", "logits.conv3d."),
)
OURS_TO_STYLEGANV = (
    (r"^conv_1a\.", "conv3d_1a_7x7."),
    (r"^conv_2b\.", "conv3d_2b_1x1."),
    (r"^conv_2c\.", "conv3d_2c_3x3."),
    (r"\.b0\.", ".branch_0."),
    (r"\.b([12])a\.", r".branch_\1.0."),
    (r"\.b([12])b\.", r".branch_\1.1."),
    (r"\.b3\.", ".branch_3.1."),
    (r"\.conv\.", ".conv3d."),
    (r"\.norm\.", ".batch3d."),
    (r"^logits\.", "conv3d_0c_1x1.conv3d."),
)


def renamed(state: dict[str, Tensor], names: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    found = {}
    for name, tensor in state.items():
        for ours, theirs in names:
            name = re.sub(ours, theirs, name)
        found[name] = tensor
    return found


def random_inception(seed: int = 0) -> dict[str, Tensor]:
    """Weights under our names, with statistics of batches that a trained network could have."""
    torch.manual_seed(seed)
    network = Inception(bn_eps=1e-3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.01, 0.2)
    return network.state_dict()


def i3d_file(folder: Path, state: dict[str, Tensor] | None = None) -> str:
    """A file in TATS' names."""
    path = folder / "i3d.pt"
    torch.save(renamed(random_inception() if state is None else state, OURS_TO_TATS), path)
    return str(path)
